"""Turns of any system as Messages; each problem is a RowError that names its place."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from pydantic import ValidationError

from helpers.records import Message
from helpers.tasks.textfiles import RowError
from helpers.tasks.values import as_text, spelled_list

# values of keys that gateways log empty (refusal, annotations, audio)
_EMPTY: tuple[Any, ...] = (None, "", [], {})
TEXT_PARTS = ("text", "input_text", "output_text")
ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "chatgpt": "assistant"}
# what other systems call our fields; where both are there, the other one is an unknown key
ALIASES = {"from": "role", "value": "content", "reasoning_content": "reasoning"}
ALIASES["thinking"] = "reasoning"
NO_TEXT = "a question or an answer that is no text is its JSON"
THOUGHT = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)


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
        except RowError as error:
            raise RowError(f"{place}.{number}: {error}") from None
        except ValidationError as error:
            raise RowError(f"{place}.{number}: {_problem(error)}") from None
    return messages


def _problem(error: ValidationError) -> str:
    """The first thing that is wrong with a turn, and the remedy."""
    problem = error.errors()[0]
    key = ".".join(map(str, problem["loc"]))
    if problem["type"] != "extra_forbidden":
        return f"{key}: {problem['msg']}"
    remedy = "write tool_calls" if key == "function_call" else "delete that key"
    return f"{key}: is nothing that a message may hold here; {remedy}"


def _fields(turn: dict[str, Any], changes: Counter[str]) -> dict[str, Any]:
    """What a Message is made of."""
    fields = {k: v for k, v in turn.items() if v not in _EMPTY or (k == "content" and v == "")}
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
    thoughts = {}
    for part in content:
        part = {"type": "text", "text": part} if isinstance(part, str) else part
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "thinking":
            thoughts["reasoning"] = str(part.get("thinking", ""))
        elif kind in TEXT_PARTS and isinstance(part.get("text"), str):
            texts.append(part["text"])
            unused = [key for key in part if key not in ("type", "text") and part[key]]
            changes.update(f"`{key}` of a content part is not used" for key in unused)
        else:
            raise RowError(
                f"content: a part of type {str(kind)[:30]!r} cannot be used here: models are"
                " asked in text; leave that row out, or put its text in place of it"
            )
    return {"content": "\n".join(texts), **thoughts}


def with_thought(message: Message, changes: Counter[str]) -> Message:
    """An answer whose text begins with `<think> … </think>`: that is its reasoning."""
    thought = THOUGHT.match(message.content or "") if message.role == "assistant" else None
    if not thought or message.reasoning:
        return message
    changes["<think> … </think> of the answer is its reasoning"] += 1
    content = message.content[thought.end() :]
    return message.model_copy(update={"reasoning": thought[1].strip() or None, "content": content})


def is_chat(value: Any) -> bool:
    """Whether a value is a list of turns."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, dict) and ("role" in turn or "from" in turn) for turn in value)
    )


def as_turns(value: Any, role: str, changes: Counter[str]) -> list[Any]:
    """A value as turns: a chat (also as the text of one), or one turn that says it."""
    if isinstance(value, str) and value.lstrip()[:2] in ("[{", "[ "):
        value = spelled_list(value) or value
    if is_chat(value):
        return list(value)
    if value is None:
        return []
    if not isinstance(value, str):
        changes[NO_TEXT] += 1
    return [{"role": role, "content": as_text(value)}]
