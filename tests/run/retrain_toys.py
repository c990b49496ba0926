"""What each toy notebook writes when all goes well."""

from __future__ import annotations

SHARE, LATENCY = (
    {"value": 0.5, "low": 0.4, "high": 0.6, "n": 8},
    {"value": 120.4, "low": 100.0, "high": 150.0, "n": 8},
)
SCORES = {"accuracy": SHARE, "format_compliance": SHARE, "latency_p95": LATENCY}
EVALUATION = {
    "verdict": "pass",
    "n_test": 8,
    "base_model": SCORES,
    "fine_tuned_model": SCORES,
    "best_rung": "few_shot",
    "rungs": [{"name": "few_shot", "results": SCORES}],
    "comparison": {
        "accuracy": {
            "difference": {"value": 0.25, "low": 0.1, "high": 0.4, "n": 8},
            "gained": 3,
            "lost": 1,
        }
    },
    "reasons": ["it is better"],
}
CONTENT = {
    "environment.json": {"ready": True, "checks": []},
    "decision.json": {
        "recommendation": "fine_tuning",
        "trainer": "lora",
        "status": "predicted",
        "reasons": ["far off"],
    },
    "dataset.json": {"version": "v1", "fingerprint": "f"},
    "model.json": {"model_id": "m", "dataset_version": "v1"},
    "evaluation.json": EVALUATION,
    "promotion.json": {
        "verdict": "pass",
        "promoted": True,
        "target": "staging",
        "version": "v",
        "reasons": [],
    },
    "health.json": {"verdict": "watch", "reasons": ["no_production_version"]},
}
