"""Should we fine-tune at all? decision.json: the cheapest thing that surely works, never tuning by elimination."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from helpers import evaluate, store
from helpers.decide.economics import best_rung, economics, economics_warnings, maintenance_plan, own_model_estimate
from helpers.decide.screening import OWN_MODEL, Screening
from helpers.evaluate import RungResult, statistics
from helpers.models.api import is_loopback
from helpers.records import MetricComparison, Record, TrainingExample, WorkbookError
from helpers.tasks import Task

Recommendation = Literal["prompting", "rag", "fine_tuning", "custom_model", "not_yet"]
AT_LEAST = ("accuracy", "format_compliance")


class RungComparison(Record):
    """One rung minus the best of the cheaper ones, on the same validation rows."""

    rung: str
    against: str
    metric: str
    comparison: MetricComparison


class Decision(Record):
    """decision.json."""

    recommendation: Recommendation
    status: Literal["predicted", "measured"]
    targets_met: bool
    trainer: Literal["lora", "openai"]
    reasons: list[str]
    warnings: list[str]
    next_action: str
    rungs: list[RungResult]
    best_rung: str  # what 04 compares the tuned model with
    comparisons: list[RungComparison]
    economics: dict[str, Any]
    power: dict[str, Any]
    plan: dict[str, Any]
    screening: dict[str, Any]
    targets: dict[str, float]
    train_anyway_because: str


class Evidence(Record):
    """What the verdict is drawn from, so that `recommend` is a pure function."""

    meeting: list[str]  # rungs whose bounds meet every target, cheapest first
    rag_gain: MetricComparison | None  # rag minus the best other rung
    knowledge_task: bool
    undecidable: dict[str, int]  # metric -> test rows that its target would need
    n_test: int
    n_examples: int
    min_examples: int
    best_rung: str


def recommend(screening: Screening, seen: Evidence) -> tuple[Recommendation, list[str], str]:
    """(recommendation, reasons, next action) by the decision framework prompting -> rag -> fine-tuning -> own model."""
    if seen.meeting:
        rung = seen.meeting[0]
        kind: Recommendation = "rag" if rung == "rag" else "prompting"
        return kind, [f"{rung} is the cheapest rung whose bounds meet every target"], f"serve the {rung} rung"
    if seen.knowledge_task and seen.rag_gain is not None and seen.rag_gain.verdict == "pass":
        gain = 100 * seen.rag_gain.difference.value
        reason = (
            f"the answers stand in the articles: rag surely gains {gain:+.1f} points, though no rung meets the targets"
        )
        return "rag", [reason], "try a stronger model behind rag, or better retrieval"
    if blocks := _blocks(screening, seen):
        return "not_yet", [reason for reason, _ in blocks], blocks[0][1]
    if screening.own_architecture:
        return "custom_model", [OWN_MODEL, "no rung meets the targets"], "plan data and compute for training a model"
    reasons = [f"no cheaper rung surely meets the targets; {seen.best_rung} is the one to beat", *screening.good]
    return "fine_tuning", reasons, "run 02_curate, train, and let 04_evaluate say whether it is better"


def _blocks(screening: Screening, seen: Evidence) -> list[tuple[str, str]]:
    """(why not, what next) for everything that stands between "nothing else works" and training."""
    blocks = [
        (
            f"the {metric} target cannot be shown with {seen.n_test} test rows: {needed} rows, all right, would be needed",
            f"add verified examples until the test part has at least {needed} rows, or write a target that the task needs",
        )
        for metric, needed in seen.undecidable.items()
    ]
    if seen.n_examples < seen.min_examples:
        why = f"{seen.n_examples} verified examples are fewer than min_examples={seen.min_examples}"
        blocks.append((why, f"label {seen.min_examples - seen.n_examples} more examples in human.jsonl"))
    if seen.knowledge_task and not screening.new_knowledge:
        blocks.append(("the examples name the articles that answer them: this is about facts", "improve retrieval"))
    next_steps = {
        "new_knowledge": "write the missing articles into knowledge/ and improve retrieval, or try a stronger model",
        "one_off": "do it once with the best prompt and a person checking",
        "changing_requirements": "keep the rules in the prompt until they settle",
    }
    reasons = dict(zip([n for n in next_steps if getattr(screening, n)], screening.poor, strict=True))
    blocks += [(reason, next_steps[name]) for name, reason in reasons.items()]
    if not screening.good and not screening.own_architecture:
        blocks.append(("no good use of fine-tuning was named", "improve the prompt, or try a stronger model"))
    return blocks


def undecidable_targets(task: Task, n_test: int) -> dict[str, int]:
    """Targets that even a perfect model could not be shown to meet on n_test rows, with the rows they would need."""
    needed = {}
    for metric, target in task.targets.items():
        if metric in AT_LEAST and target >= 1:
            raise WorkbookError(
                f"{task.folder}/task.yaml: a target of {target:g} for {metric} can never be shown; lower it"
            )
        if metric in AT_LEAST and statistics.rows_to_decide(target) > n_test:
            needed[metric] = statistics.rows_to_decide(target)
    return needed


def compare_rungs(task: Task, run: store.Run, rungs: Sequence[RungResult]) -> list[RungComparison]:
    """Each rung against the most accurate of those before it: what did the extra effort bring?"""
    rows = {r.name: evaluate.read_answers(run, r) for r in rungs}
    found = []
    for i, rung in enumerate(rungs[1:], 1):
        against = best_rung(rungs[:i])
        assert against is not None
        for metric, comparison in _plainly(task, rows[rung.name], rows[against.name]).items():
            found.append(RungComparison(rung=rung.name, against=against.name, metric=metric, comparison=comparison))
    return found


def _plainly(task: Task, ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> dict[str, MetricComparison]:
    """Is it better at all? No margin and no gain are asked for here; those belong to the gate."""
    return evaluate.compare_results(ours, theirs, task.model_copy(update={"margins": {}, "replace": "better"}))


def choose_trainer(
    asked: str, base_url: str, api_model: str, task: Task
) -> tuple[Literal["lora", "openai"], list[str]]:
    """auto is lora, on this machine, unless an API is configured and the data may go there."""
    if asked not in ("auto", "lora", "openai"):
        raise WorkbookError(f"trainer {asked!r} is not known; choose auto, lora or openai")
    if asked == "lora":
        return "lora", []
    may_go = bool(base_url) and (task.data_may_leave or is_loopback(base_url))
    if asked == "auto":
        return ("openai", []) if may_go and api_model else ("lora", [])
    if base_url and not may_go:
        return "openai", [
            f"trainer openai: data_may_leave is false in task.yaml, so nothing will be sent to {base_url}"
        ]
    return "openai", [] if base_url and api_model else ["trainer openai needs base_url and api_model"]


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
) -> Decision:
    """Draw the verdict from the measured rungs, the questionnaire, and what the data can show.

    `examples` are all loaded rows with their parts; of the test part only the number of rows is used.
    """
    if not rungs:
        raise WorkbookError("no rung could be asked; put at least zero_shot into `rungs`")
    seen = gather(task, rungs, examples, screening, run, min_examples)
    recommendation, reasons, next_action = recommend(screening, seen)
    chosen, warnings = choose_trainer(trainer, base_url, api_model, task)
    numbers = economics(task, rungs)
    if recommendation == "custom_model":
        numbers["own_model"] = own_model_estimate()
    warnings += [*screening.warnings, *economics_warnings(task, numbers), *_measured_warnings(task, rungs, seen)]
    if train_anyway_because and recommendation != "fine_tuning":
        warnings.append(f"training goes on against this advice, because: {train_anyway_because}")
    hours = numbers["hours"]["labelling_monthly"] + numbers["hours"]["retraining_monthly"]
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
        comparisons=compare_rungs(task, run, rungs),
        economics=numbers,
        power={
            "n": seen.n_test,
            "detectable_difference": statistics.detectable_difference(seen.n_test),
            "flip_share": statistics.ASSUMED_FLIPS,
            "power": 0.8,
        },
        plan=maintenance_plan(task, screening.changing_requirements, hours),
        screening=screening.model_dump(exclude={"warnings"}),
        targets=task.targets,
        train_anyway_because=train_anyway_because,
    )


def gather(
    task: Task,
    rungs: Sequence[RungResult],
    examples: Sequence[TrainingExample],
    screening: Screening,
    run: store.Run,
    min_examples: int,
) -> Evidence:
    """Everything the verdict needs, counted and compared."""
    by_effort = sorted(rungs, key=lambda r: evaluate.LADDER.index(r.name))  # a timed cost is too noisy to sort by
    meeting = [
        r.name for r in by_effort if all(c.met == "yes" for c in evaluate.check_targets(task, r.results).values())
    ]
    verified = [e for e in examples if e.quality == "verified"]
    n_test = sum(e.part == "test" for e in verified)
    cited = sum(bool(e.meta.get("articles")) for e in verified)
    rag = next((r for r in rungs if r.name == "rag"), None)
    other = best_rung([r for r in rungs if r.name != "rag"])
    gain = None
    if rag is not None and other is not None:
        gain = _plainly(task, evaluate.read_answers(run, rag), evaluate.read_answers(run, other)).get("accuracy")
    best = best_rung(rungs)
    assert best is not None
    return Evidence(
        meeting=meeting,
        rag_gain=gain,
        knowledge_task=screening.new_knowledge or cited > len(verified) / 2,
        undecidable=undecidable_targets(task, n_test),
        n_test=n_test,
        n_examples=len(verified),
        min_examples=min_examples,
        best_rung=best.name,
    )


def _measured_warnings(task: Task, rungs: Sequence[RungResult], seen: Evidence) -> list[str]:
    """What the numbers leave open."""
    warnings = []
    for rung in rungs:
        checks = evaluate.check_targets(task, rung.results)
        if rung.name not in seen.meeting and all(c.met != "no" for c in checks.values()):
            open_targets = [metric for metric, c in checks.items() if c.met == "undecided"]
            warnings.append(f"{rung.name} may meet the targets: {', '.join(open_targets)} undecided at n={rung.n}")
    if seen.rag_gain is not None and seen.rag_gain.verdict == "pass" and not seen.knowledge_task:
        warnings.append("rag surely gains although new_knowledge was answered with no; ask whether facts are missing")
    return warnings
