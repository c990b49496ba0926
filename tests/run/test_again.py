"""Should we retrain, with which decision: on a registry with a version in production, and toy notebooks."""

from __future__ import annotations

import os
import sqlite3
from datetime import timedelta
from pathlib import Path

import pytest

from helpers import store, tasks
from helpers.registry import FineTuneLifecycleManager
from helpers.run import again, flow, state

DECISION = {"recommendation": "fine_tuning", "trainer": "lora", "best_rung": "few_shot"}
ORDER = "notebooks: [06_monitor, 02_curate, 03a_train_lora, 04_evaluate, 05_registry]\n"
MODEL = {
    "model_id": "m",
    "base_model": "embedded",
    "dataset_version": "d1",
    "provider": "embedded",
    "fingerprints": {},
}


@pytest.fixture
def task(toys, tmp_path: Path) -> tasks.Task:
    toys()
    (tmp_path / "retrain.yaml").write_text(f"task: {tmp_path}/task\nmin_new_rows: 3\n{ORDER}")
    return tasks.load_task(str(tmp_path / "task"))


def version(task: tasks.Task, name: str, status: str) -> None:
    """A registered version of run `name`, put into a status behind the gate's back, with its dataset d1."""
    manager = FineTuneLifecycleManager(task.registry_name)
    manager.open_version(name, f"run-{name}", "embedded", "d1")
    rows = tasks.load_examples(task).examples
    folder = store.home() / "datasets/d1"
    if not folder.exists():
        store.write_jsonl(folder / "train.jsonl", rows)
        store.write_jsonl(folder / "rejected.jsonl", [])
        store.write_json(folder / "manifest.json", {"version": "d1"})
    run = store.open_run(f"run-{name}")
    run.write("decision.json", DECISION)
    with sqlite3.connect(store.home() / "registry.db") as db:
        db.execute("update versions set status = ? where id = ?", (status, name))
        if status == "production":
            values = (task.registry_name, name, store.now().isoformat())
            db.execute(
                "insert into routes (task, version, generation, since) values (?, ?, 1, ?)", values
            )
    FineTuneLifecycleManager(task.registry_name)  # publishes routes.json


def asked(task: tasks.Task, verdict: str = "ok", **changed) -> again.Answer:
    run = store.open_run("now")
    run.write(
        "health.json",
        {"verdict": verdict, "reasons": ["format_compliance"] if verdict != "ok" else []},
    )
    return again.should_retrain(
        task, run, **({"max_age_days": 90, "min_new_rows": 3, "min_feedback": 4.0} | changed)
    )


def more_rows(task: tasks.Task, count: int) -> None:
    with open(task.folder / "human.jsonl", "a") as file:
        file.writelines(
            f'{{"prompt": "new question {i}", "completion": "answer"}}\n' for i in range(count)
        )


def test_without_anything_in_production_there_is_nothing_to_retrain(task):
    assert not asked(task).yes and "is in production" in asked(task).reason


def test_only_quality_new_rows_age_and_retirement_are_reasons(task, monkeypatch):
    version(task, "v1", "production")
    no = asked(task)
    assert not no.yes and "0 new eligible rows" in no.reason and "06 says ok" in no.reason
    assert not asked(task, "watch").yes
    assert asked(task, "retrain").yes and "format_compliance" in asked(task, "retrain").reason
    more_rows(task, 2)
    assert not asked(task).yes
    more_rows(task, 5)
    assert asked(task).yes and "5 new eligible rows" in asked(task).reason, (
        "a row that is there twice counts once"
    )
    now = store.now()
    monkeypatch.setattr(store, "now", lambda: now + timedelta(days=100))
    assert (
        asked(task, min_new_rows=99).yes
        and "trained 100 days ago" in asked(task, min_new_rows=99).reason
    )


def test_production_rows_count_when_they_are_rated_well(task):
    version(task, "v1", "production")
    row = '{{"prompt": "logged {}", "completion": "answer", "feedback_score": {}}}\n'
    (task.folder / "production.jsonl").write_text(
        "".join(row.format(i, score) for i, score in enumerate([5, 4, 3, "null"]))
    )
    serving = FineTuneLifecycleManager(task.registry_name).get_production_version()
    assert again.new_rows(task, serving, 4.0) == 2
    (store.home() / "datasets/d1/manifest.json").unlink()
    assert again.new_rows(task, serving, 4.0) is None


def test_a_model_that_is_withdrawn_soon_needs_its_successor_now(task):
    version(task, "v1", "production")
    manager = FineTuneLifecycleManager(task.registry_name)
    serving = manager.get_production_version()
    for days, due in ((10, True), (200, False)):
        day = (store.now() + timedelta(days=days)).date().isoformat()
        dated = serving.model_copy(update={"metadata": {"serve_until": day}})
        assert again._retirements(dated) == [(due, f"its provider stops serving it on {day}")]


