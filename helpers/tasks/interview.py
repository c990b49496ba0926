"""What `workbook new` asks: only what a file leaves open, with the guess as the default.

On a terminal a person is asked; `--yes` takes every guess and says it; `--set KEY=VALUE` answers
beforehand. Without any of them nothing is guessed that decides how rows are read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import TypeAdapter, ValidationError

from helpers.records import WorkbookError
from helpers.tasks.conventions import NOTHING, WORDS, judge_scale, moment_of, token_of
from helpers.tasks.examples import LoadedRows
from helpers.tasks.forms import format_of
from helpers.tasks.infer import LONG, MANY_NUMBERS, are_labels, are_numbers, typed_column
from helpers.tasks.survey import PER_GROUP, SAMPLE, SPLITS
from helpers.tasks.task import KNOWN, Json, Task, yaml_of
from helpers.tasks.textfiles import UNNAMED, Row, TwoReadings
from helpers.tasks.values import as_text, as_typed, decimal_mark, is_there, value_at

INPUTS = "input text message question prompt query utterance body description content"
OUTPUTS = "output label category class intent answer completion response target reply"
_OWNERS = re.compile(
    r"(conversation|thread|session|dialog|dialogue|chat|customer|user|client|account|patient|author"
    r"|case|document|doc)([ _-]?(id|no|nr|number|key))?",
    re.IGNORECASE,
)
_TIMES = re.compile(r"date|time|created|opened|received|closed|(^|_)at$", re.IGNORECASE)
_RATINGS = re.compile(
    r"rating|score|stars|feedback|thumb|grade|csat|satisf|useful|bewertung|zufrieden|avis|calif",
    re.IGNORECASE,
)
RARE = 0.5  # of the rows: with more different values a column of short texts holds no labels
KIND = "kind."  # of a column of answers: labels, text, number
MARK = "columns.decimal"
NOBODY = "none"  # the answer that leaves a column alone


def _value(text: str) -> Any:
    try:
        return yaml_of(text)
    except (yaml.YAMLError, ValueError):
        raise WorkbookError(f"{text[:80]!r} is no YAML value; put quotes around a text") from None


class Question(NamedTuple):
    """One thing that a file leaves open."""

    key: str  # of task.yaml, as in `columns.group`; or `measure`, or KIND and a column
    text: str
    guess: str = ""  # "": nothing speaks for any answer
    options: tuple[str, ...] = ()  # the only answers; () takes any
    parse: Callable[[str], Any] = _value

    def parsed(self, reply: str) -> Any:
        """The value that a reply means, or the beginning of an option; WorkbookError for others."""
        begun = [
            each for each in self.options if each.strip('"').casefold().startswith(reply.casefold())
        ]
        if not reply or (self.options and len(begun) != 1):
            raise WorkbookError(f"{self.key}: {reply!r} is none of {', '.join(self.options)}")
        value = self.parse(*begun or [reply])
        own = Task.model_fields.get(self.key)
        try:
            return TypeAdapter(own.rebuild_annotation()).validate_python(value) if own else value
        except ValidationError as error:
            raise WorkbookError(f"{self.key}: {reply!r}: {error.errors()[0]['msg']}") from None


@dataclass
class Interview:
    """Who answers, and what has been answered so far."""

    given: dict[str, str] = field(default_factory=dict)  # by --set; those that were asked are gone
    ask: Callable[[str], str] | None = None  # shows one prompt to a person and takes the reply
    takes_guesses: bool = False  # --yes
    said: list[str] = field(default_factory=list)  # what to print
    lines: Json = field(default_factory=dict)  # of task.yaml: key -> value

    @property
    def settings(self) -> Json:
        """Every line of task.yaml that was given or answered; one that no task has is refused."""
        return {key: _value(text) for key, text in self.given.items()} | self.lines

    def answer(self, question: Question) -> Any:
        """What --set, a person or the guess says; None: nobody says anything."""
        if question.key in self.given:
            return question.parsed(self.given.pop(question.key))
        if self.ask is not None:
            return self._asked(question)
        if not question.guess or not (self.takes_guesses or question.key.startswith(KIND)):
            return None
        self.said.append(f"guessed: {question.text}? --set {question.key}={question.guess}")
        return question.parsed(question.guess)

    def _asked(self, question: Question) -> Any:
        prompt = question.text
        if question.options:
            prompt += f" ({' / '.join(question.options)})"
        prompt += f"? [{question.guess}] "
        note = ""
        while True:
            try:
                return question.parsed(self.ask(note + prompt).strip() or question.guess)
            except WorkbookError as error:
                note = f"{error}\n"

    def settle(self, questions: Iterable[Question]) -> int:
        """Ask for lines of task.yaml, and say how many were answered; the others are left out."""
        before = len(self.lines)
        for question in questions:
            value = self.answer(question)
            if value not in (None, NOBODY):
                self.lines[question.key] = value
            elif self.ask is None and question.key.startswith("columns."):
                self.said.append(
                    f"{question.text}: --set {question.key}={question.guess}, or that line in"
                    " task.yaml"
                )
        return len(self.lines) - before

    def read(self, reader: Callable[[], Any]) -> Any:
        """What `reader` reads; where two readings fit, the answer is in `settings` the next time.

        TwoReadings where nobody answers: nothing speaks for either.
        """
        while True:
            try:
                return reader()
            except TwoReadings as two:
                if self.ask is None or two.key in self.settings:
                    raise
                self.lines[two.key] = self._asked(Question(two.key, two.problem, "", two.options))


def share(text: str) -> float:
    """`0.8`, `80` and `80%` as a share of 1."""
    match = re.fullmatch(r"0?(\.\d+)|(\d\d(?:\.\d+)?)\s*%?", text)
    if not match:
        raise WorkbookError(f"{text!r} is no share that rows can show; write 0.8 or 80%")
    return float(match[1] or float(match[2]) / 100)


POLICY = (
    Question("targets.accuracy", "Which share of the answers has to be right", "0.8", parse=share),
    Question("volume_per_month", "How many requests a month", "1000"),
    Question(
        "data_may_leave",
        "May texts be sent to another machine",
        "false",
        ("no", "yes", "false", "true"),
        lambda text: text in ("yes", "true"),
    ),
    Question(
        "personal",
        "A row with personal data is left out, or kept with [EMAIL_ADDRESS] in its place",
        "reject",
        ("reject", "mask"),
    ),
)


def find_columns(data: Path, draft: Task, rows: Sequence[Row], interview: Interview) -> Json:
    """Which columns hold input and output: those asked for, else well-known names among them.

    {} for rows of a known form (chats, Alpaca, …), which need none.
    """
    is_mapped = {"columns.input", "columns.output"} & interview.given.keys()
    if not is_mapped and format_of(draft, rows) != "columns":
        return {}
    names = [*dict.fromkeys(name for row in rows for name in row if UNNAMED not in name)]
    there = f"it has {', '.join(names)}"
    there += "; messages is no list of turns" * ("messages" in names)
    usual_input, usual_output = _by_name(names, rows, interview)
    known = partial(_known, data, rows, there)
    text = f"What does the model get; {there}: which column (several: a,b)"
    guess = usual_input or _longest(names, rows, usual_output)
    asked = Question("columns.input", text, guess, parse=known)
    inputs = interview.answer(asked) or [usual_input]
    text = "What should it answer: which column (several: a,b)"
    guess = usual_output or _last_labels(names, rows, inputs, interview.said)
    asked = Question("columns.output", text, guess, parse=known)
    outputs = interview.answer(asked) or [usual_output]
    if "" in (inputs[0], outputs[0]) or {*outputs} & {*inputs}:
        raise WorkbookError(
            f"{data}: say which columns to use: --input COL --output COL, which cannot be the same"
            f" one ({there})"
        )
    if len(inputs) == 1:
        return {"input": inputs[0], "output": outputs}
    template = "\n\n".join(f"{{{name}}}" for name in inputs)
    return {"input": inputs, "template": template, "output": outputs}


def _known(data: Path, rows: Sequence[Row], there: str, reply: str) -> list[str]:
    # a name may hold a comma
    names = [reply] if any(reply in row for row in rows) else reply.split(",")
    for name in names:
        if not any(name in row or value_at(row, name) is not None for row in rows):
            raise WorkbookError(f"{data}: no column {name!r}; {there}")
    return names


def _by_name(names: Sequence[str], rows: Sequence[Row], interview: Interview) -> tuple[str, str]:
    """The columns of input and output: given, by their names, or as the other one of two."""
    lower = Counter(map(str.lower, names))
    columns = {name.lower(): name for name in names if lower[name.lower()] == 1}
    # what an annotator thinks of the label, as Prodigy has it
    if {str(row.get("answer")) for row in rows} <= {"accept", "reject", "ignore"}:
        columns.pop("answer", None)
    inputs = (columns[name] for name in INPUTS.split() if name in columns)
    outputs = (columns[name] for name in OUTPUTS.split() if name in columns)
    asked = interview.given.get("columns.input") or next(inputs, "")
    answer = interview.given.get("columns.output") or next(outputs, "")
    others = {*names} - {asked, answer}
    if (len(names), len(others)) == (2, 1):
        (other,) = others
        return asked or other, answer or other
    return asked, answer


def _longest(names: Sequence[str], rows: Sequence[Row], answer: str) -> str:
    """The column of the longest texts."""
    sizes = {name: sum(len(as_text(row.get(name))) for row in rows[:SAMPLE]) for name in names}
    sizes.pop(answer, None)
    return max(sizes, key=sizes.__getitem__, default=answer)


def _last_labels(
    names: Sequence[str], rows: Sequence[Row], inputs: Sequence[str], said: list[str]
) -> str:
    """The last filled column of few values that repeat, of words rather than of numbers."""
    guess = ""
    for name in reversed(names):
        values = [row[name] for row in rows if is_there(row.get(name))]
        is_other = name in inputs or any(seems(name, values) for _, _, seems in _USES)
        if is_other or len(set(map(str, values))) < 2 or not are_labels(values):
            continue
        if len(values) <= 0.9 * len(rows):
            said.append(
                f"{name} is no guess for the answer: {len(values)} of {len(rows)} rows have one"
            )
        elif not are_numbers(values):
            return name
        else:
            guess = guess or name
    return guess


def kind_of_answers(
    column: str, values: Sequence[Any], is_alone: bool, interview: Interview
) -> str:
    """What a column of answers holds: labels, text, number or list; asked where it is open."""
    filled = [value for value in values if is_there(value)]
    typed = typed_column(filled)
    if {*map(type, typed)} == {list}:
        return "list"
    is_spelled = typed != filled  # numbers, or true and false
    guess = "text"
    if (MARK in interview.settings and are_numbers(filled)) or (is_spelled and not is_alone):
        guess = "number"
    elif are_labels(filled):
        guess = "labels"
    texts = set(map(str, filled))
    text = f"`{column}` has {len(texts)} different answers in {len(filled)} rows: what are they"
    question = Question(KIND + column, text, guess, ("labels", "text", "number"), str)
    if _is_open(texts, len(filled), is_spelled, guess) or question.key in interview.given:
        return interview.answer(question)
    return guess


def of_kind(kind: str, column: str, cells: Sequence[Any], interview: Interview) -> list[Any]:
    """The cells as what somebody says they are; WorkbookError for a number that is none."""
    typed = typed_column(cells) if kind in ("number", "list") else list(cells)
    if kind == "number" and typed == cells:
        mark = interview.read(
            lambda: (
                interview.settings.get(MARK) or decimal_mark(cells, False, column, "the answers")
            )
        )
        typed = [as_typed(cell, {"type": "number"}, mark) for cell in cells]
        wrong = next((each for each in typed if isinstance(each, str) and each), "")
        if wrong:
            raise WorkbookError(
                f"{KIND}{column}=number: {wrong!r} is no number; mend it, say the decimal mark"
                f" (--set '{MARK}=\",\"'), or leave texts: --set {KIND}{column}=text"
            )
    return typed


def _is_open(texts: set[str], n: int, is_spelled: bool, guess: str) -> bool:
    """Whether answers may be labels as well as what they look like."""
    if guess == "text" and len(texts) < RARE * n:
        return max(map(len, texts)) <= LONG
    return is_spelled and len(texts) <= MANY_NUMBERS


def of_columns(loaded: LoadedRows, interview: Interview) -> list[Question]:
    """What columns seem to be that nothing reads: ratings, parts, times, owners of rows."""
    questions = {}
    unused = [
        column.name
        for column in loaded.reading.columns
        if column.use == "not used" and column.name not in KNOWN
    ]
    for name in unused:
        values = [example.meta.get("fields", {}).get(name) for example in loaded.examples]
        filled = [value for value in values if is_there(value)]
        for key, what, seems in _USES:
            if seems(name, filled) and key not in interview.settings and key not in questions:
                questions[key] = Question(
                    key, f"`{name}` looks like {what}", name, (name, NOBODY), str
                )
                break
    return list(questions.values())


def _are_ratings(name: str, values: Sequence[Any]) -> bool:
    """Words for good and bad, or a scale of numbers, stars or shares in a column that says so."""
    texts = {str(value).strip().casefold() for value in values} - {*NOTHING}
    if {WORDS.get(text) for text in texts - {"true", "false"}} == {5.0, 1.0}:
        return not texts <= {"yes", "no", "y", "n"} or bool(_RATINGS.search(name))
    with suppress(WorkbookError):  # two scales fit
        scale = judge_scale(Counter(map(token_of, values)), None, name, name, asks=False)
        return bool(_RATINGS.search(name)) and scale.rated > 0 and not scale.unknown
    return False


def _are_parts(name: str, values: Sequence[Any]) -> bool:
    parts = {SPLITS.get(str(value).strip().casefold()) for value in values}
    return len(parts) > 1 and None not in parts


def _are_times(name: str, values: Sequence[Any]) -> bool:
    """Times by name and by values."""
    with suppress(ValueError, OverflowError):
        moments = [moment_of(value, "day_first") for value in values]
        return bool(moments and _TIMES.search(name))
    return False


def _are_owners(name: str, values: Sequence[Any]) -> bool:
    """Conversations, customers, …: by name, and with a few rows each."""
    different = len(set(map(str, values)))
    return bool(_OWNERS.fullmatch(name)) and different < len(values) <= PER_GROUP * different


_USES: tuple[tuple[str, str, Callable[[str, Sequence[Any]], bool]], ...] = (
    ("columns.feedback_score", "ratings", _are_ratings),
    ("columns.split", "the part that a row belongs to", _are_parts),
    ("columns.created_at", "the time of each row", _are_times),
    ("columns.group", "what rows have in common that shall stand in one part", _are_owners),
)
