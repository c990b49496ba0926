"""The gate: one table of what can be wrong, and what the rules say about it."""

import json
import shutil
import threading
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest
import record_toys
from registry_toys import (
    GAIN,
    TEST_IDS,
    candidate,
    evaluation,
    make_run,
    model,
    target,
    write_answers,
)

from helpers import records, store
from helpers.records import DatasetPointer, Finding, WorkbookError
from helpers.registry import Conditions, FineTuneLifecycleManager, gate
from helpers.registry.files import reevaluation
from helpers.registry.gate import ask_provider
from helpers.registry.versions import update

MET = {"accuracy": target("accuracy", "pass", 0.4, 0.8)}


def ceiling(verdict):
    return {"latency_p95": target("latency_p95", verdict, 900.0, 800.0)}


CASES = [
    ("nothing is wrong", {}, None, "pass"),
    ("04 said fail", {"verdict": "fail"}, "evaluation_verdict", "fail"),
    ("04 was not sure", {"verdict": "inconclusive"}, "evaluation_verdict", "undecided"),
    ("a regression", {"regression": True}, "evaluation_verdict", "fail"),
    ("judged by nothing", {"findings": []}, "evaluation_verdict", "undecided"),
    ("a ceiling is missed", {"targets": MET | ceiling("fail")}, "ceilings", "fail"),
    ("a ceiling is not decided", {"targets": MET | ceiling("undecided")}, "ceilings", "undecided"),
    ("a ceiling holds", {"targets": MET | ceiling("pass")}, "ceilings", "pass"),
    ("no ceiling", {}, "ceilings", "pass"),
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
        store.open_run("run-v1").save(evaluation(version))
    rules = manager.validate_for_production("v1")
    assert all(rule.evidence for rule in rules)
    if name is None:
        assert records.verdict_of(rules) == verdict
    else:
        assert {r.name: r.verdict for r in rules}[name] == verdict


FINDINGS = [  # what the gate once judged itself, and 04 judges now
    ("a target is missed", "accuracy", "fail"),
    ("a target is not decided", "accuracy", "undecided"),
    ("worse than a prompt", "gain_over_few_shot", "fail"),
    ("not surely better, or not compared", "gain_over_few_shot", "undecided"),
    ("another template", "fingerprints", "fail"),
    ("few test rows", "power", "undecided"),
    ("another metric is lost", "margins", "fail"),
    ("nothing was compared", "margins", "undecided"),
    ("a dataset with lost rows", "dataset_checks", "fail"),
]


@pytest.mark.parametrize(
    ("name", "verdict"), [c[1:] for c in FINDINGS], ids=[c[0] for c in FINDINGS]
)
def test_a_finding_of_04_stops_the_gate_which_names_it(name, verdict):
    finding = Finding(name=name, verdict=verdict, evidence="the evidence of 04")
    judged = {"targets": {name: finding}} if name == "accuracy" else {"findings": [GAIN, finding]}
    manager = candidate("v1", verdict=records.verdict_of([finding]), **judged)
    said = manager.promote("v1", "staging")
    assert (said.verdict, said.promoted) == (records.verdict_of([finding]), False)
    [rule] = [rule for rule in said.rules if rule.verdict != "pass"]
    assert (rule.name, rule.verdict) == ("evaluation_verdict", verdict)
    assert rule.evidence == f"{name} {verdict}: the evidence of 04"


def test_what_04_let_pass_is_not_judged_again():
    undecided = {"accuracy": target("accuracy", "undecided", 0.9, 0.8)}
    rules = candidate("v1", n_test=12, comparison={}, targets=undecided, fingerprints={})
    assert {rule.verdict for rule in rules.validate_for_production("v1")} == {"pass"}


def test_an_evaluation_that_cannot_be_read_is_named_and_is_no_crash():
    manager = candidate("v1")
    path = store.open_run("run-v1").path("evaluation.json")
    store.write_json(path, {"version": "v1", "rungs": [{"name": "zero_shot", "model": "tiny"}]})
    rules = {rule.name: rule for rule in manager.validate_for_production("v1")}
    assert rules["evaluated"].verdict == "fail"
    assert "evaluation.json was written by hand with 0.1.0" in rules["evaluated"].evidence
    assert manager.register(store.open_run("run-v1")).status == "evaluating"


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
    broken = Conditions(break_it="leak")
    assert verdict_of("not_broken_on_purpose", manager, conditions=broken) == "fail"
    assert not manager.promote("v1", "staging", conditions=broken).promoted


def test_a_run_that_was_ever_broken_never_serves_whatever_is_said_and_forced():
    manager = candidate("v1")
    path = store.open_run("run-v1").path("broken.json")
    store.write_json(path, {"break_it": "leak", "what": "…"})
    assert verdict_of("not_broken_on_purpose", manager) == "fail"
    for goal in ("staging", "production"):
        forced = manager.promote("v1", goal, because="please", force=True)
        assert not forced.promoted


@pytest.mark.parametrize(
    ("right", "verdict"), [(60, "pass"), (30, "pass"), (28, "undecided"), (0, "fail")]
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
    assert verdict_of("against_production", manager, "v2") == "undecided"
    candidate("v3")
    store.open_run("run-v1").path("answers/fine_tuned.jsonl").unlink()
    assert verdict_of("against_production", manager, "v3") == "undecided"


@pytest.mark.parametrize("verdict", ["pass", "fail", "inconclusive"])
def test_what_04_measured_against_the_same_production_is_taken_as_it_is(verdict):
    manager = candidate("v1")
    manager.promote("v1", "production")
    gain = record_toys.comparison(0.2, gained=9, lost=3, verdict=verdict)
    against = {"production": {"accuracy": gain}}
    candidate("v2", dataset="d2", test_part="other rows", production="v1", against=against)
    rule = next(r for r in manager.validate_for_production("v2") if r.name == "against_production")
    assert rule.verdict == verdict.replace("inconclusive", "undecided")
    assert "(9 gained, 3 lost, margin 0)" in rule.evidence


def test_what_04_measured_against_an_earlier_production_says_nothing_about_this_one():
    manager = candidate("v1")
    manager.promote("v1", "production")
    lost = record_toys.comparison(-0.2, verdict="fail")
    candidate("v2", production="v0", against={"production": {"accuracy": lost}})
    assert verdict_of("against_production", manager, "v2") == "pass"


def test_a_version_that_was_measured_again_on_the_same_rows_is_compared():
    manager = candidate("v1", right=30)
    manager.promote("v1", "production")
    candidate("v2", dataset="d2", test_part="other rows")
    rule = next(r for r in manager.validate_for_production("v2") if r.name == "against_production")
    assert "workbook registry reevaluate v2" in rule.evidence
    new, incumbent = store.Run("run-v2"), manager.get_version("v1")
    again = store.open_run(reevaluation(new, incumbent).id)
    again.save(DatasetPointer(version="d2", fingerprint="x"))
    write_answers(again, right=30)
    assert verdict_of("against_production", manager, "v2") == "pass"
    write_answers(again, right=30, ids=TEST_IDS[1:])
    assert verdict_of("against_production", manager, "v2") == "undecided"


def test_what_a_judge_or_people_said_in_two_runs_is_not_compared():
    manager = candidate("v1", right=0)
    manager.promote("v1", "production", because="test", force=True)
    candidate("v2", right=60, ratings=records.Ratings(by="human"))
    rule = next(r for r in manager.validate_for_production("v2") if r.name == "against_production")
    assert rule.verdict == "undecided" and "run 04_evaluate again" in rule.evidence


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
    hosted = {"provider": "api", "model_id": f"ft:{version}", "adapter": None}
    run.save(model(version, base_url=base_url, **hosted))
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


@pytest.mark.parametrize(
    ("form", "verdict"),
    [
        ("%Y-%m-%dT%H:%M:%SZ", "pass"),
        ("", "pass"),  # seconds
        ("%d %b %Y", "undecided"),
        ("%Y-%m", "undecided"),
    ],
)
def test_a_providers_date_is_read_however_it_is_spelled_or_leaves_it_undecided(form, verdict):
    end = store.now() + timedelta(days=400)
    spelt = end.strftime(form) or f"{end.timestamp():.0f}"
    provider = Provider({"ft:v1": spelt})
    manager = provided("v1", provider.url)
    assert verdict_of("serve_until", manager) == verdict
    answer = ask_provider(manager.get_version("v1"))
    assert verdict == "pass" or f"until {[spelt]}, which cannot be read" in answer.evidence
    provider.close()


def test_a_provider_that_does_not_answer_leaves_it_undecided_and_stops_no_rollback():
    provider = Provider({"ft:v1": None, "ft:v2": None})
    for name in ("v1", "v2"):
        manager = provided(name, provider.url)
        assert manager.promote(name, "production").promoted, name
    provider.close()
    assert verdict_of("serve_until", manager, "v2") == "undecided"
    done = manager.rollback(because="it answers nonsense")
    assert (done.version, [r.verdict for r in done.rules]) == ("v1", ["pass", "undecided"])


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


@pytest.mark.parametrize(("day", "verdict"), [("2026-11-29", "undecided"), ("2026-12-20", "fail")])
def test_what_a_provider_announced_counts_where_its_answer_has_no_date(monkeypatch, day, verdict):
    manager = provided("v1", "https://api.openai.com/v1")
    nothing = gate.ProviderAnswer("undecided", "it could not be asked")
    monkeypatch.setattr(gate, "ask_provider", lambda version: nothing)
    monkeypatch.setattr(store, "now", lambda: datetime.fromisoformat(f"{day}T12:00+00:00"))
    rule = next(r for r in manager.validate_for_production("v1") if r.name == "serve_until")
    assert rule.verdict == verdict and "served until 2027-01-14" in rule.evidence


def test_the_reason_to_train_anyway_is_shown():
    manager = candidate("v1")
    decision = record_toys.decision(recommendation="rag", train_anyway_because="latency")
    store.open_run("run-v1").save(decision)
    rules = {r.name: r for r in manager.validate_for_production("v1")}
    assert "latency" in rules["decision"].evidence
    assert "rag" in rules["decision"].evidence


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [("ppp", "pass"), ("pup", "inconclusive"), ("puf", "fail"), ("f", "fail"), ("", "pass")],
)
def test_the_gate_is_its_worst_rule(verdicts, expected):
    full = {"p": "pass", "u": "undecided", "f": "fail"}
    rules = [Finding(name=v, verdict=full[v], evidence="x") for v in verdicts]
    assert records.verdict_of(rules) == expected
