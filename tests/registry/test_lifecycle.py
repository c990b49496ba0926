"""The life of a version: which status follows which, what a promotion changes, and the way back."""

import json
import sqlite3
from typing import get_args

import pytest
from registry_toys import TASK, candidate, contradictions, make_run, model, results

from helpers import registry, store
from helpers.records import Asking, FineTunedModelVersion, Status, TrainedModel, WorkbookError
from helpers.registry import FineTuneLifecycleManager
from helpers.registry.database import open_registry, table
from helpers.registry.versions import CHANGES, update

STATUSES = get_args(Status)
ALLOWED = {
    ("training", "evaluating"),
    ("training", "deprecated"),
    ("evaluating", "staging"),
    ("evaluating", "production"),
    ("evaluating", "deprecated"),
    ("staging", "production"),
    ("staging", "deprecated"),
    ("production", "deprecated"),
}


def test_status_changes_are_exactly_those_of_the_table():
    assert {(old, new) for old in STATUSES for new in CHANGES[old]} == ALLOWED


def test_promotion_respects_the_status_table_even_when_forced():
    manager = candidate("v1")
    for old in STATUSES:
        for target in ("staging", "production"):
            with manager.registry.transaction() as db:
                db.execute(table("routes").delete())
                update(db, "v1", status=old)
            said = manager.promote("v1", target, because="test", force=True)
            if (
                old == target
                or (old, target) in ALLOWED
                or (old, target) == ("production", "staging")
            ):
                assert said.promoted
            else:
                assert (said.promoted, said.verdict, manager.get_version("v1").status) == (
                    False,
                    "fail",
                    old,
                )
                assert any(
                    f"is {old} and cannot become {target}" in reason for reason in said.reasons
                )


def test_a_displaced_version_is_refused_with_the_reason_and_nothing_changes():
    manager = candidate("v1")
    manager.promote("v1", "production")
    candidate("v2")
    manager.promote("v2", "production")
    manager.register(store.open_run("run-v1"))  # as a second run of 05 does
    said = manager.promote("v1", "staging")
    assert (said.verdict, said.promoted) == ("fail", False)
    assert any("displaced by v2" in reason and "rollback" in reason for reason in said.reasons)
    assert manager.get_production_version().id == "v2"
    assert contradictions() == []


def test_a_version_goes_from_training_to_production_and_the_record_shows_it():
    manager = FineTuneLifecycleManager(TASK)
    opened = manager.open_version("v1", "run-v1", "tiny", "d1")
    assert (opened.status, opened.task) == ("training", TASK)
    run = make_run("v1")
    manager.record_model("v1", run.load(TrainedModel))
    measured = manager.register(run)
    assert (measured.status, measured.eval_results) == ("evaluating", results())
    assert manager.promote("v1", "staging").promoted
    assert manager.get_version("v1").status == "staging"
    done = manager.promote("v1", "production", because="it is better")
    assert (done.verdict, done.promoted, done.previous, done.generation) == ("pass", True, None, 1)
    assert manager.get_production_version() == registry.list_versions()[0]
    assert [(h["action"], h["to_status"]) for h in manager.history()] == [
        ("open", "training"),
        ("model", None),
        ("evaluate", "evaluating"),
        ("promote", "staging"),
        ("promote", "production"),
    ]
    FineTunedModelVersion.model_validate_json(store.dumps(manager.get_version("v1")))


def test_opening_twice_finds_the_same_version():
    manager = FineTuneLifecycleManager(TASK)
    first = manager.open_version("v1", "r", "tiny", "d1")
    assert manager.open_version("v1", "r", "tiny", "d1") == first
    with pytest.raises(WorkbookError, match="belongs to task"):
        manager.open_version("v1", "other-run", "tiny", "d1")
    manager.set_status("v1", "deprecated", "the run died")
    with pytest.raises(WorkbookError, match="the run died"):
        manager.open_version("v1", "r", "tiny", "d1")


def test_registering_a_run_twice_changes_nothing():
    manager = candidate("v1")
    before = manager.history()
    manager.register(store.open_run("run-v1"))
    assert manager.history() == before


def test_what_is_in_production_keeps_its_model_and_its_evaluation():
    manager = candidate("v1")
    manager.promote("v1", "production")
    with pytest.raises(WorkbookError, match="cannot change any more"):
        manager.record_model("v1", model("v1", fingerprints={"template": "x"}))
    again = make_run("v1", fine_tuned_model=results(0.1))
    assert manager.register(again).eval_results == results()
    assert manager.history()[-1]["action"] == "evaluate"


