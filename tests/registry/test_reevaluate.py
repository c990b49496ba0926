"""Production is asked about another version's test rows, over real HTTP; the gate can compare."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import record_toys
from registry_toys import PRICES, TASK_YAML, evaluation, manifest, model, write_answers

from helpers import registry, store
from helpers.records import Asking, Budget, DatasetPointer, Message, TrainingExample, WorkbookError
from helpers.registry import FineTuneLifecycleManager

GOLD = '{"label": "yes"}'
COST = (9 * 1000.0 + 5 * 2000.0) / 1e6  # of one answer, as the endpoint counts its tokens


@pytest.fixture
def requests():
    """What the endpoint was asked, in order."""
    return []


@pytest.fixture
def endpoint(requests):
    """A chat endpoint on loopback that always says yes."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append(asked)
            message = {"role": "assistant", "content": GOLD}
            reply = {"id": "1", "object": "chat.completion", "created": 1, "model": asked["model"]}
            reply |= {"choices": [{"index": 0, "finish_reason": "stop", "message": message}]}
            reply |= {"usage": {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}}
            body = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def dataset(version, n):
    rows = []
    for i in range(n):
        turns = [
            Message(role="user", content=f"question {version} {i}"),
            Message(role="assistant", content=GOLD),
        ]
        told = {"source": "human", "quality": "verified", "created_at": store.now(), "part": "test"}
        rows.append(
            TrainingExample(id=f"{version}-{i}", messages=turns, group=f"{version}-{i}", **told)
        )
    folder = store.home() / "datasets" / version
    for part in ("train", "validation", "test"):
        store.write_jsonl(folder / f"{part}.jsonl", rows if part == "test" else [])
    store.write_json(folder / "manifest.json", manifest(version, n))
    return [row.id for row in rows]


def measured(name, data, ids, base_url, **asking):
    """A run of a provider's model that got a half of its test rows right."""
    run = store.open_run(f"run-{name}")
    hosted = {"provider": "api", "model_id": f"ft:{name}", "base_model": "base", "adapter": None}
    how = Asking().for_rung("fine_tuned", name).model_copy(update=asking)
    prompt = "Answer yes or no." if how.style == "full" else "Yes or no."  # of TASK_YAML
    hosted["fingerprints"] = {"system_prompt": hashlib.sha256(prompt.encode()).hexdigest()}
    run.save(model(name, base_url=base_url, dataset_version=data, asking=how, **hosted))
    run.save(DatasetPointer(version=data, fingerprint=data))
    write_answers(run, right=len(ids) // 2, ids=ids)
    run.save(evaluation(name))
    manager = FineTuneLifecycleManager("mine")
    manager.register(run)
    return manager


def two_versions(endpoint, folder, yaml=TASK_YAML, **asking):
    """v1 serves and was measured on other rows than v2; returns the manager."""
    (folder / "task.yaml").write_text(yaml)
    manager = measured("v1", "d1", dataset("d1", 40), endpoint, **asking)
    manager.promote("v1", "production", "first", force=True)
    return measured("v2", "d2", dataset("d2", 44), endpoint)


def rule_of(manager):
    rules = manager.validate_for_production("v2")
    return next(rule for rule in rules if rule.name == "against_production")


def test_an_incumbent_with_another_test_part_is_asked_about_this_one(endpoint, tmp_path):
    (tmp_path / "task.yaml").write_text(TASK_YAML)
    measured("v1", "d1", dataset("d1", 40), endpoint)
    with pytest.raises(WorkbookError, match="nothing"):
        registry.reevaluate("v1", str(tmp_path))
    manager = two_versions(endpoint, tmp_path)
    rule = rule_of(manager)
    assert rule.verdict == "undecided" and "workbook registry reevaluate v2" in rule.evidence
    done = registry.reevaluate("v2", str(tmp_path))
    assert (done["incumbent"], done["n"], done["accuracy"].value) == ("v1", 44, 1.0)
    # the incumbent gets all of these rows right, the candidate a half
    rule = rule_of(manager)
    assert rule.verdict == "fail" and "22 lost" in rule.evidence


def test_the_incumbent_is_asked_exactly_as_its_own_model_json_says(endpoint, requests, tmp_path):
    wording = "Only the label, please."
    two_versions(endpoint, tmp_path, max_new_tokens=77, style="full", wording=wording)
    registry.reevaluate("v2", str(tmp_path))
    assert {request["model"] for request in requests} == {"ft:v1"}
    limits = {request.get("max_tokens") or request["max_completion_tokens"] for request in requests}
    assert limits == {77}
    systems = {request["messages"][0]["content"] for request in requests}
    assert systems == {wording}


def test_what_it_costs_is_booked_on_the_candidates_run_within_its_limit(
    endpoint, requests, tmp_path
):
    two_versions(endpoint, tmp_path, TASK_YAML + PRICES)
    run = store.Run("run-v2")
    with pytest.raises(WorkbookError, match="max_cost_usd=0;"):  # a run by hand says no limit
        registry.reevaluate("v2", str(tmp_path))
    assert requests == []
    run.save(record_toys.run_record("run-v2", params={"max_cost_usd": 1.0}))
    earlier = Budget(run, 10.0)
    earlier.settle(earlier.reserve(0.9, "job"), 0.9)
    with pytest.raises(WorkbookError, match=r"0\.9000 of max_cost_usd=1;"):
        registry.reevaluate("v2", str(tmp_path))
    assert requests == []
    registry.reevaluate("v2", str(tmp_path), max_cost_usd=20.0)
    assert len(requests) == 44
    assert Budget(run).spent == pytest.approx(0.9 + 44 * COST)
    # What was answered is not asked, nor paid, again.
    registry.reevaluate("v2", str(tmp_path), max_cost_usd=0.9 + 44 * COST)
    assert len(requests) == 44 and Budget(run).spent == pytest.approx(0.9 + 44 * COST)


def test_an_incumbent_whose_prompt_is_gone_is_not_asked_and_the_way_on_is_named(
    endpoint, requests, tmp_path
):
    two_versions(endpoint, tmp_path)
    (tmp_path / "task.yaml").write_text(TASK_YAML.replace("Yes or no.", "No or yes."))
    with pytest.raises(WorkbookError, match=r"v1 was trained with .* --force --because TEXT"):
        registry.reevaluate("v2", str(tmp_path))
    assert requests == []


def test_an_incumbent_of_whom_nobody_knows_how_it_is_asked_is_refused_by_name(endpoint, tmp_path):
    two_versions(endpoint, tmp_path)
    path = store.Run("run-v1").path("model.json")
    old = store.read_json(path)
    old |= {"prompt_style": "short"}
    del old["asking"], old["schema_version"]
    store.write_json(path, old)
    with pytest.raises(WorkbookError, match=r"model\.json was written by hand with 0\.1\.0"):
        registry.reevaluate("v2", str(tmp_path))
