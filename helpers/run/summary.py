"""The last lines of a run: what came out, with intervals, why, and where to look."""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Sequence

from helpers import store, tasks
from helpers.parameters import NOTEBOOKS
from helpers.records import (
    Artifact,
    DatasetPointer,
    Decision,
    Estimate,
    EvalResults,
    Evaluation,
    Health,
    Manifest,
    Promotion,
    RunRecord,
    WorkbookError,
)
from helpers.run.ending import VERDICT_CODE

METRICS = {"accuracy": "accuracy", "format_compliance": "format", "latency_p95": "latency p95 (ms)"}
WIDTH = 160
MOST_LIMITS = 7  # lines; they stand within the last ten of a run
MOST_WARNINGS = 6  # of a decision or a dataset; all of them stand in decision.json, manifest.json
INDENT = " " * 13


def summary(record: RunRecord) -> str:
    """A run's result in a few lines, from run.json and the artifacts it names."""
    run = store.Run(record.run_id)
    entries = record.notebooks
    done = [entry.name for entry in entries if entry.status in ("finished", "reused")]
    seconds = sum(e.seconds or 0.0 for e in entries if e.status in ("finished", "failed"))
    status = record.status.replace("_", " ")
    lines = [f"run {run.id}: {status} (exit {record.exit_code}) after {seconds:.0f} s"]
    if record.reason and record.exit_code not in VERDICT_CODE.values():
        lines.append(record.reason)  # the gate's reasons stand below
    limits: list[str] = []
    next_step = ""
    for name in done:
        # what an artifact lacks must not fail a run that has ended
        with contextlib.suppress(WorkbookError, OSError):
            result = run.load(NOTEBOOKS[name].writes)
            next_step = next_step or _next_step(result, record, ended=name == done[-1])
            lines += _lines_of(name, result, was_judged="05_registry" in done)
            limits += _limits_of(name, result)
    lines += _said("limits", limits)
    copy = run.path("notebooks/04_evaluate.ipynb")
    place = copy if copy.exists() else copy.parent
    lines.append(f"look at      {place} (executed), {run.path('run.json')}")
    if not next_step and record.params.get("task") in tasks.shipped_tasks():
        next_step = 'your own task: README, "Your own task"; or `make lab`'
    indents = {"initial_indent": "next         ", "subsequent_indent": INDENT}
    lines += textwrap.wrap(  # a command stays whole
        next_step, WIDTH, **indents, break_long_words=False, break_on_hyphens=False
    )
    return store.printable(store.without_secrets("\n".join(lines)))


def _next_step(result: Artifact, record: RunRecord, ended: bool) -> str:
    """What whoever brought the task does next; "" where this artifact does not say."""
    match result:
        case Decision() if ended:
            return result.next_action
        case Evaluation() if not result.fine_tuned_model.accuracy.n:
            return f"`workbook rate {record.run_id}`, then run again with --run-id {record.run_id}"
        case Promotion() if record.params.get("task") not in tasks.shipped_tasks():
            if not result.promoted:
                return f"`workbook registry show {result.version}` says what each rule rests on"
            if result.target == "staging":
                return f"`workbook registry promote {result.version} --to production`, if you agree"
            return "`workbook serve` answers with it; `workbook schedule retrain` looks after it"
    return ""


def _limits_of(name: str, result: Artifact) -> list[str]:
    """What a notebook's limits dropped or cut."""
    limits = list(getattr(result, "limits", []))
    if isinstance(result, DatasetPointer):
        limits = _manifest_of(result.version).limits
    if isinstance(result, Evaluation):
        n_test = _manifest_of(result.dataset_version).splits.test
        if result.n_test < n_test:
            limits.insert(0, f"{result.n_test} of {n_test} test rows asked, by max_test_rows")
    return [f"{name.partition('_')[0]} {line}" for line in limits]


def _manifest_of(version: str) -> Manifest:
    path = store.home() / "datasets" / version / Manifest.FILE
    return Manifest.parse(store.read_json(path), str(path))


