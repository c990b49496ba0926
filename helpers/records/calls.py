"""Tool calls as text and back: what a scorer, a person and an answer file see of them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

BLOCK = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|$)", re.DOTALL)
Calls = Sequence[dict[str, Any]]  # in OpenAI's form


class Call(NamedTuple):
    """A function's name and its arguments: an object, or a text that spells none."""

    name: str
    arguments: Any


def call_of(raw: dict[str, Any]) -> Call:
    """A call in OpenAI's form, or as {name, arguments}, or as {name, parameters}."""
    function = raw.get("function", raw)
    if not isinstance(function, dict):
        function = {}
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
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _as_equal(each) for key, each in value.items()}
    if isinstance(value, str) and value[:1] in ("{", "["):  # JSON as text inside of the arguments
        spelled = _json_or_text(value)
        return value if isinstance(spelled, str) else _as_equal(spelled)
    return [_as_equal(each) for each in value] if isinstance(value, list) else value


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
