"""What a raw row says: its chat in any accepted form, and the columns that task.yaml names."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from helpers.records import Message
from helpers.tasks.reading import RowError
from helpers.tasks.task import Task

GOOD = ("up", "thumbs_up", "👍", "good", "true")
BAD = ("down", "thumbs_down", "👎", "bad", "false")
TEXT_SCORES = dict.fromkeys(GOOD, 5.0) | dict.fromkeys(BAD, 1.0)
# values of keys that gateways log empty (refusal, annotations, audio)
_EMPTY: tuple[Any, ...] = (None, [], {})
YEAR_5138 = 1e11  # in seconds: a larger number of a log counts milliseconds


def cell(task: Task, raw: dict[str, Any], name: str) -> Any:
    """A row's value of one of our columns (None where it is empty).

    Its name in task.yaml may be a path such as `response.choices.0.message.content`, which reaches
    into nested logs; a column of that very name goes first.
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


def gold_answer(task: Task, raw: dict[str, Any]) -> Any:
    """The answer of a row: one column, or an object of several (`output: {property: column}`)."""
    columns = task.columns.get("output")
    if not isinstance(columns, dict):
        return cell(task, raw, "output")
    answer = {}
    for name, column in columns.items():
        if raw.get(column) not in (None, ""):
            answer[name] = raw[column]
    return answer or None


def created_at(task: Task, raw: dict[str, Any], path: Path) -> tuple[datetime, bool]:
    """The row's time with a zone (UTC when it names none), and whether it is a guess.

    Where the row has none it is the file's own date.
    """
    value = cell(task, raw, "created_at")
    if value is None:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC).replace(microsecond=0), True
    try:
        if isinstance(value, int | float):
            seconds = value / 1000 if value > YEAR_5138 else value
            return datetime.fromtimestamp(seconds, UTC), False
        moment = datetime.fromisoformat(str(value))
    except (ValueError, OverflowError, OSError):
        raise RowError(f"created_at {str(value)[:40]!r} is not an ISO 8601 time") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)), False


def feedback_score(task: Task, raw: dict[str, Any]) -> float | None:
    """1-5 from stars, thumbs, booleans, shares 0-1 or words; None when the row was not rated."""
    value = cell(task, raw, "feedback_score")
    if value is None:
        return None
    text = str(value).strip().casefold()
    for word, score in (task.columns.get("feedback") or {}).items():
        if text == str(word).casefold():
            return float(score)
    if text in TEXT_SCORES:
        return TEXT_SCORES[text]
    remedy = "map it in task.yaml under columns.feedback"
    try:
        score = float(text)
    except ValueError:
        raise RowError(f"feedback_score {text[:20]!r} is not known; {remedy}") from None
    if isinstance(value, float) and 0 <= score < 1:
        score = 1 + 4 * score
    if not 1 <= score <= 5:
        raise RowError(f"feedback_score {score:g} is outside 1-5; {remedy}")
    return score


def chat_of(task: Task, raw: dict[str, Any]) -> list[Message]:
    """The messages of a row in any of the accepted forms; RowError says what is wrong with it."""
    turns = cell(task, raw, "messages")
    if isinstance(turns, str | bytes):  # a table's cell with the chat as JSON
        try:
            turns = json.loads(turns)
        except (ValueError, RecursionError):
            raise RowError("`messages` is neither a list nor the JSON text of one") from None
    if turns is None:
        turns = _turns_of_columns(task, raw)
    if not isinstance(turns, list) or not turns:
        raise RowError("`messages` must be a non-empty list")
    try:
        messages = [Message(**_fields(turn)) for turn in turns]
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(map(str, problem["loc"]))
        raise RowError(f"messages: {field}: {problem['msg']}") from None
    except (AttributeError, TypeError):
        raise RowError("messages: ?: not an object") from None
    _check_weights(messages, [turn.get("weight") for turn in turns])
    return messages


def _turns_of_columns(task: Task, raw: dict[str, Any]) -> list[Any]:
    """The chat of an input and an answer, each a text or itself a chat."""
    if "prompt" in raw and "completion" in raw:
        question = raw["prompt"]
        answer = raw["completion"]
    else:
        question = cell(task, raw, "input")
        answer = gold_answer(task, raw)
    if question is None:
        raise RowError(
            "neither `messages`, nor prompt/completion, nor the input column of task.yaml is there"
        )
    is_chat = isinstance(question, list)
    turns = list(question) if is_chat else [{"role": "user", "content": str(question)}]
    if isinstance(answer, list):
        turns += answer
    elif answer is not None:
        text = answer if isinstance(answer, str) else _compact_json(answer)
        turns.append({"role": "assistant", "content": text})
    return turns


def _fields(turn: dict[str, Any]) -> dict[str, Any]:
    """What a Message is made of; a content given as text parts is their text."""
    fields = {k: v for k, v in turn.items() if k != "weight" and v not in _EMPTY}
    content = fields.get("content")
    if isinstance(content, list) and all(_is_text_part(part) for part in content):
        fields["content"] = "\n".join(part["text"] for part in content)
    return fields


def _is_text_part(part: Any) -> bool:
    return isinstance(part, dict) and set(part) == {"type", "text"}


def _check_weights(messages: list[Message], weights: list[Any]) -> None:
    for message, weight in zip(messages, weights, strict=True):
        if weight is None:
            continue
        if message.role != "assistant" or isinstance(weight, bool) or weight not in (0, 1):
            raise RowError("weight must be 0 or 1, on assistant messages only")
    if weights[-1] == 0:
        raise RowError("the last answer has weight 0: there is nothing to learn")


def _compact_json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):
        return str(value)
