"""Chat rows: a conversation to learn from or to be judged by, its calls of tools as text."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

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

BLOCK = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|$)", re.DOTALL)
Calls = Sequence[dict[str, Any]]  # in OpenAI's form


def _is_none(value: Any) -> bool:
    return value is None


class Message(Record):
    """One turn of a chat, in OpenAI's field names.

    What most rows lack is left out where it is not there: files and fingerprints stay as they are.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    # 0: an answer that is shown and never learnt
    weight: Literal[0, 1] | None = Field(None, exclude_if=_is_none)
    # what the model thought before it answered
    reasoning: str | None = Field(None, exclude_if=_is_none)
    # what the assistant may call; on the system turn of a chat that is about to be asked
    tools: list[dict[str, Any]] | None = Field(None, exclude_if=_is_none)


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
    # that the assistant may call
    tools: list[dict[str, Any]] | None = Field(None, exclude_if=_is_none)
    preference: Preference | None = Field(None, exclude_if=_is_none)
    meta: dict[str, Any] = Field(default_factory=dict)

    @property
    def where(self) -> str:
        """Where the row is found: its id, and the line of its file."""
        line = (
            f" ({self.meta['file']}, line {self.meta.get('line')})" if "file" in self.meta else ""
        )
        return f"row {self.id}{line}"

    @property
    def turns(self) -> list[Message]:
        """All that the row holds: its chat, then the answer that is worse than the chat's."""
        worse = self.preference.rejected if self.preference else None
        return [*self.messages, *(worse or ())]

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
        last = self.messages[len(self.prompt) :]
        return with_calls(last[0].content, last[0].tool_calls) if last else ""

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

    # {id, source, file, line, sha256, excerpt}: masked, never the full text
    example: dict[str, Any]
    issues: list[Issue]
    stage: str
    rule_version: str


# --- calls of tools, as a scorer, a person and an answer file see them ----------------------------


class Call(NamedTuple):
    """A function's name and its arguments: an object, or a text that spells none."""

    name: str
    arguments: Any


def call_of(raw: dict[str, Any]) -> Call:
    """A call in OpenAI's form, or as {name, arguments}, or as {name, parameters}."""
    function = raw.get("function", raw)
    function = function if isinstance(function, dict) else {}
    arguments = function.get("arguments", function.get("parameters")) or {}  # none are none
    if isinstance(arguments, str):
        arguments = _json_or_text(arguments)
    return Call(str(function.get("name")), arguments)


def with_calls(content: str | None, calls: Calls | None) -> str:
    """An answer as one text: what it says, then each call as <tool_call>{…}</tool_call>."""
    blocks = [content] if content else []
    for raw in calls or ():
        call = json.dumps(call_of(raw)._asdict(), ensure_ascii=False)
        blocks.append(f"<tool_call>{call}</tool_call>")
    return "\n".join(blocks)


def read_calls(text: str) -> tuple[str, list[dict[str, Any]]]:
    """(what an answer says besides, its calls in OpenAI's form): `with_calls` backwards.

    A text that is nothing but {"name", "arguments"} or {"name", "parameters"}, or a list of such,
    is a call too. A block that spells no call stays in the text.
    """
    calls: list[dict[str, Any]] = []

    def take(match: re.Match[str]) -> str:
        found = _calls_in(match[1], in_block=True)
        calls.extend(found)
        return "" if found else match[0]

    rest = BLOCK.sub(take, text).strip()
    if not calls:
        calls = _calls_in(rest)
        rest = "" if calls else text
    numbered = [raw | {"id": f"call_{number}"} for number, raw in enumerate(calls, 1)]
    return rest, numbered


def same_calls(gold: Calls, answer: Calls) -> bool:
    """Whether the same functions are called with the same arguments, in any order.

    Arguments are equal as JSON is: 1 is 1.0, and neither "1" nor true.
    """
    return sorted(map(_key, gold)) == sorted(map(_key, answer))


def _key(raw: dict[str, Any]) -> str:
    name, arguments = call_of(raw)
    return json.dumps([name, _as_equal(arguments)], sort_keys=True)


def _as_equal(value: Any) -> Any:
    if isinstance(value, str):
        text = unicodedata.normalize("NFC", value)
        is_json = text[:1] in ("{", "[")  # as text inside of the arguments
        spelled = _json_or_text(text) if is_json else text
        return text if isinstance(spelled, str) else _as_equal(spelled)
    if isinstance(value, dict):
        return {unicodedata.normalize("NFC", str(k)): _as_equal(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_as_equal(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _calls_in(text: str, in_block: bool = False) -> list[dict[str, Any]]:
    value = _json_or_text(text)
    calls = []
    for raw in value if isinstance(value, list) else [value]:
        is_call = isinstance(raw, dict) and isinstance(raw.get("name"), str)
        if not is_call or not (in_block or raw.keys() & {"arguments", "parameters"}):
            return []
        name, arguments = call_of(raw)
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        function = {"name": name, "arguments": text}
        calls.append({"type": "function", "function": function})
    return calls


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
