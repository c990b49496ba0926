"""The strategy's two columns, good and poor uses of fine-tuning, as a questionnaire with reasons."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from helpers.evaluate.running import RungResult
from helpers.records import Record, WorkbookError
from helpers.tasks import Task

GOOD_USES = {
    "format_or_style": "the answers need one fixed format or style, which a model learns well from examples",
    "domain_terms": "the task has its own terms and codes, which a long prompt explains badly",
    "shorter_prompt": "a tuned model needs a shorter prompt, which makes every request cheaper and faster",
}
POOR_USES = {  # why not, and what to do instead
    "new_knowledge": (
        "facts are missing, and they belong where they can be looked up",
        "write articles for rag to find",
    ),
    "one_off": (
        "tuning and its upkeep pay only when the task comes back",
        "do it once with the best prompt",
    ),
    "changing_requirements": (
        "every change would be a new training run",
        "keep the rules in the prompt for now",
    ),
}
WEIGHTS = {
    "format_or_style": 3,
    "domain_terms": 2,
    "shorter_prompt": 1,
}  # by how often tuning is bought for it
OWN_MODEL = "the task needs an architecture, or a control over it, that no base model offers"


class Screening(Record):
    """The answers, and what they say for and against fine-tuning."""

    new_knowledge: bool
    format_or_style: bool
    domain_terms: bool
    shorter_prompt: bool
    one_off: bool
    changing_requirements: bool
    own_architecture: bool = False
    warnings: list[str] = Field(default_factory=list)

    @property
    def weighed(self) -> list[tuple[str, int]]:
        """(reason for fine-tuning, its weight); one poor use outweighs all of them."""
        return [
            (reason, WEIGHTS[name]) for name, reason in GOOD_USES.items() if getattr(self, name)
        ]

    @property
    def good(self) -> list[str]:
        """Reasons for fine-tuning."""
        return [reason for reason, _ in self.weighed]

    @property
    def poor(self) -> list[tuple[str, str]]:
        """(reason against it, what to do instead); one is enough."""
        return [pair for name, pair in POOR_USES.items() if getattr(self, name)]


def screen(task: Task, **answers: bool) -> Screening:
    """The questionnaire's answers; `screening:` in task.yaml, where given, knows the task better than a default does."""
    stated = {k: v for k, v in task.screening.items() if k in Screening.model_fields}
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
    screening: Screening, task: Task, rungs: Sequence[RungResult], rag_gains: bool, named: bool
) -> list[str]:
    """Answers that the data speaks against; `named`: most examples name the articles that answer them."""
    said, known = [], {r.name: r for r in rungs}
    if rag_gains and not (screening.new_knowledge or named):
        said.append(
            "rag surely gains although new_knowledge was answered with no; ask whether facts are missing"
        )
    if named and not screening.new_knowledge:
        said.append(
            "new_knowledge was answered with no, but most examples name the articles that answer them"
        )
    if screening.new_knowledge and "rag" not in known:
        said.append(
            "new_knowledge was answered with yes, but there are no articles to look facts up in: fill knowledge/"
        )
    if screening.shorter_prompt and {"zero_shot", "prompt"} <= set(known):
        short, full = (known[name].tokens_per_request for name in ("zero_shot", "prompt"))
        if short > 0.75 * full:
            said.append(
                f"shorter_prompt was answered with yes, but the full prompt takes {full:.0f} tokens, the short {short:.0f}"
            )
    enough = task.targets.get("format_compliance", 0.95)
    if screening.format_or_style and (
        kept := [r.name for r in rungs if r.results.format_compliance.low >= enough]
    ):
        said.append(
            f"format_or_style was answered with yes, but {kept[0]} surely keeps the format without training"
        )
    if screening.one_off and task.volume_per_month >= 1000:
        said.append(
            f"one_off was answered with yes, but task.yaml expects {task.volume_per_month:,} requests a month"
        )
    return said
