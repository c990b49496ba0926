"""The strategy's two columns, good and poor uses of fine-tuning, as a questionnaire with reasons."""

from __future__ import annotations

from pydantic import Field

from helpers.records import Record, WorkbookError
from helpers.tasks import Task

GOOD_USES = {
    "format_or_style": "the answers need one fixed format or style, which a model learns well from examples",
    "domain_terms": "the task has its own terms and codes, which a long prompt explains badly",
    "shorter_prompt": "a tuned model needs a shorter prompt, which makes every request cheaper and faster",
}
POOR_USES = {
    "new_knowledge": "the model lacks facts; tuning teaches form, and facts belong where they can be looked up (rag)",
    "one_off": "the task is done once; tuning and its upkeep pay only when it comes back",
    "changing_requirements": "the requirements change often, and every change would be a new training run",
}
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
    def good(self) -> list[str]:
        """Reasons for fine-tuning."""
        return [reason for name, reason in GOOD_USES.items() if getattr(self, name)]

    @property
    def poor(self) -> list[str]:
        """Reasons against it; one is enough."""
        return [reason for name, reason in POOR_USES.items() if getattr(self, name)]

    @property
    def allows_fine_tuning(self) -> bool:
        """At least one good use and no poor one: the rest is for measurements to say."""
        return bool(self.good) and not self.poor


def screen(task: Task, **answers: bool) -> Screening:
    """The questionnaire's answers; `screening:` in task.yaml, where given, knows the task better than a default does."""
    known = set(GOOD_USES) | set(POOR_USES) | {"own_architecture"}
    stated = {k: v for k, v in task.screening.items() if k in known}
    for name, value in stated.items():
        if not isinstance(value, bool):
            raise WorkbookError(f"{task.folder}/task.yaml: screening.{name} should be true or false, not {value!r}")
    warnings = [
        f"task.yaml answers {name} with {value} and the parameter with {answers[name]}; task.yaml holds"
        for name, value in stated.items()
        if name in answers and answers[name] != value
    ]
    return Screening(**(answers | stated), warnings=warnings)
