"""Cells of a row: found by the column that task.yaml names, and as text, JSON or a number."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable
from contextlib import suppress
from datetime import date, time, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, Literal

from helpers import store
from helpers.tasks.task import Task
from helpers.tasks.textfiles import CONTROL, Row, TwoReadings

DecimalMark = Literal["", ",", "."]
NUMBER = re.compile(r"\d+(?:[.,'\s]\d+)*")
_MARKED = re.compile(r"[-+]?(\d+|\d{1,3}(?:[,.]\d{3})+)([,.])(\d+)")
_QUOTED = re.compile(r"""'[^'\\]*(?:\\.[^'\\]*)*'|"[^"\\]*(?:\\.[^"\\]*)*\"""", re.DOTALL)
# ['a' 'b'], as numpy prints two texts, is one text in Python; \0 is a text here
_SIDE_BY_SIDE = re.compile(r"\0\s*[a-zA-Z]{0,2}\0")
_OTHER: dict[str, DecimalMark] = {",": ".", ".": ","}
_SEPARATED = {  # decimal mark -> a number whose thousands may be separated
    mark: re.compile(rf"[-+]?(?:\d+|\d{{1,3}}(?:[{other}\s']\d{{3}})+)(?:[{mark}]\d+)?")
    for mark, other in _OTHER.items()
}
# what is personal or secret holds one of these, or stands under a name that says so
_MAY_BE = re.compile(r"[@＠]|%40|\b(?:\d(?:\W{0,4}\d){6}|[A-Za-z]{1,2} ?\d(?: ?\d){5})|[^\s-]{16}")
_cleaned = lru_cache(maxsize=8192, typed=True)(store.clean)

TYPES = {"integer": int, "number": float, "object": dict, "array": list, "boolean": bool}
NUMBERS = ("integer", "number")


def is_there(value: Any) -> bool:
    """Whether a cell holds anything; NaN, an empty one of pandas, is not equal to itself."""
    return value is not None and value != "" and bool(value == value)


def cell(task: Task, raw: Row, name: str) -> Any:
    """A row's value of one of our columns (None where it is empty).

    `null` in task.yaml means: not this column.
    """
    key = task.columns.get(name, name)
    return value_at(raw, key) if isinstance(key, str) else None


def value_at(raw: Row, key: str) -> Any:
    """What a row holds under a column's name (None where that is nothing).

    It may be a path such as `response.choices.0.message.content`, which reaches into nested logs; a
    column of that very name goes first.
    """
    value = raw.get(key)
    if value is None and "." in key:
        value = raw
        for step in key.split("."):
            if isinstance(value, list) and step.isdecimal() and int(step) < len(value):
                value = value[int(step)]
            else:
                value = value.get(step) if isinstance(value, dict) else None
    # as `is_there` says, which a log of a million rows has no time to call
    return None if value is None or value == "" or value != value else value


def as_text(value: Any) -> str:
    """A value as a model reads it: text as it is, nothing as none, anything else as JSON."""
    value = as_json(value)
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def as_json(value: Any) -> Any:
    """A table's value as JSON has it: times in ISO 8601, durations in seconds, decimals."""
    if isinstance(value, dict):
        return {str(key): as_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(each) for each in value]
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value) if value.as_tuple().exponent < 0 else int(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        text = value.decode(errors="replace")
        is_text = "\ufffd" not in text and not CONTROL.search(value)
        return text if is_text else f"({len(value)} bytes that are no text)"
    return value if value == value else None


def pseudonymous(value: Any, allow: Iterable[re.Pattern[str]] = (), key: str = "") -> Any:
    """An id, or what is kept beside a chat, with a sign for what is personal or secret in it.

    Equal texts have equal signs in every file, and no others; what task.yaml's `allow` names stays.
    """
    if isinstance(value, dict):
        return {name: pseudonymous(each, allow, name) for name, each in value.items()}
    if isinstance(value, list):
        return [pseudonymous(each, allow, key) for each in value]
    text = str(value)
    may_be = _MAY_BE.search(text) or _cleaned("x", key) != "x"
    shown = _cleaned(value, key) if may_be else value
    for pattern in allow:
        text = pattern.sub(" ", text)
    if shown == value or _cleaned(text, key) == text:
        return value
    sign = re.sub("[0-9]", "", store.fingerprint(str(value)))  # in letters: no phone's number
    return f"{shown} {sign[:16]}"


def spelled(text: str | bytes) -> Any:
    """The value that a text spells, in JSON or in Python (as pandas writes one); None: neither."""
    with suppress(ValueError, RecursionError):
        return json.loads(text)
    with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
        text = text.strip() if isinstance(text, str) else text.decode()
        if not _SIDE_BY_SIDE.search(_QUOTED.sub("\0", text)):
            return ast.literal_eval(text)
    return None


def as_typed(value: Any, schema: Any, mark: DecimalMark = "") -> Any:
    """A table's cell as the type that the property of an answer has, where it spells one."""
    kind = kind_of(schema)
    if not isinstance(value, str) or kind not in TYPES:
        return value
    text = value.strip()
    if kind in NUMBERS:
        point = mark or "."
        if _SEPARATED[point].fullmatch(text):
            text = re.sub(rf"[^-+\d{point}]", "", text).replace(point, ".")
        with suppress(ValueError):
            return TYPES[kind](text)
        return value  # the schema says what is wrong with it
    typed = spelled(text.lower() if kind == "boolean" else text)
    return typed if isinstance(typed, TYPES[kind]) else value


def kind_of(schema: Any) -> str | None:
    """The one type that a JSON Schema names, or that all of its values have."""
    if not isinstance(schema, dict):
        return None
    types = {*map(type, schema.get("enum", ()))}
    kinds = [name for name, each in TYPES.items() if types == {each}]
    kind = schema.get("type", *kinds)
    return kind if isinstance(kind, str) else None


def _mark_of(number: re.Match[str], is_whole: bool) -> DecimalMark:
    """The mark that one number speaks for; "" where it may be either."""
    before, last, after = number.groups()
    is_split = len(after) == 3 and before != "0" and len(before) <= 3
    if last in before or (is_split and is_whole):  # 1.234.567: it stands between thousands
        return _OTHER[last]
    return "" if is_split else last


def decimal_mark(values: Iterable[Any], is_whole: bool, column: str, where: str) -> DecimalMark:
    """Whether 1,500 is one and a half or fifteen hundred: what all the cells of a column allow.

    `is_whole`: the schema wants integers. WorkbookError when both fit.
    """
    texts = (re.sub(r"[\s']", "", value) for value in values if isinstance(value, str))
    numbers = filter(None, map(_MARKED.fullmatch, texts))
    speaks_for = {number[0]: _mark_of(number, is_whole) for number in numbers}
    marks = {*speaks_for.values()} - {""}
    if len(marks) == 1:
        return marks.pop()
    if not speaks_for:
        return ""
    unsure = sorted(text for text, mark in speaks_for.items() if not mark)
    shown = ", ".join(unsure[:3]) or "1,5 and 1.5"
    raise TwoReadings(
        f"{where}: column `{column}` holds numbers such as {shown}, which can be read in two ways:"
        " the mark stands before decimals, or between thousands: which mark do decimals have",
        "columns.decimal",
        ('"."', '","'),
    )
