"""Cells of a row: found by the column that task.yaml names, and as text, JSON or a number."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import date, time
from decimal import Decimal
from typing import Any, Literal

from helpers.tasks.task import Task
from helpers.tasks.textfiles import TwoReadings

DecimalMark = Literal["", ",", "."]
_MARKED = re.compile(r"[-+]?([\d,.]+)([,.])(\d+)")
_OTHER: dict[str, DecimalMark] = {",": ".", ".": ","}
_SEPARATED = {  # decimal mark -> a number whose thousands may be separated
    mark: re.compile(rf"[-+]?(?:\d+|\d{{1,3}}(?:[{other}\s']\d{{3}})+)(?:[{mark}]\d+)?")
    for mark, other in _OTHER.items()
}


def _checked(value: Any, type_: type) -> Any:
    if not isinstance(value, type_):
        raise ValueError
    return value


PARSERS: dict[Any, Callable[[str], Any]] = {
    "integer": int,
    "number": float,
    "object": lambda text: _checked(spelled(text), dict),
    "array": lambda text: _checked(spelled(text), list),
    "boolean": lambda text: {"true": True, "false": False}[text.casefold()],
}
NUMBERS = ("integer", "number")


def is_there(value: Any) -> bool:
    """Whether a cell holds anything; NaN, an empty one of pandas, is not equal to itself."""
    return value is not None and value != "" and bool(value == value)


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
    # as `is_there` says, which a log of a million rows has no time to call
    return None if value is None or value == "" or value != value else value


def _at_path(value: Any, path: str) -> Any:
    for step in path.split("."):
        if isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            value = value.get(step) if isinstance(value, dict) else None
    return value


def as_text(value: Any) -> str:
    """A value as a model reads it: text as it is, anything else as JSON."""
    value = as_json(value)
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError):
        return str(value)


def as_json(value: Any) -> Any:
    """A table's value as JSON has it: days and times in ISO 8601, decimals as numbers."""
    if isinstance(value, dict):
        return {str(key): as_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(each) for each in value]
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value) if "." in str(value) else int(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if value == value else None


def spelled_list(text: str | bytes) -> list[Any] | None:
    """The list that a cell spells, in JSON or in Python (as pandas writes one); None: neither."""
    value = spelled(text)
    return value if isinstance(value, list) else None


def spelled(text: str | bytes) -> Any:
    """The value that a text spells, in JSON or in Python; None: neither."""
    with suppress(ValueError, RecursionError):
        return json.loads(text)
    with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
        return ast.literal_eval(text.strip() if isinstance(text, str) else text.decode())
    return None


def as_typed(value: Any, schema: Any, mark: DecimalMark = "") -> Any:
    """A table's cell as the type that the property of an answer has, where it spells one."""
    kind = kind_of(schema)
    if not isinstance(value, str) or kind not in PARSERS:
        return value
    text = value.strip()
    point = mark or "."
    if kind in NUMBERS and _SEPARATED[point].fullmatch(text):
        text = re.sub(rf"[^-+\d{point}]", "", text).replace(point, ".")
    try:
        return PARSERS[kind](text)
    except (ValueError, KeyError, RecursionError):
        return value  # the schema says what is wrong with it


def kind_of(schema: Any) -> str | None:
    """The one type that a JSON Schema names."""
    kind = schema.get("type") if isinstance(schema, dict) else None
    return kind if isinstance(kind, str) else None


def decimal_mark(values: Iterable[Any], is_whole: bool, column: str, where: str) -> DecimalMark:
    """Whether 1,500 is one and a half or fifteen hundred: what all the cells of a column allow.

    `is_whole`: the schema wants integers. WorkbookError when both fit.
    """
    texts = (re.sub(r"[\s']", "", value) for value in values if isinstance(value, str))
    unsure: set[str] = set()  # numbers in which the mark may be either
    marks = set()
    for number in filter(None, map(_MARKED.fullmatch, texts)):
        before, last, after = number.groups()
        is_split = len(after) == 3 and before != "0" and len(before) <= 3
        if last in before or (is_split and is_whole):  # 1.234.567: it stands between thousands
            marks.add(_OTHER[last])
        elif is_split:
            unsure.add(number[0])
        else:
            marks.add(last)
    if len(marks) == 1:
        return marks.pop()
    if not unsure and not marks:
        return ""
    shown = ", ".join(sorted(unsure)[:3]) or "1,5 and 1.5"
    raise TwoReadings(
        f"{where}: column `{column}` holds numbers such as {shown}, which can be read in two ways:"
        " the mark stands before decimals, or between thousands: which mark do decimals have",
        "columns.decimal",
        ('"."', '","'),
    )
