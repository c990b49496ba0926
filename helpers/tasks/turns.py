"""The turns of any system as Messages, and which values of cells are turns.

Each problem of a turn is a RowError that names its place.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from pydantic import ValidationError

from helpers import store
from helpers.records import Message
from helpers.tasks.textfiles import Row, RowError
from helpers.tasks.values import as_text, spelled, value_at

# values of keys that gateways log empty (refusal, annotations, audio)
EMPTY: tuple[Any, ...] = (None, "", [], {})
ROLES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "ai": "assistant",
    "model": "assistant",
}
# what other systems call our fields; where both are there, the other one is an unknown key
ALIASES = {
    "from": "role",
    "type": "role",
    "value": "content",
    "parts": "content",
    "reasoning_content": "reasoning",
    "thinking": "reasoning",
}
NO_TEXT = "a question or an answer that is no text is its JSON"
THOUGHT = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)
SYSTEM = ("system", "developer")
SPEAKERS = (*SYSTEM, "user", "assistant", "tool", *ROLES)
TURN_READ = "a message in a column is read as what it says"
# what a request or a response holds beside its messages
_BESIDE = (
    "model id object created usage system_fingerprint service_tier user metadata store n stop seed"
    " stream stream_options temperature top_p top_k min_p max_tokens max_completion_tokens"
    " frequency_penalty presence_penalty logit_bias logprobs top_logprobs response_format"
    " tool_choice parallel_tool_calls reasoning_effort stop_sequences"
)
ENVELOPE = {*_BESIDE.split(), "messages", "choices", "system", "tools"}
_SAYS = frozenset(("content", "value", "parts", "tool_calls"))


def messages_of(turns: Any, place: str, changes: Counter[str]) -> list[Message]:
    """The turns as Messages; what was reinterpreted is counted in `changes`."""
    if not isinstance(turns, list) or not turns:
        raise RowError(f"`{place}` is no list of turns")
    messages = []
    for number, turn in enumerate(turns):
        if not isinstance(turn, dict):
            raise RowError(f"{place}.{number}: not an object")
        try:
            messages.append(Message(**_fields(turn, changes)))
        except (RowError, ValidationError) as error:
            reason = error if isinstance(error, RowError) else _problem(error)
            raise RowError(f"{place}.{number}: {reason}") from None
    return messages


def _problem(error: ValidationError) -> str:
    """The first thing that is wrong with a turn, and the remedy."""
    problem = error.errors()[0]
    key = ".".join(map(str, problem["loc"]))
    if key == "role":
        return f"role ({store.outline(problem['input'])}) is none of {', '.join(SPEAKERS)}"
    if problem["type"] != "extra_forbidden":
        return f"{key}: {problem['msg']}"
    remedy = "write tool_calls" if key == "function_call" else "delete that key"
    return f"{key}: is nothing that a message may hold here; {remedy}"


def _fields(turn: Row, changes: Counter[str]) -> Row:
    """What a Message is made of."""
    fields = {k: v for k, v in turn.items() if v not in EMPTY or (k == "content" and v == "")}
    for alias, name in ALIASES.items():
        if alias in fields and name not in fields:
            fields[name] = fields.pop(alias)
    role = fields.get("role")
    fields["role"] = ROLES.get(str(role), role)
    if "content" in fields:
        fields |= _content(fields["content"], changes)
    weight = fields.get("weight")
    if weight is not None:
        if fields["role"] != "assistant" or isinstance(weight, bool) or weight not in (0, 1):
            raise RowError("weight must be 0 or 1, on assistant messages only")
        fields["weight"] = int(weight)
    return fields


def _content(content: Any, changes: Counter[str]) -> dict[str, str]:
    """The text of a content, and the thoughts among its parts."""
    if isinstance(content, str):
        return {"content": content}
    if not isinstance(content, list):
        changes[NO_TEXT] += 1
        return {"content": as_text(content)}
    texts = []
    thoughts = []
    for part in content:
        part = part if isinstance(part, dict) else {"text": part}
        kind = part.get("type", "text" if "text" in part else ", ".join(part))
        if kind == "thinking" or part.get("thought") is True:  # as Anthropic and Gemini have it
            thoughts.append(str(part.get("thinking", part.get("text", ""))))
        elif kind in ("text", "input_text", "output_text") and isinstance(part.get("text"), str):
            texts.append(part["text"])
            unused = part.keys() - {"type", "text"}
            changes.update(f"`{key}` of a content part is not used" for key in unused if part[key])
        else:
            raise RowError(
                f"content: a part of type {str(kind)[:30]!r} cannot be used here: models are"
                " asked in text; leave that row out, or put its text in place of it"
            )
    thought = {"reasoning": "\n".join(thoughts)} if thoughts else {}
    return {"content": "\n".join(texts), **thought}


def with_thought(message: Message, changes: Counter[str]) -> Message:
    """An answer whose text begins with `<think> … </think>`: that is its reasoning."""
    thought = THOUGHT.match(message.content or "") if message.role == "assistant" else None
    if not thought or message.reasoning:
        return message
    changes["<think> … </think> of the answer is its reasoning"] += 1
    return message.model_copy(
        update={
            "reasoning": thought[1].strip() or None,
            "content": message.content[thought.end() :],
        }
    )


def answer_in(value: Any, changes: Counter[str]) -> Any:
    """What the last turn says where a value holds turns, else the value."""
    turns = turns_in(value, "assistant", changes)
    if not turns or not _is_turn(turns[-1]):
        return value
    return _content(turns[-1]["content"], changes)["content"]


def turns_in(value: Any, role: str, changes: Counter[str]) -> list[Any]:
    """The turns that a value, or its text, holds: a chat, a request's, a response's, one of `role`.

    [] where it is anything else, such as an object that has a field of these names.
    """
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        value = spelled(value)
    if not isinstance(value, dict):
        return list(value) if _are_turns(value) else []
    turns = _unwrapped(value, changes)
    if _is_turn(value) and ROLES.get(value["role"], value["role"]) == role:
        turns = [value]
    if turns:
        changes[TURN_READ] += 1
    return turns


def _unwrapped(value: Row, changes: Counter[str]) -> list[Any]:
    """The turns of an object that is a request or a response, and nothing else."""
    message = value_at(value, "choices.0.message")
    turns = [message] if message else value.get("messages")
    if not _are_turns(turns) or not value.keys() <= ENVELOPE:
        return []
    if value.get("system") and turns[0].get("role") not in SYSTEM:
        turns = [{"role": "system", "content": value["system"]}, *turns]
    if value.get("tools"):
        turns = [*turns[:-1], turns[-1] | {"tools": value["tools"]}]
    unused = [key for key in (*_BESIDE.split(), "choices.1") if value_at(value, key)]
    changes.update(f"`{key}` beside a request's messages is not used" for key in unused)
    return list(turns)


def _are_turns(value: Any) -> bool:
    """Whether a cell's value is a chat: all say something, and one of them as who we know.

    Another speaker among them is an error then, which messages_of names.
    """
    return (
        is_chat(value)
        and any(str(turn.get("role", turn.get("from"))) in SPEAKERS for turn in value)
        and not any(_SAYS.isdisjoint(turn) for turn in value)
    )


def _is_turn(value: Any) -> bool:
    """Whether a value is a turn, and not an object that has fields of these names."""
    return (
        isinstance(value, dict)
        and value.keys() >= {"role", "content"}
        and str(value["role"]) in SPEAKERS
    )


def is_chat(value: Any) -> bool:
    """Whether a value is a list of turns."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, dict) and ("role" in turn or "from" in turn) for turn in value)
    )


def as_turns(value: Any, role: str, changes: Counter[str]) -> list[Any]:
    """A value as turns: those that it holds, or one of this role that says it."""
    if value is None:
        return []
    turns = turns_in(value, role, changes)
    if not (turns or isinstance(value, str)):
        changes[NO_TEXT] += 1
    return turns or [{"role": role, "content": as_text(value)}]
