"""Two rungs on the same rows: paired differences, the rows that flipped, the targets."""

from __future__ import annotations

from collections.abc import Sequence

from helpers.evaluate import statistics
from helpers.evaluate.classical import CLASSICAL
from helpers.evaluate.running import Rows
from helpers.records import (
    AnswerRow,
    Estimate,
    EvalResults,
    Finding,
    MetricComparison,
    RungResult,
    Verdict,
    WorkbookError,
)
from helpers.tasks import Task

Pair = tuple[AnswerRow, AnswerRow]  # ours and theirs, about one example
MET = {"pass": "met", "fail": "surely missed", "undecided": "undecided"}


def compare_results(
    tuned: Rows, other: Rows, task: Task, min_gain: float = 0.0, alpha: float = statistics.TAIL
) -> dict[str, MetricComparison]:
    """Tuned minus other on the same rows, per metric that both were scored by.

    `margin` is the allowed loss, so every verdict reads: the lower bound is above -margin. Accuracy
    under `replace: better` must gain more than min_gain, which is a margin of -min_gain; its lower
    bound may be wrong in `alpha` of the cases (less for each further attempt of a year). The
    interval that is shown is always the 95% one.
    """
    compared = {}
    pairs = pair_rows(tuned, other)
    for metric in statistics.AT_LEAST:
        ours, theirs, groups = scores_of(pairs, metric)
        if not groups:
            continue
        difference, gained, lost = statistics.paired_difference(ours, theirs, groups)
        surer = difference
        margin = task.margins.get(metric, 0.0)
        if metric == "accuracy":
            surer = statistics.paired_difference(ours, theirs, groups, alpha)[0]
            if task.replace == "better":
                margin = 0.0 - min_gain
        is_binary = {*ours, *theirs} <= {0, 1}
        compared[metric] = MetricComparison(
            difference=difference,
            method=statistics.METHOD if is_binary else statistics.METHOD_MEAN,
            gained=gained,
            lost=lost,
            margin=margin,
            verdict=decide(difference, surer, margin),
        )
    return compared


def decide(difference: Estimate, surer: Estimate, margin: float) -> Verdict:
    """pass needs the surer interval above -margin; fail is said by the 95% one."""
    threshold = 0.0 - margin
    verdict = statistics.verdict_against(difference, threshold)
    if verdict == "pass" and surer.low <= threshold:
        return "inconclusive"
    return verdict


def pair_rows(tuned: Rows, other: Rows) -> list[Pair]:
    """(ours, theirs) of every row, paired by id."""
    theirs = {row.id: row for row in other}
    if sorted(row.id for row in tuned) != sorted(theirs):
        raise WorkbookError(
            "the two rungs were not asked about the same rows; run this notebook again from its"
            " start"
        )
    return [(row, theirs[row.id]) for row in tuned]


def scores_of(pairs: Sequence[Pair], metric: str) -> tuple[list[float], list[float], list[str]]:
    """(our scores, their scores, groups) of the pairs in which both were scored by this metric."""
    scored = [
        (ours, theirs)
        for ours, theirs in pairs
        if metric in ours.scores and metric in theirs.scores
    ]
    ours = [row.scores[metric] for row, _ in scored]
    theirs = [row.scores[metric] for _, row in scored]
    return ours, theirs, [row.group for row, _ in scored]


def flips(tuned: Rows, other: Rows) -> dict[str, list[str]]:
    """Ids of rows that only the tuned model got right (gained), or only the other (lost)."""
    changed: dict[str, list[str]] = {"gained": [], "lost": []}
    for ours, theirs in pair_rows(tuned, other):
        if ours.scores.get("accuracy") and not theirs.scores.get("accuracy"):
            changed["gained"].append(ours.id)
        if theirs.scores.get("accuracy") and not ours.scores.get("accuracy"):
            changed["lost"].append(ours.id)
    return changed


def check_targets(
    task: Task, results: EvalResults, alpha: float = statistics.TAIL
) -> dict[str, Finding]:
    """Every target of task.yaml against one estimate: decided by the bound, not by the point."""
    findings = {}
    for metric, target in task.targets.items():
        estimate: Estimate = getattr(results, metric)
        verdict = statistics.target_met(metric, estimate, target, alpha)
        findings[metric] = Finding(
            name=metric,
            verdict=verdict,
            evidence=_target_evidence(metric, estimate, target, MET[verdict]),
            estimate=estimate,
            threshold=target,
        )
    return findings


def check_rung(task: Task, result: RungResult) -> dict[str, Finding]:
    """`check_targets` of a measured rung, as sure as this look at it has to be.

    A classifier's form is no matter of chance: its answers are put together from labels that the
    schema accepted, so that one broken answer would be needed to doubt it.
    """
    findings = check_targets(task, result.results, result.alpha)
    form = findings.get("format_compliance")
    if (
        result.name == CLASSICAL
        and form is not None
        and result.results.format_compliance.value == 1
    ):
        evidence = "format_compliance: met by construction"
        findings["format_compliance"] = form.model_copy(
            update={"verdict": "pass", "evidence": evidence}
        )
    return findings


def _target_evidence(metric: str, estimate: Estimate, target: float, met: str) -> str:
    n = estimate.n
    if metric not in statistics.AT_LEAST:  # no measured numbers: they differ from run to run
        text = f"{metric}: target at most {target:g}: {met}"
        if metric == "latency_p95" and 0 < n < statistics.FEW_TIMED:
            text += f", {n} timed rows say nothing of a p95; {statistics.FEW_TIMED} at least"
        return text if n else f"{text}, it was not measured"
    if not n:
        return f"{metric}: target at least {target:g}: {met}, no answer was scored by it"
    text = f"{metric}: {estimate}, target at least {target:g}: {met}"
    needed = statistics.rows_to_decide(target) if target < 1 else 0
    if needed > n:
        text += f"; even {n} right of {n} could not show it, {needed} rows are needed"
    return text
