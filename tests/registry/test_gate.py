"""The gate: one table of what can be wrong, and what the rules say about it."""

import shutil

import pytest
from registry_toys import FINGERPRINTS, candidate, estimate, make_run

from helpers import store
from helpers.registry import FineTuneLifecycleManager, overall
from helpers.registry.gate import RuleResult
from helpers.registry.versions import update

LOST = {"difference": estimate(-0.2), "method": "paired", "gained": 0, "lost": 9, "margin": 0.03, "verdict": "fail"}
UNSURE = LOST | {"difference": estimate(0.01), "verdict": "inconclusive"}


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
    ("not surely better", {"comparison": {"accuracy": UNSURE}}, "better_than_cheaper_rung", "inconclusive"),
    ("not compared", {"comparison": {}}, "better_than_cheaper_rung", "inconclusive"),
    ("another template", {"fingerprints": FINGERPRINTS | {"template": "other"}}, "fingerprints", "fail"),
    ("evaluation of another version", {"version": "v0"}, "evaluated", "fail"),
]


@pytest.mark.parametrize(("changes", "name", "verdict"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
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
    ("when", "verdict"), [("2020-01-01T00:00:00+00:00", "fail"), ("2990-01-01T00:00:00+00:00", "fail"), (None, "fail")]
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


@pytest.mark.parametrize(("right", "verdict"), [(60, "pass"), (30, "pass"), (28, "inconclusive"), (0, "fail")])
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


def test_a_provider_s_model_needs_no_file_here():
    run = make_run("v1")
    model = run.read("model.json") | {"provider": "api", "model_id": "ft:gpt:acme::1"}
    del model["adapter"]
    store.write_json(run.path("model.json"), model)
    manager = FineTuneLifecycleManager("toy")
    manager.register(run)
    assert verdict_of("artifact", manager) == "pass"


def test_the_reason_to_train_anyway_is_shown():
    manager = candidate("v1")
    decision = {"recommendation": "rag", "train_anyway_because": "latency"}
    store.write_json(store.open_run("run-v1").path("decision.json"), decision)
    rules = {r.name: r for r in manager.validate_for_production("v1")}
    assert "latency" in rules["decision"].evidence
    assert "rag" in rules["decision"].evidence


@pytest.mark.parametrize(
    ("verdicts", "expected"), [("ppp", "pass"), ("pip", "inconclusive"), ("pif", "fail"), ("f", "fail"), ("", "pass")]
)
def test_the_gate_is_its_worst_rule(verdicts, expected):
    full = {"p": "pass", "i": "inconclusive", "f": "fail"}
    assert overall([RuleResult(name=v, verdict=full[v], evidence="x") for v in verdicts]) == expected
