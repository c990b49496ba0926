"""Should we fine-tune at all? The cheapest thing that surely works, never tuning by elimination."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any, NamedTuple

from pydantic import Field

from helpers import evaluate, store
from helpers.decide.data import label_noise
from helpers.decide.economics import ELAPSED, OWN_MODEL, choose_trainer, economics, training_cost
from helpers.decide.screening import contradictions
from helpers.models import price_warnings, serves_until
from helpers.records import (
    GOOD_USES,
    WEIGHTS,
    Decision,
    Economics,
    Finding,
    Plan,
    Power,
    Recommendation,
    Record,
    RungComparison,
    RungResult,
    Screening,
    Trainer,
    TrainingExample,
    WorkbookError,
    from_parameters,
)
from helpers.tasks import Task

Rungs = Sequence[RungResult]
Examples = Sequence[TrainingExample]
REVIEW_DAYS = 90
MOVE_DAYS = 30  # to move away before a provider's lights go out
TOO_MANY = 5  # times the validation rows that are there: nobody labels so many to decide
EPOCHS = 3  # of a training without a limit
FAMILY: dict[str, Recommendation] = {"rag": "rag", evaluate.CLASSICAL: "classical"}
SERVE = {  # a family's next action
    "classical": (
        "serve the classical rung: evaluate.ClassicalModel(task, train).answer(chats, 0), on any"
        " processor"
    )
}
DECIDED_BY = {  # targets that validation rows do not decide
    "latency_p95": "time more requests (latency_rows=80)",
    "cost_per_request": "say what a request costs (prices in task.yaml)",
}
UPKEEP = {  # of what is advised: the hours of work a month
    "fine_tuning": ("labelling_monthly", "retraining_monthly"),
    "rag": ("prompt_monthly", "rag_monthly"),
}


class Choices(Record):
    """What notebook 01's parameters choose beside the questionnaire."""

    min_examples: int = 100
    trainer: str = "auto"
    base_url: str = ""
    api_model: str = ""
    max_train_tokens: int = 0  # they price one training run; 0: every row, three times
    prompt_search_budget: int = 1  # 0: the rungs were not searched, which the verdict says
    train_anyway_because: str = ""
    left_out: str = ""  # rows that were not looked at, in words

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> Choices:
        """The choices that a notebook's parameters (its globals()) spell."""
        return from_parameters(cls, parameters, cls.model_fields)


class Evidence(Record):
    """What the verdict is drawn from, so that `recommend` is a pure function."""

    meeting: list[str]  # rungs whose bounds meet every target, cheapest first
    # rung -> its undecided targets with the rows that would decide them (0: rows alone do not),
    # where it surely misses none
    undecided: dict[str, dict[str, int]]
    unrated: bool  # accuracy is by people or a judge, and nobody has judged yet
    rag_gains: bool  # rag is surely more accurate than the best other rung
    knowledge_task: bool  # most examples name the articles that answer them
    undecidable: dict[str, int]  # metric -> test rows that its target would need
    noisy_labels: list[Finding]  # fields whose labels are surely noisy
    # requests a month from which tuning is cheaper than the best rung: inf never, None unknown
    pays_from: float | None
    volume: int  # requests a month; 0: not known
    n_test: int
    n_validation: int
    n_examples: int
    min_examples: int
    best_rung: str
    limits: list[str] = Field(default_factory=list)  # rows and answers that were left out or cut


class Advice(NamedTuple):
    """What to do about the task, why, and where to begin."""

    recommendation: Recommendation
    reasons: list[str]
    next_action: str


