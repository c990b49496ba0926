"""Which findings of personal data are codes: order numbers, dates, versions, coordinates.

A phone number is written like one, or stands behind a word for it; a bare run of digits, a number
behind `order` or `version`, and a date are none. What a task is about can be allowed by name in
task.yaml: `allow: {order_number: "[0-9]{10}"}`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache

from helpers import show
from helpers.curate.labels import LabelFunctions, label_functions
from helpers.curate.personal import MAX_SCAN
from helpers.curate.searching import Findings
from helpers.curate.stages import Say
from helpers.records import TrainingExample
from helpers.redaction import Span
from helpers.tasks import Task

BEFORE = 24  # characters before a number in which its name is looked for
_CODE_WORD = re.compile(
    r"\b(?:orders?|parcels?|track(?:ing)?|shipments?|deliver(?:y|ies)|invoices?|tickets?|cases?"
    r"|ref(?:erence)?|serial|isbn|issn|ean|upc|sku|part|articles?|items?|products?|versions?"
    r"|release|build|v|rev|id|uuid|hash|epoch|timestamp|paid|amount|total|price|bestell\w*|auftrag"
    r"\w*|sendung\w*|rechnung\w*|commande|facture|pedido|factura)\b[\s:#.°-]*"
    r"(?:(?:number|numbers|no|nr|num|code|id|nummer|is|was|and)\b[\s:#.°-]*)*$",
    re.IGNORECASE,
)
_PHONE_WORD = re.compile(
    r"\b(?:phone|telephone|tel|mobile|cell|call(?:ed|ing)?|dial|ring|text|sms|whatsapp|signal|fax"
    r"|desk|office|home|work|card|account|konto|reach|contact|telefon\w*|handy|mobil|ruf\w*|appel\w*|llam\w*|hotline|number)\b",
    re.IGNORECASE,
)
_DATE = re.compile(
    r"(?:\d{4}[-./]\d{1,2}[-./]\d{1,2}|\d{1,2}[-./]\d{1,2}[-./]\d{2,4})"
    r"(?:[T ,]*\d{1,2}(?::\d{2}){0,2}(?:\.\d+)?)?"
)
_DECIMALS = re.compile(r"[-+]?\d{1,6}[.,]\d{1,8}(?:[ ,;andy&]+[-+]?\d{1,6}(?:[.,]\d{1,8})?)*")
_CLOCK = re.compile(r"\d{1,2}:\d{2}(?::\d{2})?")
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
        spans = (span for span in spans if not _is_allowed(text, span, allowed))
        return [span for span in spans if not is_code(text, span)]

    codes = codes_of_labels(examples, one_by_one, label_functions(task, task.scored_fields), say)

    def find(text: str) -> list[Span]:
        return [span for span in one_by_one(text) if shape_of(text, span) not in codes]

    return find, [*codes.values()]


def shape_of(text: str, span: Span) -> str:
    """What a number looks like, such as `PHONE_NUMBER 999-9999`."""
    return f"{span.kind} {_DIGIT.sub('9', text[span.start : span.end].strip())}"


def _is_written_as_phone(text: str, span: Span) -> bool:
    """Whether it is surely somebody's: international, an area code in brackets, called so."""
    before = text[max(0, span.start - BEFORE) : span.start]
    begins = before.rstrip()[-1:] + text[span.start : span.start + 1]
    is_called_so = "+" in begins or "(" in begins or _PHONE_WORD.search(before)
    return span.kind != "PHONE_NUMBER" or bool(is_called_so)


def codes_of_labels(
    examples: Sequence[TrainingExample], find: Find, labels: LabelFunctions, say: Say
) -> dict[str, str]:
    """Shapes that numbers have in one label alone, in most of its rows, each with what to say.

    People's phone numbers stand in all kinds of rows, and are called so in some of them.
    """
    counts = Counter()  # field, shape, value
    totals = Counter()
    phones = set()
    for example in show.told(examples, len(examples), "personal data", say):
        shapes = _shapes_in(example, find)
        totals.update(shapes.keys())
        phones.update(shape for shape, is_phone in shapes.items() if is_phone)
        for name, value_of in labels.items() if shapes else ():
            counts.update((name, shape, value_of(example)) for shape in shapes)
    codes = {}
    sizes_of = cache(lambda field: Counter(map(labels[field], examples)))
    by_field = sorted(counts.items(), key=lambda item: [*labels].index(item[0][0]))
    for (field, shape, value), n in by_field:
        if shape not in phones and n >= max(MANY, MOST * totals[shape]):
            sizes = sizes_of(field)
            if n >= HALF * sizes[value]:
                codes[shape] = (
                    f"{n} of {sizes[value]} rows of {field} {value[:40]} hold numbers like {shape},"
                    " nearly no others do: they are taken for codes"
                )
    return codes


def _shapes_in(example: TrainingExample, find: Find) -> dict[str, bool]:
    """The shapes of the numbers in a row, each with whether one of them is surely a phone's."""
    shapes = {}
    for text in (message.content or "" for message in example.messages):
        for span in find(text) if len(text) <= MAX_SCAN else ():
            shape = shape_of(text, span)
            shapes[shape] = shapes.get(shape, False) or _is_written_as_phone(text, span)
    return shapes


def _is_allowed(text: str, span: Span, allowed: Iterable[re.Pattern[str]]) -> bool:
    """Whether an allowed text holds the whole finding."""
    for pattern in allowed:
        for match in pattern.finditer(text):
            if match.start() <= span.start and span.end <= match.end():
                return True
    return False


def is_code(text: str, span: Span) -> bool:
    """Whether what was taken for a phone, a card or an address of a machine is a code."""
    if span.kind == "EMAIL_ADDRESS":
        return False
    number = text[span.start : span.end].strip()
    before = text[max(0, span.start - BEFORE) : span.start]
    if _CODE_WORD.search(before):
        return True
    if span.kind == "IP_ADDRESS":
        return _CLOCK.fullmatch(number) is not None
    if span.kind != "PHONE_NUMBER":
        return False
    start = max(0, span.start - 1)
    around = text[start : span.end + 12]
    if number.startswith("+") or text[start : start + 1] == "+":
        return False
    for pattern in (_DATE, _DECIMALS, _CLOCK):
        match = pattern.search(around)
        if match and start + match.start() <= span.start and match.end() >= len(number):
            return True
    return re.fullmatch(r"\d+", number) is not None and not _PHONE_WORD.search(before)
