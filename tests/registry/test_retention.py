"""Retirement: old models go into the trash, on purpose; what serves, a way back, evidence stay."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
import record_toys
from registry_toys import TASK, candidate

from helpers import cli, registry, store
from helpers.records import Trial, WorkbookError
from helpers.registry.database import open_registry
from helpers.run import collect, retire


def three_in_a_row():
    """v1 and v2 were displaced, v2 is the way back, v3 serves; v4 was refused."""
    for name in ("v1", "v2", "v3"):
        manager = candidate(name)
        manager.promote(name, "production", because="test", force=True)
    candidate("v4", verdict="fail").promote("v4", "production")
    for name in ("v1", "v2", "v3", "v4"):
        store.write_text(store.home() / f"runs/run-{name}/notebooks/04.ipynb", "{}")
        store.write_text(store.home() / f"runs/run-{name}/checkpoints/1/weights", "w")
    return manager


def later(monkeypatch, days):
    now = store.now() + timedelta(days=days)
    monkeypatch.setattr(store, "now", lambda: now)


def has_model(name):
    return (store.home() / f"models/{name}/adapter/adapter_model.safetensors").exists()


def test_the_rule_takes_old_and_refused_models_and_neither_what_serves_nor_the_way_back(
    monkeypatch,
):
    three_in_a_row()
    assert retire([], 90, "yearly", yes=True)["retired"] == []
    later(monkeypatch, 91)
    assert sorted(retire([], 90, "", yes=False)["would_retire"]) == ["v1", "v4"]
    assert all(map(has_model, ("v1", "v2", "v3", "v4")))
    answer = retire([], 90, "yearly", yes=True)
    assert [has_model(name) for name in ("v1", "v2", "v3", "v4")] == [False, True, True, False]
    assert (Path(answer["trash"]) / "models/v1/adapter/adapter_model.safetensors").exists()
    assert answer["bytes"] > 0
    assert retire([], 90, "again", yes=True)["retired"] == []


def test_a_retired_version_keeps_its_evaluation_and_the_audit_says_who_and_why():
    manager = three_in_a_row()
    retire(["v4"], 0, "it was refused", yes=True)
    assert manager.get_version("v4").status == "deprecated"
    assert manager.get_evaluation("v4").verdict == "fail"
    entry = manager.history()[-1]
    assert (entry["action"], entry["because"]) == ("retire", "it was refused")
    assert (entry["from_status"], entry["to_status"]) == ("evaluating", "deprecated")
    assert entry["evidence"]["sha256"] and "@" in entry["actor"]


def test_what_serves_what_is_tried_and_the_way_back_cannot_be_retired_by_name():
    manager = three_in_a_row()
    candidate("v5").promote("v5", "staging", because="test", force=True)
    trial = Trial(kind="shadow", task=TASK, version="v5", against="v3", share=1.0,
                  started_at=store.now())  # fmt: skip
    registry.begin_trial(trial)
    for name, words in (("v3", "serves"), ("v2", "rollback"), ("v5", "shadow")):
        with pytest.raises(WorkbookError, match=words):
            retire([name], 0, "why", yes=True)
    with pytest.raises(WorkbookError, match="no version 'v9'"):
        retire(["v9"], 0, "why", yes=True)
    with pytest.raises(WorkbookError, match="say why"):
        retire(["v1"], 0, " ", yes=True)
    with pytest.raises(WorkbookError, match="--days -1"):
        retire([], -1, "why", yes=True)
    assert all(map(has_model, ("v1", "v2", "v3", "v4", "v5")))
    assert manager.route().version == "v3"


def test_a_rollback_to_a_retired_version_says_so_and_works_once_its_model_is_back():
    manager = three_in_a_row()
    answer = retire(["v1"], 0, "disk", yes=True)
    with pytest.raises(WorkbookError, match=r"retired on 2\d{3}-.*disk"):
        manager.rollback("v1")
    (Path(answer["trash"]) / "models/v1").rename(store.home() / "models/v1")
    assert manager.rollback("v1").promoted
    collect(0, yes=True)
    assert has_model("v1")


def test_gc_takes_what_is_no_evidence_of_retired_versions_only():
    three_in_a_row()
    for name in ("v1", "v2", "v3", "v4"):
        run = store.Run(f"run-{name}")
        run.save(record_toys.run_record(run.id, profile=name, status="failed"))
    assert collect(0, yes=True)["deleted"] == []
    retire(["v1"], 0, "disk", yes=True)
    collect(0, yes=True)
    folder = store.home() / "runs/run-v1"
    left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert left[:3] == ["answers/fine_tuned.jsonl", "evaluation.json", "model.json"]
    assert not [name for name in left if Path(name).suffix not in (".json", ".jsonl")]
    assert (store.home() / "datasets/d1/test.jsonl").exists()
    assert (store.home() / "runs/run-v2/checkpoints/1/weights").exists()


def test_what_a_kill_leaves_after_the_registry_knows_is_taken_by_the_next_gc():
    three_in_a_row()
    registry.retire(["v1"], 0, "killed before its model was moved", yes=True)
    assert has_model("v1")
    assert str(store.home() / "models/v1") in collect(9, yes=True)["deleted"]
    assert not has_model("v1") and has_model("v2")


def test_a_model_that_two_versions_share_goes_with_the_last(monkeypatch):
    three_in_a_row()
    with open_registry().transaction() as db:
        from helpers.registry import versions

        versions.update(db, "v2", artifact="models/v1/adapter")
    answer = retire(["v1"], 0, "disk", yes=True)
    assert (answer["models"], has_model("v1")) == ([], True)


def test_on_the_command_line_nothing_goes_without_yes(capsys):
    three_in_a_row()
    command = ["registry", "retire", "--days", "0", "--because", "tidy", "--json"]
    assert cli.main(command) == 0
    assert sorted(json.loads(capsys.readouterr().out)["would_retire"]) == ["v1", "v4"]
    assert has_model("v1")
    assert cli.main([*command, "--yes"]) == 0
    assert sorted(json.loads(capsys.readouterr().out)["retired"]) == ["v1", "v4"]
    assert not has_model("v1")
    assert cli.main(["registry", "retire", "v3", "--because", "oops", "--yes"]) == 2