def test_a_refusal_is_an_answer_that_changes_nothing_but_the_audit():
    manager = candidate("v1", verdict="fail")
    said = manager.promote("v1", "production")
    assert (said.verdict, said.promoted, said.generation) == ("fail", False, 0)
    assert any(reason.startswith("evaluation_verdict") for reason in said.reasons)
    assert manager.get_version("v1").status == "evaluating"
    assert manager.history()[-1]["action"] == "refuse"
    assert not (store.home() / "routes.json").exists()
    assert contradictions() == []


def test_none_asks_the_gate_and_promotes_nothing():
    manager = candidate("v1")
    said = manager.promote("v1", "none")
    assert (said.verdict, said.promoted, manager.get_version("v1").status) == (
        "pass",
        False,
        "evaluating",
    )


def test_force_needs_a_reason_is_audited_and_cannot_replace_a_missing_model():
    manager = candidate("v1", verdict="fail")
    with pytest.raises(WorkbookError, match="needs a reason"):
        manager.promote("v1", "production", force=True)
    done = manager.promote("v1", "production", because="the old one is on fire", force=True)
    assert (done.verdict, done.promoted, done.forced) == ("fail", True, True)
    last = manager.history()[-1]
    assert (last["because"], last["evidence"]["forced"]) == ("the old one is on fire", True)
    candidate("v2")
    (store.home() / "models/v2/adapter/adapter_model.safetensors").unlink()
    assert not manager.promote("v2", "production", because="really", force=True).promoted


def test_promoting_again_is_a_question_not_a_change():
    manager = candidate("v1")
    manager.promote("v1", "production")
    before = manager.history()
    assert manager.promote("v1", "production").promoted
    assert manager.promote("v1", "staging").promoted
    assert manager.history() == before


def test_a_stale_generation_is_refused():
    manager = candidate("v1")
    candidate("v2")
    seen = manager.route().generation
    manager.promote("v1", "production", expected_generation=seen)
    with pytest.raises(WorkbookError, match="production changed since you looked"):
        manager.promote("v2", "production", expected_generation=seen)
    with pytest.raises(WorkbookError, match="production changed since you looked"):
        manager.rollback(expected_generation=seen)
    assert manager.get_version("v2").status == "evaluating"


def test_a_change_while_the_gate_looks_is_refused(monkeypatch):
    manager = candidate("v1")
    candidate("v2")
    look = FineTuneLifecycleManager.validate_for_production

    def slow_look(self, version_id, *options):
        rules = look(self, version_id, *options)
        monkeypatch.setattr(FineTuneLifecycleManager, "validate_for_production", look)
        FineTuneLifecycleManager(TASK).promote("v1", "production")
        return rules

    monkeypatch.setattr(FineTuneLifecycleManager, "validate_for_production", slow_look)
    with pytest.raises(WorkbookError, match="production changed since you looked"):
        manager.promote("v2", "production")
    assert manager.get_production_version().id == "v1"


def test_rollback_there_and_back_and_to_a_named_version():
    manager = candidate("v1")
    for name in ("v2", "v3"):
        candidate(name)
    for name in ("v1", "v2", "v3"):
        assert manager.promote(name, "production").promoted
    assert manager.rollback(because="drill").version == "v2"
    assert manager.rollback().version == "v3"
    assert manager.rollback("v1").previous == "v3"
    assert (manager.route().version, manager.route().generation) == ("v1", 6)
    assert sorted(v.status for v in manager.list_versions()) == [
        "deprecated",
        "deprecated",
        "production",
    ]
    assert contradictions() == []


def test_rollback_checks_that_the_target_served_before_and_can_serve_again():
    manager = candidate("v1")
    with pytest.raises(WorkbookError, match="nothing served"):
        manager.rollback()
    manager.promote("v1", "production")
    with pytest.raises(WorkbookError, match="nothing served"):
        manager.rollback()
    candidate("v2")
    manager.set_status("v2", "deprecated", "not wanted")
    with pytest.raises(WorkbookError, match="only one that served before"):
        manager.rollback("v2")
    candidate("v3")
    manager.promote("v3", "production")
    store.write_text(store.home() / "models/v1/adapter/adapter_model.safetensors", "other weights")
    with pytest.raises(WorkbookError, match="was changed"):
        manager.rollback()
    assert manager.get_production_version().id == "v3"
    assert contradictions() == []


def test_a_retired_version_leaves_no_route_and_can_come_back():
    manager = candidate("v1")
    manager.promote("v1", "production")
    manager.set_status("v1", "deprecated", "end of life")
    assert (registry.routes(), manager.route().generation) == ({}, 2)
    assert manager.rollback().version == "v1"
    assert registry.routes()[TASK]["generation"] == 3


def test_set_status_does_not_go_around_the_gate():
    manager = candidate("v1")
    for status in ("staging", "production"):
        with pytest.raises(WorkbookError, match="the gate decides"):
            manager.set_status("v1", status)


