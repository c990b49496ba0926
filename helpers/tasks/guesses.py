"""What a file's columns seem to be: a guess each, which `workbook new` asks about or says."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from helpers.records import WorkbookError
from helpers.tasks.csvs import UNNAMED
from helpers.tasks.examples import LoadedRows
from helpers.tasks.forms import LIKES, Row, format_of
from helpers.tasks.infer import LONG, MANY_NUMBERS, are_labels, are_numbers, typed_column
from helpers.tasks.interview import KIND, Interview, Question, share
from helpers.tasks.moments import moment_of
from helpers.tasks.scales import UNRATED, judge_scale, token_of
from helpers.tasks.survey import PER_GROUP, SAMPLE, SPLITS
from helpers.tasks.task import KNOWN, Task
from helpers.tasks.values import as_text, is_there

INPUTS = "input text message question prompt query utterance body description content"
OUTPUTS = "output label category class intent answer completion response target reply"
_OWNERS = re.compile(
    r"(conversation|thread|session|dialog|dialogue|chat|customer|user|client|account|patient|author"
    r"|case|document|doc)([ _-]?(id|no|nr|number|key))?",
    re.IGNORECASE,
)
_TIMES = re.compile(r"date|time|created|opened|received|closed|(^|_)at$", re.IGNORECASE)
_RATINGS = re.compile(r"rating|score|stars|feedback|thumb|grade|csat|satisf", re.IGNORECASE)
RARE = 0.5  # of the rows: with more different values a column of short texts holds no labels
POLICY = (
    Question("targets.accuracy", "Which share of the answers has to be right", "0.8", parse=share),
    Question("volume_per_month", "How many requests a month", "1000"),
    Question("data_may_leave", "May texts be sent to another machine", "false", ("false", "true")),
    Question(
        "personal",
        "A row with personal data is left out, or kept with [EMAIL_ADDRESS] in its place",
        "reject",
        ("reject", "mask"),
    ),
)


def find_columns(
    data: Path, draft: Task, rows: Sequence[Row], interview: Interview
) -> dict[str, Any]:
    """Which columns hold input and output: those asked for, else well-known names among them.

    {} for rows of a known form (chats, Alpaca, …), which need none.
    """
    has_flag = {"columns.input", "columns.output"} & interview.given.keys()
    if not has_flag and format_of(draft, rows) != "columns":
        return {}
    names = [*dict.fromkeys(name for row in rows for name in row if UNNAMED not in str(name))]
    no_chat = "; messages is no list of turns" if "messages" in names else ""
    there = f"it has {', '.join(map(str, names))}{no_chat}"
    known = partial(_known, names, f"{data}: no column {{!r}}; {there}")
    usual_input, usual_output = _by_name(names, interview)
    question = Question(
        "columns.input",
        f"What does the model get; {there}; which column (several: a,b)",
        usual_input or _longest(names, rows, usual_output),
        parse=known,
    )
    inputs = (interview.answer(question) or usual_input).split(",")
    question = Question(
        "columns.output",
        "What should it answer: which column (several: a,b)",
        usual_output or _last_labels(names, rows, inputs),
        parse=known,
    )
    answer = interview.answer(question) or usual_output
    if not inputs[0] or not answer or {*answer.split(",")} & {*inputs}:
        raise WorkbookError(
            f"{data}: say which columns to use: --input COL --output COL, which cannot be the same"
            f" one ({there})"
        )
    _refuse_empty(data, rows, inputs)
    if len(inputs) == 1:
        return {"input": inputs[0], "output": answer}
    template = "\n\n".join(f"{{{name}}}" for name in inputs)
    return {"input": inputs, "template": template, "output": answer}


def _known(names: Sequence[str], problem: str, reply: str) -> str:
    """Columns that are there, with commas between them."""
    for name in reply.split(","):
        if name not in names:
            raise WorkbookError(problem.format(name))
    return reply


def _refuse_empty(data: Path, rows: Sequence[Row], inputs: Sequence[str]) -> None:
    n = sum(not any(is_there(row.get(name)) for name in inputs) for row in rows)
    if n:
        raise WorkbookError(
            f"{data}: {n} of {len(rows)} rows have nothing in {' or '.join(inputs)}; fill them in,"
            " or delete those rows"
        )


def _by_name(names: Sequence[str], interview: Interview) -> tuple[str, str]:
    """The columns of input and output: given, by their names, or as the other one of two."""
    columns = {str(column).lower(): str(column) for column in names}
    guesses = []
    for key, known in (("columns.input", INPUTS), ("columns.output", OUTPUTS)):
        usual = next((columns[name] for name in known.split() if name in columns), "")
        guesses.append(interview.given.get(key) or usual)
    question, answer = guesses
    others = [name for name in names if name not in guesses]
    if len(names) == 2 and len(others) == 1:
        return question or others[0], answer or others[0]
    return question, answer


def _longest(names: Sequence[str], rows: Sequence[Row], answer: str) -> str:
    """The column of the longest texts."""
    sizes = {
        name: sum(len(as_text(row.get(name, ""))) for row in rows[:SAMPLE])
        for name in names
        if name not in answer.split(",")
    }
    return max(sizes, key=lambda name: sizes[name], default="")


def _last_labels(names: Sequence[str], rows: Sequence[Row], inputs: Sequence[str]) -> str:
    """The last column of few values that repeat, of words rather than of numbers."""
    guess = ""
    for name in reversed(names):
        values = [row[name] for row in rows if is_there(row.get(name))]
        is_other = name in inputs or any(seems(name, values) for _, _, seems in _USES)
        if is_other or len(set(map(str, values))) < 2 or not are_labels(values):
            continue
        if not are_numbers(values):
            return name
        guess = guess or name
    return guess


def kind_of_answers(
    column: str, values: Sequence[Any], is_alone: bool, interview: Interview
) -> str:
    """What a column of answers holds: labels, text, number or list; asked where it is open."""
    filled = [value for value in values if is_there(value)]
    texts = set(map(str, filled))
    typed = typed_column(filled)
    if typed and all(isinstance(value, list) for value in typed):
        return "list"
    is_spelled = typed != filled  # numbers, or true and false
    guess = "labels" if are_labels(filled) else "text"
    if is_spelled and not is_alone:
        guess = "number"
    is_open = is_spelled and len(texts) <= MANY_NUMBERS
    if guess == "text" and len(texts) < RARE * len(filled):
        is_open = max(map(len, texts)) <= LONG
    text = f"`{column}` has {len(texts)} different answers in {len(filled)} rows: what are they"
    question = Question(KIND + column, text, guess, ("labels", "text", "number"), str)
    if is_open or question.key in interview.given:
        return interview.answer(question) or guess
    return guess


def of_columns(loaded: LoadedRows, interview: Interview) -> list[Question]:
    """What columns seem to be that nothing reads: ratings, parts, times, owners of rows."""
    questions: dict[str, Question] = {}
    unused = [
        column.name
        for column in loaded.reading.columns
        if column.use == "not used" and column.name not in KNOWN
    ]
    for name in unused:
        values = [example.meta.get("fields", {}).get(name) for example in loaded.examples]
        filled = [value for value in values if is_there(value)]
        for key, what, seems in _USES:
            if seems(name, filled) and key not in interview.lines and key not in questions:
                text = f"`{name}` looks like {what}"
                questions[key] = Question(key, text, name, (name, "none"), _column)
                break
    return list(questions.values())


def _column(reply: str) -> str | None:
    return None if reply == "none" else reply


def _are_ratings(name: str, values: Sequence[Any]) -> bool:
    """Thumbs, 1 to 5, or words for good and bad."""
    texts = {str(value).strip().casefold().removesuffix(".0") for value in values} - {*UNRATED}
    if {LIKES.get(v) for v in texts} == {5.0, 1.0} or {"1", "5"} <= texts <= set("12345"):
        return True
    try:
        scale = judge_scale(Counter(map(token_of, values)), None, name, name, asks=False)
    except WorkbookError:  # of two scales
        return _RATINGS.search(name) is not None
    return _RATINGS.search(name) is not None and scale.rated > 0 and not scale.unknown


def _are_parts(name: str, values: Sequence[Any]) -> bool:
    parts = {SPLITS.get(str(value).strip().casefold()) for value in values}
    return len(parts) > 1 and None not in parts


def _are_times(name: str, values: Sequence[Any]) -> bool:
    """Times by name and by values."""
    if not values or not _TIMES.search(name):
        return False
    try:
        for value in values:
            moment_of(value, "day_first")
    except (ValueError, OverflowError):
        return False
    return True


def _are_owners(name: str, values: Sequence[Any]) -> bool:
    """Conversations, customers, …: by name, and with a few rows each."""
    different = len(set(map(str, values)))
    is_named = _OWNERS.fullmatch(name) is not None
    return is_named and different < len(values) <= PER_GROUP * different


_USES: tuple[tuple[str, str, Callable[[str, Sequence[Any]], bool]], ...] = (
    ("columns.feedback_score", "ratings", _are_ratings),
    ("columns.split", "the part that a row belongs to", _are_parts),
    ("columns.created_at", "the time of each row", _are_times),
    ("columns.group", "what rows have in common that shall stand in one part", _are_owners),
)
