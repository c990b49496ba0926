"""The strategy's questionnaire: its answers, and what the data says against them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from helpers import evaluate
from helpers.records import RungResult, Screening, WorkbookError
from helpers.tasks import Task

MANY_REQUESTS = 1000  # a month: no task that is done once
SHORTER = 0.75  # a short prompt takes at most this share of the full one's tokens


def screen(task: Task, **answers: bool) -> Screening:
    """The answers; `screening:` in task.yaml knows the task better than a default does."""
    fields = Screening.model_fields  # the section may name an owner as well
    stated = {name: value for name, value in task.screening.items() if name in fields}
    warnings = []
    for name, value in stated.items():
        if not isinstance(value, bool):
            raise WorkbookError(
                f"{task.folder}/task.yaml: screening.{name} should be true or false, not {value!r}"
            )
        if answers.get(name, value) != value:
            warnings.append(
                f"{name} is {value} in task.yaml and {answers[name]} by parameter; task.yaml holds"
            )
    return Screening(**(answers | stated), warnings=warnings)


def contradictions(
    screening: Screening,
    task: Task,
    rungs: Sequence[RungResult],
    rag_gains: bool,
    knowledge_task: bool,
) -> list[str]:
    """Answers that the data speaks against; a knowledge task's examples name their articles."""
    warnings = _about_facts(screening, rungs, rag_gains, knowledge_task)
    tokens = {rung.name: rung.tokens_per_request for rung in rungs}
    short = tokens.get("zero_shot", 0.0)
    full = tokens.get("prompt", math.inf)
    if screening.shorter_prompt and short > SHORTER * full:
        warnings.append(
            "shorter_prompt was answered with yes,"
            f" but the full prompt takes {full:.0f} tokens, the short {short:.0f}"
        )
    target = task.targets.get("format_compliance", 0.95)
    asked = [rung for rung in rungs if rung.name != evaluate.CLASSICAL]  # that one is trained
    well_formed = [rung.name for rung in asked if rung.results.format_compliance.low >= target]
    if screening.format_or_style and well_formed:
        warnings.append(
            "format_or_style was answered with yes,"
            f" but {well_formed[0]} surely keeps the format without training"
        )
    if screening.one_off and task.volume_per_month >= MANY_REQUESTS:
        warnings.append(
            "one_off was answered with yes,"
            f" but task.yaml expects {task.volume_per_month:,} requests a month"
        )
    return warnings


def _about_facts(
    screening: Screening, rungs: Sequence[RungResult], rag_gains: bool, knowledge_task: bool
) -> list[str]:
    """What speaks against the answer to new_knowledge."""
    if screening.new_knowledge and any(rung.name == "rag" for rung in rungs):
        return []
    if screening.new_knowledge:
        return [
            "new_knowledge was answered with yes,"
            " but rag was not asked: fill knowledge/ with articles, and put rag into `rungs`"
        ]
    if knowledge_task:
        return [
            "new_knowledge was answered with no,"
            " but most examples name the articles that answer them"
        ]
    if rag_gains:
        return [
            "rag surely gains although new_knowledge was answered with no;"
            " ask whether facts are missing"
        ]
    return []
