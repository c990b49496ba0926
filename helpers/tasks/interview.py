"""What `workbook new` asks: only what a file leaves open, with the guess as the default.

On a terminal a person is asked; `--yes` takes every guess and says it; `--set KEY=VALUE` answers
beforehand. Without any of them nothing is guessed that decides how rows are read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

from helpers.records import WorkbookError
from helpers.tasks.encodings import TwoReadings
from helpers.tasks.task import yaml_of

# what a question decides that is no line of task.yaml by itself
NO_LINES = ("columns.input", "columns.output", "measure")
KIND = "kind."  # of a column: labels, text, number


def _value(text: str) -> Any:
    try:
        return yaml_of(text)
    except (yaml.YAMLError, ValueError):
        raise WorkbookError(f"{text[:80]!r} is no YAML value; put quotes around a text") from None


class Question(NamedTuple):
    """One thing that a file leaves open."""

    key: str  # of task.yaml, as in `columns.group`, or one of NO_LINES
    text: str
    guess: str = ""  # "": nothing speaks for any answer
    options: tuple[str, ...] = ()  # the only answers; () takes any
    parse: Callable[[str], Any] = _value

    def parsed(self, reply: str) -> Any:
        """The value that a reply means; WorkbookError where it means none."""
        if self.options:
            bare = {option.strip('"').casefold(): option for option in self.options}
            begun = [name for name in bare if reply and name.startswith(reply.casefold())]
            matches = [name for name in begun if name == reply.casefold()] or begun
            if len(matches) != 1:
                raise WorkbookError(f"{self.key}: {reply!r} is none of {', '.join(bare)}")
            reply = bare[matches[0]]
        if not reply:
            raise WorkbookError(f"{self.key}: nothing was said")
        return self.parse(reply)


@dataclass
class Interview:
    """Who answers, and what has been answered so far."""

    given: dict[str, str] = field(default_factory=dict)  # by --set
    ask: Callable[[str], str] | None = None  # shows one prompt to a person and takes the reply
    takes_guesses: bool = False  # --yes
    said: list[str] = field(default_factory=list)  # what to print
    lines: dict[str, Any] = field(default_factory=dict)  # of task.yaml: key -> value
    heard: set[str] = field(default_factory=set)  # keys that something has asked for

    def __post_init__(self) -> None:
        for key, text in self.given.items():
            if key not in NO_LINES and not key.startswith(KIND):
                self.lines[key] = _value(text)

    def answer(self, question: Question) -> Any:
        """What --set, a person or the guess says; None: nobody says anything."""
        self.heard.add(question.key)
        if question.key in self.given:
            return question.parsed(self.given[question.key])
        if self.ask is not None:
            return self._asked(question)
        is_taken = self.takes_guesses or question.key.startswith(KIND)
        if not is_taken or not question.guess:
            return None
        self.said.append(f"guessed: {question.text}? --set {question.key}={question.guess}")
        return question.parsed(question.guess)

    def _asked(self, question: Question) -> Any:
        options = f" ({' / '.join(question.options)})" if question.options else ""
        guess = f" [{question.guess}]" if question.guess else ""
        note = ""
        while True:
            try:
                reply = self.ask(f"{note}{question.text}{options}?{guess} ").strip()
                return question.parsed(reply or question.guess)
            except EOFError:
                raise WorkbookError("the interview was left: nothing is written") from None
            except WorkbookError as error:
                note = f"{error}\n"

    def settle(self, questions: Iterable[Question]) -> int:
        """Ask for lines of task.yaml, and say how many were answered; the others are left out."""
        before = len(self.lines)
        for question in questions:
            value = self.answer(question)
            if value is not None:
                self.lines[question.key] = value
            elif self.ask is None and question.key.startswith("columns."):
                line = f"--set {question.key}={question.guess}"
                self.said.append(f"{question.text}: {line}, or that line in task.yaml")
        return len(self.lines) - before

    def read(self, reader: Callable[[], Any]) -> Any:
        """What `reader` reads; where two readings fit, the answer is among `lines` the next time.

        TwoReadings where nobody answers: nothing speaks for either.
        """
        while True:
            try:
                return reader()
            except TwoReadings as two:
                value = None
                if two.key not in self.lines:
                    value = self.answer(Question(two.key, two.problem, "", two.options))
                if value is None and (self.ask is None or two.key in self.lines):
                    raise
                self.lines[two.key] = value

    def refuse_unheard(self) -> None:
        """WorkbookError for an answer to a question that this file does not raise."""
        asked_for = {key for key in self.given if key in NO_LINES or key.startswith(KIND)}
        for key in sorted(asked_for - self.heard):
            raise WorkbookError(f"--set {key}: this file leaves no such question open")


def share(text: str) -> float:
    """`0.8`, `80` and `80%` as a share of 1."""
    bare = text.removesuffix("%").strip()
    value = float(bare) if re.fullmatch(r"\d+(\.\d+)?", bare) else 0.0
    if value > 1 or text.endswith("%"):
        value /= 100
    if not 0 < value < 1:
        raise WorkbookError(f"{text!r} is no share that rows can show; write 0.8 or 80%")
    return value
