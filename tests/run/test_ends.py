"""Every end of a scheduled run is recorded, told once, and pinged; an open alarm is exit 7."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import record_toys
from run_toys import writing

from helpers import processes, registry, store
from helpers.records import Finding, RunRecord, WorkbookError
from helpers.run import flow, report, status
from helpers.run.history import past_runs

DOCTOR = sys.modules["helpers.run.doctor"]  # the room's door has a function of this name
FALL = Finding(name="feedback_mean", verdict="fail", severity="critical", evidence="3.1, was 4.2")


@pytest.fixture
def pings(monkeypatch):
    seen: list[str] = []
    monkeypatch.setattr(report, "_ping", seen.append)
    return seen


@pytest.fixture
def go(toys, tmp_path: Path, monkeypatch):
    """A scheduled run of the toy profile."""
    monkeypatch.setenv("WORKBOOK_COMMIT", "a" * 40)
    monkeypatch.setattr(DOCTOR, "commit", lambda: "a" * 40)

    def call(profile: str = "", **options) -> RunRecord:
        return flow.run(profile or str(tmp_path / "toy.yaml"), **({"only": "06"} | options))

    return call


def code_moved(monkeypatch):
    monkeypatch.setenv("WORKBOOK_COMMIT", "b" * 40)
    return {}


def git_is_silent(monkeypatch):
    monkeypatch.setattr(DOCTOR, "commit", lambda: "")
    return {}


TROUBLES = {
    "the code was updated": (code_moved, 2, "the code is now aaaaaaaaaaaa"),
    "git does not answer": (git_is_silent, 2, "git could not say"),
    "a bad parameter": (lambda _: {"overrides": ["epochs=abc"]}, 2, "epochs"),
    "the profile is gone": (lambda _: {"profile": "/nowhere/weekly.yaml"}, 2, "weekly"),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_scheduled_run_that_is_refused_is_recorded_told_once_and_pinged(
    go, hook, pings, monkeypatch, trouble
):
    prepare, code, words = TROUBLES[trouble]
    with pytest.raises(WorkbookError, match=words):
        go(**prepare(monkeypatch))
    (record,) = past_runs()
    assert (record.status, record.exit_code) == ("failed", code) and words in record.reason
    assert pings == ["start", str(code)]
    registry.reconcile()
    assert [words in message["message"] for message in hook.got] == [True]


def test_without_git_a_scheduled_run_is_known_as_one(go, hook, pings, monkeypatch):
    monkeypatch.setenv("WORKBOOK_COMMIT", "")
    monkeypatch.setattr(DOCTOR, "commit", lambda: "")
    with pytest.raises(WorkbookError, match="epochs"):
        go(overrides=["epochs=abc"])
    assert [record.status for record in past_runs()] == ["failed"] and len(hook.got) == 1


def test_a_scheduled_run_that_finds_the_lock_taken_is_told_too(go, hook, pings, tmp_path):
    busy = tmp_path / "busy"
    program = (
        "import sys, time, pathlib; from helpers import store\n"
        f"with store.lock(): pathlib.Path({str(busy)!r}).touch(); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        env=processes.child_environment({"WORKBOOK_HOME": str(store.home())}),
    )
    while not busy.exists():
        time.sleep(0.05)
    with pytest.raises(WorkbookError, match="another run holds"):
        go()
    holder.communicate()
    assert pings == ["start", "75"]
    assert len(hook.got) == 1 and "still at work" in hook.got[0]["message"]


def registry_is_away(monkeypatch, folder):
    monkeypatch.setenv("WORKBOOK_DATABASE_URL", "postgresql://user:secret@127.0.0.1:1/gone")


def registry_is_torn(monkeypatch, folder):
    store.write_text(store.home() / "registry.db", "no database" * 100)


def home_cannot_be_written(monkeypatch, folder):
    monkeypatch.setenv("WORKBOOK_HOME", str(store.write_text(folder / "a file", "") / "home"))


@pytest.mark.parametrize(
    "break_", [registry_is_away, registry_is_torn, home_cannot_be_written], ids=lambda f: f.__name__
)
def test_where_nothing_can_be_written_down_the_team_is_told_all_the_same(
    go, hook, toys, pings, monkeypatch, tmp_path, break_
):
    toys(nb06=["1 / 0"])
    break_(monkeypatch, tmp_path)
    if break_ is home_cannot_be_written:
        with pytest.raises(WorkbookError):
            go()
    else:
        go()
    (message,) = hook.got
    assert "exit" in message["message"] and "secret" not in str(message)


def test_by_hand_a_refusal_is_only_an_error(go, hook, monkeypatch):
    monkeypatch.delenv("WORKBOOK_COMMIT")
    with pytest.raises(WorkbookError):
        go(overrides=["epochs=abc"])
    assert past_runs() == [] and hook.got == []


def test_a_failed_notebook_is_one_message(go, hook, toys, pings):
    toys(nb06=["1 / 0"])
    assert go().exit_code == 1
    assert (len(hook.got), pings) == (1, ["start", "1"])


def test_a_fault_of_the_runner_itself_is_recorded_told_and_pinged(go, hook, pings, monkeypatch):
    monkeypatch.setattr(flow, "_run_queue", lambda book: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        go()
    assert past_runs()[0].exit_code == 1
    assert (len(hook.got), pings) == (1, ["start", "1"])


def test_an_open_alarm_ends_a_good_run_with_7_and_is_told_once(go, hook, toys, pings):
    toys(nb06=[writing(record_toys.health())])
    registry.raise_alarms("toy", "v1", [FALL])
    for run_id in ("r1", "r2"):
        record = go(run_id=run_id)
        assert (record.status, record.exit_code) == ("finished", 7)
        assert "open alarms: feedback_mean" in record.reason
    assert len(hook.got) == 1 and "asks for a retrain" in hook.got[0]["message"]
    assert pings == ["start", "7"] * 2
    (alarm,) = status()["alarms"]
    assert status()["open_requests"][0]["alarm"] == alarm.id
    registry.close_alarm(alarm.id, "acknowledged", "a strike; it will pass")
    assert go(run_id="r3").exit_code == 0
    assert status()["open_requests"] == [] and status()["alarms"][0].state == "acknowledged"


def test_a_run_that_was_killed_is_told_by_the_next_one_once(go, hook, toys, pings):
    toys(nb06=[writing(record_toys.health())])
    killed = record_toys.run_record("dead", status="running", finished_at=None, exit_code=None)
    store.open_run("dead").save(killed)
    for run_id in ("r1", "r2"):
        assert go(run_id=run_id).exit_code == 0
    (message,) = hook.got
    assert "the process that ran it was killed" in message["message"]
    assert "exit 137" in message["message"] and "--run-id dead" in message["message"]
    assert store.Run("dead").load(RunRecord).status == "interrupted"


def test_the_command_that_goes_on_with_a_killed_run_is_the_one_that_began_it(
    go, hook, toys, tmp_path
):
    toys(nb06=[writing(record_toys.health())])
    record = go(run_id="dead", overrides=["epochs=2.0"])
    command = f"workbook run {tmp_path}/toy.yaml --run-id dead -p epochs=2.0 --only 06"
    assert record.resume == command
    killed = record.model_copy(update={"status": "running", "finished_at": None})
    store.open_run("dead").save(killed)
    go(run_id="r")
    assert [f"next: {command}" in message["message"] for message in hook.got] == [True]