def recommend(screening: Screening, evidence: Evidence) -> Advice:
    """The decision framework: prompting -> rag -> fine-tuning -> a model of one's own."""
    if evidence.meeting:
        rung = evidence.meeting[0]
        reasons = [f"{rung} is the cheapest rung whose bounds meet every target"]
        way = FAMILY.get(rung.partition("@")[0], "prompting")
        return Advice(way, reasons, SERVE.get(way, f"serve the {rung} rung"))
    if evidence.rag_gains and (evidence.knowledge_task or screening.new_knowledge):
        return Advice(
            "rag",
            [
                "the answers stand in the articles, and rag surely gains,"
                " though no rung meets the targets"
            ],
            "try a stronger model behind rag, or better retrieval",
        )
    blocks = _blocks(screening, evidence)
    if blocks:
        return Advice("not_yet", [reason for reason, _ in blocks], blocks[0][1])
    if screening.own_architecture:
        return Advice(
            "custom_model",
            [
                "the task needs an architecture, or a control over it, that no base model offers",
                "no rung meets the targets",
                OWN_MODEL,
            ],
            "plan data, compute and people for training a model; tune an open model meanwhile",
        )
    uses = _uses_that_pay(screening, evidence)
    weight = sum(weight for _, weight in uses)
    reasons = [
        f"no cheaper rung surely meets the targets; {evidence.best_rung} is the one to beat",
        *(reason for reason, _ in uses),
        f"what speaks for tuning weighs {weight} of {sum(WEIGHTS.values())},"
        " and nothing speaks against it",
    ]
    if _never_pays(evidence):
        reasons.append(f"{_break_even(evidence)}, so better answers have to pay for it")
    return Advice(
        "fine_tuning", reasons, "run 02_curate, train, and let 04_evaluate say whether it is better"
    )


def _uses_that_pay(screening: Screening, evidence: Evidence) -> list[tuple[str, int]]:
    """The good uses with their weights; a shorter prompt is none where requests are too few."""
    uses = screening.weighed
    if _never_pays(evidence):
        uses = [use for use in uses if use[0] != GOOD_USES["shorter_prompt"]]
    return uses


def _never_pays(evidence: Evidence) -> bool:
    """Whether cheaper requests never pay for tuning at the volume that task.yaml expects."""
    pays_from = evidence.pays_from
    return evidence.volume > 0 and pays_from is not None and pays_from > evidence.volume


def _break_even(evidence: Evidence) -> str:
    if evidence.pays_from == math.inf:
        return f"tuning saves nothing per request against {evidence.best_rung}"
    return (
        f"tuning is cheaper than {evidence.best_rung} from {evidence.pays_from:,.0f} requests a"
        f" month on, and task.yaml expects {evidence.volume:,}"
    )


def _blocks(screening: Screening, evidence: Evidence) -> list[tuple[str, str]]:
    """(why not to train now, what to do instead), the first thing to do at the front."""
    blocks = []
    if evidence.unrated:
        remedy = "rate them (`workbook rate RUN`) or name a judge (judge_model), and run 01 again"
        blocks.append(("nobody has rated the answers, so no rung has an accuracy", remedy))
    elif evidence.undecided:
        blocks.append(_ask_more(next(iter(evidence.undecided)), evidence))
    for noise in evidence.noisy_labels:
        blocks.append((noise.evidence, noise.remedy))
    for metric, n in evidence.undecidable.items():
        needed = (
            f"the {metric} target cannot be shown with {evidence.n_test} test rows: {n} rows, all"
            " right, would be needed",
            f"add verified examples until {n} are in the test part, or set the target the task"
            " needs",
        )
        blocks.append(needed)
    missing = evidence.min_examples - evidence.n_examples
    if missing > 0:
        reason = (
            f"{evidence.n_examples} verified examples are fewer than"
            f" min_examples={evidence.min_examples}"
        )
        blocks.append((reason, f"label {missing} more examples in human.jsonl"))
    if evidence.knowledge_task:
        reason = "the examples name the articles that answer them: this is about facts"
        blocks.append((reason, "improve retrieval"))
    blocks += screening.poor
    if not _uses_that_pay(screening, evidence) and not screening.own_architecture:
        reason = "no good use of fine-tuning was named"
        if screening.weighed:
            reason = f"a shorter prompt is all that speaks for tuning: {_break_even(evidence)}"
        blocks.append((reason, "improve the prompt, or try a stronger model"))
    return blocks


def _ask_more(rung: str, evidence: Evidence) -> tuple[str, str]:
    """A rung that may be enough already, and the cheapest thing that decides it."""
    targets = evidence.undecided[rung]
    reason = f"{rung} may already meet the targets: {', '.join(targets)} undecided"
    remedies = [DECIDED_BY[metric] for metric in targets if metric in DECIDED_BY]
    rows = [targets[metric] for metric in targets if metric not in DECIDED_BY]
    needed = max(rows, default=0) if all(rows) else 0  # 0: no number decides them all
    there = evidence.n_validation
    if rows and not 0 < needed <= TOO_MANY * there:
        remedies.append(
            f"{rung} is so near the target that {needed or 'no number of'} rows decide it"
            f" ({there} for validation are there): take it where that is good enough, or set the"
            " higher target that the task needs"
        )
    elif rows and needed <= there:
        remedies.append(f"ask {needed} validation rows (max_validation_rows={needed})")
    elif rows:
        remedies.append(
            f"{needed} validation rows would decide it, {there} are there: label {needed - there}"
            " more for validation, or give it a larger share (split_ratios)"
        )
    return reason, "; ".join(remedies)


