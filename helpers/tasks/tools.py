"""Tools that an assistant may call: their form, and whether a call keeps to it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from helpers.records import Message, call_of
from helpers.tasks.textfiles import RowError

FOREIGN = re.compile(r'"\$(?:dynamicR|r)ef": "(?!#)[^"]*"')
Tools = Sequence[Mapping[str, Any]]  # in OpenAI's form


def check_tools(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tools, each {"type": "function", "function": {"name", "parameters"}}; ValueError."""
    tools = [  # a function alone is put into OpenAI's form
        tool if "function" in tool else {"type": "function", "function": tool} for tool in tools
    ]
    for number, tool in enumerate(tools, 1):
        function = tool["function"]
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise ValueError(
                f'tool {number} is not {{"type": "function", "function": {{"name": …,'
                ' "parameters": <JSON Schema>}}'
            )
        validator_of(_schema_text(function))
    return tools


def check_calls(messages: Sequence[Message], tools: Tools) -> None:
    """RowError where a turn calls what `tools` do not offer, or with arguments that do not fit."""
    for number, message in enumerate(messages):
        reason = calls_reason(message.tool_calls or [], tools)
        if reason:
            raise RowError(f"messages.{number}: tool_calls: {reason}")


def calls_reason(calls: Sequence[dict[str, Any]], tools: Tools) -> str:
    """Why a call cannot be carried out by `tools`; "" when all can."""
    from jsonschema.exceptions import best_match

    offered = {tool["function"]["name"]: tool["function"] for tool in tools}
    for call in calls:
        name, arguments = call_of(call)
        if name not in offered:
            there = ", ".join(offered) or "none; give `tools` in the row or in task.yaml"
            return f"{name[:40]} is no tool that may be called here (there are: {there})"
        if not isinstance(arguments, dict):
            return f"the arguments of {name} are no JSON object"
        error = best_match(validator_of(_schema_text(offered[name])).iter_errors(arguments))
        if error is not None:
            path = ".".join(map(str, error.absolute_path)) or "the arguments"
            return f"{name}: {path} breaks `{error.validator}` of the tool's parameters"
    return ""


def _schema_text(function: Mapping[str, Any]) -> str:
    return json.dumps(function.get("parameters") or {}, sort_keys=True)


@lru_cache(maxsize=256)
def validator_of(schema: str) -> Any:
    """What checks values by a JSON Schema; ValueError where the text is none."""
    from jsonschema import SchemaError
    from jsonschema.validators import validator_for

    foreign = FOREIGN.search(schema)
    if foreign:  # it would be fetched
        raise ValueError(f"{foreign[0]} is no part of this schema (#/$defs/…)")
    value = json.loads(schema)
    if not isinstance(value, dict):
        raise ValueError("a JSON Schema is a mapping")
    try:
        kind = validator_for(value)
        kind.check_schema(value)
    except SchemaError as error:
        raise ValueError(f"this is no JSON Schema ({error.message[:100]})") from None
    return kind(value)
