"""The label of a row, as duplicates, reviews and figures need it: its answer's scored fields."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from helpers import store, tasks
from helpers.curate.stages import Question
from helpers.records import PARTS, TrainingExample

MAX_VALUES = 30  # more distinct values than this are free text, not labels
LONGEST = 40  # characters of a label that only the rows say; longer ones are somebody's text
FEW = 10  # test rows below which a label's score says nearly nothing
Label = Callable[[TrainingExample], str | None]
LabelFunctions = Mapping[str, Callable[[TrainingExample], str]]  # field -> the value a row has
LabelCounts = dict[str, dict[str, dict[str, int]]]  # field -> part -> value -> rows


def _answer_object(example: TrainingExample) -> dict[str, Any] | None:
    """The object that a row's answer spells, if it spells one."""
    try:
        answer = json.loads(example.answer)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None


def scored_values(task: tasks.Task, example: TrainingExample) -> dict[str, Any]:
    """The scored fields of a row's answer; {} where it has none."""
    answer = _answer_object(example)
    return {} if answer is None else {name: answer.get(name) for name in task.scored_fields}


def label_values(task: tasks.Task, example: TrainingExample) -> dict[str, str]:
    """Each label field's value as text; a text task has one field, `answer`."""
    if not task.scored_fields:
        return {"answer": tasks.normalise(example.answer)[:60]}
    return {
        name: value if isinstance(value, str) else store.canonical(value)
        for name, value in scored_values(task, example).items()
    }


def label_functions(task: tasks.Task, names: Iterable[str]) -> LabelFunctions:
    """For each label field a function example -> its value as text; "null" where it has none."""
    return {
        name: lambda example, name=name: label_values(task, example).get(name, "null")
        for name in names
    }


def label_of(task: tasks.Task, examples: Sequence[TrainingExample]) -> Label:
    """A function example -> label, equal for equal answers; None for free text: no two conflict.

    The label is the scored fields; in a text task the answer itself, when `examples` have few
    different ones.
    """
    if task.scored_fields:
        return lambda example: store.canonical(scored_values(task, example))
    answers = Counter()
    longest = 0
    for example in examples if task.schema is None else ():
        answer = tasks.normalise(example.answer)
        answers[answer] += 1
        longest = max(longest, len(answer))
        if len(answers) > MAX_VALUES and longest > tasks.LONG:
            return lambda _: None
    if len(answers) <= MAX_VALUES or tasks.are_labels(answers.elements()):
        return lambda example: tasks.normalise(example.answer)
    return lambda _: None


def label_counts(task: tasks.Task, examples: Sequence[TrainingExample]) -> LabelCounts:
    """Rows of every value in every part, for each label field that is no free text."""
    fields = defaultdict(Counter)
    for example in examples:
        for name, value in label_values(task, example).items():
            fields[name][example.part or "train", value] += 1
    labels = {}
    for name, counts in fields.items():
        values = Counter({value: 0 for _, value in counts})
        for (_, value), n in counts.items():
            values[value] += n
        few = len(values) <= MAX_VALUES and _is_closed(task, name)
        short = max(map(len, values)) <= LONGEST
        if few or (short and tasks.are_labels(values.elements())):
            labels[name] = {part: {} for part in PARTS}
            for (part, value), n in sorted(counts.items()):
                rows = labels[name][part]
                shown = store.without_secrets(value)
                rows[shown] = rows.get(shown, 0) + n  # two addresses are shown as one
    return labels


def _is_closed(task: tasks.Task, name: str) -> bool:
    """Whether a field's values are in task.yaml, or no texts: nothing that only rows say."""
    field = (task.schema or {}).get("properties", {}).get(name)
    return isinstance(field, dict) and (
        "enum" in field or field.get("type") in ("boolean", "integer", "number")
    )


def misspelled(
    task: tasks.Task, examples: Sequence[TrainingExample], labels: LabelCounts
) -> list[Question]:
    """Which rows spell a label in another way than most, with the answer in the usual one."""
    questions = []
    for name, value_of in label_functions(task, labels).items():
        if not tasks.spellings({value for counts in labels[name].values() for value in counts}):
            continue
        usual = {}
        for first, *others in tasks.spellings(value_of(example) for example in examples):
            usual |= dict.fromkeys(others, first)
        for example in examples:
            value = value_of(example)
            if value in usual:
                why = f"{name} is spelled {value!r}, most rows say {usual[value]!r}"
                answer = _answer_object(example)
                is_text = answer is None
                right = usual[value] if is_text else store.dumps(answer | {name: usual[value]})
                questions.append(Question(example, why, right))
    return questions


def label_warnings(labels: LabelCounts) -> list[str]:
    """One sentence per field whose rarer values have too few test rows for scores of their own."""
    warnings = []
    for name, parts in labels.items():
        values = sorted({value for counts in parts.values() for value in counts})
        totals = sum((Counter(counts) for counts in parts.values()), Counter())
        for group in tasks.spellings(totals.elements()):
            shown = ", ".join(map(repr, group))
            warnings.append(f"{name}: {shown} look like one label; review.csv asks")
        counts = [(value, parts["test"].get(value, 0)) for value in values]
        rare = ", ".join(f"{value} ({n})" for value, n in counts if n < FEW)
        if rare:
            warnings.append(
                f"fewer than {FEW} test rows for {name} {rare}: no score per value there"
            )
    return warnings