def undecidable_targets(task: Task, n_test: int) -> dict[str, int]:
    """Targets that even a perfect model could not be shown to meet, with the rows they need."""
    shares = {name: task.targets[name] for name in evaluate.AT_LEAST if name in task.targets}
    needed = {name: evaluate.rows_to_decide(target) for name, target in shares.items()}
    return {name: n for name, n in needed.items() if n > n_test}


def gather(
    task: Task, rungs: Rungs, examples: Examples, run: store.Run, choices: Choices
) -> Evidence:
    """Everything the verdict needs, counted and compared."""
    meeting, undecided = _enough_or_open(task, rungs)
    noise = [] if meeting else label_noise(task, examples)  # a good prompt needs no labels
    best = evaluate.best_rung(rungs).name
    verified = [example for example in examples if example.quality == "verified"]
    n_test = sum(example.part == "test" for example in verified)
    naming_articles = sum(bool(example.meta.get("articles")) for example in verified)
    rows = evaluate.choose_rows(task, examples, "validation")
    limits = [choices.left_out] if choices.left_out else []
    by = "max_validation_rows and most_validation_rows"
    asked = max(rung.n for rung in rungs)
    limits += evaluate.rows_left_out(task, examples, "validation", asked, by)
    limits += evaluate.cut_answers(rungs, rows, run)
    numbers = _numbers(task, rungs, examples, choices)[2]
    return Evidence(
        meeting=meeting,
        undecided=undecided,
        rag_gains=evaluate.rag_gains(task, run, rungs),
        knowledge_task=naming_articles > len(verified) / 2,
        unrated=not any(rung.results.accuracy.n for rung in rungs),
        undecidable=undecidable_targets(task, n_test),
        noisy_labels=[f for f in noise if f.verdict == "fail"],
        pays_from=_pays_from(numbers, best),
        volume=task.volume_per_month,
        n_test=n_test,
        n_validation=len(rows),
        n_examples=len(verified),
        min_examples=choices.min_examples,
        best_rung=best,
        limits=limits,
    )


def _enough_or_open(task: Task, rungs: Rungs) -> tuple[list[str], dict[str, dict[str, int]]]:
    """(rungs that meet every target, undecided ones with the rows that would decide)."""
    meeting = []
    undecided = {}
    # By effort, since a cost that was timed is too noisy to sort by.
    for rung in sorted(rungs, key=lambda rung: evaluate.effort(rung.name)):
        targets = evaluate.check_rung(task, rung)
        verdicts = {finding.verdict for finding in targets.values()}
        if verdicts <= {"pass"}:
            meeting.append(rung.name)
        elif "fail" not in verdicts:
            by_rows = evaluate.rows_wanted(targets)
            still = [name for name, finding in targets.items() if finding.verdict == "undecided"]
            undecided[rung.name] = {name: by_rows.get(name, 0) for name in still}
    return meeting, undecided


def _pays_from(numbers: Economics, best: str) -> float | None:
    """Requests a month from which tuning is the cheaper one: inf never, None costs unknown."""
    if numbers.predicted_tuned_cost_per_request is None or best not in numbers.ways:
        return None
    needed = numbers.break_even_against.get(best)
    return math.inf if needed is None else needed


