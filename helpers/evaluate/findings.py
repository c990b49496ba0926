"""What 04's verdict is drawn from, each judgement with its evidence; 05 shows them as they are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from helpers import models, store
from helpers.evaluate import statistics
from helpers.records import (
    Finding,
    Manifest,
    MetricComparison,
    TrainedModel,
    WorkbookError,
    as_finding_verdict,
)
from helpers.tasks import Task

FEW_TEST_ROWS = 30  # fewer decide nothing
GAIN = {  # what a verdict says of a gain
    "pass": "surely more",
    "fail": "surely not more",
    "inconclusive": "undecided at this n",
}
Comparison = Mapping[str, MetricComparison]  # by metric


def judge_comparisons(
    task: Task, against: Mapping[str, Comparison], n_test: int, alpha: float
) -> list[Finding]:
    """What the comparisons say; the first opponent is the best cheaper rung."""
    comparison = next(iter(against.values()))
    gains = findings_against(task, against, alpha)
    return [*gains, holds_margins(comparison), has_power(n_test, comparison)]


def findings_against(
    task: Task, opponents: Mapping[str, Comparison], alpha: float = statistics.TAIL
) -> list[Finding]:
    """A sure paired gain in accuracy over every opponent, and no sure loss in any metric."""
    findings = []
    losses = []
    for opponent, compared in opponents.items():
        findings.append(_gain_over(opponent, compared.get("accuracy"), task, alpha))
        for metric, comparison in compared.items():
            difference = comparison.difference
            if difference.n and difference.high < -task.margins.get(metric, 0.0):
                losses.append(f"{metric} is surely worse than {opponent}'s: {difference}")
    regression = Finding(name="regression", verdict="pass", evidence="nothing is surely worse")
    if losses:
        evidence = f"regression: {'; '.join(losses)}"
        regression = Finding(name="regression", verdict="fail", evidence=evidence)
    return [*findings, regression]


def regressed(findings: Iterable[Finding]) -> bool:
    """Whether something is surely worse than an opponent, beyond its margin."""
    return any(f.name == "regression" and f.verdict == "fail" for f in findings)


def _gain_over(opponent: str, gain: MetricComparison | None, task: Task, alpha: float) -> Finding:
    name = f"gain_over_{opponent}"
    if gain is None:
        evidence = (
            f"accuracy: no gain over {opponent} is known (accuracy_from is {task.accuracy_from}:"
            " no ratings of these answers)"
        )
        return Finding(name=name, verdict="undecided", evidence=evidence)
    threshold = 0.0 - gain.margin
    evidence = (
        f"accuracy: tuned minus {opponent} on the same rows is {gain.difference}"
        f" ({gain.gained} gained, {gain.lost} lost); more than {threshold:g} is asked for,"
        f" {1 - 2 * alpha:.2%} sure: {GAIN[gain.verdict]}"
    )
    if gain.verdict == "inconclusive":
        n = gain.difference.n
        needed = statistics.rows_to_separate(gain.gained, gain.lost, n, threshold, alpha)
        if needed:
            more = max(1, needed - n)
            evidence += f"; if it stays like this, {more} more rows would decide"
        else:
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
    values = []
    lost = []
    for metric, compared in comparison.items():
        values.append(f"{metric} {compared.difference} (margin {compared.margin:g})")
        if compared.verdict == "fail":
            lost.append(metric)
    evidence = ", ".join(values)
    if lost:
        evidence = f"beyond its margin: {', '.join(lost)}; {evidence}"
    return Finding(name="margins", verdict="fail" if lost else "pass", evidence=evidence)


def has_power(n_test: int, comparison: Comparison) -> Finding:
    """The test part has enough rows, of one group each, to tell a better model from a lucky one."""
    if n_test < FEW_TEST_ROWS:
        return Finding(
            name="power",
            verdict="undecided",
            evidence=f"{n_test} test rows; at least {FEW_TEST_ROWS} are needed",
            remedy="add verified examples, run 02 again",
        )
    evidence = f"{n_test} test rows, at least {FEW_TEST_ROWS} are needed"
    gain = comparison.get("accuracy")
    if gain is not None:
        half = 50 * (gain.difference.high - gain.difference.low)
        evidence += f"; the difference in accuracy is known to ±{half:.0f} points"
    return Finding(name="power", verdict="pass", evidence=evidence)


def check_fingerprints(model: TrainedModel, task: Task, dataset_version: str) -> Finding:
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
                f" ({value[:24]} instead of {trained[name][:24]}); restore it, or run 03 again with"
                " this run id"
            )
    unknown = [name for name in present if not trained.get(name)]
    if unknown:
        evidence = f"{', '.join(unknown)} of training was not written down"
        return Finding(name="fingerprints", verdict="fail", evidence=evidence)
    compared = [f"{name} {value[:8]}" for name, value in present.items()]
    return Finding(name="fingerprints", verdict="pass", evidence=", ".join(compared))


def dataset_is_checked(version: str) -> Finding:
    """The dataset it learned from is published, and every row of it is accounted for."""
    name = "dataset_checks"
    path = store.home() / "datasets" / (version or "-") / Manifest.FILE
    try:
        manifest = Manifest.parse(store.read_json(path, "run 02_curate"), str(path))
    except WorkbookError as error:
        return Finding(name=name, verdict="fail", evidence=str(error))
    wrong = [row.stage for row in manifest.funnel if not row.adds_up]
    if wrong or not manifest.funnel:
        return Finding(
            name=name,
            verdict="fail",
            evidence=f"its funnel of checks is missing or does not add up ({', '.join(wrong)})",
            remedy="run 02_curate again",
        )
    return Finding(
        name=name,
        verdict="pass",
        evidence=f"{version}: {len(manifest.funnel)} checks, every row accounted for",
    )
