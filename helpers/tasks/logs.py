"""Live logs of any system as LiveRows and LateFeedback: judged as columns, read line by line."""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from copy import copy
from datetime import UTC, datetime
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Annotated, Any, Literal, Required

from pydantic import Field, PositiveFloat, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from helpers import store
from helpers.records import GOOD_STATUS, LateFeedback, LiveRow, WorkbookError
from helpers.tasks.conventions import Token, day_order, is_nothing, judge_scale, moment_of, token_of
from helpers.tasks.forms import HowRead, columns_of, gold_answer, question_of
from helpers.tasks.reading import FileForm, ending_of, read_rows
from helpers.tasks.survey import DISTINCT, column_counts
from helpers.tasks.task import Task
from helpers.tasks.textfiles import Row
from helpers.tasks.turns import as_turns
from helpers.tasks.values import as_text, cell, spelled, value_at

JUDGED = 20_000  # lines by which it is judged what a repeated request_id means
SAID = ("feedback_score", "thumb", "correction", "comment")  # what late feedback may say
LATE = {"request_id", "created_at", "at", "caller", *SAID}  # a line of these alone is late feedback
_DONE = (  # a cut answer is one: its format says what it is worth
    "completed complete done finished succeeded true none stop stop_sequence end_turn eos eos_token"
    " tool_calls function_call length max_tokens"
)
DONE = {"", *GOOD_STATUS, *_DONE.split()}
CHUNK = 2**20
LINES = FileForm(note="JSON Lines")
# what lines of one request_id are: a later line replaces (once), one trace of many requests, or the
# pieces of one answer
Repeats = Literal["once", "trace", "pieces"]
Fields = dict[str, Any]  # of a LiveRow; those that have their default may be missing
_GOOD = re.compile(r"(?:http/[\d.]+ )?2\d\d(?: .*)?")  # 200 OK
# a line that says in our own words what it says: nothing in it has to be looked at
_OWN = {name: field.annotation for name, field in LiveRow.model_fields.items()} | {
    "created_at": Required[str],
    "answer": Required[str],
    "messages": Required[list[dict[str, Any]]],
    "status": Literal["ok"],
    "latency_ms": PositiveFloat | None,
    "confidence": Annotated[float, Field(ge=0, le=1)] | None,
    "feedback_score": Annotated[float, Field(ge=1, le=5)] | None,
    "fields": Annotated[dict[str, str], Field(max_length=0)],
}
_OWN_FIELDS = TypeAdapter(
    with_config(LiveRow.model_config)(TypedDict("OwnFields", _OWN, total=False))
).validator


class LogReader:
    """Reads the lines of one task's live log; the columns are judged over all of its files."""

    def __init__(self, task: Task, files: Sequence[Path]) -> None:
        self._task = task
        self._lines = 0
        self._pieces: dict[str, str] = {}
        self.problems: Counter[str] = Counter()  # what a line said and nobody can read
        sample = list(_parsed(files))
        self._how = HowRead(task, task.folder)
        self.repeats: Repeats = _repeats_of(task, sample)
        where = os.path.commonpath(files) if files else ""
        column = "".join(columns_of(task, "feedback_score"))
        counts = _values_of(files, column)
        setting = task.columns.get("feedback")
        ours = any(store.home() / "live" in path.parents for path in files)
        if ours or (setting is None and any("arm" in raw for raw in sample)):
            setting = [1, 5]  # our own form of a log says stars, whatever others meant
        self.scale = judge_scale(counts, setting, column, where, asks=False)
        self._thumbs = judge_scale(_values_of(files, "thumb"), setting, "thumb", where)
        are_stars = all(score == value for (_, value), score in self.scale.scores.items())
        self._is_own = are_stars and not (task.columns or task.slices or self.repeats != "once")
        at = "".join(columns_of(task, "created_at"))
        times = (value_at(raw, at) for raw in sample)
        self._order = day_order(times, task.columns.get("dates"), at, where)

    def fields(self, line: bytes) -> Fields | LateFeedback | None:
        """A line as `__call__` reads it, a row as its fields; one of our own form in less time."""
        if self._is_own and b'"thumb"' not in line:
            try:
                row = _OWN_FIELDS.validate_json(line)
                moment = datetime.fromisoformat(row["created_at"])
                if moment.tzinfo:
                    row["created_at"] = moment.astimezone(UTC)
                    return row
            except (ValueError, OverflowError):
                pass  # it has to be looked at
        entry = self(line)
        return vars(entry) if isinstance(entry, LiveRow) else entry

    def __call__(self, line: str | bytes) -> LiveRow | LateFeedback | None:
        """One line: an answered request, or what was said later; None: nobody can read it."""
        self._lines += 1
        try:
            # json would take a line of UTF-16 for what it is, and the next one for something else
            raw = json.loads(line if isinstance(line, str) else line.decode("utf-8-sig"))
            if not isinstance(raw, dict):
                return None
            if _is_late(raw):
                at = moment_of(raw.get("at") or cell(self._task, raw, "created_at"), self._order)
                said = {"at": at.astimezone(UTC), "feedback_score": self._score(raw), "thumb": None}
                return LateFeedback.model_validate(raw | said)
            # null, as tables write it, is nothing
            return LiveRow.model_validate(
                {name: value for name, value in self._row(raw).items() if value is not None}
            )
        except (ValidationError, ValueError, TypeError, OverflowError, RecursionError):
            return None

    def _row(self, raw: Row) -> Fields:
        status = _status(raw.get("status", "ok"))
        moment = moment_of(cell(self._task, raw, "created_at"), self._order)
        columns = columns_of(self._task, "output")
        answer = self._either("answer", columns, gold_answer(self._how, raw), raw, status)
        text = "" if answer is None else as_text(answer)
        request_id = "" if raw.get("request_id") is None else str(raw["request_id"])
        if self.repeats == "trace":
            request_id = f"{request_id}#{self._lines}"
        elif self.repeats == "pieces":
            before = self._pieces.get(request_id, "")
            text = text if text.startswith(before) else before + text
            self._pieces[request_id] = text
        columns = [*columns_of(self._task, "messages"), *columns_of(self._task, "input")]
        chat = cell(self._task, raw, "messages")
        question = question_of(self._task, raw) if chat is None else chat
        messages = self._either("messages", columns, question, raw, status)
        if not isinstance(messages, list):
            messages = as_turns(messages, "user", Counter())
        return raw | {
            "request_id": request_id,
            "created_at": moment.astimezone(UTC),
            "conversation_id": raw.get("conversation_id", ""),
            "answer": text,
            "messages": messages,
            "status": status,
            "fields": {
                name: str(value)
                for name in self._task.slices
                if (value := cell(self._task, raw, name)) is not None
            },
            "latency_ms": _within(raw.get("latency_ms"), 1e-9, math.inf),
            "confidence": _within(raw.get("confidence"), 0, 1),
            "feedback_score": self._score(raw),
        }

    def _either(self, name: str, columns: Sequence[str], value: Any, raw: Row, status: str) -> Any:
        """Our field, or the value of mapped columns; ValueError where a good row has none."""
        tops = {name, *columns, *(column.split(".")[0] for column in columns)}
        if status == "ok" and tops.isdisjoint(raw):
            raise ValueError(f"has no field {name}")
        return value if raw.get(name) is None else raw[name]

    def _score(self, raw: Row) -> float | None:
        """1 to 5 from the rating or the thumb."""
        for scale, value in (
            (self.scale, cell(self._task, raw, "feedback_score")),
            (self._thumbs, raw.get("thumb")),
        ):
            if is_nothing(value):
                continue
            try:
                return scale.score(value)
            except (ValueError, TypeError):
                self.problems["ratings that are none"] += 1
        return None


