"""What a raw row says: its chat in any accepted form, and the columns that task.yaml names."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from helpers import store
from helpers.records import Message, Part, Preference
from helpers.tasks.csvs import RowError
from helpers.tasks.moments import DayOrder, moment_of
from helpers.tasks.scales import WORDS, Scale
from helpers.tasks.task import Task

# values of keys that gateways log empty (refusal, annotations, audio)
_EMPTY: tuple[Any, ...] = (None, "", [], {})
TEXT_PARTS = ("text", "input_text", "output_text")
ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "chatgpt": "assistant"}
REASONING = ("reasoning", "reasoning_content", "thinking")
THOUGHT = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)
SPLITS: dict[str, Part] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "holdout": "test",
}


@dataclass
class HowRead:
    """How the rows of one file are read: judged before, and counted while they are."""

    task: Task
    path: Path
    format: str = "columns"
    scale: Scale = field(default_factory=lambda: Scale("no ratings", {}, {}))
    day_order: DayOrder = ""
    changes: Counter[str] = field(default_factory=Counter)  # what was reinterpreted: rows
    unused: Counter[str] = field(default_factory=Counter)  # columns that nothing reads


def cell(task: Task, raw: Mapping[str, Any], name: str) -> Any:
    """A row's value of one of our columns (None where it is empty).

    Its name in task.yaml may be a path such as `response.choices.0.message.content`, which reaches
    into nested logs; a column of that very name goes first. `null` there means: not this column.
    """
    key = task.columns.get(name, name)
    if not isinstance(key, str):
        return None
    value = raw.get(key)
    if value is None and "." in key:
        value = _at_path(raw, key)
    if value is None or value == "" or value != value:  # NaN is not equal to itself
        return None
    return value


def _at_path(value: Any, path: str) -> Any:
    for step in path.split("."):
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def gold_answer(how: HowRead, raw: Mapping[str, Any]) -> Any:
    """The answer of a row: one column, or an object of several (`output: {property: column}`)."""
    columns = how.task.columns.get("output")
    if not isinstance(columns, dict):
        return cell(how.task, raw, "output")
    properties = (how.task.schema or {}).get("properties", {})
    answer = {}
    for name, column in columns.items():
        value = raw.get(column)
        if value not in (None, "") and value == value:
            answer[name] = as_typed(value, properties.get(name))
    return answer or None


def as_typed(value: Any, schema: Any) -> Any:
    """A table's cell as the type that the property of an answer has, where it spells one."""
    if not isinstance(value, str) or not isinstance(schema, dict):
        return value
    kind = schema.get("type")
    text = value.strip()
    if kind == "boolean" and text.casefold() in ("true", "false"):
        return text.casefold() == "true"
    try:
        if kind == "integer":
            return int(text)
        if kind == "number":
            return float(text)
        if kind in ("object", "array"):
            return json.loads(text)
    except (ValueError, RecursionError):
        return value  # the schema says what is wrong with it
    return value


def created_at(how: HowRead, raw: Mapping[str, Any], default: datetime) -> tuple[datetime, bool]:
    """The row's time with a zone (UTC when it names none), and whether it is the default."""
    value = cell(how.task, raw, "created_at")
    if value is None:
        return default, True
    try:
        return moment_of(value, how.day_order), False
    except (ValueError, OverflowError):
        raise RowError(f"created_at is no time: {store.outline(value)}") from None


