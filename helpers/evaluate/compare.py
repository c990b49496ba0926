"""Two rungs on the same rows: paired differences, flips, targets, and 04's findings from them.

05 shows the findings as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from helpers import models, store
from helpers.evaluate import statistics
from helpers.evaluate.classical import CLASSICAL
from helpers.evaluate.running import Rows
from helpers.records import (
    AnswerRow,
    Estimate,
    EvalResults,
    Finding,
    Manifest,
    MetricComparison,
    RungResult,
    TrainedModel,
    Verdict,
    WorkbookError,
    as_finding_verdict,
)
from helpers.tasks import Task

Pair = tuple[AnswerRow, AnswerRow]  # ours and theirs, about one example
FEW_TEST_ROWS = 30  # fewer decide nothing
GAIN = {  # what a verdict says of a gain
    "pass": "surely more",
    "fail": "surely not more",
    "inconclusive": "undecided at this n",
}
Comparison = Mapping[str, MetricComparison]  # by metric
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
    scored = [pair for pair in pairs if all(metric in row.scores for row in pair)]
    ours = [row.scores[metric] for row, _ in scored]
    theirs = [row.scores[metric] for _, row in scored]
    return ours, theirs, [row.group for row, _ in scored]


def flips(tuned: Rows, other: Rows) -> dict[str, list[str]]:
    """Ids of rows that are right, or score higher, with the tuned model (gained) or the other."""
    changed = {"gained": [], "lost": []}
    for ours, theirs in pair_rows(tuned, other):
        change = ours.scores.get("accuracy", 0) - theirs.scores.get("accuracy", 0)
        if change:
            changed["gained" if change > 0 else "lost"].append(ours.id)
    return changed


def check_targets(
    task: Task, results: EvalResults, alpha: float = statistics.TAIL
) -> dict[str, Finding]:
    """Every target of task.yaml against one estimate: decided by the bound, not by the point."""
    findings = {}
    for metric, target in task.targets.items():
        estimate = getattr(results, metric)
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
    if result.name == CLASSICAL and form and result.results.format_compliance.value == 1:
        met = {"verdict": "pass", "evidence": "format_compliance: met by construction"}
        findings["format_compliance"] = form.model_copy(update=met)
    return findings


def rows_wanted(targets: Mapping[str, Finding]) -> dict[str, int]:
    """metric -> rows that would decide it, of the undecided shares; 0 for a tie."""
    rows = {}
    for metric in statistics.AT_LEAST:
        target = targets.get(metric)
        if target and target.verdict == "undecided" and target.estimate.n:
            rows[metric] = statistics.rows_that_decide(target.estimate, target.threshold)
    return rows


def _target_evidence(metric: str, estimate: Estimate, target: float, met: str) -> str:
    n = estimate.n
    if metric not in statistics.AT_LEAST:  # no measured numbers: they differ from run to run
        text = f"{metric}: target at most {target:g}: {met}"
        if metric == "latency_p95" and 0 < n < statistics.FEW_TIMED:
            text += f", {n} timed rows say nothing of a p95; {statistics.FEW_TIMED} at least"
        elif metric == "latency_p95" and met == "met" and n < statistics.MANY_TIMED:
            text += f", if answers come without spikes: {statistics.MANY_TIMED} timed rows show it"
        return text if n else f"{text}, it was not measured"
    if not n:
        return f"{metric}: target at least {target:g}: {met}, no answer was scored by it"
    text = f"{metric}: {estimate}, target at least {target:g}: {met}"
    needed = statistics.rows_to_decide(target) if target < 1 else 0
    if needed > n:
        text += f"; even {n} right of {n} could not show it, {needed} rows are needed"
    return text


# --- what 04 finds --------------------------------------------------------------------------------


def findings_against(
    task: Task, opponents: Mapping[str, Comparison], alpha: float = statistics.TAIL
) -> list[Finding]:
    """A sure paired gain in accuracy over every opponent, and no sure loss in any metric."""
    findings = []
    losses = []
    for opponent, compared in opponents.items():
        findings.append(_gain_over(opponent, compared, task, alpha))
        for metric, comparison in compared.items():
            difference = comparison.difference
            if difference.n and difference.high < -task.margins.get(metric, 0.0):
                losses.append(f"{metric} is surely worse than {opponent}'s: {difference}")
    evidence = "nothing is surely worse"
    if losses:
        evidence = f"regression: {'; '.join(losses)}"
    return [*findings, _unless("regression", losses, evidence)]


def _unless(name: str, lost: Sequence[str], evidence: str) -> Finding:
    """pass unless something is lost."""
    return Finding(name=name, verdict="fail" if lost else "pass", evidence=evidence)


def _gain_over(opponent: str, compared: Comparison, task: Task, alpha: float) -> Finding:
    name = f"gain_over_{opponent}"
    gain = compared.get("accuracy")
    if gain is None:
        reason = "it could not be asked"
        if compared:
            reason = f"accuracy_from is {task.accuracy_from}: no ratings of these answers"
        evidence = f"accuracy: no gain over {opponent} is known ({reason})"
        return Finding(name=name, verdict="undecided", evidence=evidence)
    threshold = 0.0 - gain.margin
    evidence = (
        f"accuracy: tuned minus {opponent} on the same rows is {gain.difference}"
        f" ({gain.gained} gained, {gain.lost} lost); more than {threshold:g} is asked for,"
        f" {1 - 2 * alpha:.2%} sure: {GAIN[gain.verdict]}"
    )
    n = gain.difference.n
    needed = statistics.rows_to_separate(gain.gained, gain.lost, n, threshold, alpha)
    if gain.verdict == "inconclusive" and needed:
        evidence += f"; if it stays like this, {max(1, needed - n)} more rows would decide"
    elif gain.verdict == "inconclusive":
        evidence += "; no number of rows decides a tie"
    return Finding(
        name=name,
        verdict=as_finding_verdict(gain.verdict),
        evidence=evidence,
        estimate=gain.difference,
        threshold=threshold,
    )


def holds_margins(comparison: Comparison) -> Finding:
    """No metric has surely lost more against the best cheaper rung than its margin allows."""
    if not comparison:
        evidence = "no comparison was measured"
        return Finding(name="margins", verdict="undecided", evidence=evidence)
    values = [f"{name} {c.difference} (margin {c.margin:g})" for name, c in comparison.items()]
    lost = [name for name, compared in comparison.items() if compared.verdict == "fail"]
    evidence = ", ".join(values)
    if lost:
        evidence = f"beyond its margin: {', '.join(lost)}; {evidence}"
    return _unless("margins", lost, evidence)


def has_power(n_test: int, comparison: Comparison, rated: int = 0) -> Finding:
    """The test part has enough rows, of one group each, to tell a better model from a lucky one.

    Of the rows that people or a judge `rated`, too, those of one group are one.
    """
    gain = comparison.get("accuracy")
    n = rated or n_test
    scored = f"{n} test rows" if n == n_test else f"{n} of {n_test} test rows were rated"
    evidence = f"{scored}, at least {FEW_TEST_ROWS} are needed"
    if n < FEW_TEST_ROWS:
        remedy = "add verified examples, run 02 again; or rate more answers"
        return Finding(name="power", verdict="undecided", evidence=evidence, remedy=remedy)
    if gain is not None:
        half = 50 * (gain.difference.high - gain.difference.low)
        evidence += f"; the difference in accuracy is known to ±{half:.0f} points"
    return Finding(name="power", verdict="pass", evidence=evidence)


def check_fingerprints(
    model: TrainedModel,
    task: Task,
    dataset_version: str,
    remedy: str = "run 03 again with this run id",
) -> Finding:
    """Refuse to measure with another template, tokenizer, prompt or dataset than in training.

    A wrong template alone can halve a score, and nothing in the score says so. A hosted model keeps
    its template and tokenizer to itself, so there the system prompt is compared.
    """
    style = model.asking.style
    if model.provider == "api":
        text = task.instructions_full if style == "full" else task.instructions_short
        present = {"system_prompt": hashlib.sha256(text.encode()).hexdigest()}
    else:
        present = models.template_fingerprints(model.base_model, task, style)
    present = present | {"dataset": dataset_version}
    trained = model.fingerprints | {"dataset": model.dataset_version}
    for name, value in present.items():
        if trained.get(name, value) != value:
            raise WorkbookError(
                f"the {name.replace('_', ' ')} is not the one that {model.version} was trained with"
                f" ({value[:24]} instead of {trained[name][:24]}); restore it, or {remedy}"
            )
    unknown = [name for name in present if not trained.get(name)]
    evidence = ", ".join(f"{name} {value[:8]}" for name, value in present.items())
    if unknown:
        evidence = f"{', '.join(unknown)} of training was not written down"
    return _unless("fingerprints", unknown, evidence)


def dataset_is_checked(version: str) -> Finding:
    """The dataset it learned from is published, and every row of it is accounted for."""
    name = "dataset_checks"
    path = store.home() / "datasets" / (version or "-") / Manifest.FILE
    try:
        funnel = Manifest.parse(store.read_json(path, "run 02_curate"), str(path)).funnel
    except WorkbookError as error:
        return Finding(name=name, verdict="fail", evidence=str(error))
    wrong = [row.stage for row in funnel if not row.adds_up]
    if wrong or not funnel:
        evidence = f"its funnel of checks is missing or does not add up ({', '.join(wrong)})"
        again = "run 02_curate again"
        return Finding(name=name, verdict="fail", evidence=evidence, remedy=again)
    evidence = f"{version}: {len(funnel)} checks, every row accounted for"
    return Finding(name=name, verdict="pass", evidence=evidence)