def read_log(
    task: Task, files: Sequence[Path], like: LogReader | None = None
) -> Iterator[LiveRow | LateFeedback | None]:
    """Every line of a live log that is not empty, in the order of the files.

    The columns are judged over these files, or as `like` judged them.
    """
    reader = copy(like) if like else LogReader(task, files)
    reader._pieces = {}
    for path in files:
        with open(path, "rb") as lines:
            for line in lines:
                entry = reader.fields(line)
                if isinstance(entry, dict):
                    yield LiveRow.model_validate(entry)
                elif line.strip():
                    yield entry


def _within(value: Any, low: float, high: float) -> float | None:
    return value if isinstance(value, int | float) and low <= value <= high else None


def _is_late(raw: Row) -> bool:
    return ("created_at" not in raw and "at" in raw) or (
        "request_id" in raw and set(raw) <= LATE and bool(raw.keys() & set(SAID))
    )


def _status(value: Any) -> str:
    """`ok` for what other systems call a good end; anything else as it is."""
    text = str(value).strip().casefold().removeprefix("finish_reason_")
    return "ok" if text in DONE or _GOOD.fullmatch(text) else str(value)


def _parsed(files: Sequence[Path]) -> Iterator[Row]:
    """The first JUDGED objects of a log."""
    for path in files:
        if ending_of(path) not in (".jsonl", ".json"):
            raise WorkbookError(f"{path} is no JSON Lines file; `workbook logs import` makes one")
    rows = chain.from_iterable(map(read_rows, files, repeat(LINES)))
    return islice((row.content for row in rows if isinstance(row.content, dict)), JUDGED)


def _values_of(files: Sequence[Path], key: str) -> Counter[Token]:
    """How often each value of a row's key occurs: by bytes, 10 times as fast.

    A key inside of a text is escaped there, so it is not found; where a value is new, the rows say
    whether it is theirs or that of something inside of them.
    """
    if "." in key:
        return sum((column_counts(path, LINES, [key])[key] for path in files), Counter())
    quoted = json.dumps(key).encode()
    pattern = re.compile(re.escape(quoted) + rb'\s*:\s*("(?:[^"\\\n]|\\.)*"|[^\s,}\]]+)')
    counts = Counter()
    for path in files:
        with open(path, "rb") as file:
            while lines := file.read(CHUNK) + file.readline():
                found = Counter()
                if quoted in lines and len(counts) < DISTINCT:
                    for spelling, n in Counter(pattern.findall(lines)).items():
                        found[token_of(spelled(spelling))] += n
                if not found.keys() <= counts.keys():
                    rows = (spelled(line) for line in lines.splitlines() if quoted in line)
                    own = (row[key] for row in rows if isinstance(row, dict) and key in row)
                    found = Counter(map(token_of, own))
                counts.update(found)
    return counts


def _repeats_of(task: Task, sample: Sequence[Row]) -> Repeats:
    """What the lines have in common that share a request_id."""
    groups = defaultdict(list)
    for raw in sample:
        if raw.get("request_id") is not None and not _is_late(raw):
            groups[str(raw["request_id"])].append(raw)
    kinds = Counter()
    for lines in (lines for lines in groups.values() if len(lines) > 1):
        questions = {as_text(raw.get("messages") or cell(task, raw, "input")) for raw in lines}
        if len(questions) > 1:
            kinds["trace"] += 1
        elif len({as_text(raw.get("answer")) for raw in lines}) > 1:
            kinds["pieces"] += 1
    often = sum(kinds.values()) > len(groups) / 5
    return kinds.most_common(1)[0][0] if often else "once"