def file_date(path: Path) -> datetime:
    """What stands for the time of a row that has none."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).replace(microsecond=0)


def feedback_score(how: HowRead, raw: Mapping[str, Any]) -> float | None:
    """1-5 by the scale of the whole column; None when the row was not rated."""
    value = cell(how.task, raw, "feedback_score")
    if value is None:
        return None
    try:
        return how.scale.score(value)
    except (ValueError, TypeError):
        raise RowError(
            f"feedback_score is not known ({store.outline(value)}), the column reads as"
            f" {how.scale.name}; map it in task.yaml under columns.feedback"
        ) from None


def preference_of(how: HowRead, raw: Mapping[str, Any]) -> Preference | None:
    """Whether the answer is liked (`label`), and the one that is worse (`rejected`)."""
    label = rejected = None
    if how.format in ("kto", "prompt_completion", "chat") and (
        how.format == "kto" or "label" in how.task.columns
    ):
        value = cell(how.task, raw, "label")
        score = WORDS.get(str(value).strip().casefold())
        if isinstance(value, int | float) and not isinstance(value, bool):
            score = {1: 5.0, 0: 1.0, -1: 1.0}.get(value)
        if value is not None and score is None:
            shown = store.outline(value)
            raise RowError(f"label is neither good nor bad ({shown}); write true or false")
        label = None if score is None else score > 3
    if how.format == "preference":
        turns = as_turns(raw.get("rejected"), "assistant")
        rejected = messages_of(how, turns[-1:], "rejected") if turns else None
    if label is None and rejected is None:
        return None
    return Preference(label=label, rejected=rejected)


# --- the chat -------------------------------------------------------------------------------------


def chat_of(how: HowRead, raw: Mapping[str, Any]) -> list[Message]:
    """The messages of a row in the form of its file; RowError says what is wrong with it."""
    turns = BUILDERS[how.format](how, raw)
    if not isinstance(turns, list) or not turns:
        raise RowError("`messages` must be a non-empty list")
    messages = messages_of(how, turns, "messages")
    last = messages[-1]
    if last.weight == 0:
        raise RowError("the last answer has weight 0: there is nothing to learn")
    thought = THOUGHT.match(last.content or "") if last.role == "assistant" else None
    if thought and not last.reasoning:
        how.changes["<think> … </think> of the answer is its reasoning"] += 1
        parts = {"reasoning": thought[1].strip() or None, "content": last.content[thought.end() :]}
        messages[-1] = last.model_copy(update=parts)
    return messages


def messages_of(how: HowRead, turns: list[Any], place: str) -> list[Message]:
    """The turns as Messages, each problem named by its place."""
    messages = []
    for number, turn in enumerate(turns):
        if not isinstance(turn, dict):
            raise RowError(f"{place}: {number}: not an object")
        try:
            messages.append(Message(**_fields(how, turn)))
        except ValidationError as error:
            problem = error.errors()[0]
            key = ".".join(map(str, problem["loc"]))
            what = problem["msg"]
            if problem["type"] == "extra_forbidden":
                remedy = "write tool_calls" if key == "function_call" else "delete that key"
                what = f"is nothing that a message may hold here; {remedy}"
            raise RowError(f"{place}.{number}: {key}: {what}") from None
    return messages


def _fields(how: HowRead, turn: dict[str, Any]) -> dict[str, Any]:
    """What a Message is made of; a content given as text parts is their text."""
    fields = {k: v for k, v in turn.items() if k in ("role", "content") or v not in _EMPTY}
    if "from" in fields and "value" in fields:  # ShareGPT
        fields = {"role": fields.pop("from"), "content": fields.pop("value")} | fields
    if fields.get("content") in (None, [], {}):
        fields.pop("content", None)
    role = fields.get("role")
    fields["role"] = ROLES.get(role, role) if isinstance(role, str) else role
    for name in REASONING:
        if isinstance(fields.get(name), str):
            fields["reasoning"] = fields.pop(name)
    if isinstance(fields.get("content"), list):
        _join_parts(how, fields)
    elif "content" in fields and not isinstance(fields["content"], str):
        how.changes["a content that is no text is its JSON"] += 1
        fields["content"] = as_text(fields["content"])
    weight = fields.pop("weight", None)
    if weight is not None:
        if fields["role"] != "assistant" or isinstance(weight, bool) or weight not in (0, 1):
            raise RowError("weight must be 0 or 1, on assistant messages only")
        fields["weight"] = int(weight)
    return fields


def _join_parts(how: HowRead, fields: dict[str, Any]) -> None:
    texts = []
    for part in fields["content"]:
        if isinstance(part, str):
            part = {"type": "text", "text": part}
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "thinking":
            fields["reasoning"] = str(part.get("thinking", ""))
        elif kind in TEXT_PARTS and isinstance(part.get("text"), str):
            texts.append(part["text"])
            for key in part.keys() - {"type", "text"}:
                if part[key] not in _EMPTY:
                    how.changes[f"`{key}` of a content part is not used"] += 1
        else:
            raise RowError(
                f"content: a part of type {str(kind)[:30]!r} cannot be used here: models are"
                " asked in text; leave that row out, or put its text in place of it"
            )
    fields["content"] = "\n".join(texts)


def as_turns(value: Any, role: str) -> list[Any]:
    """A value as turns: a chat (also as the text of one), or one turn that says it."""
    if isinstance(value, str) and value.lstrip()[:2] in ("[{", "[ "):
        value = spelled_chat(value) or value
    if is_chat(value):
        return list(value)
    if value is None:
        return []
    return [{"role": role, "content": as_text(value)}]


def is_chat(value: Any) -> bool:
    """Whether a value is a list of turns."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, dict) and ("role" in turn or "from" in turn) for turn in value)
    )