def test_a_candidate_that_waits_for_approval_comes_first_unless_it_is_this_run_s(task):
    version(task, "v1", "production")
    version(task, "v2", "staging")
    said = asked(task, "retrain")
    assert (
        not said.yes
        and "v2 waits for approval" in said.reason
        and "workbook registry promote v2" in said.reason
    )
    waiting = state.status()["waiting_approvals"]
    assert [(row["version"], row["task"]) for row in waiting] == [("v2", task.registry_name)]


def go(tmp_path: Path, **options) -> dict:
    return flow.run(str(tmp_path / "retrain.yaml"), run_id="r", **options)


def test_no_is_nothing_to_do_and_exit_0_with_the_reason(task, toys, tmp_path):
    version(task, "v1", "production")
    toys(content={"health.json": {"verdict": "ok", "reasons": []}})
    record = go(tmp_path)
    assert (record["status"], record["exit_code"]) == ("nothing_to_do", 0)
    assert "v1 may go on" in record["reason"] and "train_anyway_because" in record["reason"]
    found = [(e["name"], e["status"]) for e in record["notebooks"]]
    assert found[0] == ("06_monitor", "finished") and {status for _, status in found[1:]} == {
        "skipped"
    }


def test_yes_runs_06_first_then_the_rest_with_the_last_decision(task, toys, tmp_path):
    version(task, "v1", "production")
    toys(content={"health.json": {"verdict": "retrain", "reasons": ["feedback_mean"]}})
    record = go(tmp_path)
    assert (record["status"], record["exit_code"]) == ("finished", 0)
    assert [e["name"][:2] for e in record["notebooks"]] == ["06", "02", "03", "04", "05"]
    decision = store.Run("r").read("decision.json")
    assert (decision["reused_from"], decision["best_rung"]) == ("run-v1", "few_shot")
    again_ = go(tmp_path)
    assert {e["status"] for e in again_["notebooks"]} == {"reused"}


def test_a_decision_that_is_too_old_is_made_again(task, toys, tmp_path):
    version(task, "v1", "production")
    toys(content={"health.json": {"verdict": "retrain", "reasons": ["feedback_mean"]}})
    old = store.now().timestamp() - 100 * 86400
    os.utime(store.Run("run-v1").path("decision.json"), (old, old))
    record = go(tmp_path)
    assert [e["name"][:2] for e in record["notebooks"]] == ["06", "01", "02", "03", "04", "05"]
    assert record["exit_code"] == 0 and "reused_from" not in store.Run("r").read("decision.json")


def test_a_decision_against_training_ends_the_run_and_a_reason_goes_on(task, toys, tmp_path):
    version(task, "v1", "production")
    toys(content={"health.json": {"verdict": "retrain", "reasons": ["feedback_mean"]}})
    store.Run("run-v1").write("decision.json", DECISION | {"recommendation": "prompting"})
    record = go(tmp_path)
    assert (record["status"], record["exit_code"]) == (
        "nothing_to_do",
        0,
    ) and "advises prompting" in record["reason"]


def test_gc_keeps_what_the_registry_names_and_what_runs_that_stay_name(task):
    version(task, "v1", "deprecated")
    version(task, "v2", "production")
    for number in range(4):
        run = store.open_run(f"r{number}")
        at = (store.now() + timedelta(minutes=number)).isoformat()
        told = {
            "run_id": run.id,
            "profile": "smoke",
            "status": "finished" if number < 2 else "failed",
            "started_at": at,
        }
        run.write("run.json", told | {"notebooks": []})
        run.write("dataset.json", {"version": f"d-{number}"})
        run.write("model.json", {"version": f"m-{number}"})
        for name in (f"datasets/d-{number}/train.jsonl", f"models/m-{number}/adapter/weights"):
            store.write_text(store.home() / name, "x")
    store.write_text(store.home() / "models/v1/adapter/weights", "x")
    names = lambda found: sorted(Path(path).name for path in found)  # noqa: E731
    gone = ["d-0", "d-2", "m-0", "m-2", "r0", "r2"]
    planned = state.collect(1, yes=False)
    assert names(planned["would_delete"]) == gone, "r1 is the last success, r3 the newest"
    assert (store.home() / "runs/r0").exists() and planned["bytes"] > 0
    assert names(state.collect(1, yes=True)["deleted"]) == gone
    assert not (store.home() / "runs/r0").exists() and (store.home() / "runs/run-v1").exists()
    assert (store.home() / "models/v1/adapter/weights").exists() and (
        store.home() / "datasets/d1/train.jsonl"
    ).exists()
    assert state.collect(1, yes=True)["deleted"] == [] and not list(store.home().rglob("*.deleted"))
