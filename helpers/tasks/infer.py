"""From answers to task.yaml's `output`: a schema of all rows, with enumerations of any size."""

from __future__ import annotations

import html
import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from helpers.records import WorkbookError
from helpers.tasks.parts import visible
from helpers.tasks.task import Json
from helpers.tasks.turns import THOUGHT
from helpers.tasks.values import TYPES, as_typed, spelled

FEW = 30  # labels; more of them have to repeat more often
REPEATED = 3  # rows of a label, on average; fewer are free text
REPEATED_OFTEN = 5
MOST_NAMED = 200  # labels that a prompt still lists
LONG = 80  # characters: longer texts are no labels, however often they repeat
MANY_NUMBERS = 20  # different numbers; more are quantities, not codes
SPELLED = {  # what every text of a column has to be -> its type
    r"-?(0|[1-9]\d{0,14})": "integer",
    r"-?(0|[1-9]\d{0,14})(\.\d+)?": "number",
    r"(?i:true|false)": "boolean",
    r"\[.*\]": "array",
}
_NUMBER = re.compile(r"[-+]?\d+(?:[.,]\d+)*%?")
# Cyrillic and Greek letters that look like Latin ones
_LOOKALIKES = str.maketrans("авекмнорстухіјѕοα", "abekmhopctyxijsoa")
_LATIN = re.compile("[a-z]")
_JOINT = re.compile(r"(?<=[^\W\d_])[-_]+(?=[^\W\d_])")  # between letters: -1 is not 1
_PARTS = re.compile(r"\s*[,;|]\s*")  # between several labels of one text


def infer_output(answers: Sequence[Any], labels: Collection[str] = ()) -> Json:
    """task.yaml's `output`: a JSON Schema when every answer is an object, else {"text": true}.

    A property whose values are few and repeat becomes an enumeration, as do `labels`; one that some
    row lacks is not required.
    """
    values = {}
    for answer in answers:
        if not isinstance(answer, dict):
            return {"text": True}
        for name, value in answer.items():
            values.setdefault(name, []).append(value)
    schema = {
        "type": "object",
        "additionalProperties": False,
        "required": [name for name, each in values.items() if len(each) == len(answers)],
        "properties": {name: _property_of(each, name in labels) for name, each in values.items()},
    }
    return {"schema": schema} if values else {"text": True}


def instructions_for(output: Json) -> tuple[str, str]:
    """(full, short) instructions; the full ones name what each field may be."""
    if "schema" not in output:
        return "Answer the message.", "Answer the message."
    fields = output["schema"]["properties"]
    key = "key" if len(fields) == 1 else "keys"
    short = f"Reply with one JSON object only, with the {key} {', '.join(fields)}."
    lines = [short]
    for name, field in fields.items():
        labels = field.get("enum") or []
        if 0 < len(labels) <= MOST_NAMED:
            lines.append(f"{name} is one of {json.dumps(labels, ensure_ascii=False)[1:-1]}.")
        elif field.get("type") in ("integer", "number", "boolean"):
            lines.append(
                f"{name} is {'true or false' if field['type'] == 'boolean' else 'a number'}."
            )
    return "\n".join(lines), short


def _property_of(values: Sequence[Any], is_label: bool) -> Json:
    if all(isinstance(value, str) for value in values) and (is_label or are_labels(values)):
        return {"enum": sorted(set(values))}
    names = {str: "string", type(None): "null"} | {kind: name for name, kind in TYPES.items()}
    types = sorted({names.get(type(value), "object") for value in values})
    if types == ["integer", "number"]:
        types = ["number"]
    return {"type": types[0] if len(types) == 1 else types}


def are_labels(answers: Iterable[Any]) -> bool:
    """Few short values that repeat, however many they are: an enumeration, not free text."""
    counts = Counter(map(str, answers))
    least = REPEATED if len(counts) <= FEW else REPEATED_OFTEN
    if not counts or counts.total() < least * len(counts) or max(map(len, counts)) > LONG:
        return False
    return len(counts) <= MANY_NUMBERS or not are_numbers(counts)


def are_numbers(answers: Iterable[Any]) -> bool:
    """Whether every answer is a number."""
    return all(_NUMBER.fullmatch(str(answer).strip()) for answer in answers)


def typed_column(values: Sequence[Any]) -> list[Any]:
    """A table's column as the numbers, truth values or lists that all of its texts spell.

    Texts such as 007 or +1 stay what they are.
    """
    texts = [value for value in values if value not in (None, "")]
    for pattern, type_ in SPELLED.items():
        if texts and all(isinstance(t, str) and re.fullmatch(pattern, t.strip()) for t in texts):
            return [as_typed(value, {"type": type_}) for value in values]
    return list(values)


def json_or_text(answer: Any) -> Any:
    """The object that a text spells (behind its thoughts, if any), else the answer as it is."""
    if not isinstance(answer, str):
        return answer
    answer = THOUGHT.sub("", answer, count=1)
    value = spelled(answer) if answer.lstrip().startswith("{") else None
    return value if isinstance(value, dict) else answer


def property_names(columns: Sequence[str]) -> dict[str, str]:
    """property of the answer -> column; WorkbookError where two columns become one."""
    names = {}
    for column in columns:
        name = re.sub(r"\W+", "_", column.lower()).strip("_") or "label"
        if name in names:
            raise WorkbookError(
                f"columns {names[name]!r} and {column!r} would both be the property {name!r};"
                " rename one"
            )
        names[name] = column
    return names


def spellings(labels: Iterable[str]) -> list[list[str]]:
    """Labels that look alike, or list the same parts, three or more, in another order.

    Two parts are no list: DE,FR and FR,DE may be two things. Labels look alike that differ in case,
    spaces and hyphens, a point at the end, accents' encoding, invisible characters, or in some
    letters of another alphabet. The most frequent spelling of each stands first.
    """
    groups = defaultdict(list)
    for label, _ in Counter(labels).most_common():
        bare = _JOINT.sub(" ", visible(html.unescape(label))).rstrip(". ").replace("\u0307", "")
        if _LATIN.search(bare):  # рот is a word of its own
            bare = bare.translate(_LOOKALIKES)
        parts = _PARTS.split(bare)
        groups["|".join(parts if len(parts) < 3 else sorted(parts))].append(label)
    return [group for group in groups.values() if len(group) > 1]