def spelled_chat(text: str | bytes) -> list[Any] | None:
    """The list that a cell spells, in JSON or in Python (as pandas writes one); None: neither."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        try:
            value = ast.literal_eval(text if isinstance(text, str) else text.decode())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return None
    return value if isinstance(value, list) else None


def _chat_turns(how: HowRead, raw: Mapping[str, Any]) -> Any:
    turns = cell(how.task, raw, "messages")
    if isinstance(turns, str | bytes):  # a table's cell
        turns = spelled_chat(turns)
        if turns is None:
            raise RowError("`messages` is neither a list nor the JSON text of one")
    return turns


def _sharegpt_turns(how: HowRead, raw: Mapping[str, Any]) -> Any:
    turns = raw.get("conversations") or raw.get("conversation") or _chat_turns(how, raw)
    if isinstance(turns, str):
        turns = spelled_chat(turns)
    system = raw.get("system")
    if system and isinstance(turns, list):
        turns = [{"role": "system", "content": str(system)}, *turns]
    return turns


def _prompt_turns(how: HowRead, raw: Mapping[str, Any]) -> Any:
    return _joined(raw.get("prompt"), raw.get("completion"), "prompt/completion")


def _preference_turns(how: HowRead, raw: Mapping[str, Any]) -> Any:
    return _joined(raw.get("prompt"), raw.get("chosen"), "chosen")


def _alpaca_turns(how: HowRead, raw: Mapping[str, Any]) -> Any:
    answer = next((raw[name] for name in ("output", "response") if raw.get(name)), None)
    turns: list[Any] = []
    if raw.get("system"):
        turns.append({"role": "system", "content": str(raw["system"])})
    history = raw.get("history")
    for pair in history if isinstance(history, list) else []:
        if isinstance(pair, list | tuple) and len(pair) == 2:
            turns += [*as_turns(pair[0], "user"), *as_turns(pair[1], "assistant")]
    question = "\n\n".join(as_text(raw[n]) for n in ("instruction", "input") if raw.get(n))
    return [*turns, *_joined(question or None, answer, "instruction/output")]


def _column_turns(how: HowRead, raw: Mapping[str, Any]) -> Any:
    """The chat of an input and an answer, each a text or itself a chat."""
    name = how.task.columns.get("input", "input")
    names = name if isinstance(name, list) else None
    if names is None:
        question = cell(how.task, raw, "input")
    else:
        values = {each: as_text(raw.get(each, "")) for each in names}
        template = how.task.columns.get("template") or "\n\n".join(f"{{{n}}}" for n in names)
        question = fill_in(template, values).strip() or None
    if question is None:
        raise RowError(
            "neither `messages`, nor prompt/completion, nor the input column of task.yaml is there"
        )
    return _joined(question, gold_answer(how, raw), "input")


def fill_in(template: str, values: Mapping[str, str]) -> str:
    """The template with each {column} replaced; other braces stay."""
    for name, value in values.items():
        template = template.replace(f"{{{name}}}", value)
    return template


def _joined(question: Any, answer: Any, place: str) -> list[Any]:
    """Question and answer as one chat; an answer that repeats the question's turns is the chat."""
    if question is None:
        raise RowError(f"{place}: the question is empty")
    turns = as_turns(question, "user")
    answers = as_turns(answer, "assistant")
    shown = [(turn.get("role", turn.get("from")), turn.get("content")) for turn in turns]
    begins = [(turn.get("role", turn.get("from")), turn.get("content")) for turn in answers]
    if begins[: len(shown)] == shown and len(begins) > len(shown):
        return answers
    return turns + answers


BUILDERS = {
    "chat": _chat_turns,
    "sharegpt": _sharegpt_turns,
    "prompt_completion": _prompt_turns,
    "kto": _prompt_turns,
    "preference": _preference_turns,
    "alpaca": _alpaca_turns,
    "columns": _column_turns,
}


# --- values ---------------------------------------------------------------------------------------


def as_text(value: Any) -> str:
    """A value as a model reads it: text as it is, anything else as JSON."""
    if isinstance(value, str):
        return value
    try:
        value = as_json(value)
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):
        return str(value)
    return text[1:-1] if isinstance(value, str) else text


def as_json(value: Any) -> Any:
    """A table's value as JSON has it: days and times in ISO 8601, decimals as numbers."""
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value) if "." in str(value) else int(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, dict):
        return {str(key): as_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(each) for each in value]
    if isinstance(value, float) and value != value:
        return None
    return value
