"""Should we retrain, with which decision: on a registry with a served version, and toys."""

from __future__ import annotations

import os
import sqlite3
from datetime import timedelta
from pathlib import Path

import pytest
import record_toys

from helpers import parameters, store, tasks
from helpers import run as runner
from helpers.models import providers
from helpers.records import Asking, DatasetPointer, Decision, RunRecord
from helpers.registry import FineTuneLifecycleManager
from helpers.registry.database import open_registry
from helpers.registry.versions import update
from helpers.run import flow, retrain

ORDER = "notebooks: [06_monitor, 02_curate, 03a_train_lora, 04_evaluate, 05_registry]\n"


@pytest.fixture
def task(toys, tmp_path: Path) -> tasks.Task:
    toys()
    (tmp_path / "retrain.yaml").write_text(f"task: {tmp_path}/task\nmin_new_rows: 3\n{ORDER}")
    return tasks.load_task(str(tmp_path / "task"))


def version(task: tasks.Task, name: str, status: str) -> None:
    """A registered version of run `name`, put into a status behind the gate's back."""
    manager = FineTuneLifecycleManager(task.registry_name)
    manager.open_version(name, f"run-{name}", "embedded", "d1")
    rows = tasks.load_examples(task).examples
    folder = store.home() / "datasets/d1"
    if not folder.exists():
        store.write_jsonl(folder / "train.jsonl", rows)
        store.write_jsonl(folder / "rejected.jsonl", [])
        store.write_json(folder / "manifest.json", {"version": "d1"})
    run = store.open_run(f"run-{name}")
    run.save(record_toys.decision())
    with sqlite3.connect(store.home() / "registry.db") as db:
        db.execute("update versions set status = ? where id = ?", (status, name))
        if status == "production":
            values = (task.registry_name, name, store.now().isoformat())
            db.execute(
                "insert into routes (task, version, generation, since) values (?, ?, 1, ?)", values
            )
    FineTuneLifecycleManager(task.registry_name)  # publishes routes.json


def advice(task: tasks.Task, verdict: str = "ok", **changed) -> retrain.RetrainAdvice:
    run = store.open_run("now")
    reasons = [] if verdict == "ok" else ["format_compliance"]
    run.save(record_toys.health(verdict=verdict, reasons=reasons))
    limits = {"max_age_days": 90, "min_new_rows": 3, "min_feedback": 4.0} | changed
    return retrain.should_retrain(task, run, **limits)


def more_rows(task: tasks.Task, count: int) -> None:
    with open(task.folder / "human.jsonl", "a") as file:
        file.writelines(
            f'{{"prompt": "new question {i}", "completion": "answer"}}\n' for i in range(count)
        )


def test_without_anything_in_production_there_is_nothing_to_retrain(task):
    assert not advice(task).retrain and "is in production" in advice(task).reason


def test_only_quality_new_rows_age_and_retirement_are_reasons(task, monkeypatch):
    version(task, "v1", "production")
    no = advice(task)
    assert not no.retrain and "0 new eligible rows" in no.reason and "06 says ok" in no.reason
    assert not advice(task, "watch").retrain
    assert advice(task, "retrain").retrain and "format_compliance" in advice(task, "retrain").reason
    more_rows(task, 2)
    assert not advice(task).retrain
    more_rows(task, 5)
    assert advice(task).retrain and "5 new eligible rows" in advice(task).reason, (
        "a row that is there twice counts once"
    )
    now = store.now()
    monkeypatch.setattr(store, "now", lambda: now + timedelta(days=100))
    old = advice(task, min_new_rows=99)
    assert old.retrain and "trained 100 days ago" in old.reason


def test_production_rows_count_when_they_are_rated_well(task):
    version(task, "v1", "production")
    row = '{{"prompt": "logged {}", "completion": "answer", "feedback_score": {}}}\n'
    (task.folder / "production.jsonl").write_text(
        "".join(row.format(i, score) for i, score in enumerate([5, 4, 3, "null"]))
    )
    serving = FineTuneLifecycleManager(task.registry_name).get_production_version()
    assert retrain.new_rows(task, serving, 4.0) == 2
    (store.home() / "datasets/d1/manifest.json").unlink()
    assert retrain.new_rows(task, serving, 4.0) is None


@pytest.mark.parametrize(("days", "due"), [(-3, True), (10, True), (200, False)])
def test_a_model_that_is_withdrawn_soon_needs_a_successor_elsewhere(task, monkeypatch, days, due):
    version(task, "v1", "production")
    with open_registry().transaction() as db:
        update(db, "v1", metadata={"base_url": "https://api.openai.com/v1"})
    day = (store.now() + timedelta(days=days)).date()
    known = [each._replace(serve_until=day) for each in providers.PROVIDERS]
    monkeypatch.setattr(providers, "PROVIDERS", known)
    said = advice(task)
    assert said.retrain == due and f"it is served until {day}" in said.reason
    assert ("train its successor elsewhere (trainer=lora" in said.reason) == due


def test_a_candidate_that_waits_for_approval_comes_first_unless_it_is_this_run_s(task):
    version(task, "v1", "production")
    version(task, "v2", "staging")
    said = advice(task, "retrain")
    assert (
        not said.retrain
        and "v2 waits for approval" in said.reason
        and "workbook registry promote v2" in said.reason
    )
    waiting = runner.status()["waiting_approvals"]
    assert [(row["version"], row["task"]) for row in waiting] == [("v2", task.registry_name)]


RETRAIN = record_toys.health(verdict="retrain", reasons=["feedback_mean"])


