"""Chat rows: one conversation to learn from or to be judged by, and why a row was left out."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from helpers.records.base import Record

Part = Literal["train", "validation", "test"]
Source = Literal["human", "synthetic", "production"]
Quality = Literal["verified", "unverified"]

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


class Issue(Record):
    """Why a row was rejected: a code of ISSUE_CODES and what was seen (already masked)."""

    code: str
    evidence: str
    matched_id: str | None = None
    score: float | None = None


class RejectedExample(Record):
    """A row that was left out, with everything needed to judge that decision later."""

    example: dict[
        str, Any
    ]  # {id, source, file, line, sha256, excerpt}: masked, never the full text
    issues: list[Issue]
    stage: str
    rule_version: str
