"""The gate: one table of what can be wrong, and what the rules say about it."""

import json
import shutil
import threading
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest
from registry_toys import FINGERPRINTS, candidate, estimate, make_run

from helpers import store
from helpers.records import WorkbookError
from helpers.registry import FineTuneLifecycleManager, overall
from helpers.registry.gate import RuleResult, reevaluation
from helpers.registry.versions import update

LOST = {
    "difference": estimate(-0.2),
    "method": "paired",
    "gained": 0,
    "lost": 9,
    "margin": 0.03,
    "verdict": "fail",
}
UNSURE = LOST | {"difference": estimate(0.01), "verdict": "inconclusive"}


WON = LOST | {"difference": estimate(0.3), "verdict": "pass"}


def ceiling(met):
    return {"latency_p95": {"target": 900.0, "met": met, "estimate": estimate(800)}}


def target(met):
    return {"accuracy": {"target": 0.9, "met": met, "estimate": estimate(0.8)}}


CASES = [
    ("nothing is wrong", {}, None, "pass"),
    ("04 said fail", {"verdict": "fail"}, "evaluation_verdict", "fail"),
    ("04 was not sure", {"verdict": "inconclusive"}, "evaluation_verdict", "inconclusive"),
    ("a regression", {"regression": True}, "evaluation_verdict", "fail"),
    ("a target is missed", {"targets": target("no")}, "targets", "fail"),
    ("a target is not decided", {"targets": target("undecided")}, "targets", "inconclusive"),
    ("no target", {"targets": {}}, "targets", "inconclusive"),
    ("worse than a prompt", {"comparison": {"accuracy": LOST}}, "better_than_cheaper_rung", "fail"),
    (
        "not surely better",
        {"comparison": {"accuracy": UNSURE}},
        "better_than_cheaper_rung",
        "inconclusive",
    ),
    ("not compared", {"comparison": {}}, "better_than_cheaper_rung", "inconclusive"),
    (
        "another template",
        {"fingerprints": FINGERPRINTS | {"template": "other"}},
        "fingerprints",
        "fail",
    ),
    ("a ceiling is missed", {"targets": target("yes") | ceiling("no")}, "ceilings", "fail"),
    (
        "a ceiling is not decided",
        {"targets": target("yes") | ceiling("undecided")},
        "ceilings",
        "inconclusive",
    ),
    (
        "a missed ceiling is no missed target",
        {"targets": target("yes") | ceiling("no")},
        "targets",
        "pass",
    ),
    ("no ceiling", {}, "ceilings", "pass"),
    ("few test rows", {"n_test": 12}, "power", "inconclusive"),
    (
        "another metric is lost",
        {"comparison": {"accuracy": WON, "format_compliance": LOST}},
        "margins",
        "fail",
    ),
    (
        "another metric is not decided",
        {"comparison": {"accuracy": WON, "format_compliance": UNSURE}},
        "margins",
        "pass",
    ),
    ("evaluation of another version", {"version": "v0"}, "evaluated", "fail"),
]


