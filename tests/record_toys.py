"""Valid records with plain values, for tests that need one and care about a field or two of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from helpers.records import (
    Asking,
    Attempt,
    Decision,
    Economics,
    Environment,
    Estimate,
    EvalResults,
    Evaluation,
    Finding,
    FineTunedModelVersion,
    Health,
    Manifest,
    MetricComparison,
    NotebookEntry,
    Plan,
    Power,
    Promotion,
    RungResult,
    RunRecord,
    Screening,
    Splits,
    TrainedModel,
    Versions,
    Way,
    Window,
)

WHEN = datetime(2026, 11, 1, 12, tzinfo=UTC)
VERSIONS = Versions(python="3.11.7", packages={}, commit=None)


def estimate(value: float = 0.5, low: float = 0.4, high: float = 0.6, n: int = 8) -> Estimate:
    """An estimate of a share."""
    return Estimate(value=value, low=low, high=high, n=n)


def results(accuracy: Estimate | None = None, **changes: Any) -> EvalResults:
    """What a rung scored: everything one half, 120 ms."""
    latency = estimate(120.4, 100.0, 150.0)
    values = {
        "accuracy": accuracy or estimate(),
        "format_compliance": estimate(),
        "latency_p50": latency,
        "latency_p95": latency,
        "cost_per_request": estimate(0.0, 0.0, 0.0, 0),
    }
    return EvalResults(**(values | changes))


def rung(name: str = "few_shot", **changes: Any) -> RungResult:
    """One measured rung."""
    values = {
        "name": name,
        "model": "tiny",
        "part": "validation",
        "n": 8,
        "results": results(),
        "tokens_per_request": 100.0,
        "answers": f"answers/{name}.jsonl",
        "asking": Asking().for_rung(name, "tiny"),
    }
    return RungResult(**(values | changes))


def comparison(value: float = 0.25, **changes: Any) -> MetricComparison:
    """A paired difference that passes."""
    values = {
        "difference": estimate(value, value - 0.15, value + 0.15),
        "method": "toy",
        "gained": 3,
        "lost": 1,
        "margin": 0.0,
        "verdict": "pass",
    }
    return MetricComparison(**(values | changes))


def decision(**changes: Any) -> Decision:
    """A decision for fine-tuning."""
    way = Way(cost_per_request=0.001, one_off_usd=10.0, monthly_usd=1.0, elapsed="days")
    values = {
        "recommendation": "fine_tuning",
        "status": "predicted",
        "targets_met": False,
        "trainer": "lora",
        "reasons": ["far off"],
        "warnings": [],
        "next_action": "train",
        "rungs": [rung("zero_shot"), rung("prompt"), rung("few_shot")],
        "best_rung": "few_shot",
        "comparisons": [],
        "economics": Economics(
            break_even_requests_per_month=None,
            break_even_against={},
            ways={"zero_shot": way},
            predicted_tuned_cost_per_request=0.001,
            one_off_usd=10.0,
            monthly_usd=1.0,
            training_usd=0.0,
            hours={},
            volume_per_month=1000,
            prices_as_of=None,
        ),
        "power": Power(n=100, detectable_difference=0.1, rows_needed={}),
        "plan": Plan(
            owner="nobody yet",
            cadence="monthly",
            review_on="2027-01-01",
            hours_per_month=1.0,
            time_to_build="weeks",
        ),
        "screening": Screening(
            new_knowledge=False,
            format_or_style=True,
            domain_terms=True,
            shorter_prompt=True,
            one_off=False,
            changing_requirements=False,
        ),
        "train_anyway_because": "",
    }
    return Decision(**(values | changes))


def trained_model(**changes: Any) -> TrainedModel:
    """A model trained on this machine, whose adapter need not be there."""
    values = {
        "model_id": "m",
        "version": "m",
        "provider": "local",
        "base_model": "tiny",
        "dataset_version": "v1",
        "asking": Asking().for_rung("fine_tuned", "m"),
        "fingerprints": {"template": "t", "tokenizer": "k", "system_prompt": "s"},
        "hyperparameters": {},
        "tokens": 1000,
        "seconds": 1.0,
        "cost_usd": 0.0,
        "losses": {},
    }
    return TrainedModel(**(values | changes))


def evaluation(**changes: Any) -> Evaluation:
    """A passing evaluation of 8 test rows against few_shot."""
    target = Finding(name="accuracy", verdict="pass", estimate=estimate(), threshold=0.3)
    values = {
        "base_model": results(),
        "fine_tuned_model": results(),
        "comparison": {"accuracy": comparison()},
        "n_test": 8,
        "rungs": [rung("zero_shot"), rung("few_shot"), rung("fine_tuned")],
        "best_rung": "few_shot",
        "flips": {"gained": [], "lost": []},
        "verdict": "pass",
        "reasons": ["it is better"],
        "findings": [],
        "targets": {"accuracy": target},
        "regression": False,
        "min_gain": 0.0,
        "production": "",
        "against": {},
        "attempt": Attempt(
            number=1,
            alpha=0.025,
            looks_at_these_rows=1,
            detectable_difference=0.1,
            fresh_rows_needed=0,
        ),
        "slices": [],
        "ratings": None,
        "fingerprints": {"template": "t", "tokenizer": "k", "system_prompt": "s"},
        "dataset_version": "v1",
        "version": "m",
        "timing": {},
    }
    return Evaluation(**(values | changes))


def manifest(version: str = "v1", **changes: Any) -> Manifest:
    """Of a dataset of nine human rows that all passed one check."""
    row = {"stage": "read", "source": "human", "in": 9, "out": 9, "rejected": {}}
    values = {
        "version": version,
        "created_at": WHEN,
        "task": "toy",
        "params": {},
        "counts": {"human": 9},
        "funnel": [row],
        "splits": Splits(train=3, validation=3, test=3),
        "fingerprint": "f",
        "tool_versions": {},
    }
    return Manifest.model_validate(values | changes)


def promotion(**changes: Any) -> Promotion:
    """A version put into staging."""
    values = {"version": "v", "target": "staging", "verdict": "pass", "promoted": True, "rules": []}
    return Promotion(**(values | changes))


def health(**changes: Any) -> Health:
    """Nothing is in production yet."""
    values = {
        "verdict": "watch",
        "reasons": ["no_production_version"],
        "checks": [],
        "version": None,
        "window": Window(start=WHEN, end=WHEN, days=7),
        "simulated": False,
        "unreadable": 0,
    }
    return Health(**(values | changes))


def environment(**changes: Any) -> Environment:
    """A machine that is ready."""
    values = {"ready": True, "checks": [], "budget": [], "versions": VERSIONS}
    return Environment(**(values | changes))


def run_record(run_id: str = "r", *names: str, **changes: Any) -> RunRecord:
    """A finished run of the notebooks `names`."""
    values = {
        "run_id": run_id,
        "profile": "toy",
        "params": {},
        "status": "finished",
        "exit_code": 0,
        "started_at": WHEN,
        "finished_at": WHEN,
        "notebooks": [NotebookEntry(name=name, status="finished", seconds=1.0) for name in names],
        "versions": VERSIONS,
    }
    return RunRecord(**(values | changes))


def in_production(version: str, **changes: Any) -> FineTunedModelVersion:
    """A version of the toy task that serves."""
    values: dict[str, Any] = {
        "id": version,
        "task": "toy",
        "run_id": "old",
        "model_id": "m",
        "base_model": "toy",
        "trained_at": WHEN,
        "status": "production",
    }
    return FineTunedModelVersion(**values | changes)
