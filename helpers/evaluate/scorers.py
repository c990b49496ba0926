"""Scorers: pure functions of (task, example, answer text), each from 0 to 1."""

from __future__ import annotations

import contextlib
import json
from functools import lru_cache
from typing import Any

from helpers import store, tasks
from helpers.evaluate import text
from helpers.evaluate.equality import same_json
from helpers.records import TrainingExample, WorkbookError, read_calls
from helpers.tasks import Task

MAX_BLOCKS = 20  # braces that the tolerant reading tries, so that endless answers stay cheap


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


DECODER = json.JSONDecoder(parse_constant=_refuse)  # NaN and Infinity are Python's, not JSON's


def score_answer(
    task: Task, example: TrainingExample, answer: str, finish: str = "stop"
) -> tuple[dict[str, float], str]:
    """(one answer's scores by name, why its format is refused or "")."""
    reason = _refusal_of(task, example, answer, finish)
    scores: dict[str, float] = {
        "endless": finish == "length",
        "empty": not answer.strip(),
        "refusal": text.is_refusal(answer),
        "format_compliance": not reason,
    }
    if task.schema is not None:
        tolerant = tolerant_json(answer)
        fits = tolerant is not None and not schema_reason(tolerant, task.schema)
        scores["format_tolerant"] = fits or not reason
        if task.accuracy_from == "fields":
            scores |= _field_scores(task, example, answer, tolerant)
    if task.accuracy_from == "scorer":
        how = text.scorer("tool_calls" if example.calls else task.scorer)
        scores["accuracy"] = how(example, answer) if answer.strip() else 0.0
    elif task.scorer != "exact":  # shown beside an accuracy that comes from elsewhere
        scores[task.scorer.partition(":")[0]] = text.scorer(task.scorer)(example, answer)
    return {name: float(value) for name, value in scores.items()}, reason


def _refusal_of(task: Task, example: TrainingExample, answer: str, finish: str) -> str:
    """Why the format is refused, of an answer or of its calls."""
    tools = example.tools or task.tools
    calls = read_calls(answer)[1] if tools else []
    if calls:
        return tasks.calls_reason(calls, tools)
    return "no call" if example.calls else format_reason(answer, task.schema, finish)


def _field_scores(
    task: Task, example: TrainingExample, answer: str, tolerant: Any
) -> dict[str, bool]:
    """accuracy: every scored field equal in the strictly read answer; broken JSON cannot serve.

    Where the gold answer calls tools, the calls are all that counts.
    """
    if example.calls:
        is_right = bool(text.tool_calls(example, answer, None))
        names = ["accuracy", "accuracy_tolerant", *(f"field_{n}" for n in task.scored_fields)]
        return dict.fromkeys(names, is_right)
    gold = strict_json(example.answer)
    strict = strict_json(answer)
    if gold is None:
        path = task.folder / example.meta.get("file", "example")
        raise WorkbookError(
            f"{path}, line {example.meta.get('line', '?')}: the answer of {example.id} is not one"
            " JSON object; mend that row"
        )
    hits = {
        f"field_{name}": field_equal(gold, strict, name, task.schema) for name in task.scored_fields
    }
    tolerated = all(field_equal(gold, tolerant, name, task.schema) for name in task.scored_fields)
    return {"accuracy": all(hits.values()), "accuracy_tolerant": tolerated} | hits


def field_equal(
    gold: dict[str, Any],
    answer: dict[str, Any] | None,
    name: str,
    schema: dict[str, Any] | None = None,
) -> bool:
    """Whether a field has the same JSON value on both sides, or is on neither; true is not 1."""
    if answer is None or (name in gold) != (name in answer):
        return False
    field = None if schema is None else schema.get("properties", {}).get(name, {})
    return same_json(gold.get(name), answer.get(name), field)


def strict_json(text: str) -> dict[str, Any] | None:
    """The answer as one JSON object and nothing else but white space; None when it is not that."""
    try:
        value = DECODER.decode(text.strip())
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def tolerant_json(text: str) -> dict[str, Any] | None:
    """The first {…} block that reads as JSON, whatever stands around it."""
    start = -1
    for _ in range(MAX_BLOCKS):
        start = text.find("{", start + 1)
        if start < 0:
            break
        with contextlib.suppress(ValueError, RecursionError):
            return DECODER.raw_decode(text, start)[0]
    return None


def format_reason(text: str, schema: dict[str, Any] | None, finish: str = "stop") -> str:
    """Why the whole answer breaks the format; "" when it keeps it."""
    if not text.strip():
        return "empty answer"
    if schema is None:
        return "cut off at the token limit" if finish == "length" else ""
    value = strict_json(text)
    if value is not None:
        return schema_reason(value, schema)
    if tolerant_json(text) is not None:
        return "text around the JSON object"
    return "not one JSON object"


def schema_reason(value: dict[str, Any], schema: dict[str, Any]) -> str:
    """Where and how a value breaks the JSON Schema ("" when it fits)."""
    from jsonschema.exceptions import best_match

    error = best_match(_validator(store.canonical(schema)).iter_errors(value))
    if error is None:
        return ""
    path = ".".join(map(str, error.absolute_path)) or "object"
    return f"{path}: {error.message}"[:200]


@lru_cache(maxsize=32)
def _validator(schema: str) -> Any:
    from jsonschema.validators import validator_for

    value = json.loads(schema)
    return validator_for(value)(value)