def test_the_database_itself_holds_one_production_version_per_task():
    manager = candidate("v1")
    candidate("v2")
    manager.promote("v1", "production")
    with (
        sqlite3.connect(store.home() / "registry.db") as raw,
        pytest.raises(sqlite3.IntegrityError),
    ):
        raw.execute("UPDATE versions SET status = 'production' WHERE id = 'v2'")
    with (
        sqlite3.connect(store.home() / "registry.db") as raw,
        pytest.raises(sqlite3.IntegrityError),
    ):
        raw.execute("UPDATE versions SET status = 'retired' WHERE id = 'v2'")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET because = 'x'",
        "DELETE FROM audit",
        "INSERT OR REPLACE INTO audit SELECT * FROM audit WHERE id = 1",
    ],
)
def test_the_audit_is_append_only(statement):
    candidate("v1")
    with (
        sqlite3.connect(store.home() / "registry.db") as raw,
        pytest.raises(sqlite3.IntegrityError, match="append-only"),
    ):
        raw.execute(statement)


def test_routes_json_is_the_view_that_was_promised_and_is_repaired():
    manager = candidate("v1")
    manager.promote("v1", "production")
    path = store.home() / "routes.json"
    written = json.loads(path.read_text())
    assert set(written[TASK]) == {
        "version",
        "model_id",
        "provider",
        "since",
        "previous",
        "generation",
        "base_model",
        "artifact",
        "sha256",
        "asking",
    }
    assert Asking(**written[TASK]["asking"]).rung == "fine_tuned"
    assert written == store.read_json(path) == registry.routes()
    for damage in (
        path.unlink,
        lambda: path.write_text("{"),
        lambda: path.write_text('{"toy": {"version": "v0"}}'),
    ):
        damage()
        FineTuneLifecycleManager(TASK)
        assert store.read_json(path) == written


def test_a_notification_that_cannot_be_delivered_waits_and_never_stops_a_promotion():
    manager = candidate("v1")
    sink = store.home() / "notifications.jsonl"
    sink.mkdir()
    assert manager.promote("v1", "production").promoted
    sink.rmdir()
    FineTuneLifecycleManager(TASK)
    events = [json.loads(line) for line in sink.read_text().splitlines()]
    assert [(e["action"], e["version"]) for e in events] == [("promote", "v1")]
    assert registry.notify_team(open_registry()) == 0


def test_a_torn_notification_line_does_not_swallow_the_next_one():
    manager = candidate("v1")
    sink = store.home() / "notifications.jsonl"
    sink.write_text('{"event_id": "torn')
    manager.promote("v1", "production")
    assert json.loads(sink.read_text().splitlines()[1])["version"] == "v1"


def test_keys_in_a_reason_are_not_kept(monkeypatch):
    manager = candidate("v1")
    monkeypatch.setenv("WORKBOOK_API_KEY", "planted-key-12345")
    manager.promote("v1", "production", because="with planted-key-12345")
    written = {p.name: p.read_bytes() for p in store.home().iterdir() if p.is_file()}
    assert {"registry.db", "notifications.jsonl"} <= set(written)
    assert not [name for name, content in written.items() if b"planted-key" in content]


def test_the_commands_return_plain_data():
    candidate("v1")
    assert [v.id for v in registry.list_versions("toy")] == ["v1"]
    assert registry.promote("v1", "production", "go").promoted
    assert registry.show("v1")["route"].version == "v1"
    candidate("v2")
    assert registry.promote("v2", "production").previous == "v1"
    assert registry.rollback(because="drill").version == "v1"
    assert registry.rollback("v2", task="toy").version == "v2"
    assert [h["action"] for h in registry.history()][-2:] == ["displace", "rollback"]
    store.dumps([registry.history(), registry.show("v1")])
    with pytest.raises(WorkbookError, match="known tasks are toy"):
        registry.list_versions("tyo")
    with pytest.raises(WorkbookError, match="registry list"):
        registry.show("v9")


def test_a_file_that_is_no_database_is_reported_with_its_remedy(home):
    home.mkdir()
    (home / "registry.db").write_text("this is not a database, it is a note " * 50)
    with pytest.raises(WorkbookError, match="restore it from a backup"):
        registry.list_versions()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (
            "postgresql://someone:planted-password@127.0.0.1:9/x",
            "start the server, or correct WORKBOOK_DATABASE_URL",
        ),
        ("nonsense", "cannot be used"),
        ("nosuch://planted-password@x/y", "unset it to use SQLite"),
    ],
)
def test_a_database_that_cannot_be_used_is_reported_without_its_password(monkeypatch, url, said):
    if url.startswith("postgresql"):
        pytest.importorskip("psycopg", reason="the extra postgres is not installed")
    monkeypatch.setenv("WORKBOOK_DATABASE_URL", url)
    with pytest.raises(WorkbookError) as error:
        registry.list_versions()
    assert said in str(error.value) and "planted" not in str(error.value)