@pytest.mark.parametrize(
    ("changes", "name", "verdict"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_the_rules_say_what_is_wrong(changes, name, verdict):
    changes = dict(changes)
    version = changes.pop("version", None)
    manager = candidate("v1", **changes)
    if version:
        store.write_json(store.open_run("run-v1").path("evaluation.json"), {"version": version})
    rules = manager.validate_for_production("v1")
    assert all(rule.evidence for rule in rules)
    if name is None:
        assert overall(rules) == verdict
    else:
        assert {r.name: r.verdict for r in rules}[name] == verdict


def verdict_of(name, manager, version="v1", **options):
    return {r.name: r.verdict for r in manager.validate_for_production(version, **options)}[name]


def test_a_missing_or_changed_artifact_fails():
    manager = candidate("v1")
    assert verdict_of("artifact", manager) == "pass"
    file = store.home() / "models/v1/adapter/adapter_model.safetensors"
    store.write_text(file, "something else")
    assert verdict_of("artifact", manager) == "fail"
    shutil.rmtree(file.parent)
    assert verdict_of("artifact", manager) == "fail"


def test_an_evaluation_that_was_changed_afterwards_fails():
    manager = candidate("v1")
    path = store.open_run("run-v1").path("evaluation.json")
    store.write_json(path, store.read_json(path) | {"verdict": "pass", "n_test": 9999})
    assert verdict_of("evaluated", manager) == "fail"


def test_a_dataset_without_checks_or_with_lost_rows_fails():
    manager = candidate("v1")
    path = store.home() / "datasets/d1/manifest.json"
    good = store.read_json(path)
    for bad in ({"funnel": []}, {"funnel": [good["funnel"][0] | {"out": 7}]}):
        store.write_json(path, good | bad)
        assert verdict_of("dataset_checks", manager) == "fail"
    path.unlink()
    assert verdict_of("dataset_checks", manager) == "fail"


@pytest.mark.parametrize(
    ("when", "verdict"),
    [("2020-01-01T00:00:00+00:00", "fail"), ("2990-01-01T00:00:00+00:00", "fail"), (None, "fail")],
)
def test_an_old_future_or_missing_evaluation_does_not_pass(when, verdict):
    manager = candidate("v1")
    with manager.registry.transaction() as db:
        update(db, "v1", evaluated_at=when)
    assert verdict_of("evaluation_age", manager) == verdict


def test_a_run_broken_on_purpose_fails():
    manager = candidate("v1")
    assert verdict_of("not_broken_on_purpose", manager, break_it="leak") == "fail"
    assert not manager.promote("v1", "staging", break_it="leak").promoted


@pytest.mark.parametrize(
    ("right", "verdict"), [(60, "pass"), (30, "pass"), (28, "inconclusive"), (0, "fail")]
)
def test_the_version_in_production_is_compared_on_the_same_rows(right, verdict):
    manager = candidate("v1", right=30)
    manager.promote("v1", "production")
    candidate("v2", right=right)
    assert verdict_of("against_production", manager, "v2") == verdict


def test_another_test_part_or_lost_answers_leave_it_undecided():
    manager = candidate("v1")
    manager.promote("v1", "production")
    candidate("v2", dataset="d2", test_part="other rows")
    assert verdict_of("against_production", manager, "v2") == "inconclusive"
    candidate("v3")
    store.open_run("run-v1").path("answers/fine_tuned.jsonl").unlink()
    assert verdict_of("against_production", manager, "v3") == "inconclusive"


def test_a_version_that_was_measured_again_on_the_same_rows_is_compared():
    manager = candidate("v1", right=30)
    manager.promote("v1", "production")
    candidate("v2", dataset="d2", test_part="other rows")
    rule = next(r for r in manager.validate_for_production("v2") if r.name == "against_production")
    assert "workbook registry reevaluate v2" in rule.evidence
    new, incumbent = store.Run("run-v2"), manager.get_version("v1")
    again = store.open_run(reevaluation(new, incumbent).id)
    store.write_json(again.path("dataset.json"), {"version": "d2", "fingerprint": "x"})
    answers = store.read_jsonl(store.Run("run-v1").path("answers/fine_tuned.jsonl"))
    store.write_jsonl(again.path("answers/fine_tuned.jsonl"), answers)
    assert verdict_of("against_production", manager, "v2") == "pass"
    store.write_jsonl(again.path("answers/fine_tuned.jsonl"), answers[1:])
    assert verdict_of("against_production", manager, "v2") == "inconclusive"


class Provider:
    """A real HTTP server on loopback that lists models, each with its shutdown date."""

    def __init__(self, models):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                name = unquote(self.path.rpartition("/")[2])
                found = {
                    "id": name,
                    "object": "model",
                    "created": 1,
                    "owned_by": "x",
                    "shutdown_date": models.get(name),
                }
                body = json.dumps(
                    found if name in models else {"error": {"message": "no such model"}}
                ).encode()
                self.send_response(200 if name in models else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def provided(version, base_url):
    """A version that a provider keeps."""
    run = make_run(version)
    model = run.read("model.json") | {
        "provider": "api",
        "model_id": f"ft:{version}",
        "base_url": base_url,
    }
    del model["adapter"]
    store.write_json(run.path("model.json"), model)
    manager = FineTuneLifecycleManager("toy")
    manager.register(run)
    return manager


def in_days(days):
    return (store.now() + timedelta(days=days)).date().isoformat()


@pytest.mark.parametrize(
    ("tuned", "base", "verdict"),
    [
        (None, None, "pass"),
        (400, 400, "pass"),
        (10, 400, "fail"),
        (400, 10, "fail"),
        (-3, None, "fail"),
        ("gone", None, "fail"),
    ],
)
def test_a_provider_is_asked_until_when_it_serves_the_model_and_its_base(tuned, base, verdict):
    listed = {"tiny": in_days(base) if base else None}
    if tuned != "gone":
        listed["ft:v1"] = in_days(tuned) if tuned else None
    provider = Provider(listed)
    manager = provided("v1", provider.url)
    assert verdict_of("artifact", manager) == "pass"
    assert verdict_of("serve_until", manager) == verdict
    provider.close()


def test_a_provider_that_does_not_answer_leaves_it_undecided_and_stops_no_rollback():
    provider = Provider({"ft:v1": None, "ft:v2": None})
    for name in ("v1", "v2"):
        manager = provided(name, provider.url)
        assert manager.promote(name, "production").promoted, name
    provider.close()
    assert verdict_of("serve_until", manager, "v2") == "inconclusive"
    done = manager.rollback(because="it answers nonsense")
    assert (done.version, [r.verdict for r in done.rules]) == ("v1", ["pass", "inconclusive"])


def test_a_model_that_the_provider_deleted_cannot_be_rolled_back_to():
    provider = Provider({"ft:v2": None})
    for name in ("v1", "v2"):
        manager = provided(name, provider.url)
        manager.promote(name, "production", "test", force=True)
    with pytest.raises(WorkbookError, match="cannot serve again"):
        manager.rollback()
    provider.close()


def test_a_registered_date_counts_for_a_model_that_lies_here():
    manager = candidate("v1")
    for days, verdict in ((400, "pass"), (10, "fail")):
        with manager.registry.transaction() as db:
            update(db, "v1", serve_until=in_days(days))
        assert verdict_of("serve_until", manager) == verdict


def test_the_reason_to_train_anyway_is_shown():
    manager = candidate("v1")
    decision = {"recommendation": "rag", "train_anyway_because": "latency"}
    store.write_json(store.open_run("run-v1").path("decision.json"), decision)
    rules = {r.name: r for r in manager.validate_for_production("v1")}
    assert "latency" in rules["decision"].evidence
    assert "rag" in rules["decision"].evidence


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [("ppp", "pass"), ("pip", "inconclusive"), ("pif", "fail"), ("f", "fail"), ("", "pass")],
)
def test_the_gate_is_its_worst_rule(verdicts, expected):
    full = {"p": "pass", "i": "inconclusive", "f": "fail"}
    assert (
        overall([RuleResult(name=v, verdict=full[v], evidence="x") for v in verdicts]) == expected
    )
