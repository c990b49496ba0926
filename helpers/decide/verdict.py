"""Should we fine-tune at all? decision.json: the cheapest thing that surely works, never tuning by elimination."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal

from helpers import store
from helpers.decide.economics import (
    ELAPSED,
    Provider,
    Trainer,
    choose_trainer,
    compute_estimate,
    economics,
    provider_of,
    training_cost,
)
from helpers.decide.screening import OWN_MODEL, WEIGHTS, Screening, contradictions
from helpers.evaluate.compare import check_targets, compare_results
from helpers.evaluate.rungs import effort
from helpers.evaluate.running import RungResult, read_answers
from helpers.evaluate.statistics import AT_LEAST, detectable_difference, rows_to_decide
from helpers.models.prices import price_warnings
from helpers.records import MetricComparison, Record, TrainingExample, WorkbookError
from helpers.tasks import Task

Recommendation = Literal["prompting", "rag", "fine_tuning", "custom_model", "not_yet"]
REVIEW_DAYS = 90
OWN_SIZE = 1e9  # parameters of the model that the estimate for a model of one's own is made for


class Decision(Record):
    """decision.json."""

    recommendation: Recommendation
    status: Literal["predicted", "measured"]
    targets_met: bool
    trainer: Trainer
    reasons: list[str]
    warnings: list[str]
    next_action: str
    rungs: list[RungResult]
    best_rung: str  # what 04 compares the tuned model with
    asking: dict[str, Any]  # how the rungs asked, which 04 repeats
    comparisons: list[
        dict[str, Any]
    ]  # each rung minus the best of those before it, on the same validation rows
    economics: dict[str, Any]
    power: dict[str, Any]
    plan: dict[str, Any]
    screening: Screening
    train_anyway_because: str


class Evidence(Record):
    """What the verdict is drawn from, so that `recommend` is a pure function."""

    meeting: list[str]  # rungs whose bounds meet every target, cheapest first
    open: dict[str, str]  # rung -> its undecided targets, where it surely misses none
    rag_gains: bool  # rag is surely more accurate than the best other rung
    knowledge_task: bool  # most examples name the articles that answer them
    undecidable: dict[str, int]  # metric -> test rows that its target would need
    n_test: int
    n_examples: int
    min_examples: int
    best_rung: str


def recommend(screening: Screening, seen: Evidence) -> tuple[Recommendation, list[str], str]:
    """(recommendation, reasons, next action) by the decision framework prompting -> rag -> fine-tuning -> own model."""
    if seen.meeting:
        rung = seen.meeting[0]
        reason = f"{rung} is the cheapest rung whose bounds meet every target"
        return (
            ("rag" if rung.startswith("rag") else "prompting"),
            [reason],
            f"serve the {rung} rung",
        )
    if seen.rag_gains and (seen.knowledge_task or screening.new_knowledge):
        reason = "the answers stand in the articles, and rag surely gains, though no rung meets the targets"
        return "rag", [reason], "try a stronger model behind rag, or better retrieval"
    if blocks := _blocks(screening, seen):
        return "not_yet", [reason for reason, _ in blocks], blocks[0][1]
    if screening.own_architecture:
        cost = compute_estimate(OWN_SIZE)
        compute = f"{cost['tokens']:.0e} tokens, {cost['flops']:.0e} FLOPs, {cost['gpu_hours']:,.0f} GPU-hours, {cost['usd']:,.0f} USD"
        reasons = [
            OWN_MODEL,
            "no rung meets the targets",
            f"{OWN_SIZE:.0e} parameters take {compute}: months, and a team",
        ]
        return (
            "custom_model",
            reasons,
            "plan data, compute and people for training a model; tune an open model meanwhile",
        )
    reasons = [
        f"no cheaper rung surely meets the targets; {seen.best_rung} is the one to beat",
        *screening.good,
    ]
    weights = f"{sum(weight for _, weight in screening.weighed)} of {sum(WEIGHTS.values())}"
    reasons.append(f"what speaks for tuning weighs {weights}, and nothing speaks against it")
    return (
        "fine_tuning",
        reasons,
        "run 02_curate, train, and let 04_evaluate say whether it is better",
    )


def _blocks(screening: Screening, seen: Evidence) -> list[tuple[str, str]]:
    """(why not, what next) for everything that stands between "nothing else works" and training."""
    blocks = []
    for metric, n in seen.undecidable.items():
        why = f"the {metric} target cannot be shown with {seen.n_test} test rows: {n} rows, all right, would be needed"
        blocks.append(
            (
                why,
                f"add verified examples until {n} are in the test part, or set the target the task needs",
            )
        )
    if (missing := seen.min_examples - seen.n_examples) > 0:
        why = f"{seen.n_examples} verified examples are fewer than min_examples={seen.min_examples}"
        blocks.append((why, f"label {missing} more examples in human.jsonl"))
    if seen.knowledge_task:
        blocks.append(
            (
                "the examples name the articles that answer them: this is about facts",
                "improve retrieval",
            )
        )
    blocks += screening.poor
    if not screening.good and not screening.own_architecture:
        blocks.append(
            ("no good use of fine-tuning was named", "improve the prompt, or try a stronger model")
        )
    return blocks


def undecidable_targets(task: Task, n_test: int) -> dict[str, int]:
    """Targets that even a perfect model could not be shown to meet on n_test rows, with the rows they would need."""
    needed = {
        metric: rows_to_decide(target)
        for metric, target in task.targets.items()
        if metric in AT_LEAST
    }
    return {metric: n for metric, n in needed.items() if n > n_test}


def compare_rungs(
    task: Task, run: store.Run, rung: RungResult, against: RungResult
) -> dict[str, MetricComparison]:
    """Is one rung better than another at all? Margins and gains are not asked for here; those belong to the gate."""
    plain = task.model_copy(update={"margins": {}, "replace": "better"})
    return compare_results(read_answers(run, rung), read_answers(run, against), plain)


def best_rung(rungs: Sequence[RungResult]) -> RungResult:
    """The rung that fine-tuning has to beat: the most accurate; of equals the better formed, then the earlier one."""
    return max(rungs, key=lambda r: (r.results.accuracy.value, r.results.format_compliance.value))


def gather(
    task: Task,
    rungs: Sequence[RungResult],
    examples: Sequence[TrainingExample],
    run: store.Run,
    min_examples: int,
) -> Evidence:
    """Everything the verdict needs, counted and compared."""
    unmet = {}
    for rung in sorted(rungs, key=lambda r: effort(r.name)):  # a timed cost is too noisy to sort by
        checks = check_targets(task, rung.results)
        unmet[rung.name] = {
            metric: check.met for metric, check in checks.items() if check.met != "yes"
        }
    verified = [e for e in examples if e.quality == "verified"]
    n_test = sum(e.part == "test" for e in verified)
    # one model on both sides: what a stronger one adds is no work of retrieval
    own = [r for r in rungs if "@" not in r.name and r.name != "incumbent"]
    rag, others = [r for r in own if r.name == "rag"], [r for r in own if r.name != "rag"]
    gain = (
        compare_rungs(task, run, rag[0], best_rung(others)).get("accuracy")
        if rag and others
        else None
    )
    return Evidence(
        meeting=[name for name, left in unmet.items() if not left],
        open={
            name: ", ".join(left)
            for name, left in unmet.items()
            if left and "no" not in left.values()
        },
        rag_gains=gain is not None and gain.verdict == "pass",
        knowledge_task=sum(bool(e.meta.get("articles")) for e in verified) > len(verified) / 2,
        undecidable=undecidable_targets(task, n_test),
        n_test=n_test,
        n_examples=len(verified),
        min_examples=min_examples,
        best_rung=best_rung(rungs).name,
    )


def decide(
    task: Task,
    rungs: Sequence[RungResult],
    examples: Sequence[TrainingExample],
    screening: Screening,
    run: store.Run,
    *,
    min_examples: int = 100,
    trainer: str = "auto",
    base_url: str = "",
    api_model: str = "",
    train_anyway_because: str = "",
    train_tokens: int = 0,
    asking: Mapping[str, Any] | None = None,
) -> Decision:
    """Draw the verdict from the measured rungs, the questionnaire, and what the data can show.

    `examples` are all loaded rows with their parts; of the test part only the number of rows is used. `train_tokens`
    prices one training run; `asking` is how the rungs were asked.
    """
    if not rungs:
        raise WorkbookError("no rung could be asked; put at least zero_shot into `rungs`")
    seen = gather(task, rungs, examples, run, min_examples)
    recommendation, reasons, next_action = recommend(screening, seen)
    chosen, warnings = choose_trainer(trainer, base_url, api_model, task)
    warnings += [*screening.warnings, *price_warnings(task)]
    warnings += [
        f"{rung} may meet the targets: {left} undecided at n={rungs[0].n}"
        for rung, left in seen.open.items()
    ]
    warnings += contradictions(screening, task, rungs, seen.rag_gains, seen.knowledge_task)
    if train_anyway_because and recommendation != "fine_tuning":
        warnings.append(f"training goes on against this advice, because: {train_anyway_because}")
    numbers = economics(
        task, rungs, seen.best_rung, training_cost(task, chosen, api_model, train_tokens)
    )
    pairs = [(rung, best_rung(rungs[:i])) for i, rung in enumerate(rungs) if i]
    return Decision(
        recommendation=recommendation,
        status="predicted" if recommendation in ("fine_tuning", "custom_model") else "measured",
        targets_met=bool(seen.meeting),
        trainer=chosen,
        reasons=reasons,
        warnings=warnings,
        next_action=next_action,
        rungs=list(rungs),
        best_rung=seen.best_rung,
        asking=dict(asking or {}),
        comparisons=[
            {"rung": a.name, "against": b.name} | compare_rungs(task, run, a, b) for a, b in pairs
        ],
        economics=numbers | {"custom_model": compute_estimate(OWN_SIZE)},
        power={
            "n": seen.n_test,
            "detectable_difference": detectable_difference(seen.n_test),
            "rows_needed": seen.undecidable,
        },
        plan=plan(
            task,
            recommendation,
            screening,
            numbers["hours"],
            provider_of(base_url) if chosen == "openai" else None,
        ),
        screening=screening,
        train_anyway_because=train_anyway_because,
    )


def plan(
    task: Task,
    recommendation: Recommendation,
    screening: Screening,
    hours: Mapping[str, float],
    provider: Provider | None,
) -> dict[str, Any]:
    """Who looks after what was chosen, how often, how long that takes, and when to decide anew."""
    review = (store.now() + timedelta(days=REVIEW_DAYS)).date()
    if provider and provider.serve_until:  # a month to move before the lights go out
        review = min(review, provider.serve_until - timedelta(days=30))
    work = {
        "fine_tuning": ("labelling_monthly", "retraining_monthly"),
        "rag": ("prompt_monthly", "rag_monthly"),
    }
    return {
        "owner": str(
            task.screening.get("owner") or "nobody yet: name one under screening.owner in task.yaml"
        ),
        "cadence": "weekly" if screening.changing_requirements else "monthly",
        "review_on": max(review, store.now().date()).isoformat(),
        "hours_per_month": sum(
            hours[name] for name in work.get(recommendation, ("prompt_monthly",))
        ),
        "time_to_build": ELAPSED.get(recommendation, "-"),
    }
