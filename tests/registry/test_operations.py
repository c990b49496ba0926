"""Around versions: rehearsal on a copy, backup and restore, repair, lineage, differences."""

import fcntl
import json
import shutil
from pathlib import Path

import pytest
import record_toys
from registry_toys import TASK, candidate, contradictions, model, results

from helpers import registry, store
from helpers.records import Asking, DatasetPointer, WorkbookError
from helpers.registry import FineTuneLifecycleManager
from helpers.registry.database import open_registry
from helpers.registry.operations import dump


def two_versions():
    for name in ("v1", "v2"):
        manager = candidate(name)
        manager.promote(name, "production", because=f"{name} is better")
    return manager


def test_a_rehearsal_goes_there_and_back_and_touches_nothing():
    manager = two_versions()
    candidate("v3", verdict="fail")
    before = dump(manager.registry), {p: p.read_bytes() for p in store.home().rglob("*.json*")}
    steps = registry.rehearse(TASK, "v3")
    assert [(s["step"], s["serves"]) for s in steps] == [
        ("now", "v2"), ("promote", "v3"), ("roll back", "v2"), ("and back again", "v3"),
    ]  # fmt: skip
    assert not any(s["note"] for s in steps)
    assert (
        dump(manager.registry),
        {p: p.read_bytes() for p in store.home().rglob("*.json*")},
    ) == before


def test_a_rehearsal_of_a_first_version_says_that_there_is_no_way_back():
    candidate("v1")
    steps = registry.rehearse(TASK, "v1")
    assert [s["serves"] for s in steps] == ["nothing", "v1", "v1", "v1"]
    assert "nothing served" in steps[2]["note"]


def test_a_rehearsal_tells_no_channel(monkeypatch):
    two_versions()
    candidate("v3")
    monkeypatch.setenv("WORKBOOK_NOTIFY_URLS", "json://127.0.0.1:9/nobody")
    monkeypatch.setattr(
        "helpers.registry.delivery.send", lambda *_: pytest.fail("a channel was told")
    )
    registry.rehearse(TASK, "v3")


def test_a_backup_restores_everything_into_an_empty_registry_only(tmp_path, monkeypatch):
    manager = two_versions()
    before, file = dump(manager.registry), tmp_path / "backup.json"
    assert registry.backup(file)["versions"] == 2
    with pytest.raises(WorkbookError, match="history of its own"):
        registry.restore(file)
    shutil.copytree(store.home() / "models", tmp_path / "new" / "models")
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path / "new"))
    assert registry.restore(file)["audit"] == len(before["audit"])
    assert dump(open_registry()) == before
    assert contradictions() == []
    assert store.read_json(tmp_path / "new" / "routes.json")[TASK]["version"] == "v2"
    assert registry.rollback(because="it goes on").version == "v1"
    assert contradictions() == []


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"format": "x", "tables": {}}', "{", '{"a": NaN}']
)
def test_a_file_that_is_no_backup_is_refused(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(WorkbookError, match=r"no backup|not valid JSON"):
        registry.restore(tmp_path / "x.json")


def test_a_backup_of_a_newer_workbook_is_refused(tmp_path):
    candidate("v1")
    file = tmp_path / "b.json"
    registry.backup(file)
    content = store.read_json(file)
    content["tables"]["versions"][0]["invented_later"] = 1
    store.write_json(file, content)
    with pytest.raises(WorkbookError, match="newer"):
        registry.restore(file)


@pytest.mark.parametrize("table", ["versions", "routes", "audit", "outbox", "alarms", "attempts"])
def test_a_backup_with_a_row_that_is_none_is_refused_and_nothing_is_restored(
    tmp_path, monkeypatch, table
):
    two_versions()
    file = tmp_path / "b.json"
    registry.backup(file)
    content = store.read_json(file)
    content["tables"][table].append({})
    store.write_json(file, content)
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path / "new"))
    with pytest.raises(WorkbookError, match="nothing was restored"):
        registry.restore(file)
    assert not any(dump(open_registry()).values())


def test_an_export_into_a_file_names_it(tmp_path):
    candidate("v1")
    file = store.write_text(tmp_path / "file", "x")
    with pytest.raises(WorkbookError, match="file is there already; name another folder"):
        registry.export("v1", "adapter", file)


def test_reconcile_repairs_the_view_and_names_a_way_back_that_is_broken():
    two_versions()
    (store.home() / "routes.json").write_text("{}")
    assert registry.reconcile() == {"waiting": 0, "mirrored": [], "problems": []}
    assert store.read_json(store.home() / "routes.json")[TASK]["version"] == "v2"
    shutil.rmtree(store.home() / "models/v1")
    assert [p for p in registry.reconcile()["problems"] if "previous v1" in p and "missing" in p]


