"""Chat rows: one conversation to learn from or to be judged by, and why a row was left out."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field, model_serializer

from helpers.records.base import Record
from helpers.records.calls import with_calls

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


def _without(fields: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    for name in names:
        if fields.get(name) is None:
            fields.pop(name, None)
    return fields


class Message(Record):
    """One turn of a chat, in OpenAI's field names."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    weight: Literal[0, 1] | None = None  # 0: an answer that is shown and never learnt
    reasoning: str | None = None  # what the model thought before it answered
    # what the assistant may call; on the system turn of a chat that is about to be asked
    tools: list[dict[str, Any]] | None = None

    @model_serializer(mode="wrap")
    def _without_nothing(self, handler: Any) -> dict[str, Any]:
        """What most rows lack is left out: their files and fingerprints stay as they are."""
        return _without(handler(self), ("weight", "reasoning", "tools"))


class Preference(Record):
    """What somebody thinks of the answer: liked or not, and the answer that is worse than it."""

    label: bool | None = None
    rejected: list[Message] | None = None


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
    tools: list[dict[str, Any]] | None = None  # that the assistant may call
    preference: Preference | None = None
    meta: dict[str, Any] = Field(default_factory=dict)

    @model_serializer(mode="wrap")
    def _without_nothing(self, handler: Any) -> dict[str, Any]:
        return _without(handler(self), ("tools", "preference"))

    @property
    def where(self) -> str:
        """Where the row is found: its id, and the line of its file."""
        line = (
            f" ({self.meta['file']}, line {self.meta.get('line')})" if "file" in self.meta else ""
        )
        return f"row {self.id}{line}"

    @property
    def user_text(self) -> str:
        """The user's turns, joined: what duplicates and leaks are judged by."""
        return "\n".join(m.content or "" for m in self.messages if m.role == "user")

    @property
    def context(self) -> str:
        """What the row's own system and tool turns say: part of the question, not of its words."""
        turns = [m for m in self.prompt if m.role in ("system", "developer", "tool")]
        return "\n".join(m.content or "" for m in turns)

    @property
    def answer(self) -> str:
        """The last assistant turn's text, then what it calls ("" when there is none)."""
        last = self.messages[-1] if self.messages else None
        if last is None or last.role != "assistant":
            return ""
        return with_calls(last.content, last.tool_calls)

    @property
    def calls(self) -> list[dict[str, Any]]:
        """What the answer calls, in OpenAI's form."""
        return (self.messages[-1].tool_calls or []) if self.messages else []

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
