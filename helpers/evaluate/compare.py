"""Is the tuned model better than the best cheaper rung, by how much, and are we sure? evaluation.json comes from here."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from helpers import models, store
from helpers.evaluate import running, statistics
from helpers.evaluate.running import RungResult, Say
from helpers.models import Model
from helpers.records import (
    Estimate,
    FineTuneEvaluation,
    MetricComparison,
    Record,
    TrainingExample,
    Verdict,
    WorkbookError,
)
from helpers.tasks import Task

COMPARED = ("accuracy", "format_compliance")
SPREADS = ("latency_p95", "cost_per_request")  # differ from run to run, so reasons name them without numbers


class TargetCheck(Record):
    """One target of task.yaml against one estimate: decided by the bound, not by the point."""

    target: float
    met: Literal["yes", "no", "undecided"]
    estimate: Estimate


class Flips(Record):
    """Ids of the rows that only the tuned model got right, and of those that only the other did."""

    gained: list[str]
    lost: list[str]


class Evaluation(FineTuneEvaluation):
    """evaluation.json: the comparison and everything it rests on."""

    n_test: int
    rungs: list[RungResult]
    best_rung: str
    flips: Flips
    verdict: Verdict
    reasons: list[str]
    targets: dict[str, TargetCheck]
    regression: bool  # surely worse than the best cheaper rung by more than the margin, in any metric
    min_gain: float
    fingerprints: dict[str, str]
    dataset_version: str
    version: str
    timing: dict[str, Any]

    def rung(self, name: str) -> RungResult:
        """One of the measured rungs."""
        return next(r for r in self.rungs if r.name == name)


def rung_to_beat(run: store.Run) -> tuple[str, str]:
    """(the cheaper rung that the tuned model has to beat, why this one): what 01 found on validation, or the prompt."""
    if run.has("decision.json"):
        name = run.read("decision.json")["best_rung"]
        return name, f"{name} scored best of the cheaper rungs on the validation part (decision.json)"
    return "prompt", "this run has no decision.json, so the full prompt stands in for the best cheaper rung"


def load_models(card: Mapping[str, Any]) -> tuple[Model, Model]:
    """(base, tuned) as model.json names them."""
    if card["provider"] == "api":
        url = card["base_url"]
        return models.load_model(card["base_model"], base_url=url), models.load_model(card["model_id"], base_url=url)
    base = models.load_model(card["base_model"])
    return base, models.load_model(card["base_model"], adapter=store.home() / card["adapter"])


def check_fingerprints(card: Mapping[str, Any], task: Task, dataset_version: str) -> dict[str, str]:
    """Refuse to measure a model with another template, tokenizer, system prompt or dataset than it was trained with.

    A wrong template alone can halve a score, and nothing in the score says so. A hosted model keeps its template and
    tokenizer to itself, so there the system prompt is compared.
    """
    trained = {k: v for k, v in card["fingerprints"].items() if v}
    if card["provider"] == "api":
        text = task.instructions_full if card.get("prompt_style") == "full" else task.instructions_short
        present = {"system_prompt": hashlib.sha256(text.encode()).hexdigest()}
    else:
        present = models.template_fingerprints(card["base_model"], task, card.get("prompt_style", "short"))
    for name in sorted(set(trained) & set(present)):
        if trained[name] != present[name]:
            raise WorkbookError(
                f"the {name.replace('_', ' ')} is not the one that {card['version']} was trained with"
                f" ({present[name][:12]} instead of {trained[name][:12]}); restore it, or train again"
            )
    if card.get("dataset_version") and card["dataset_version"] != dataset_version:
        raise WorkbookError(
            f"{card['version']} was trained on dataset {card['dataset_version']}, but this run's test rows are of"
            f" {dataset_version}; run 03 again with this run id"
        )
    return dict(card["fingerprints"])


def compare_results(
    tuned: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]], task: Task, min_gain: float = 0.0
) -> dict[str, MetricComparison]:
    """Tuned minus other on the same rows (lines of answers/*.jsonl), per metric that both were scored by.

    `margin` is the allowed loss, so every verdict reads: the lower bound is above -margin. Accuracy under
    `replace: better` must gain more than min_gain, which is a margin of -min_gain.
    """
    paired = _pairs(tuned, other)
    groups = [a["group"] for a, _ in paired]
    compared = {}
    for metric in COMPARED:
        if not all(metric in a["scores"] and metric in b["scores"] for a, b in paired):
            continue
        ours, theirs = [a["scores"][metric] for a, _ in paired], [b["scores"][metric] for _, b in paired]
        difference, gained, lost = statistics.paired_difference(ours, theirs, groups)
        margin = task.margins.get(metric, 0.0)
        if metric == "accuracy" and task.replace == "better":
            margin = 0.0 - min_gain
        compared[metric] = MetricComparison(
            difference=difference,
            method=statistics.METHOD,
            gained=gained,
            lost=lost,
            margin=margin,
            verdict=statistics.verdict(difference, 0.0 - margin),
        )
    return compared


def _pairs(
    tuned: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]
) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    theirs = {row["id"]: row for row in other}
    if len(theirs) != len(other) or {row["id"] for row in tuned} != set(theirs) or len(tuned) != len(other):
        raise WorkbookError("the two rungs were not asked about the same rows; run this notebook again from its start")
    return [(row, theirs[row["id"]]) for row in tuned]


def flips(tuned: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> Flips:
    """Which rows changed sides, by accuracy."""
    pairs = [(a, b) for a, b in _pairs(tuned, other) if "accuracy" in a["scores"] and "accuracy" in b["scores"]]
    gained = [a["id"] for a, b in pairs if a["scores"]["accuracy"] > b["scores"]["accuracy"]]
    lost = [a["id"] for a, b in pairs if a["scores"]["accuracy"] < b["scores"]["accuracy"]]
    return Flips(gained=gained, lost=lost)


def check_targets(task: Task, results: Any) -> dict[str, TargetCheck]:
    """Every target of task.yaml against the bound of its estimate."""
    checks = {}
    for metric, target in task.targets.items():
        estimate: Estimate = getattr(results, metric)
        met = statistics.target_met(metric, estimate, target)
        checks[metric] = TargetCheck(target=target, met=met, estimate=estimate)
    return checks


def gate(
    task: Task, comparison: Mapping[str, MetricComparison], targets: Mapping[str, TargetCheck], best_rung: str
) -> tuple[Verdict, bool, list[str]]:
    """(verdict, regression, reasons): pass when everything surely holds, fail when anything is surely violated.

    What must hold: the paired gain in accuracy against the best cheaper rung, and every target at its bound.
    """
    reasons, findings = [], []
    gain = comparison.get("accuracy")
    if gain is None:
        findings.append("inconclusive")
        reasons.append(
            f"accuracy: task.yaml says accuracy_from: {task.accuracy_from}, and no such ratings are there, so no gain is known"
        )
    else:
        findings.append(gain.verdict)
        reasons.append(_gain_reason(gain, best_rung))
    worse = [m for m, c in comparison.items() if c.difference.n and c.difference.high < -task.margins.get(m, 0.0)]
    for metric in worse:
        d = comparison[metric].difference
        reasons.append(f"regression: {metric} is surely worse than {best_rung}'s: {_signed(d)}")
    for metric, check in targets.items():
        findings.append({"yes": "pass", "no": "fail", "undecided": "inconclusive"}[check.met])
        reasons.append(_target_reason(metric, check))
    if worse or "fail" in findings:
        return "fail", bool(worse), reasons
    return ("pass" if set(findings) == {"pass"} else "inconclusive"), False, reasons


def _signed(d: Estimate) -> str:
    return f"{100 * d.value:+.1f} points [{100 * d.low:+.1f}, {100 * d.high:+.1f}]"


def _gain_reason(gain: MetricComparison, best_rung: str) -> str:
    needed = 0.0 - 100 * gain.margin
    ending = {
        "pass": "the whole interval lies above that",
        "fail": "the whole interval lies below that",
        "inconclusive": "the interval holds both, so more test rows or a bigger gain are needed",
    }[gain.verdict]
    return (
        f"accuracy: tuned minus {best_rung} on the same {gain.difference.n} rows is {_signed(gain.difference)}"
        f" ({gain.gained} rows gained, {gain.lost} lost); it must be above {needed:+.1f}: {ending}"
    )


def _target_reason(metric: str, check: TargetCheck) -> str:
    direction = "at least" if metric in COMPARED else "at most"
    ending = {"yes": "met", "no": "surely missed", "undecided": "undecided"}[check.met]
    if metric in SPREADS:
        return f"{metric}: target {direction} {check.target:g}: {ending}"
    e = check.estimate
    if e.n == 0:
        return f"{metric}: target {direction} {check.target:g}: undecided, it was not measured"
    needed = statistics.rows_to_decide(check.target) if check.target < 1 else 0
    more = f"; even {e.n} right of {e.n} could not show it, {needed} rows are needed" if needed > e.n else ""
    return f"{metric}: {e.value:.3f} [{e.low:.3f}, {e.high:.3f}], target {direction} {check.target:g}: {ending}{more}"


def evaluate_fine_tuned_model(
    base: Model,
    tuned: Model,
    test_set: Sequence[TrainingExample],
    task: Task,
    run: store.Run,
    *,
    card: Mapping[str, Any],
    best_rung: str = "prompt",
    min_gain: float = 0.0,
    dataset_version: str = "",
    say: Say | None = None,
    **settings: Any,
) -> Evaluation:
    """Ask base, best cheaper rung and tuned about the test rows; compare by row; judge by the gate rule.

    `card` is model.json; `best_rung` is the one that 01 found on validation; `settings` go to `run_rung`.
    """
    if not test_set:
        raise WorkbookError("the test part is empty; add verified examples to human.jsonl and run 02_curate again")
    fingerprints = check_fingerprints(card, task, dataset_version)
    rungs, timing = {}, {}
    plan = [(name, base) for name in dict.fromkeys(("zero_shot", best_rung))] + [("fine_tuned", tuned)]
    for name, model in plan:
        started = time.monotonic()
        style = card.get("prompt_style", "short")
        rungs[name] = running.run_rung(model, name, test_set, task, run, style=style, say=say, **settings)
        timing[f"{name}_seconds"] = round(time.monotonic() - started, 1)
    ours, theirs = running.read_answers(run, rungs["fine_tuned"]), running.read_answers(run, rungs[best_rung])
    comparison = compare_results(ours, theirs, task, min_gain)
    targets = check_targets(task, rungs["fine_tuned"].results)
    verdict, regression, reasons = gate(task, comparison, targets, best_rung)
    return Evaluation(
        base_model=rungs["zero_shot"].results,
        fine_tuned_model=rungs["fine_tuned"].results,
        comparison=comparison,
        n_test=len(test_set),
        rungs=list(rungs.values()),
        best_rung=best_rung,
        flips=flips(ours, theirs),
        verdict=verdict,
        reasons=reasons,
        targets=targets,
        regression=regression,
        min_gain=min_gain,
        fingerprints=fingerprints,
        dataset_version=dataset_version,
        version=card["version"],
        timing=timing | {"measured_at": store.now().isoformat(timespec="seconds")},
    )
