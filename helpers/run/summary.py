"""The last lines of a run: what came out, with intervals, why, and where to look."""

from __future__ import annotations

import contextlib
import textwrap
from typing import Any

from helpers import store
from helpers.run.ending import VERDICT_CODE
from helpers.parameters import NOTEBOOKS

ASKED = {"accuracy": "accuracy", "format_compliance": "format", "latency_p95": "latency p95 (ms)"}
WIDTH, INDENT = 160, " " * 13


def summary(record: dict[str, Any]) -> str:
    """A run's result in a few lines, from run.json and the artifacts it names."""
    run = store.Run(record["run_id"])
    seconds = sum(
        entry["seconds"] or 0
        for entry in record["notebooks"]
        if entry["status"] in ("finished", "failed")
    )
    lines = [
        f"run {run.id}: {record['status'].replace('_', ' ')} (exit {record['exit_code']}) after {seconds:.0f} s"
    ]
    if (
        record["reason"] and record["exit_code"] not in VERDICT_CODE.values()
    ):  # the gate's reasons stand below
        lines.append(record["reason"])
    done = [
        entry["name"] for entry in record["notebooks"] if entry["status"] in ("finished", "reused")
    ]
    for name in (name for name in done if name in _HEADLINE):
        with contextlib.suppress(
            LookupError, TypeError
        ):  # an artifact that lacks something must not fail a run that ended
            lines += _told(name, run.read(NOTEBOOKS[name].artifact), "05_registry" in done)
    copy = run.path("notebooks/04_evaluate.ipynb")
    lines.append(
        f"look at      {copy if copy.exists() else copy.parent} (executed), {run.path('run.json')}"
    )
    lines.append(
        'next         your own task: README, "Your own task"; or `make lab` to open the notebooks'
    )
    return store.redact("\n".join(lines))


def _told(name: str, value: dict[str, Any], judged: bool) -> list[str]:
    """What one artifact says; 04's reasons are left to the gate, where it was asked: it repeats them."""
    lines = [f"{name[:2]} {name[3:]:<10}{_HEADLINE[name](value)}"]
    lines += [INDENT + line for line in (_numbers(value) if name == "04_evaluate" else [])]
    if name != "04_evaluate" or not judged:
        reasons = (
            textwrap.shorten(f"- {said}", WIDTH - len(INDENT), placeholder=" …")
            for said in value["reasons"]
        )
        lines += [INDENT + reason for reason in reasons]
    return lines


_HEADLINE = {
    "01_decide": lambda value: f"{value['recommendation']} ({value['status']})",
    "04_evaluate": lambda value: f"{value['verdict']}, on {value['n_test']} test rows",
    "05_registry": lambda value: (
        f"{value['verdict']}: {value['version']} "
        + (f"put into {value['target']}" if value["promoted"] else "held")
    ),
    "06_monitor": lambda value: value["verdict"],
}


def _numbers(value: dict[str, Any]) -> list[str]:
    rows = {"base": value["base_model"]}
    rows |= {
        f"best rung ({r['name']})": r["results"]
        for r in value.get("rungs", [])
        if r["name"] == value["best_rung"]
    }
    lines = []
    for name, results in (rows | {"tuned": value["fine_tuned_model"]}).items():
        scores = ", ".join(f"{label} {_interval(results[key])}" for key, label in ASKED.items())
        lines.append(f"{name}: {scores}")
    for metric in ("accuracy", "format_compliance"):
        if found := value["comparison"].get(metric):
            gain, counts = (
                _interval(found["difference"], "+"),
                f"gained {found['gained']}, lost {found['lost']}",
            )
            lines.append(f"tuned - best rung, {ASKED[metric]}: {gain} ({counts})")
    return lines


def _interval(estimate: dict[str, Any], sign: str = "") -> str:
    """value [low, high]: three digits for shares, whole numbers for milliseconds."""
    digits = 0 if max(abs(estimate["value"]), abs(estimate["high"])) > 50 else 3
    value, low, high = (f"{estimate[key]:{sign}.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
