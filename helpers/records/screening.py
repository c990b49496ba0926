"""The questionnaire of 01: good and poor uses of fine-tuning, with what each answer means."""

from __future__ import annotations

from pydantic import Field

from helpers.records.base import Record

GOOD_USES = {
    "format_or_style": (
        "the answers need one fixed format or style, which a model learns well from examples"
    ),
    "domain_terms": "the task has its own terms and codes, which a long prompt explains badly",
    "shorter_prompt": (
        "a tuned model needs a shorter prompt, which makes every request cheaper and faster"
    ),
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
WEIGHTS = {  # by how often tuning is bought for it
    "format_or_style": 3,
    "domain_terms": 2,
    "shorter_prompt": 1,
}


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
        named = [name for name in GOOD_USES if getattr(self, name)]
        return [(GOOD_USES[name], WEIGHTS[name]) for name in named]

    @property
    def good(self) -> list[str]:
        """Reasons for fine-tuning."""
        return [reason for reason, _ in self.weighed]

    @property
    def poor(self) -> list[tuple[str, str]]:
        """(reason against it, what to do instead); one is enough."""
        return [pair for name, pair in POOR_USES.items() if getattr(self, name)]