def go(tmp_path: Path, **options) -> RunRecord:
    return flow.run(str(tmp_path / "retrain.yaml"), run_id="r", **options)


def test_no_is_nothing_to_do_and_exit_0_with_the_reason(task, toys, tmp_path):
    version(task, "v1", "production")
    toys(artifacts=[record_toys.health(verdict="ok", reasons=[])])
    record = go(tmp_path)
    assert (record.status, record.exit_code) == ("nothing_to_do", 0)
    assert "v1 may go on" in record.reason and "train_anyway_because" in record.reason
    first, *others = record.notebooks
    assert (first.name, first.status) == ("06_monitor", "finished")
    assert {entry.status for entry in others} == {"skipped"}


def test_yes_runs_06_first_then_the_rest_with_the_last_decision(task, toys, tmp_path):
    version(task, "v1", "production")
    toys(artifacts=[RETRAIN])
    record = go(tmp_path)
    assert (record.status, record.exit_code) == ("finished", 0)
    assert [entry.name[:2] for entry in record.notebooks] == ["06", "02", "03", "04", "05"]
    decision = store.Run("r").load(Decision)
    assert (decision.reused_from, decision.best_rung) == ("run-v1", "few_shot")
    assert {entry.status for entry in go(tmp_path).notebooks} == {"reused"}


def test_a_reused_decision_is_asked_as_it_was_measured_and_not_as_today_s_defaults_say(task):
    version(task, "v1", "production")
    asking = Asking(few_shot_k=6, few_shot_pick="nearest", wording="Be brief.", max_new_tokens=12)
    measured = asking.for_rung("few_shot", "embedded")
    rungs = [record_toys.rung("zero_shot"), record_toys.rung("few_shot", asking=measured)]
    store.Run("run-v1").save(record_toys.decision(rungs=rungs))
    for name in ("r1", "r2"):  # r2 takes over what r1 took over
        run = store.open_run(name)
        assert retrain.reuse_decision(task, run, "embedded", 90)
        decision = run.load(Decision)
        assert decision.asking("few_shot") == measured and decision.reused_from == "run-v1"
        assert decision.asking("few_shot").few_shot_k == 6
        assert store.fingerprint(decision.asking("few_shot")) == store.fingerprint(measured)
        registered = FineTuneLifecycleManager(task.registry_name)
        registered.open_version(f"v-{name}", name, "embedded", "d1")
    defaults = parameters.declared_parameters(store.PROJECT / "notebooks/01_decide.ipynb")
    assert defaults["few_shot_k"] != 6, "a default would have been another k"


def test_a_decision_of_which_nobody_knows_how_it_asked_is_made_again(task, caplog):
    version(task, "v1", "production")
    old = record_toys.decision().model_dump(mode="json")
    del old["schema_version"]
    for rung in old["rungs"]:
        del rung["asking"]
    store.write_json(store.Run("run-v1").path("decision.json"), old)
    run = store.open_run("r")
    assert not retrain.reuse_decision(task, run, "embedded", 90) and not run.has(Decision)
    assert "the last decision cannot be reused" in caplog.text


def test_a_decision_that_is_too_old_is_made_again(task, toys, tmp_path):
    version(task, "v1", "production")
    toys(artifacts=[RETRAIN])
    old = store.now().timestamp() - 100 * 86400
    os.utime(store.Run("run-v1").path("decision.json"), (old, old))
    record = go(tmp_path)
    assert [entry.name[:2] for entry in record.notebooks] == ["06", "01", "02", "03", "04", "05"]
    assert record.exit_code == 0 and not store.Run("r").load(Decision).reused_from


def test_a_decision_against_training_ends_the_run_and_a_reason_goes_on(task, toys, tmp_path):
    version(task, "v1", "production")
    toys(artifacts=[RETRAIN])
    store.Run("run-v1").save(record_toys.decision(recommendation="prompting"))
    record = go(tmp_path)
    assert (record.status, record.exit_code) == ("nothing_to_do", 0)
    assert "advises prompting" in record.reason


def test_gc_keeps_what_the_registry_names_and_what_runs_that_stay_name(task):
    version(task, "v1", "deprecated")
    version(task, "v2", "production")
    for number in range(4):
        run = store.open_run(f"r{number}")
        at = store.now() + timedelta(minutes=number)
        status = "finished" if number < 2 else "failed"
        run.save(record_toys.run_record(run.id, profile="smoke", status=status, started_at=at))
        run.save(DatasetPointer(version=f"d-{number}", fingerprint="f"))
        run.save(record_toys.trained_model(version=f"m-{number}"))
        for name in (f"datasets/d-{number}/train.jsonl", f"models/m-{number}/adapter/weights"):
            store.write_text(store.home() / name, "x")
    store.write_text(store.home() / "models/v1/adapter/weights", "x")
    names = lambda found: sorted(Path(path).name for path in found)  # noqa: E731
    gone = ["d-0", "d-2", "m-0", "m-2", "r0", "r2"]
    planned = runner.collect(1, yes=False)
    assert names(planned["would_delete"]) == gone, "r1 is the last success, r3 the newest"
    assert (store.home() / "runs/r0").exists() and planned["bytes"] > 0
    assert names(runner.collect(1, yes=True)["deleted"]) == gone
    assert not (store.home() / "runs/r0").exists() and (store.home() / "runs/run-v1").exists()
    assert (store.home() / "models/v1/adapter/weights").exists() and (
        store.home() / "datasets/d1/train.jsonl"
    ).exists()
    assert runner.collect(1, yes=True)["deleted"] == [] and not list(
        store.home().rglob("*.deleted")
    )
