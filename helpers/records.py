"""The frozen records that notebooks hand to each other, and the one error type they raise."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Part = Literal["train", "validation", "test"]
Source = Literal["human", "synthetic", "production"]
Quality = Literal["verified", "unverified"]
Status = Literal["training", "evaluating", "staging", "production", "deprecated"]
Verdict = Literal["pass", "fail", "inconclusive"]

NO_MEMORY = r"out of memory|can(no|')t allocate memory|bad_alloc|could not create a (primitive|memory)"  # torch's, oneDNN's
PARTS: tuple[Part, ...] = ("train", "validation", "test")

ISSUE_CODES = (
    "invalid_format",
    "invalid_length",
    "contains_pii",
    "contains_secret",
    "low_feedback",
    "out_of_date_range",
    "potential_leakage",
    "exact_duplicate",
    "near_duplicate",
)


class WorkbookError(Exception):
    """A problem the reader can fix; the message says how.

    `exit_code` is what `workbook run` ends with (2 = bad parameters, task, data or spending limit).
    A kernel can hand its parent only text, so a code other than 2 is part of the message.
    """

    def __init__(self, message: str, exit_code: int = 2) -> None:
        self.exit_code = exit_code
        super().__init__(message if exit_code == 2 else f"{message} [exit {exit_code}]")


class Record(BaseModel):
    """Base of all records: immutable, and unknown fields are errors rather than typos that pass."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Message(Record):
    """One turn of a chat, in OpenAI's field names."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    name: str | None = None


class TrainingExample(Record):
    """One conversation whose last assistant turn is the answer to learn, or to be judged by."""

    id: str
    messages: list[Message]
    source: Source
    quality: Quality
    created_at: datetime
    group: str  # conversation, parent or text: never divided between parts
    part: Part | None = None
    parent_id: str | None = None
    feedback_score: float | None = None
    meta: dict[str, Any] = Field(default_factory=dict)

    @property
    def user_text(self) -> str:
        """The user's turns, joined: what duplicates and leaks are judged by."""
        return "\n".join(m.content or "" for m in self.messages if m.role == "user")

    @property
    def answer(self) -> str:
        """The last assistant turn's text ("" when there is none)."""
        last = self.messages[-1] if self.messages else None
        return (last.content or "") if last is not None and last.role == "assistant" else ""

    @property
    def prompt(self) -> list[Message]:
        """Everything before the answer."""
        has_answer = bool(self.messages) and self.messages[-1].role == "assistant"
        return self.messages[:-1] if has_answer else list(self.messages)


class DatasetMetadata(Record):
    """Where a dataset version came from; the same facts as its manifest.json."""

    version: str
    task: str
    created_at: datetime
    fingerprint: str
    params: dict[str, Any]


class Splits(Record):
    """Rows per part."""

    train: int
    validation: int
    test: int


class FineTuningDataset(Record):
    """All kept examples of one immutable version, each with its part."""

    examples: list[TrainingExample]
    metadata: DatasetMetadata
    splits: Splits

    def part(self, name: Part) -> list[TrainingExample]:
        """The examples of one part, in file order."""
        return [e for e in self.examples if e.part == name]


class Issue(Record):
    """Why a row was rejected: a code of ISSUE_CODES and what was seen (already masked)."""

    code: str
    evidence: str
    matched_id: str | None = None
    score: float | None = None


class RejectedExample(Record):
    """A row that was left out, with everything needed to judge that decision later."""

    example: dict[str, Any]  # {id, source, file, line, sha256, excerpt}: masked, never the full text
    issues: list[Issue]
    stage: str
    rule_version: str


class Estimate(Record):
    """A number with its 95% interval and the number of rows behind it."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] n={self.n}"


class EvalResults(Record):
    """What one rung scored on one part. Latencies in ms, cost in USD per request."""

    accuracy: Estimate
    format_compliance: Estimate
    latency_p50: Estimate
    latency_p95: Estimate
    cost_per_request: Estimate
    quality_scores: dict[str, Estimate] = Field(default_factory=dict)


class MetricComparison(Record):
    """Tuned minus other on the same rows, for one metric."""

    difference: Estimate
    method: str
    gained: int  # rows right only with the tuned model
    lost: int
    margin: float
    verdict: Verdict


class FineTuneEvaluation(Record):
    """The base and the tuned model on the same test rows."""

    base_model: EvalResults
    fine_tuned_model: EvalResults
    comparison: dict[str, MetricComparison]


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
