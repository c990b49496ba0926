"""Is the tuned model better than the best cheaper rung, by how much, and are we sure? evaluation.json comes from here."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from helpers import models, records, store
from helpers.evaluate import statistics
from helpers.evaluate.ladder import model_for
from helpers.evaluate.running import RungResult, read_answers, run_rung
from helpers.models import Model
from helpers.records import Estimate, EvalResults, MetricComparison, Record, TrainingExample, Verdict, WorkbookError
from helpers.tasks import Task

Rows = Sequence[Mapping[str, Any]]  # lines of answers/*.jsonl


class TargetCheck(Record):
    """One target of task.yaml against one estimate: decided by the bound, not by the point."""

    target: float
    met: Literal["yes", "no", "undecided"]
    estimate: Estimate


class Evaluation(records.FineTuneEvaluation):
    """evaluation.json: the comparison and everything it rests on."""

    n_test: int
    rungs: list[RungResult]
    best_rung: str
    flips: dict[str, list[str]]  # ids of the rows that were gained, and of those that were lost
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


def asked_in_01(run: store.Run) -> dict[str, Any]:
    """How 01 asked its rungs (examples, passages, wording), so that 04 repeats what was chosen on validation."""
    return run.read("decision.json").get("asking", {}) if run.has("decision.json") else {}


def load_models(card: Mapping[str, Any]) -> tuple[Model, Model]:
    """(base, tuned) as model.json names them."""
    name, url = card["base_model"], card.get("base_url", "")
    if card["provider"] == "api":
        return models.load_model(name, base_url=url), models.load_model(card["model_id"], base_url=url)
    return models.load_model(name), models.load_model(name, adapter=store.home() / card["adapter"])


def check_fingerprints(card: Mapping[str, Any], task: Task, dataset_version: str) -> None:
    """Refuse to measure a model with another template, tokenizer, system prompt or dataset than it was trained with.

    A wrong template alone can halve a score, and nothing in the score says so. A hosted model keeps its template and
    tokenizer to itself, so there the system prompt is compared.
    """
    style = card.get("prompt_style", "short")
    trained = card["fingerprints"] | {"dataset": card.get("dataset_version", dataset_version)}
    if card["provider"] == "api":
        text = task.instructions_full if style == "full" else task.instructions_short
        present = {"system_prompt": hashlib.sha256(text.encode()).hexdigest()}
    else:
        present = models.template_fingerprints(card["base_model"], task, style)
    for name, found in (present | {"dataset": dataset_version}).items():
        if trained.get(name, found) != found:
            raise WorkbookError(
                f"the {name.replace('_', ' ')} is not the one that {card['version']} was trained with"
                f" ({found[:24]} instead of {trained[name][:24]}); restore it, or run 03 again with this run id"
            )


def compare_results(tuned: Rows, other: Rows, task: Task, min_gain: float = 0.0) -> dict[str, MetricComparison]:
    """Tuned minus other on the same rows, per metric that both were scored by.

    `margin` is the allowed loss, so every verdict reads: the lower bound is above -margin. Accuracy under
    `replace: better` must gain more than min_gain, which is a margin of -min_gain.
    """
    pairs = _pairs(tuned, other)
    groups = [ours["group"] for ours, _ in pairs]
    compared = {}
    for metric in statistics.AT_LEAST:
        if not all(metric in row["scores"] for pair in pairs for row in pair):
            continue
        scores = ([pair[side]["scores"][metric] for pair in pairs] for side in (0, 1))
        difference, gained, lost = statistics.paired_difference(*scores, groups)
        must_gain = metric == "accuracy" and task.replace == "better"
        margin = 0.0 - min_gain if must_gain else task.margins.get(metric, 0.0)
        compared[metric] = MetricComparison(
            difference=difference,
            method=statistics.METHOD,
            gained=gained,
            lost=lost,
            margin=margin,
            verdict=statistics.verdict(difference, 0.0 - margin),
        )
    return compared


def _pairs(tuned: Rows, other: Rows) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    theirs = {row["id"]: row for row in other}
    if sorted(row["id"] for row in tuned) != sorted(theirs):
        raise WorkbookError("the two rungs were not asked about the same rows; run this notebook again from its start")
    return [(row, theirs[row["id"]]) for row in tuned]


def flips(tuned: Rows, other: Rows) -> dict[str, list[str]]:
    """Ids of the rows that only the tuned model got right (gained), and that only the other did (lost)."""
    right = [(a["id"], a["scores"].get("accuracy"), b["scores"].get("accuracy")) for a, b in _pairs(tuned, other)]
    return {"gained": [i for i, a, b in right if a and not b], "lost": [i for i, a, b in right if b and not a]}


def check_targets(task: Task, results: EvalResults) -> dict[str, TargetCheck]:
    """Every target of task.yaml against the bound of its estimate."""
    measured = {metric: getattr(results, metric) for metric in task.targets}
    met = {metric: statistics.target_met(metric, measured[metric], target) for metric, target in task.targets.items()}
    return {m: TargetCheck(target=target, met=met[m], estimate=measured[m]) for m, target in task.targets.items()}


def gate(
    task: Task, comparison: Mapping[str, MetricComparison], targets: Mapping[str, TargetCheck], best_rung: str
) -> tuple[Verdict, bool, list[str]]:
    """(verdict, regression, reasons): pass when everything surely holds, fail when anything is surely violated.

    What must hold: the paired gain in accuracy against the best cheaper rung, and every target at its bound.
    """
    gain = comparison.get("accuracy")
    findings = {gain.verdict if gain else "inconclusive"}
    reasons = [_gain_reason(task, gain, best_rung)]
    worse = [m for m, c in comparison.items() if c.difference.n and c.difference.high < -task.margins.get(m, 0.0)]
    for metric in worse:
        reasons.append(f"regression: {metric} is surely worse than {best_rung}'s: {comparison[metric].difference}")
    for metric, check in targets.items():
        findings.add({"yes": "pass", "no": "fail", "undecided": "inconclusive"}[check.met])
        reasons.append(_target_reason(metric, check))
    if worse or "fail" in findings:
        return "fail", bool(worse), reasons
    return ("pass" if findings == {"pass"} else "inconclusive"), False, reasons


def _gain_reason(task: Task, gain: MetricComparison | None, best_rung: str) -> str:
    if gain is None:
        return f"accuracy: accuracy_from is {task.accuracy_from}, and no such ratings are there, so no gain is known"
    where = {"pass": "lies above that", "fail": "lies below that", "inconclusive": "holds both, so n is too small"}
    said = f"accuracy: tuned minus {best_rung} on the same rows is {gain.difference} ({gain.gained} gained, {gain.lost} lost)"
    return f"{said}; more than {0.0 - gain.margin:g} is asked for, and the interval {where[gain.verdict]}"


def _target_reason(metric: str, check: TargetCheck) -> str:
    n, said = check.estimate.n, {"yes": "met", "no": "surely missed", "undecided": "undecided"}[check.met]
    if metric not in statistics.AT_LEAST:  # no measured numbers here: they differ from run to run
        return f"{metric}: target at most {check.target:g}: {said}" + ("" if n else ", it was not measured")
    needed = statistics.rows_to_decide(check.target) if check.target < 1 else 0
    more = f"; even {n} right of {n} could not show it, {needed} rows are needed" if needed > n else ""
    return f"{metric}: {check.estimate}, target at least {check.target:g}: {said}{more}"


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
    **settings: Any,
) -> Evaluation:
    """Ask base, best cheaper rung and tuned about the test rows; compare by row; judge by the gate rule.

    `card` is model.json; `best_rung` is the one that 01 found on validation; `settings` go to `run_rung`.
    """
    if not test_set:
        raise WorkbookError("the test part is empty; add verified examples to human.jsonl and run 02_curate again")
    check_fingerprints(card, task, dataset_version)
    asking = asked_in_01(run)
    rung_models = asking.pop("rung_models", [])
    settings |= {"style": card.get("prompt_style", "short"), "asking": asking}
    rungs, timing = {}, {"measured_at": store.now().isoformat(timespec="seconds")}
    for name in dict.fromkeys(("zero_shot", best_rung, "fine_tuned")):
        started = time.monotonic()
        asked = tuned if name == "fine_tuned" else model_for(name, base, task, rung_models)
        rungs[name] = run_rung(asked, name, test_set, task, run, **settings)
        timing[f"{name}_seconds"] = round(time.monotonic() - started, 1)
    answers = [read_answers(run, rungs[name]) for name in ("fine_tuned", best_rung)]
    comparison = compare_results(*answers, task, min_gain)
    targets = check_targets(task, rungs["fine_tuned"].results)
    verdict, regression, reasons = gate(task, comparison, targets, best_rung)
    return Evaluation(
        base_model=rungs["zero_shot"].results,
        fine_tuned_model=rungs["fine_tuned"].results,
        comparison=comparison,
        n_test=len(test_set),
        rungs=list(rungs.values()),
        best_rung=best_rung,
        flips=flips(*answers),
        verdict=verdict,
        reasons=reasons,
        targets=targets,
        regression=regression,
        min_gain=min_gain,
        fingerprints=card["fingerprints"],
        dataset_version=dataset_version,
        version=card["version"],
        timing=timing,
    )
