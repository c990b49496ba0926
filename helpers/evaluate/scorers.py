"""Scorers: pure functions of (task, example, answer text). A score is 1.0 or 0.0."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, NamedTuple

from helpers import store, tasks
from helpers.records import TrainingExample, WorkbookError
from helpers.tasks import Task

MAX_BLOCKS = 20  # opening braces that the tolerant reading tries, so that an endless answer stays cheap


class Scored(NamedTuple):
    """The scores of one answer, and why its format was refused ("" when it was not)."""

    scores: dict[str, float]
    format_reason: str


def score_answer(task: Task, example: TrainingExample, answer: str, finish: str = "stop") -> Scored:
    """Every score of one answer: accuracy and format_compliance, then what explains them."""
    scores = {"endless": float(finish == "length"), "empty": float(not answer.strip())}
    if task.schema is None:
        reason = "empty answer" if scores["empty"] else "cut off at the token limit" if scores["endless"] else ""
        scores["format_compliance"] = float(not reason)
        if task.accuracy_from == "scorer":
            scores["accuracy"] = float(tasks.normalise(answer) == tasks.normalise(example.answer))
        return Scored(scores, reason)
    reason = format_reason(answer, task.schema)
    strict, tolerant = strict_json(answer), tolerant_json(answer)
    scores["format_compliance"] = float(not reason)
    scores["format_tolerant"] = float(tolerant is not None and not schema_reason(tolerant, task.schema))
    if task.accuracy_from == "fields":
        scores |= _field_scores(task, gold_answer(task, example), strict, tolerant)
    elif task.accuracy_from == "scorer":
        scores["accuracy"] = float(tasks.normalise(answer) == tasks.normalise(example.answer))
    return Scored(scores, reason)


def _field_scores(task: Task, gold: dict[str, Any], strict: Any, tolerant: Any) -> dict[str, float]:
    """accuracy = every scored field equal in the strictly read answer, since broken JSON cannot serve."""
    hits = {f"field_{name}": float(field_equal(gold, strict, name)) for name in task.scored_fields}
    return {
        "accuracy": float(all(hits.values())),
        "accuracy_tolerant": float(all(field_equal(gold, tolerant, name) for name in task.scored_fields)),
        **hits,
    }


def gold_answer(task: Task, example: TrainingExample) -> dict[str, Any]:
    """The example's own answer, which must be right before it may judge others."""
    gold = strict_json(example.answer)
    if gold is None:
        where = f"{example.meta.get('file', 'example')}, line {example.meta.get('line', '?')}"
        raise WorkbookError(f"{task.folder / where}: the answer of {example.id} is not one JSON object; mend that row")
    return gold


def field_equal(gold: dict[str, Any], answer: dict[str, Any] | None, name: str) -> bool:
    """Whether a field is there on both sides (or on neither) with the same JSON value; true is not 1."""
    if answer is None or (name in gold) != (name in answer):
        return False
    ours, theirs = answer.get(name), gold.get(name)
    if isinstance(ours, int | float) and isinstance(theirs, int | float):
        return isinstance(ours, bool) == isinstance(theirs, bool) and ours == theirs
    return store.canonical(ours) == store.canonical(theirs)


def strict_json(text: str) -> dict[str, Any] | None:
    """The answer as one JSON object and nothing else but white space around it; None when it is not that."""
    try:
        value = json.loads(text.strip(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def tolerant_json(text: str) -> dict[str, Any] | None:
    """The first {…} block that reads as JSON, whatever stands around it (a code fence, "Sure! …")."""
    decoder = json.JSONDecoder(parse_constant=_refuse_constant)
    position = text.find("{")
    for _ in range(MAX_BLOCKS):
        if position < 0:
            break
        try:
            value, _end = decoder.raw_decode(text, position)
            return value
        except (ValueError, RecursionError):
            position = text.find("{", position + 1)
    return None


def format_reason(text: str, schema: dict[str, Any]) -> str:
    """Why the whole answer breaks the format ("" when it keeps it)."""
    if not text.strip():
        return "empty answer"
    value = strict_json(text)
    if value is None:
        return "text around the JSON object" if tolerant_json(text) is not None else "not one JSON object"
    return schema_reason(value, schema)


def schema_reason(value: dict[str, Any], schema: dict[str, Any]) -> str:
    """Where and how a value breaks the JSON Schema ("" when it fits)."""
    from jsonschema.exceptions import best_match

    error = best_match(_validator(store.canonical(schema)).iter_errors(value))
    return "" if error is None else f"{'.'.join(map(str, error.absolute_path)) or 'object'}: {error.message}"[:200]


@lru_cache(maxsize=32)
def _validator(schema: str) -> Any:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for

    value = json.loads(schema)
    kind = validator_for(value, default=Draft202012Validator)
    try:
        kind.check_schema(value)
    except SchemaError as error:
        raise WorkbookError(f"task.yaml: output.schema is not a valid JSON Schema ({error.message})") from None
    return kind(value)
