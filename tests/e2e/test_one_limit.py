"""Training, evaluation and re-evaluation at a paid endpoint share one limit, come what may."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time

import pytest

from helpers import store
from helpers.records import Asking, Budget, DatasetPointer, Message, Splits, TrainingExample
from helpers.registry import FineTuneLifecycleManager

sys.path.insert(0, str(store.PROJECT / "tests" / "registry"))
sys.path.insert(0, str(store.PROJECT / "tests" / "train"))
from registry_toys import evaluation, manifest, model, write_answers
from toy_api import ToyApi

GOLD = '{"label": "yes"}'
TUNED = "ft:base-2024-07-18:toy::abcd1234"
ANSWER_USD = 110 * 1000.0 / 1e6  # the endpoint bills 100 and 10 tokens
LONG = "Answer yes or no as JSON. " * 15  # more than 100 tokens, so that what is reserved suffices
JOB_USD = 1234 * 100.0 / 1e6
TEST_ROWS = 30
TASK_YAML = f"""
name: mine
instructions: {{full: {LONG}, short: {LONG}}}
output:
  schema:
    type: object
    properties: {{label: {{enum: ["yes", "no"]}}}}
    required: [label]
scored_fields: [label]
targets: {{accuracy: 0.5}}
prices:
  as_of: 2026-11-01
  models:
    base: {{input: 1000.0, output: 1000.0, train: 100.0}}
    "{TUNED}": {{input: 1000.0, output: 1000.0}}
    "ft:v1": {{input: 1000.0, output: 1000.0}}
"""
FLOW = """
import sys
from helpers import evaluate, registry, store, tasks, train
from helpers.records import Budget
folder, url, limit = sys.argv[1], sys.argv[2], float(sys.argv[3])
task, run = tasks.load_task(folder), store.open_run("paid")
dataset = tasks.read_dataset(run)
config = train.OpenAIJobConfig(
    task=folder, run_id="paid", base_url=url, api_model="base", n_epochs=1,
    max_cost_usd=limit, poll_seconds=0.05,
)
manager = registry.FineTuneLifecycleManager(task.registry_name)
version = train.version_id(run.id, task, dataset, config)
manager.open_version(version, run.id, "base", dataset.metadata.version)
job = train.fine_tune_openai(dataset, config)
tuned = train.monitor_fine_tuning(job.job_id)
manager.record_model(version, tuned)
session = evaluate.Session(
    task=task, run=run, budget=Budget(run, limit), train=dataset.part("train"), latency_rows=0,
    attempts=registry.record_attempt,
)
run.save(evaluate.evaluate_fine_tuned_model(
    dataset.part("test"), session, tuned, min_gain=0.0, dataset=dataset
))
manager.register(run)
registry.reevaluate(version, folder, max_cost_usd=limit)
"""


def publish_dataset(name: str, train: int, test: int) -> None:
    folder = store.home() / "datasets" / name
    for part, count in {"train": train, "validation": 0, "test": test}.items():
        rows = []
        for number in range(count):
            turns = [
                Message(role="user", content=f"{part} question {number}"),
                Message(role="assistant", content=GOLD),
            ]
            key = f"{part}-{number}"
            rows.append(
                TrainingExample(
                    id=key,
                    messages=turns,
                    group=key,
                    source="human",
                    quality="verified",
                    created_at=store.now(),
                    part=part,
                )
            )
        store.write_jsonl(folder / f"{part}.jsonl", rows)
    splits = Splits(train=train, validation=0, test=test)
    written = manifest(name, train + test).model_copy(update={"splits": splits})
    store.write_json(folder / "manifest.json", written)


@pytest.fixture
def endpoint(tmp_path, monkeypatch):
    """A paid endpoint on loopback, and a version of it in production since another run."""
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WORKBOOK_API_KEY", "toy-key")
    (tmp_path / "task.yaml").write_text(TASK_YAML)
    publish_dataset("d1", 20, TEST_ROWS)
    with ToyApi() as toy:
        toy.chats = []
        toy.answers = {name: {"question": GOLD} for name in ("base", TUNED, "ft:v1")}
        serving = store.open_run("run-v1")
        hosted = {"provider": "api", "model_id": "ft:v1", "base_model": "base", "adapter": None}
        asking = Asking().for_rung("fine_tuned", "v1")
        trained_with = {"system_prompt": hashlib.sha256(LONG.strip().encode()).hexdigest()}
        hosted["fingerprints"] = {"template": "", "tokenizer": "", **trained_with}
        serving.save(model("v1", base_url=toy.url, asking=asking, **hosted))
        write_answers(serving)
        serving.save(evaluation("v1"))
        manager = FineTuneLifecycleManager("mine")
        manager.register(serving)
        manager.promote("v1", "production", "first", force=True)
        run = store.open_run("paid")
        run.save(DatasetPointer(version="d1", fingerprint="d1"))
        yield toy


def start(tmp_path, toy, limit):
    command = [sys.executable, "-c", FLOW, str(tmp_path), toy.url, str(limit)]
    return subprocess.Popen(command, cwd=store.PROJECT, stderr=subprocess.PIPE, text=True)


def billed(toy) -> float:
    trained = sum(job["trained_tokens"] is not None for job in toy.jobs.values())
    return len(toy.chats) * ANSWER_USD + trained * JOB_USD


def test_one_limit_holds_for_all_and_two_kills_lose_no_cent(endpoint, tmp_path):
    for moment in (lambda: endpoint.polls >= 1, lambda: len(endpoint.chats) >= 40):
        flow = start(tmp_path, endpoint, 100.0)
        while not moment() and flow.poll() is None:
            time.sleep(0.005)
        assert flow.poll() is None, flow.stderr.read()
        flow.kill()
        flow.wait()
    flow = start(tmp_path, endpoint, 100.0)
    assert flow.wait(timeout=120) == 0, flow.stderr.read()
    budget = Budget(store.open_run("paid"), 100.0)
    assert len(endpoint.jobs) == 1, "one wish, one job"
    assert budget.spent + budget.reserved >= billed(endpoint) - 1e-9
    asked_again = len(endpoint.chats) - 4 * TEST_ROWS  # answers that the kill lost
    assert 0 <= asked_again <= 8
    least = 4 * TEST_ROWS * ANSWER_USD + JOB_USD  # base, prompt, tuned; production
    assert least - 1e-9 <= budget.spent <= billed(endpoint) + 1e-9
    assert set(budget.by_whom()) == {"job", "rung zero_shot", "rung prompt", "rung fine_tuned"}
    for name in endpoint.answers:
        assert sum(chat["model"] == name for chat in endpoint.chats) >= TEST_ROWS


def test_what_the_job_took_is_missing_for_the_answers(endpoint, tmp_path):
    """A limit that the job alone fits stops the evaluation, and nothing more is sent."""
    flow = start(tmp_path, endpoint, 3.0)
    assert flow.wait(timeout=120) == 1
    message = flow.stderr.read()
    assert "max_cost_usd=3;" in message, message
    assert billed(endpoint) <= 3.0
    assert (len(endpoint.jobs), endpoint.chats) == (1, [])
