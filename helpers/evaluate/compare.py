"""Is the tuned model better than the best cheaper rung, by how much, and are we sure? evaluation.json comes from here.

Its opponents: the best cheaper rung, and what it would replace (the version in production, or what task.yaml calls the
incumbent). It must beat them all.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from helpers import models, records, store
from helpers.evaluate import ladder, statistics
from helpers.evaluate.attempts import Attempt, record_attempt
from helpers.evaluate.judge import Ratings, rate_pair
from helpers.evaluate.running import RungResult, read_answers, run_rung
from helpers.evaluate.slices import SliceResult, compare_slices
from helpers.models import Model
from helpers.records import (
    Estimate,
    EvalResults,
    FineTunedModelVersion,
    MetricComparison,
    Record,
    TrainingExample,
    Verdict,
    WorkbookError,
)
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
    regression: bool  # surely worse than an opponent by more than the margin, in any metric
    min_gain: float
    production: str  # the version that served when this was measured; "" = none
    against: dict[str, dict[str, MetricComparison]]  # what it would replace: production, incumbent
    attempt: Attempt
    slices: list[SliceResult]
    ratings: Ratings | None  # how well a judge, or people, agree; None where a scorer decides
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
        return (
            name,
            f"{name} scored best of the cheaper rungs on the validation part (decision.json)",
        )
    return (
        "prompt",
        "this run has no decision.json, so the full prompt stands in for the best cheaper rung",
    )


def asked_in_01(run: store.Run) -> dict[str, Any]:
    """How 01 asked its rungs (examples, passages, wording), so that 04 repeats what was chosen on validation."""
    return run.read("decision.json").get("asking", {}) if run.has("decision.json") else {}


def load_models(card: Mapping[str, Any]) -> tuple[Model, Model]:
    """(base, tuned) as model.json names them."""
    name, url = card["base_model"], card.get("base_url", "")
    if card["provider"] == "api":
        return models.load_model(name, base_url=url), models.load_model(
            card["model_id"], base_url=url
        )
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


def compare_results(
    tuned: Rows, other: Rows, task: Task, min_gain: float = 0.0, alpha: float = statistics.TAIL
) -> dict[str, MetricComparison]:
    """Tuned minus other on the same rows, per metric that both were scored by (rows without a rating are left out).

    `margin` is the allowed loss, so every verdict reads: the lower bound is above -margin. Accuracy under
    `replace: better` must gain more than min_gain, which is a margin of -min_gain; its lower bound may be wrong in
    `alpha` of the cases (less for each further attempt of a year). The interval that is shown is always the 95% one.
    """
    compared, paired = {}, pair_rows(tuned, other)
    for metric in statistics.AT_LEAST:
        pairs = [(a, b) for a, b in paired if metric in a["scores"] and metric in b["scores"]]
        if not pairs:
            continue
        ours, theirs = ([pair[side]["scores"][metric] for pair in pairs] for side in (0, 1))
        groups = [row["group"] for row, _ in pairs]
        difference, gained, lost = statistics.paired_difference(ours, theirs, groups)
        surer = (
            statistics.paired_difference(ours, theirs, groups, alpha)[0]
            if metric == "accuracy"
            else difference
        )
        must_gain = metric == "accuracy" and task.replace == "better"
        margin = 0.0 - min_gain if must_gain else task.margins.get(metric, 0.0)
        compared[metric] = MetricComparison(
            difference=difference,
            method=statistics.METHOD if {*ours, *theirs} <= {0, 1} else statistics.METHOD_MEAN,
            gained=gained,
            lost=lost,
            margin=margin,
            verdict=decide(difference, surer, margin),
        )
    return compared


def decide(difference: Estimate, surer: Estimate, margin: float) -> Verdict:
    """pass needs the surer of the two intervals above -margin; fail is said by the 95% one; between them nothing is sure."""
    verdict = statistics.verdict(difference, 0.0 - margin)
    return "inconclusive" if verdict == "pass" and surer.low <= 0.0 - margin else verdict


def pair_rows(tuned: Rows, other: Rows) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """(ours, theirs) of every row, paired by id."""
    theirs = {row["id"]: row for row in other}
    if sorted(row["id"] for row in tuned) != sorted(theirs):
        raise WorkbookError(
            "the two rungs were not asked about the same rows; run this notebook again from its start"
        )
    return [(row, theirs[row["id"]]) for row in tuned]


def flips(tuned: Rows, other: Rows) -> dict[str, list[str]]:
    """Ids of the rows that only the tuned model got right (gained), and that only the other did (lost)."""
    right = [
        (a["id"], a["scores"].get("accuracy"), b["scores"].get("accuracy"))
        for a, b in pair_rows(tuned, other)
    ]
    return {
        "gained": [i for i, a, b in right if a and not b],
        "lost": [i for i, a, b in right if b and not a],
    }


def check_targets(task: Task, results: EvalResults) -> dict[str, TargetCheck]:
    """Every target of task.yaml against the bound of its estimate."""
    measured = {metric: getattr(results, metric) for metric in task.targets}
    met = {
        metric: statistics.target_met(metric, measured[metric], target)
        for metric, target in task.targets.items()
    }
    return {
        m: TargetCheck(target=target, met=met[m], estimate=measured[m])
        for m, target in task.targets.items()
    }


def gate(
    task: Task,
    comparison: Mapping[str, MetricComparison],
    targets: Mapping[str, TargetCheck],
    best_rung: str,
    against: Mapping[str, Mapping[str, MetricComparison]] | None = None,
    alpha: float = statistics.TAIL,
) -> tuple[Verdict, bool, list[str]]:
    """(verdict, regression, reasons): pass when everything surely holds, fail when anything is surely violated.

    What must hold: the paired gain in accuracy against the best cheaper rung and against what would be replaced, and every
    target at its bound. Everything else is inconclusive, and the reasons say how many rows would decide.
    """
    findings, reasons, worse = set(), [], []
    for name, compared in ({best_rung: comparison} | dict(against or {})).items():
        gain = compared.get("accuracy")
        findings.add(gain.verdict if gain else "inconclusive")
        reasons.append(_gain_reason(task, gain, name, alpha))
        for metric, c in compared.items():
            if c.difference.n and c.difference.high < -task.margins.get(metric, 0.0):
                worse.append(f"regression: {metric} is surely worse than {name}'s: {c.difference}")
    findings |= {
        {"yes": "pass", "no": "fail", "undecided": "inconclusive"}[check.met]
        for check in targets.values()
    }
    reasons += worse + [_target_reason(metric, check) for metric, check in targets.items()]
    if worse or "fail" in findings:
        return "fail", bool(worse), reasons
    return ("pass" if findings == {"pass"} else "inconclusive"), False, reasons


def _gain_reason(task: Task, gain: MetricComparison | None, opponent: str, alpha: float) -> str:
    if gain is None:
        return f"accuracy: no gain over {opponent} is known (accuracy_from is {task.accuracy_from}: no ratings of these answers)"
    where = {
        "pass": "surely more",
        "fail": "surely not more",
        "inconclusive": "undecided at this n",
    }[gain.verdict]
    said = f"accuracy: tuned minus {opponent} on the same rows is {gain.difference} ({gain.gained} gained, {gain.lost} lost)"
    said += f"; more than {0.0 - gain.margin:g} is asked for, {1 - 2 * alpha:.2%} sure: {where}"
    if gain.verdict == "inconclusive":
        n, counts = gain.difference.n, (gain.gained, gain.lost, gain.difference.n)
        needed = statistics.rows_to_separate(*counts, 0.0 - gain.margin, alpha)
        more = max(1, needed - n)
        said += (
            f"; if it stays like this, {more} more rows would decide"
            if needed
            else "; no number of rows decides a tie"
        )
    return said


def _target_reason(metric: str, check: TargetCheck) -> str:
    n, said = (
        check.estimate.n,
        {"yes": "met", "no": "surely missed", "undecided": "undecided"}[check.met],
    )
    if metric not in statistics.AT_LEAST:  # no measured numbers here: they differ from run to run
        return f"{metric}: target at most {check.target:g}: {said}" + (
            "" if n else ", it was not measured"
        )
    needed = statistics.rows_to_decide(check.target) if check.target < 1 else 0
    more = (
        f"; even {n} right of {n} could not show it, {needed} rows are needed" if needed > n else ""
    )
    return f"{metric}: {check.estimate}, target at least {check.target:g}: {said}{more}"


def ask_production(
    version: FineTunedModelVersion,
    rungs: dict[str, RungResult],
    rows: Sequence[TrainingExample],
    task: Task,
    run: store.Run,
    **settings: Any,
) -> str:
    """Put the version in production among the rungs, asked in its own prompt style; or say why it could not be asked.

    What it was asked before is remembered. Without its answers nothing is sure, but the evaluation itself is not lost.
    """
    try:
        card = store.Run(version.run_id).read("model.json")
        settings |= {"style": card.get("prompt_style", "short"), "latency_rows": 0}
        rungs["production"] = run_rung(
            load_models(card)[1], "fine_tuned", rows, task, run, label="production", **settings
        )
    except WorkbookError as error:
        if (
            error.exit_code != 2
        ):  # out of memory, or a provider's fault: not a matter of this version
            raise
        return f"{version.id}, which serves now, could not be asked: {error}"
    return ""


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
    production: FineTunedModelVersion | None = None,
    incumbent: Model | None = None,
    judge: Model | None = None,
    **settings: Any,
) -> Evaluation:
    """Ask base, best cheaper rung, tuned and what it would replace about the test rows; compare by row; judge by the gate.

    `card` is model.json; `best_rung` is the one that 01 found on validation; `incumbent` answers today (default:
    what task.yaml names), `production` is the version that serves; `judge` is asked where task.yaml says
    `accuracy_from: judge`; `settings` go to `run_rung`.
    """
    if not test_set:
        raise WorkbookError(
            "the test part is empty; add verified examples to human.jsonl and run 02_curate again"
        )
    check_fingerprints(card, task, dataset_version)
    settings["style"] = card.get("prompt_style", "short")
    rungs, timing = ask_rungs(base, tuned, incumbent, best_rung, test_set, task, run, settings)
    attempt = record_attempt(task, run, tuned, test_set, card["version"])
    serving = production if production and production.id != card["version"] else None
    unasked = ask_production(serving, rungs, test_set, task, run, **settings) if serving else ""
    replaced = [name for name in ("production", "incumbent") if name in rungs and name != best_rung]
    rated = ["fine_tuned", best_rung, *replaced]
    rungs, ratings = rate_pair(
        rungs, rated, test_set, task, run, judge, settings.get("max_cost_usd", 0.0)
    )
    answers = {name: read_answers(run, rungs[name]) for name in rated}
    ours, theirs = answers["fine_tuned"], answers[best_rung]
    comparison = compare_results(ours, theirs, task, min_gain, attempt.alpha)
    against = {
        name: compare_results(ours, answers[name], task, min_gain, attempt.alpha)
        for name in replaced
    }
    against |= {"production": {}} if unasked else {}
    targets = check_targets(task, rungs["fine_tuned"].results)
    verdict, regression, reasons = gate(
        task, comparison, targets, best_rung, against, attempt.alpha
    )
    slices = compare_slices(task, test_set, pair_rows(ours, theirs))
    return Evaluation(
        base_model=rungs["zero_shot"].results,
        fine_tuned_model=rungs["fine_tuned"].results,
        comparison=comparison,
        n_test=len(test_set),
        rungs=list(rungs.values()),
        best_rung=best_rung,
        flips=flips(ours, theirs),
        verdict=verdict,
        reasons=reasons + [unasked] * bool(unasked) + _side_reasons(attempt, slices, ratings),
        targets=targets,
        regression=regression,
        min_gain=min_gain,
        production=serving.id if serving else "",
        against=against,
        attempt=attempt,
        slices=slices,
        ratings=ratings,
        fingerprints=card["fingerprints"],
        dataset_version=dataset_version,
        version=card["version"],
        timing=timing,
    )


def ask_rungs(
    base: Model,
    tuned: Model,
    incumbent: Model | None,
    best_rung: str,
    test_set: Sequence[TrainingExample],
    task: Task,
    run: store.Run,
    settings: dict[str, Any],
) -> tuple[dict[str, RungResult], dict[str, Any]]:
    """(results by rung, seconds by rung): the base's short prompt, the best cheaper rung as 01 asked it, tuned, incumbent."""
    settings["asking"] = asked_in_01(run)
    rung_models = settings["asking"].pop("rung_models", [])
    rungs, timing = {}, {"measured_at": store.now().isoformat(timespec="seconds")}
    today = incumbent or ladder.incumbent(task, base)
    own = {"fine_tuned": tuned} | ({"incumbent": today} if today else {})
    for name in dict.fromkeys(("zero_shot", best_rung, *own)):
        started = time.monotonic()
        asked = own.get(name) or ladder.model_for(name, base, task, rung_models)
        rungs[name] = run_rung(asked, name, test_set, task, run, **settings)
        timing[f"{name}_seconds"] = round(time.monotonic() - started, 1)
    return rungs, timing


def _side_reasons(
    attempt: Attempt, slices: Sequence[SliceResult], ratings: Ratings | None
) -> list[str]:
    """What does not decide, but has to be known: the budget of attempts, slices that surely lost, who judged."""
    said = []
    if attempt.number > 1:
        text = f"attempt {attempt.number} of the past year, {attempt.looks_at_these_rows} on these very rows: it has to be"
        text += f" {1 - 2 * attempt.alpha:.2%} sure, which shows gains of {attempt.detectable_difference:.1%} or more"
        fresh = (
            f"; fresh test rows are due: add {attempt.fresh_rows_needed}"
            if attempt.fresh_rows_needed
            else ""
        )
        said.append(text + fresh)
    said += [
        f"slice {s.slice} surely lost: {s.difference}, corrected p {s.p_holm:.2g}"
        for s in slices
        if s.verdict == "worse"
    ]
    return said + (ratings.warnings if ratings else [])
