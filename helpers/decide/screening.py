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
POOR_USES = {  # why not, and what to do instead
    "new_knowledge": ("facts are missing, and they belong where they can be looked up", "write articles for rag to find"),
    "one_off": ("tuning and its upkeep pay only when the task comes back", "do it once with the best prompt"),
    "changing_requirements": ("every change would be a new training run", "keep the rules in the prompt for now"),
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
    def poor(self) -> list[tuple[str, str]]:
        """(reason against it, what to do instead); one is enough."""
        return [pair for name, pair in POOR_USES.items() if getattr(self, name)]


def screen(task: Task, **answers: bool) -> Screening:
    """The questionnaire's answers; `screening:` in task.yaml, where given, knows the task better than a default does."""
    stated = {k: v for k, v in task.screening.items() if k in Screening.model_fields}
    warnings = []
    for name, value in stated.items():
        if not isinstance(value, bool):
            raise WorkbookError(f"{task.folder}/task.yaml: screening.{name} should be true or false, not {value!r}")
        if answers.get(name, value) != value:
            warnings.append(f"{name} is {value} in task.yaml and {answers[name]} by parameter; task.yaml holds")
    return Screening(**(answers | stated), warnings=warnings)
