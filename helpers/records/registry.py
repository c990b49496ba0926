"""A version's way: model.json, the registry's rows, parity, promotion, trial."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Literal

from pydantic import Field

from helpers.records.asking import Asking, asking_of_0_1
from helpers.records.base import Artifact, Record
from helpers.records.findings import Estimate, EvalResults, Finding, Verdict

Status = Literal["training", "evaluating", "staging", "production", "deprecated"]
Target = Literal["none", "staging", "production"]


class TrainedModel(Artifact):
    """model.json: what was trained, from what, at which cost, and how it is to be asked.

    Seconds and USD are of the whole training process.
    """

    FILE: ClassVar[str] = "model.json"
    WRITTEN_BY: ClassVar[str] = "03a_train_lora (or 03b_train_openai)"

    model_id: str
    version: str
    provider: str
    base_model: str
    base_url: str = ""
    adapter: str | None = None  # relative to the home
    dataset_version: str
    asking: Asking  # how the tuned model is asked wherever it is asked
    fingerprints: dict[str, str]
    hyperparameters: dict[str, Any]
    tokens: int
    seconds: float
    cost_usd: float
    losses: dict[str, Any]
    details: dict[str, Any] = Field(default_factory=dict)
    limits: list[str] = Field(default_factory=list)  # what a limit cut or left out, in words

    @classmethod
    def upgrade(cls, old: dict[str, Any], params: dict[str, Any] | None) -> dict[str, Any]:
        """0.1.0 wrote the prompt's style alone; how long answers may get was 04's parameter."""
        style = old.pop("prompt_style")
        asking = asking_of_0_1("fine_tuned", old["version"], {}, params, cls.FILE)
        return old | {"asking": asking | {"style": style}}


class FineTunedModelVersion(Record):
    """One row of the registry. Immutable but for its status."""

    id: str
    task: str
    run_id: str
    model_id: str
    base_model: str
    trained_at: datetime
    dataset_version: str | None = None
    eval_results: EvalResults | None = None
    status: Status
    metadata: dict[str, Any] = Field(default_factory=dict)


class Route(Record):
    """Which version serves a task; generation counts the changes, 0: nothing was promoted."""

    task: str
    version: str | None = None  # None: nothing serves
    previous: str | None = None  # what a rollback goes back to
    generation: int = 0
    since: str = ""


class Promotion(Artifact):
    """promotion.json: what was asked, what the gate said, what happened."""

    FILE: ClassVar[str] = "promotion.json"
    WRITTEN_BY: ClassVar[str] = "05_registry"

    version: str
    target: Target
    verdict: Verdict
    promoted: bool
    rules: list[Finding]
    reasons: list[str] = Field(default_factory=list)
    previous: str | None = None  # the version that served before this one
    generation: int = 0
    forced: bool = False


class Parity(Artifact):
    """parity.json: does the engine that serves a version answer as the trained model does?

    Latencies in ms, of requests asked one by one through the engine."""

    FILE: ClassVar[str] = "parity.json"
    WRITTEN_BY: ClassVar[str] = "`workbook serve --check`"

    version: str
    engine: str  # local, llamacpp, or the base_url of a server
    artifact_sha256: str  # of the files that were checked
    checked_at: datetime
    n: int  # validation rows that were asked
    equal: int  # of them: the same answer, character for character
    findings: list[Finding]  # parity, and each known cause of a difference
    latency_p50: Estimate
    latency_p95: Estimate


class Trial(Record):
    """What is tried, on how many requests, and the rule by which it ends: written down before."""

    kind: Literal["shadow", "canary"]
    task: str  # as it is registered
    version: str  # the candidate
    against: str  # the version in production when it began; another one ends the trial
    share: float = Field(gt=0, le=1)  # of the requests
    started_at: datetime
    # how often a promotion may be wrong: this attempt's share of the year's 5%
    alpha: float = 0.025
    harm_alpha: float = 0.05  # how often a rollback may be wrong
    # what the candidate may lose, by metric: less is asked for before a promotion
    margins: dict[str, float] = Field(default_factory=dict)
    # and more than this, surely lost, ends the trial
    harm_margins: dict[str, float] = Field(default_factory=dict)
    max_requests: int = Field(2000, ge=1)  # answered by the candidate: then it ends undecided
    promote: bool = False  # ask the gate for production when it surely holds its margins