def test_the_lineage_leads_from_the_data_to_the_route():
    two_versions()
    steps = registry.lineage("v2")
    assert [s["step"] for s in steps] == ["data", "run", "model", "evaluation", "promote", "route"]
    assert steps[0]["what"] == "d1" and "generation 2" in steps[-1]["what"]
    assert [s["step"] for s in registry.lineage("v1")][-2:] == ["promote", "displace"]
    json.loads(store.dumps(steps))


def test_the_lineage_names_what_cannot_be_read_and_goes_on():
    two_versions()
    store.write_text(store.home() / "datasets/d1/manifest.json", "{")
    store.write_json(store.Run("run-v2").path("run.json"), {"run_id": "run-v2"})
    data, run, *_ = registry.lineage("v2")
    assert "manifest.json is not valid JSON" in data["detail"]
    assert "run.json" in run["detail"] and run["when"]


def test_a_diff_names_what_differs_and_nothing_else():
    candidate("v1")
    candidate("v2", dataset="d2", fine_tuned_model=results(0.6))
    fields = {row["field"] for row in registry.diff("v1", "v2")}
    assert {"id", "dataset_version", "accuracy", "artifact_sha256"} <= fields
    assert not fields & {"task", "base_model", "template", "format_compliance"}
    assert registry.diff("v1", "v1") == []


def test_a_diff_shows_how_two_versions_are_asked_and_names_a_model_that_cannot_be_read():
    two_versions()
    asking = Asking(max_new_tokens=120).for_rung("fine_tuned", "v2")
    store.Run("run-v2").save(model("v2", asking=asking))
    rows = {row["field"]: row for row in registry.diff("v1", "v2")}
    assert rows["asking.max_new_tokens"] == {
        "field": "asking.max_new_tokens",
        "a": "40",
        "b": "120",
    }
    assert "asking.model" not in rows
    store.write_json(store.Run("run-v2").path("model.json"), {"version": "v2"})
    rows = {row["field"]: row for row in registry.diff("v1", "v2")}
    assert "model.json" in rows["model.json"]["b"] and rows["asking.max_new_tokens"]["b"] == ""


def test_a_run_of_0_1_0_is_registered_compared_and_told_from_its_files():
    released = Path(__file__).parents[1] / "released/0.1.0"
    run = store.open_run(store.read_json(released / "run/run.json")["run_id"])
    shutil.copytree(released / "run", run.folder, dirs_exist_ok=True)
    pointer = run.load(DatasetPointer)
    shutil.copytree(released / "dataset", store.home() / "datasets" / pointer.version)
    version = FineTuneLifecycleManager("demo/support_triage").register(run)
    assert (version.status, version.dataset_version) == ("evaluating", pointer.version)
    data, ran, *_ = registry.lineage(version.id)
    assert data["detail"].startswith("train ") and ran["detail"].startswith("profile ")
    candidate("v1")
    rows = {row["field"]: row["a"] for row in registry.diff(version.id, "v1")}
    assert rows["hyperparameters.lora_r"] == "4"
    assert "model.json" not in rows


def test_a_request_to_retrain_is_written_down_and_says_its_command():
    manager = two_versions()
    asked = manager.schedule_retrain("0 3 * * 0", because="new products every week")
    assert asked["command"] == "workbook schedule retrain --cron '0 3 * * 0'"
    last = manager.history()[-1]
    assert (last["action"], last["version"], last["evidence"]["cron"]) == (
        "schedule",
        "v2",
        "0 3 * * 0",
    )
    told = store.read_jsonl(store.home() / "notifications.jsonl")[-1]
    assert (told["action"], told["target"]) == ("schedule", "retrain")
    assert contradictions() == []
    with pytest.raises(WorkbookError, match="five fields"):
        manager.schedule_retrain("@weekly")


def open_in(run_id, by_hand=False):
    run = store.open_run(run_id)
    if not by_hand:
        run.save(record_toys.run_record(run_id))
    return FineTuneLifecycleManager(TASK).open_version(f"v-{run_id}", run_id, "tiny", "d1")


def statuses():
    return {v.run_id: v.status for v in registry.list_versions()}


def test_a_run_that_died_in_training_is_closed_when_the_next_one_trains():
    open_in("a")
    assert open_in("a").status == "training"  # resumed: still open
    open_in("b")
    closed = FineTuneLifecycleManager(TASK).get_version("v-a")
    assert closed.status == "deprecated" and "run a did not finish" in closed.metadata["reason"]
    with pytest.raises(WorkbookError, match="use another run_id"):
        open_in("a")


def test_a_run_that_can_go_on_stays_open():
    open_in("by-hand", by_hand=True)
    open_in("trained")
    store.open_run("trained").save(model("v-trained"))
    FineTuneLifecycleManager(TASK).open_version("x", "of-another-home", "tiny", "d1")
    open_in("c")
    assert set(statuses().values()) == {"training"}


def test_a_run_that_is_alive_is_not_closed():
    open_in("alive")
    with open(store.home() / ".lock", "a+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        open_in("by-hand", by_hand=True)
    assert statuses()["alive"] == "training"
