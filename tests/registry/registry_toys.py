"""Small but complete runs for the registry's tests: every file that the gate reads."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import record_toys

from helpers import store
from helpers.records import (
    AnswerRow,
    Estimate,
    EvalResults,
    Evaluation,
    Finding,
    FunnelRow,
    Manifest,
    Parity,
    Splits,
    TrainedModel,
)
from helpers.registry import FineTuneLifecycleManager
from helpers.registry.database import open_registry
from helpers.registry.files import artifact_sha256

TASK = "toy"
TASK_YAML = """
name: mine
instructions: {full: Answer yes or no., short: Yes or no.}
output:
  schema:
    type: object
    properties: {label: {enum: ["yes", "no"]}}
    required: [label]
    additionalProperties: false
scored_fields: [label]
targets: {accuracy: 0.5}
"""
PRICES = "prices: {as_of: 2026-11-01, models: {'ft:v1': {input: 1000.0, output: 2000.0}}}\n"
FINGERPRINTS = {"template": "t" * 64, "tokenizer": "k" * 64, "system_prompt": "s" * 64}
TEST_IDS = [f"row{i}" for i in range(60)]
GAIN = Finding(name="gain_over_few_shot", verdict="pass", evidence="surely more")


def estimate(value: float, width: float = 0.05, n: int = 60) -> Estimate:
    return record_toys.estimate(value, value - width, value + width, n)


def results(accuracy: float = 0.8) -> EvalResults:
    names = ("format_compliance", "latency_p50", "latency_p95", "cost_per_request")
    return record_toys.results(estimate(accuracy), **{name: estimate(1.0) for name in names})


def target(name: str, verdict: str, threshold: float, value: float) -> Finding:
    return Finding(
        name=name,
        verdict=verdict,
        evidence=f"{name} is {verdict}",
        estimate=estimate(value),
        threshold=threshold,
    )


def evaluation(version: str, **changes: Any) -> Evaluation:
    """An evaluation that passes every rule, but for `changes`."""
    gain = record_toys.comparison(0.3, gained=20, lost=2, margin=0.06)
    values = {
        "version": version,
        "base_model": results(0.1),
        "fine_tuned_model": results(),
        "comparison": {"accuracy": gain},
        "n_test": 60,
        "reasons": ["better than few_shot"],
        "findings": [GAIN],
        "targets": {"accuracy": target("accuracy", "pass", 0.4, 0.8)},
        "fingerprints": FINGERPRINTS,
    }
    return record_toys.evaluation(**(values | changes))


def model(version: str, **changes: Any) -> TrainedModel:
    """What the training of a toy made, and where its adapter lies."""
    values = {
        "version": version,
        "model_id": f"local/{version}",
        "adapter": f"models/{version}/adapter",
        "dataset_version": "d1",
        "fingerprints": FINGERPRINTS,
    }
    return record_toys.trained_model(**(values | changes))


def manifest(version: str, rows: int = 10) -> Manifest:
    """Of a dataset whose rows all passed one check."""
    row = FunnelRow(stage="format", source="human", rows_in=rows, rows_out=rows, rejected={})
    return Manifest(
        version=version,
        created_at=record_toys.WHEN,
        task=TASK,
        params={},
        counts={"human": rows},
        funnel=[row],
        splits=Splits(train=0, validation=0, test=rows),
        fingerprint=version,
        tool_versions={},
    )


def write_answers(
    run: store.Run, right: int = 48, ids: Sequence[str] = TEST_IDS, answer: str = "yes"
) -> None:
    """Answers of a run's tuned model, of which the first `right` are right."""
    rows = [
        AnswerRow(
            id=i,
            group=i,
            answer=answer,
            scores={"accuracy": float(k < right)},
            latency_ms=1.0,
            tokens_in=1,
            tokens_out=1,
        )
        for k, i in enumerate(ids)
    ]
    store.write_jsonl(run.path("answers/fine_tuned.jsonl"), rows)


def parity(version: str, **changes: Any) -> Parity:
    """The files of `version`, asked through the engine that will serve: all answers are equal."""
    values = {
        "version": version,
        "engine": "local",
        "artifact_sha256": artifact_sha256(f"models/{version}/adapter"),
        "checked_at": record_toys.WHEN,
        "n": 40,
        "equal": 40,
        "findings": [Finding(name="same_answers", verdict="pass", evidence="40 of 40")],
        "latency_p50": estimate(1.0),
        "latency_p95": estimate(1.0),
    }
    return Parity(**(values | changes))


def make_run(
    version: str, right: int = 48, dataset: str = "d1", test_part: str = "same rows", **changes: Any
) -> store.Run:
    """One run's model.json, adapter, dataset, answers and evaluation.json (with `changes`)."""
    run = store.open_run(f"run-{version}")
    weights = f"models/{version}/adapter/adapter_model.safetensors"
    store.write_text(store.home() / weights, f"weights of {version}")
    run.save(model(version, dataset_version=dataset))
    folder = store.home() / "datasets" / dataset
    store.write_text(folder / "test.jsonl", test_part + "\n")
    store.write_json(folder / "manifest.json", manifest(dataset))
    write_answers(run, right)
    run.save(evaluation(version, **changes))
    run.save(parity(version))
    return run


def candidate(version: str, **options: Any) -> FineTuneLifecycleManager:
    """A manager whose version `version` was trained and evaluated."""
    manager = FineTuneLifecycleManager(TASK)
    manager.register(make_run(version, **options))
    return manager


def contradictions() -> list[str]:
    """What must never be seen, whatever was killed: statuses, route, audit and outbox disagree."""
    rows = {name: open_registry().rows(name) for name in ("versions", "routes", "audit", "outbox")}
    serving = [v["id"] for v in rows["versions"] if v["status"] == "production"]
    routed = [r["version"] for r in rows["routes"] if r["version"]]
    generation = rows["routes"][0]["generation"] if rows["routes"] else 0
    switched = [a for a in rows["audit"] if a["to_status"] == "production"]
    announced = [o for o in rows["outbox"] if o["event"]["target"] == "production"]
    problems = [] if serving == routed else [f"in production {serving}, routed {routed}"]
    if [a["generation"] for a in switched] != list(range(1, generation + 1)):
        problems.append(f"generation {generation}, audited {[a['generation'] for a in switched]}")
    if switched and [switched[-1]["version"]] != routed:
        problems.append(f"audited last {switched[-1]['version']}, routed {routed}")
    if [o["event"]["generation"] for o in announced] != list(range(1, generation + 1)):
        problems.append(f"generation {generation}, announced {len(announced)} times")
    return problems


def in_processes(count: int, work: Callable[[int, Any], None]) -> list[Any]:
    """Run `work(i, queue)` in `count` processes at once; what they put, in any order."""
    context = multiprocessing.get_context("fork")  # every connection is opened after the fork
    queue = context.Queue()
    processes = [context.Process(target=work, args=(i, queue)) for i in range(count)]
    for process in processes:
        process.start()
    results = [queue.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(timeout=60)
    return results


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("WORKBOOK_DATABASE_URL", raising=False)
    monkeypatch.delenv("WORKBOOK_LOCK_HELD", raising=False)
    return (tmp_path / "home").resolve()
