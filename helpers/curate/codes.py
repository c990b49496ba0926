"""Which findings of personal data are codes: order numbers, dates, versions, coordinates.

What stands beside a number tells most of them (`helpers.redaction.is_code`), the rows of its label
others. What a task is about can be allowed by name in task.yaml:
`allow: {order_number: "[0-9]{10}"}`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from helpers import show
from helpers.curate.labels import LabelFunctions, label_functions
from helpers.curate.personal import MAX_SCAN
from helpers.curate.searching import Findings
from helpers.curate.stages import Say
from helpers.records import TrainingExample
from helpers.redaction import Span, is_code, is_written_as_phone
from helpers.tasks import Task

MANY = 10  # rows of a label that hold numbers of one shape, and
MOST = 0.9  # of the rows with such numbers that have this label: then they are its codes
HALF = 0.5  # of the label's rows
_DIGIT = re.compile(r"\d")
Find = Callable[[str], Sequence[Span]]  # the findings in a text


def personal_data_finder(
    examples: Sequence[TrainingExample],
    findings_of: Callable[[str], Findings],
    task: Task,
    say: Say,
) -> tuple[Find, list[str]]:
    """What finds the personal data of a text, codes and what the task allows left out.

    With what to say of the codes that only all rows together show to be codes.
    """
    allowed = [re.compile(pattern) for pattern in task.allow.values()]

    def one_by_one(text: str) -> list[Span]:
        spans = (span for span in findings_of(text).personal if span.certain)
        return [s for s in spans if not (_is_allowed(text, s, allowed) or is_code(text, s))]

    codes = codes_of_labels(examples, one_by_one, label_functions(task, task.scored_fields), say)

    def find(text: str) -> list[Span]:
        return [span for span in one_by_one(text) if shape_of(text, span) not in codes]

    return find, [*codes.values()]


def shape_of(text: str, span: Span) -> str:
    """What a number looks like, such as `PHONE_NUMBER 999-9999`."""
    return f"{span.kind} {_DIGIT.sub('9', text[span.start : span.end].strip())}"


def codes_of_labels(
    examples: Sequence[TrainingExample], find: Find, labels: LabelFunctions, say: Say
) -> dict[str, str]:
    """Shapes that numbers have in one label alone, in most of its rows, each with what to say.

    People's phone numbers stand in all kinds of rows, and are called so in some of them.
    """
    counts = {name: Counter() for name in labels}  # of (shape, value)
    totals = Counter()
    phones = set()
    for example in show.told(examples, len(examples), "personal data", say):
        shapes = _shapes_in(example, find)
        totals.update(shapes.keys())
        phones.update(shape for shape, is_phone in shapes.items() if is_phone)
        for name, value_of in labels.items() if shapes else ():
            counts[name].update((shape, value_of(example)) for shape in shapes)
    codes = {}
    for name, value_of in labels.items():
        sizes = Counter()  # counted once they are needed
        for (shape, value), n in counts[name].items():
            if shape in phones or n < max(MANY, MOST * totals[shape]):
                continue
            sizes = sizes or Counter(map(value_of, examples))
            if n >= HALF * sizes[value]:
                codes[shape] = (
                    f"{n} of {sizes[value]} rows of {name} {value[:40]} hold numbers like {shape},"
                    " nearly no others do: they are taken for codes"
                )
    return codes


def _shapes_in(example: TrainingExample, find: Find) -> dict[str, bool]:
    """The shapes of the numbers in a row, each with whether one of them is surely a phone's."""
    shapes = {}
    for text in (message.content or "" for message in example.messages):
        for span in find(text) if len(text) <= MAX_SCAN else ():
            shape = shape_of(text, span)
            shapes[shape] = shapes.get(shape, False) or is_written_as_phone(text, span)
    return shapes


def _is_allowed(text: str, span: Span, allowed: Iterable[re.Pattern[str]]) -> bool:
    """Whether an allowed text holds the whole finding."""
    matches = (match for pattern in allowed for match in pattern.finditer(text))
    return any(match.start() <= span.start and span.end <= match.end() for match in matches)