def _said(title: str, texts: Sequence[str]) -> list[str]:
    """The first few texts, a line each, behind the title."""
    lines = list(map(_shortened, texts))
    if len(lines) > MOST_LIMITS:
        lines[MOST_LIMITS:] = [f"… {len(lines) - MOST_LIMITS} more in the notebooks' artifacts"]
    return [f"{title:13}{line}" if i == 0 else INDENT + line for i, line in enumerate(lines)]


def _lines_of(name: str, result: Artifact, was_judged: bool) -> list[str]:
    """What one artifact says; 04's reasons are left to the gate, where it was asked."""
    numbers: list[str] = []
    notes = [f"- {reason}" for reason in getattr(result, "reasons", [])]
    match result:
        case Decision():
            headline = f"{result.recommendation} ({result.status})"
            notes += [f"! {warning}" for warning in result.warnings[:MOST_WARNINGS]]
        case DatasetPointer():
            headline, *numbers = _dataset_lines(result.version)
        case Evaluation():
            headline = f"{result.verdict}, on {result.n_test} test rows"
            numbers = _numbers(result)
            notes = [] if was_judged else notes
        case Promotion():
            done = f"put into {result.target}" if result.promoted else "held"
            headline = f"{result.verdict}, {result.version} {done}"
        case Health():
            headline = f"{result.verdict}{' (SIMULATED traffic)' * result.simulated}"
            evidence = {f"- {check.name}": f": {check.evidence}" for check in result.checks}
            notes = [note + evidence.get(note, "") for note in notes]
        case _:
            return []
    lines = [f"{name[:2]} {name[3:]:<10}{headline}"]
    return lines + [INDENT + line for line in (*numbers, *map(_shortened, notes))]


def _shortened(text: str) -> str:
    """In one line beside the first column."""
    return textwrap.shorten(text, WIDTH - len(INDENT), placeholder=" …")


def _dataset_lines(version: str) -> list[str]:
    """The sizes of the parts, what to be warned of, and where the questions and losses stand."""
    manifest = _manifest_of(version)
    notes = manifest.warnings[:MOST_WARNINGS]
    if manifest.splits.train < manifest.splits.test:
        notes.insert(0, "fewer rows to learn from than to test: see rejected.jsonl, split_ratios")
    folder = store.home() / "datasets" / version
    questions = len(list(tasks.read_rows(folder / "review.csv")))
    return [
        ", ".join(f"{part} {n}" for part, n in manifest.splits) + " rows",
        *(_shortened(f"! {note}") for note in notes),
        f"{questions} questions wait for you in {folder / 'review.csv'}",
        f"rows left out, with reasons: {folder / 'rejected.jsonl'}",
    ]


def _numbers(evaluation: Evaluation) -> list[str]:
    """The scores of base, best rung and tuned model, and the gain over the best rung."""
    lines = [f"base: {_scores(evaluation.base_model)}"]
    best = [rung for rung in evaluation.rungs if rung.name == evaluation.best_rung]
    lines += [f"best rung ({rung.name}): {_scores(rung.results)}" for rung in best]
    lines.append(f"tuned: {_scores(evaluation.fine_tuned_model)}")
    for metric in ("accuracy", "format_compliance"):
        if metric in evaluation.comparison:
            comparison = evaluation.comparison[metric]
            gain = _interval(comparison.difference, "+")
            counts = f"gained {comparison.gained}, lost {comparison.lost}"
            lines.append(f"tuned - best rung, {METRICS[metric]}: {gain} ({counts})")
    return lines


def _scores(results: EvalResults) -> str:
    return ", ".join(
        f"{label} {_interval(getattr(results, metric))}" for metric, label in METRICS.items()
    )


def _interval(estimate: Estimate, sign: str = "") -> str:
    """value [low, high]: three digits for shares, whole numbers for milliseconds."""
    if not estimate.n:
        return "not measured or not rated yet"
    digits = 0 if max(abs(estimate.value), abs(estimate.high)) > 50 else 3
    spec = f"{sign}.{digits}f"
    if not estimate.has_interval:
        return f"{estimate.value:{spec}} (one row)"
    return f"{estimate.value:{spec}} [{estimate.low:{spec}}, {estimate.high:{spec}}]"
