"""The version in production is asked about another version's test rows, over real HTTP, and the gate can compare."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from registry_toys import FINGERPRINTS, evaluation

from helpers import registry, store
from helpers.records import Message, TrainingExample, WorkbookError
from helpers.registry import FineTuneLifecycleManager

GOLD = '{"label": "yes"}'
TASK_YAML = """
name: mine
instructions: {full: Answer yes or no., short: Yes or no.}
output: {schema: {type: object, properties: {label: {enum: ["yes", "no"]}}, required: [label], additionalProperties: false}}
scored_fields: [label]
targets: {accuracy: 0.5}
"""


@pytest.fixture
def endpoint():
    """A chat endpoint on loopback that always says yes."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
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
    facts = {
        "version": version,
        "task": "mine",
        "created_at": store.now(),
        "fingerprint": version,
        "params": {},
    }
    facts |= {"splits": {"train": 0, "validation": 0, "test": n}}
    funnel = [{"stage": "format", "source": "human", "in": n, "out": n, "rejected": {}}]
    store.write_json(folder / "manifest.json", facts | {"funnel": funnel})
    return [row.id for row in rows]


def measured(name, data, ids, base_url):
    """A run of a provider's model that got a half of its test rows right."""
    run = store.open_run(f"run-{name}")
    model = {
        "version": name,
        "model_id": f"ft:{name}",
        "provider": "api",
        "base_model": "base",
        "base_url": base_url,
    }
    store.write_json(
        run.path("model.json"), model | {"dataset_version": data, "fingerprints": FINGERPRINTS}
    )
    store.write_json(run.path("dataset.json"), {"version": data, "fingerprint": data})
    answers = [
        {"id": i, "group": i, "scores": {"accuracy": float(k % 2)}} for k, i in enumerate(ids)
    ]
    store.write_jsonl(run.path("answers/fine_tuned.jsonl"), answers)
    store.write_json(run.path("evaluation.json"), evaluation(name))
    manager = FineTuneLifecycleManager("mine")
    manager.register(run)
    return manager


def test_an_incumbent_with_another_test_part_is_asked_about_this_one(endpoint, tmp_path):
    (tmp_path / "task.yaml").write_text(TASK_YAML)
    manager = measured("v1", "d1", dataset("d1", 40), endpoint)
    with pytest.raises(WorkbookError, match="nothing"):
        registry.reevaluate("v1", str(tmp_path))
    manager.promote("v1", "production", "first", force=True)
    measured("v2", "d2", dataset("d2", 44), endpoint)

    def rule():
        return next(
            r for r in manager.validate_for_production("v2") if r.name == "against_production"
        )

    assert rule().verdict == "inconclusive" and "workbook registry reevaluate v2" in rule().evidence
    done = registry.reevaluate("v2", str(tmp_path))
    assert (done["incumbent"], done["n"], done["accuracy"].value) == ("v1", 44, 1.0)
    assert (
        rule().verdict == "fail"
    )  # the incumbent gets all of these rows right, the candidate a half
    assert "22 lost" in rule().evidence
