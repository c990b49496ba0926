"""The strategy's questionnaire: its answers, and what the data says against them."""

from __future__ import annotations

from collections.abc import Sequence

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
    tokens = {rung.name: rung.tokens_per_request for rung in rungs}
    short = tokens.get("zero_shot", 0.0)
    full = tokens.get("prompt", 0.0)
    target = task.targets.get("format_compliance", 0.95)
    well_formed = next((r.name for r in rungs if r.results.format_compliance.low >= target), "")
    knows_facts = not screening.new_knowledge
    checks = [
        (
            rag_gains and knows_facts and not knowledge_task,
            "rag surely gains although new_knowledge was answered with no;"
            " ask whether facts are missing",
        ),
        (
            knowledge_task and knows_facts,
            "new_knowledge was answered with no,"
            " but most examples name the articles that answer them",
        ),
        (
            screening.new_knowledge and "rag" not in tokens,
            "new_knowledge was answered with yes,"
            " but there are no articles to look facts up in: fill knowledge/",
        ),
        (
            screening.shorter_prompt and full > 0 and short > SHORTER * full,
            "shorter_prompt was answered with yes,"
            f" but the full prompt takes {full:.0f} tokens, the short {short:.0f}",
        ),
        (
            screening.format_or_style and well_formed,
            "format_or_style was answered with yes,"
            f" but {well_formed} surely keeps the format without training",
        ),
        (
            screening.one_off and task.volume_per_month >= MANY_REQUESTS,
            "one_off was answered with yes,"
            f" but task.yaml expects {task.volume_per_month:,} requests a month",
        ),
    ]
    return [warning for speaks_against, warning in checks if speaks_against]
