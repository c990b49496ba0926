"""The last lines of a run: what came out, with intervals, and where to look."""

from __future__ import annotations

from typing import Any

from helpers import store
from helpers.retrain.ending import VERDICT_CODE, short

ASKED = {"accuracy": "accuracy", "format_compliance": "format", "latency_p95": "latency p95 (ms)"}


def summary(record: dict[str, Any]) -> str:
    """A run's result in a few lines, from run.json and the artifacts it names."""
    run = store.Run(record["run_id"])
    seconds = sum(entry["seconds"] or 0 for entry in record["notebooks"] if entry["status"] in ("finished", "failed"))
    head = f"run {run.id}: {record['status'].replace('_', ' ')} (exit {record['exit_code']}) after {seconds:.0f} s"
    told_below = record["exit_code"] in VERDICT_CODE.values()  # with the gate's other reasons
    lines = [head] if told_below or not record["reason"] else [head, record["reason"]]
    done = {entry["name"]: entry["status"] in ("finished", "reused") for entry in record["notebooks"]}
    for name, artifact, describe in (
        ("01_decide", "decision.json", _decision),
        ("04_evaluate", "evaluation.json", _evaluation),
        ("05_registry", "promotion.json", _promotion),
        ("06_monitor", "health.json", _health),
    ):
        if done.get(name) and run.has(artifact):
            lines += describe(run.read(artifact))
    lines.append(f"look at {run.folder}: notebooks/ holds the executed copies, run.json how it went")
    return store.redact("\n".join(lines))


def _decision(value: dict[str, Any]) -> list[str]:
    return [f"01 decide    {value['recommendation']} ({value.get('status', 'measured')})", *_reasons(value)]


def _evaluation(value: dict[str, Any]) -> list[str]:
    lines = [f"04 evaluate  {value['verdict']}, on {value.get('n_test', '?')} test rows"]
    best = value.get("best_rung", "")
    rows = {"base": value["base_model"], "tuned": value["fine_tuned_model"]}
    for rung in value.get("rungs", []):
        if rung.get("name") == best:
            rows = {"base": rows["base"], f"best rung ({best})": rung["results"], "tuned": rows["tuned"]}
    for name, results in rows.items():
        scores = ", ".join(f"{label} {_interval(results[key])}" for key, label in ASKED.items() if results.get(key))
        lines.append(f"             {name}: {scores}")
    for metric, found in value.get("comparison", {}).items():
        if metric in ("accuracy", "format_compliance"):
            gain = _interval(found["difference"], signed=True)
            lines.append(
                f"             tuned - best rung, {ASKED[metric]}: {gain} (gained {found['gained']}, lost {found['lost']})"
            )
    return lines


def _promotion(value: dict[str, Any]) -> list[str]:
    done = f"promoted to {value.get('target')}" if value.get("promoted") else "not promoted"
    return [f"05 registry  {value['verdict']}: version {value.get('version')} {done}", *_reasons(value)]


def _health(value: dict[str, Any]) -> list[str]:
    return [f"06 monitor   {value['verdict']}", *_reasons(value)]


def _reasons(value: dict[str, Any]) -> list[str]:
    return [f"             - {short(reason, 200)}" for reason in value.get("reasons", [])[:5]]


def _interval(estimate: dict[str, Any], signed: bool = False) -> str:
    """value [low, high]: three digits for shares, whole numbers for milliseconds."""
    digits = 0 if max(abs(estimate["value"]), abs(estimate["high"])) > 50 else 3
    form = f"{{:{'+' if signed else ''}.{digits}f}}"
    value, low, high = (form.format(estimate[key]) for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