def decide(
    task: Task,
    rungs: Rungs,
    examples: Examples,
    screening: Screening,
    run: store.Run,
    choices: Choices,
) -> Decision:
    """Draw the verdict from the measured rungs, the questionnaire, and what the data can show.

    `examples` are all loaded rows with their parts; of the test part only the number of rows is
    used. WorkbookError when no rung was measured.
    """
    if not rungs:
        raise WorkbookError("no rung could be asked; put at least zero_shot into `rungs`")
    evidence = gather(task, rungs, examples, run, choices)
    trainer, warnings, numbers = _numbers(task, rungs, examples, choices)
    advice = recommend(screening, evidence)
    warnings += [*screening.warnings, *price_warnings(task)]
    if trainer == "openai" and not numbers.training_usd:
        warnings.append(
            f"training {choices.api_model} has no price (prices.training): counted as 0"
        )
    if "accuracy" not in task.targets:
        warnings.append(
            "task.yaml has no target for accuracy: no advice says how often answers are right"
        )
    for rung, targets in evidence.undecided.items() if not evidence.unrated else ():
        n = next(r.n for r in rungs if r.name == rung)
        warnings.append(f"{rung} may meet the targets: {', '.join(targets)} undecided at n={n}")
    warnings += _fairness_warnings(task, rungs, examples, choices)
    warnings += contradictions(screening, task, rungs, evidence.rag_gains, evidence.knowledge_task)
    because = choices.train_anyway_because
    if because and advice.recommendation != "fine_tuning":
        warnings.append(f"training goes on against this advice, because: {because}")
    served_until = serves_until(choices.base_url) if trainer == "openai" else None
    predicted = advice.recommendation in ("fine_tuning", "custom_model")
    return Decision(
        recommendation=advice.recommendation,
        status="predicted" if predicted else "measured",
        targets_met=bool(evidence.meeting),
        trainer=trainer,
        reasons=advice.reasons,
        warnings=warnings,
        next_action=advice.next_action.replace("rate RUN", f"rate {run.id}"),
        rungs=list(rungs),
        best_rung=evidence.best_rung,
        comparisons=_compare_each(task, run, rungs),
        economics=numbers,
        power=Power(
            n=evidence.n_test,
            detectable_difference=evaluate.detectable_difference(evidence.n_test),
            rows_needed=evidence.undecidable,
        ),
        plan=plan(task, advice.recommendation, screening, numbers.hours, served_until),
        screening=screening,
        train_anyway_because=because,
        limits=evidence.limits,
    )


def _numbers(
    task: Task, rungs: Rungs, examples: Examples, choices: Choices
) -> tuple[Trainer, list[str], Economics]:
    """(who would train, what to know of that, what it and every rung cost).

    A training without a limit takes each train row, as long as the shortest rung's, EPOCHS times.
    """
    trainer, warnings = choose_trainer(choices.trainer, choices.base_url, choices.api_model, task)
    rows = sum(example.part == "train" for example in examples)
    lengths = [rung.tokens_per_request for rung in rungs if rung.tokens_per_request]
    tokens = choices.max_train_tokens or round(EPOCHS * rows * min(lengths, default=0.0))
    usd = training_cost(task, trainer, choices.api_model, tokens)
    return trainer, warnings, economics(task, rungs, evaluate.best_rung(rungs).name, usd)


def _fairness_warnings(task: Task, rungs: Rungs, examples: Examples, choices: Choices) -> list[str]:
    """What the cheaper rungs were not given: a search, a classifier."""
    warnings = []
    if not choices.prompt_search_budget:
        warnings.append(
            "this is against an unsearched baseline (prompt_search_budget is 0): nearest examples"
            " or another wording may do better"
        )
    asked = {rung.name for rung in rungs}
    if evaluate.CLASSICAL not in asked and not evaluate.why_not(task, examples):
        warnings.append(
            "the answers are labels and the classical rung was not asked: add `classical` to rungs"
        )
    return warnings


def _compare_each(task: Task, run: store.Run, rungs: Rungs) -> list[RungComparison]:
    """Each rung minus the best of those before it, on the same validation rows."""
    comparisons = []
    for i, rung in enumerate(rungs[1:], start=1):
        against = evaluate.best_rung(rungs[:i])
        differences = evaluate.compare_rungs(task, run, rung, against)
        comparisons.append(RungComparison(rung=rung.name, against=against.name, **differences))
    return comparisons


def plan(
    task: Task,
    recommendation: Recommendation,
    screening: Screening,
    hours: Mapping[str, float],
    served_until: date | None,
) -> Plan:
    """Who looks after what was chosen, how often, how long that takes, and when to decide anew."""
    today = store.now().date()
    review = today + timedelta(days=REVIEW_DAYS)
    if served_until:
        review = min(review, served_until - timedelta(days=MOVE_DAYS))
    nobody = "nobody yet: name one under screening.owner in task.yaml"
    work = UPKEEP.get(recommendation, ("prompt_monthly",))
    return Plan(
        owner=str(task.screening.get("owner") or nobody),
        cadence="weekly" if screening.changing_requirements else "monthly",
        review_on=max(review, today).isoformat(),
        hours_per_month=sum(hours[name] for name in work),
        time_to_build=ELAPSED.get(recommendation, "-"),
    )
