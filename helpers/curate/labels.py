"""What a row's label is, and how labels spread over the parts."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from helpers import store
from helpers.records import PARTS, TrainingExample
from helpers.tasks import Task, normalise

MAX_VALUES = 30  # more distinct values than this are free text, not labels
FEW = 10  # test rows below which a label's score says nearly nothing


def scored_values(task: Task, example: TrainingExample) -> dict[str, Any]:
    """The scored fields of a row's answer; {} where it has none."""
    if not task.scored_fields:
        return {}
    try:
        value = json.loads(example.answer)
    except (ValueError, RecursionError):
        return {}
    return {field: value.get(field) for field in task.scored_fields} if isinstance(value, dict) else {}


def label_of(task: Task, examples: Sequence[TrainingExample] = ()) -> Callable[[TrainingExample], str | None]:
    """A function example -> label, equal for equal answers; None for free text, where no two answers conflict.

    The label is the scored fields; in a text task the answer itself, when `examples` have few different ones.
    """
    if task.scored_fields:
        return lambda example: store.canonical(scored_values(task, example))
    if task.schema is not None or len({normalise(e.answer) for e in examples}) <= MAX_VALUES:
        return lambda example: normalise(example.answer)
    return lambda _: None


def label_counts(task: Task, examples: Iterable[TrainingExample]) -> dict[str, dict[str, dict[str, int]]]:
    """field -> part -> value -> rows, for every scored field that is a label; in text tasks the answer is the field."""
    found: defaultdict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    for example in examples:
        values = scored_values(task, example) if task.scored_fields else {"answer": normalise(example.answer)[:60]}
        for field, value in values.items():
            text = value if isinstance(value, str) else store.canonical(value)
            found[field][example.part or "train", text] += 1
    return {
        field: {p: {v: n for (part, v), n in sorted(counts.items()) if part == p} for p in PARTS}
        for field, counts in found.items()
        if len({value for _, value in counts}) <= MAX_VALUES
    }


def label_warnings(labels: dict[str, dict[str, dict[str, int]]]) -> list[str]:
    """One sentence per field whose rarer values have too few test rows to be scored on their own."""
    said = []
    for field, parts in labels.items():
        values = sorted({value for counts in parts.values() for value in counts})
        rare = [f"{value} ({parts['test'].get(value, 0)})" for value in values if parts["test"].get(value, 0) < FEW]
        if rare:
            said.append(f"fewer than {FEW} test rows for {field} {', '.join(rare)}: no score per value there")
    return said
