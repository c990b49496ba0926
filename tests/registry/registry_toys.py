"""Small but complete runs for the registry's tests: every file that the gate reads, made in milliseconds."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

import pytest

from helpers import store
from helpers.records import Estimate, EvalResults
from helpers.registry import FineTuneLifecycleManager
from helpers.registry.database import open_registry

TASK = "toy"
FINGERPRINTS = {"template": "t" * 64, "tokenizer": "k" * 64, "system_prompt": "s" * 64}
TEST_IDS = [f"row{i}" for i in range(60)]


def estimate(value: float, width: float = 0.05, n: int = 60) -> dict[str, Any]:
    return {"value": value, "low": value - width, "high": value + width, "n": n}


def results(accuracy: float = 0.8) -> EvalResults:
    names = ("format_compliance", "latency_p50", "latency_p95", "cost_per_request")
    return EvalResults(
        accuracy=Estimate(**estimate(accuracy)),
        **{name: Estimate(**estimate(1.0)) for name in names},
    )


def evaluation(version: str, **changes: Any) -> dict[str, Any]:
    """An evaluation.json that passes every rule, but for `changes`."""
    won = {
        "difference": estimate(0.3),
        "method": "paired",
        "gained": 20,
        "lost": 2,
        "margin": 0.06,
        "verdict": "pass",
    }
    plain = {
        "version": version,
        "base_model": results(0.1).model_dump(mode="json"),
        "fine_tuned_model": results().model_dump(mode="json"),
        "comparison": {"accuracy": won},
        "n_test": 60,
        "best_rung": "few_shot",
        "verdict": "pass",
        "reasons": ["better than few_shot"],
        "regression": False,
        "targets": {"accuracy": {"target": 0.4, "met": "yes", "estimate": estimate(0.8)}},
        "fingerprints": FINGERPRINTS,
    }
    return plain | changes


def make_run(
    version: str, right: int = 48, dataset: str = "d1", test_part: str = "same rows", **changes: Any
) -> store.Run:
    """Files of one run: model.json, adapter, dataset, answers (the first `right` rows are right) and evaluation.json."""
    run = store.open_run(f"run-{version}")
    adapter = f"models/{version}/adapter"
    store.write_text(store.home() / adapter / "adapter_model.safetensors", f"weights of {version}")
    model = {
        "version": version,
        "model_id": f"local/{version}",
        "provider": "local",
        "base_model": "tiny",
        "adapter": adapter,
    }
    store.write_json(
        run.path("model.json"), model | {"dataset_version": dataset, "fingerprints": FINGERPRINTS}
    )
    folder = store.home() / "datasets" / dataset
    store.write_text(folder / "test.jsonl", test_part + "\n")
    funnel = [
        {
            "stage": "format",
            "source": "human",
            "in": 10,
            "out": 8,
            "rejected": {"invalid_format": 2},
        }
    ]
    store.write_json(folder / "manifest.json", {"version": dataset, "funnel": funnel})
    answers = [
        {"id": i, "group": i, "scores": {"accuracy": float(k < right)}}
        for k, i in enumerate(TEST_IDS)
    ]
    store.write_jsonl(run.path("answers/fine_tuned.jsonl"), answers)
    store.write_json(run.path("evaluation.json"), evaluation(version, **changes))
    return run


def candidate(version: str, **options: Any) -> FineTuneLifecycleManager:
    """A manager whose version `version` was trained and evaluated."""
    manager = FineTuneLifecycleManager(TASK)
    manager.register(make_run(version, **options))
    return manager


def contradictions() -> list[str]:
    """What must never be seen, whatever was killed: statuses, route, audit and outbox tell different stories."""
    rows = {name: open_registry().rows(name) for name in ("versions", "routes", "audit", "outbox")}
    serving = [v["id"] for v in rows["versions"] if v["status"] == "production"]
    routed = [r["version"] for r in rows["routes"] if r["version"]]
    generation = rows["routes"][0]["generation"] if rows["routes"] else 0
    switched = [a for a in rows["audit"] if a["to_status"] == "production"]
    told = [o for o in rows["outbox"] if o["event"]["target"] == "production"]
    found = [] if serving == routed else [f"in production {serving}, routed {routed}"]
    if [a["generation"] for a in switched] != list(range(1, generation + 1)):
        found.append(f"generation {generation}, audited {[a['generation'] for a in switched]}")
    if switched and [switched[-1]["version"]] != routed:
        found.append(f"audited last {switched[-1]['version']}, routed {routed}")
    if [o["event"]["generation"] for o in told] != list(range(1, generation + 1)):
        found.append(f"generation {generation}, announced {len(told)} times")
    return found


def in_processes(count: int, work: Callable[[int, Any], None]) -> list[Any]:
    """Run `work(i, queue)` in `count` processes at once; what they put, in any order."""
    context = multiprocessing.get_context("fork")  # every connection is opened after the fork
    queue = context.Queue()
    processes = [context.Process(target=work, args=(i, queue)) for i in range(count)]
    for process in processes:
        process.start()
    said = [queue.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(timeout=60)
    return said


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("WORKBOOK_DATABASE_URL", raising=False)
    monkeypatch.delenv("WORKBOOK_LOCK_HELD", raising=False)
    return (tmp_path / "home").resolve()
