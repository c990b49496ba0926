"""decision.json: should we fine-tune, what was measured, what it costs, who looks after it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from helpers.records.asking import Asking, asking_of_0_1
from helpers.records.base import Artifact, Record, WorkbookError
from helpers.records.findings import EvalResults, MetricComparison

Recommendation = Literal["classical", "prompting", "rag", "fine_tuning", "custom_model", "not_yet"]
Trainer = Literal["lora", "openai"]
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


class RungResult(Record):
    """What one way of asking one model scored on one part; `answers` holds what it rests on."""

    name: str
    model: str
    part: str
    n: int
    results: EvalResults
    tokens_per_request: float  # mean of prompt and answer together
    answers: str  # the file of AnswerRows, in the run's folder
    asking: Asking
    alpha: float = 0.025  # what a bound may miss at this look; less where more looks were possible


class RungComparison(Record):
    """One rung minus another on the same validation rows; a metric that was not scored is None."""

    rung: str
    against: str
    accuracy: MetricComparison | None = None
    format_compliance: MetricComparison | None = None


class Way(Record):
    """What one way costs: a request, the work before and after, the time until it stands."""

    cost_per_request: float
    one_off_usd: float
    monthly_usd: float
    elapsed: str

    @property
    def upkeep(self) -> float:
        """USD a month without requests: the one-off work is spread over a year."""
        return self.one_off_usd / 12 + self.monthly_usd


class Economics(Record):
    """What each way costs over the volume of requests, and from where tuning is the cheaper one."""

    model_config = ConfigDict(frozen=True, extra="ignore")  # older files have custom_model

    break_even_requests_per_month: int | None
    break_even_against: dict[str, int | None]
    ways: dict[str, Way]
    predicted_tuned_cost_per_request: float | None
    one_off_usd: float
    monthly_usd: float
    training_usd: float
    hours: dict[str, float]
    volume_per_month: int
    prices_as_of: str | None


class Power(Record):
    """What the test part can show: the smallest difference, and the rows that each target needs."""

    n: int
    detectable_difference: float
    rows_needed: dict[str, int]


class Plan(Record):
    """Who looks after what was chosen, how often, how long that takes, and when to decide anew."""

    owner: str
    cadence: str
    review_on: str
    hours_per_month: float
    time_to_build: str


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
    def poor(self) -> list[tuple[str, str]]:
        """(reason against it, what to do instead); one is enough."""
        return [pair for name, pair in POOR_USES.items() if getattr(self, name)]


class Decision(Artifact):
    """decision.json."""

    FILE: ClassVar[str] = "decision.json"
    WRITTEN_BY: ClassVar[str] = "01_decide"

    recommendation: Recommendation
    status: Literal["predicted", "measured"]
    targets_met: bool
    trainer: Trainer
    reasons: list[str]
    warnings: list[str]
    next_action: str
    rungs: list[RungResult]
    best_rung: str  # what 04 compares the tuned model with
    comparisons: list[RungComparison]
    economics: Economics
    power: Power
    plan: Plan
    screening: Screening
    train_anyway_because: str
    reused_from: str = ""  # the run that made this decision, when it was taken over
    decided_at: datetime | None = None  # of the first decision, when it was taken over
    limits: list[str] = Field(default_factory=list)  # what a limit cut or left out, in words

    def asking(self, rung: str) -> Asking:
        """How this decision asked a rung."""
        for result in self.rungs:
            if result.name == rung:
                return result.asking
        asked = ", ".join(result.name for result in self.rungs)
        raise WorkbookError(f"decision.json asked {asked}, not {rung}; run 01_decide again")

    @classmethod
    def upgrade(cls, old: dict[str, Any], params: dict[str, Any] | None) -> dict[str, Any]:
        """0.1.0 kept how it asked beside the rungs, and without what came from parameters."""
        chosen = old.pop("asking", {})
        old["rungs"] = [
            rung | {"asking": asking_of_0_1(rung["name"], rung["model"], chosen, params, cls.FILE)}
            for rung in old["rungs"]
        ]
        return old


class AnswerRow(Record):
    """One line of answers/<rung>.jsonl."""

    id: str
    group: str
    answer: str
    scores: dict[str, float]
    format_reason: str | None = None
    latency_ms: float
    tokens_in: int
    tokens_out: int
    confidence: float | None = None  # how probable the model held this whole answer; null: unknown
    error: str | None = Field(None)
