"""How a source file is to be read, judged over all of it before the first row is."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from helpers import store
from helpers.records import ColumnReading, SourceReading
from helpers.tasks.encodings import TwoReadings
from helpers.tasks.moments import day_order
from helpers.tasks.reading import FileForm, batches, form_of, read_rows
from helpers.tasks.rows import SPLITS, HowRead, cell, is_chat, spelled_chat
from helpers.tasks.scales import WORDS, Token, judge_scale, token_of
from helpers.tasks.task import Task

SAMPLE = 200  # rows that the format is judged by
DISTINCT = 10_000  # values of a column counted one by one; more are free text
CHUNK = 2**20
# columns of ours that a row may name without being asked
KNOWN = ("id", "messages", "created_at", "group", "conversation_id", "split", "feedback_score")
KNOWN += ("model_version", "articles", "tools", "label")
FORMAT_COLUMNS = {
    "chat": ("messages",),
    "sharegpt": ("conversations", "conversation", "messages", "system"),
    "prompt_completion": ("prompt", "completion"),
    "kto": ("prompt", "completion", "label"),
    "preference": ("prompt", "chosen", "rejected"),
    "alpaca": ("instruction", "input", "output", "response", "system", "history"),
    "columns": (),
}
VERDICTS = ("label", "verdict", "rating", "thumb", "good", "accepted", "correct", "grade")
MANY = 50  # rows from which a column's values say what it is
PER_GROUP = 10  # rows of a conversation, on average; more are a region, a product, a language


def survey(task: Task, path: Path, form: FileForm | None = None) -> tuple[FileForm, HowRead]:
    """How a file is written, and how its rows are read; WorkbookError where two readings fit."""
    form = form or form_of(path, task.encoding)
    sample = [row.content for row in islice(read_rows(path, form), SAMPLE)]
    rows = [content for content in sample if isinstance(content, dict)]
    how = HowRead(task, path, format_of(task, rows))
    _ask_about_verdicts(how, rows)
    ratings = column_counts(task, path, form, "feedback_score", rows)
    name = str(task.columns.get("feedback_score", "feedback_score"))
    how.scale = judge_scale(ratings, task.columns.get("feedback"), name, str(path))
    moments = [cell(task, row, "created_at") for row in rows]
    if any(isinstance(value, str) and re.match(r"\d{1,2}[/-]\d", value) for value in moments):
        days = column_counts(task, path, form, "created_at", rows)
        column = str(task.columns.get("created_at", "created_at"))
        values = [value for _, value in days]
        how.day_order = day_order(values, task.columns.get("dates"), column, str(path))
    return form, how


def format_of(task: Task, rows: Sequence[dict[str, Any]]) -> str:
    """The form of most of a file's rows: what task.yaml says, what it maps, or what they hold."""
    if task.format:
        return task.format
    mapped = task.columns.get("input")
    names = [mapped] if isinstance(mapped, str) else mapped or []
    output = task.columns.get("output")
    if names and any(cell(task, row, "input") is not None or names[0] in row for row in rows):
        return "columns"
    if not names and output and any("input" in row for row in rows):
        return "columns"
    counts = Counter(_form_of_row(task, row) for row in rows)
    return counts.most_common(1)[0][0] if counts else "columns"


def _form_of_row(task: Task, row: dict[str, Any]) -> str:
    turns = cell(task, row, "messages")
    if isinstance(turns, str):
        turns = spelled_chat(turns)
    for candidate in (row.get("conversations"), row.get("conversation"), turns):
        if isinstance(candidate, str):
            candidate = spelled_chat(candidate)
        if is_chat(candidate) and "from" in candidate[0]:
            return "sharegpt"
    if is_chat(turns) or (isinstance(row.get("messages"), list) and "messages" not in task.columns):
        return "chat"
    if "chosen" in row and "rejected" in row:
        return "preference"
    if "prompt" in row and "completion" in row:
        label = row.get("label")
        is_label = isinstance(label, bool) or str(label).casefold() in ("true", "false")
        return "kto" if is_label else "prompt_completion"
    if "instruction" in row and ("output" in row or "response" in row):
        return "alpaca"
    return "columns"


def column_counts(
    task: Task, path: Path, form: FileForm, name: str, rows: Sequence[dict[str, Any]] = ()
) -> Counter[Token]:
    """How often each value of one of our columns occurs in a file, empty cells too."""
    key = task.columns.get(name, name)
    if not isinstance(key, str):
        return Counter()
    last = key.split(".")[-1]
    if form.note == "JSON Lines" and not form.encoding and not last.isdecimal():
        return json_counts(path, last)
    counts: Counter[Token] = Counter()
    if path.suffix.lower() == ".parquet":
        from pyarrow import parquet

        names = parquet.read_schema(path).names
        top = key if key in names else key.split(".")[0]
        for batch in batches(path, [top]) if top in names else ():
            if key == top:
                for pair in batch.column(0).value_counts().to_pylist():
                    _count(counts, pair["values"], pair["counts"])
            else:
                for row in batch.to_pylist():
                    _count(counts, cell(task, row, name))
        return counts
    for row in read_rows(path, form):
        if isinstance(row.content, dict):
            _count(counts, cell(task, row.content, name))
    return counts


def _count(counts: Counter[Token], value: Any, n: int = 1) -> None:
    token = token_of(value)
    if token in counts or len(counts) < DISTINCT:
        counts[token] += n


def json_counts(path: Path, key: str) -> Counter[Token]:
    """The values of a key wherever it stands in a JSON Lines file, by its bytes: 10 times as fast.

    A key that stands inside of a text is escaped there, so it is not found.
    """
    spelled = re.escape(json.dumps(key).encode())
    pattern = re.compile(spelled + rb'\s*:\s*("(?:[^"\\\n]|\\.)*"|[^\s,}\]]+)')
    spellings: Counter[bytes] = Counter()
    with open(path, "rb") as file:
        while lines := file.readlines(CHUNK):
            if len(spellings) < DISTINCT:
                spellings.update(pattern.findall(b"".join(lines)))
    counts: Counter[Token] = Counter()
    for spelling, n in spellings.items():
        try:
            _count(counts, json.loads(spelling), n)
        except ValueError:
            continue  # an object, or a broken line
    return counts


def _ask_about_verdicts(how: HowRead, rows: Sequence[dict[str, Any]]) -> None:
    """A column that says good or bad of each answer is no decoration: it is asked for."""
    if how.format not in ("prompt_completion", "chat") or "label" in how.task.columns:
        return
    for name in VERDICTS:
        values = {str(row.get(name, "")).strip().casefold() for row in rows} - {"", "none", "nan"}
        scores = {WORDS.get(value) for value in values}
        if values and scores == {5.0, 1.0}:
            words = " or ".join(sorted(values)[:2])
            raise TwoReadings(
                f"{how.path}: column `{name}` says {words} of each answer: shall only the good ones"
                " be learnt, or is it an ordinary column? Say which in task.yaml: `columns:"
                f" {{label: {name}}}` or `columns: {{label: null}}`"
            )


def check_columns(how: HowRead, groups: Counter[str], splits: Mapping[str, int], n: int) -> None:
    """WorkbookError where `group` or `split` is an ordinary column of that name, and not ours."""
    columns = how.task.columns
    if "group" not in columns and n >= MANY and groups and n > PER_GROUP * len(groups):
        raise TwoReadings(
            f"{how.path}: column `group` has {len(groups)} values in {n} rows: shall all rows with"
            " the same value stand in one part, or is it an ordinary column? Say which in"
            " task.yaml: `columns: {group: group}` or `columns: {group: null}`"
        )
    unknown = [value for value in splits if value.strip().casefold() not in SPLITS]
    if unknown:
        column = columns.get("split", "split")
        parts = ", ".join(dict.fromkeys(SPLITS.values()))
        raise TwoReadings(
            f"{how.path}, line {splits[unknown[0]]}: column `{column}` holds a"
            f" {store.outline(unknown[0])}, which is no part ({parts}): mend that row, or, if it is"
            " an ordinary column, write in task.yaml: `columns: {split: null}`"
        )


def reading_of(how: HowRead, form: FileForm, source: str, rows: int) -> SourceReading:
    """What was read, and how, for the manifest and for 02."""
    columns = []
    used = {name: how.task.columns.get(name, name) for name in ("input", "output", *KNOWN)}
    for name, column in used.items():
        if name == "feedback_score" and how.scale.rows:
            scale = how.scale._replace(rows=rows)
            columns.append(ColumnReading(name=str(column), use=name, how=scale.description))
            if how.scale.unknown:
                how.changes["ratings that are none"] += how.scale.unknown
        elif name in how.task.columns or (name == "created_at" and how.day_order):
            detail = how.day_order if name == "created_at" else ""
            shown = column if isinstance(column, str) else json.dumps(column, ensure_ascii=False)
            columns.append(ColumnReading(name=shown, use=name, how=detail))
    for name, n in sorted(how.unused.items()):
        columns.append(ColumnReading(name=name, use="not used", how=f"in {n} rows"))
    return SourceReading(
        file=how.path.name,
        source=source,
        rows=rows,
        format=how.format,
        form=form.description,
        columns=columns,
        changes=dict(sorted(how.changes.items())),
    )


def used_columns(how: HowRead) -> set[str]:
    """The columns of a file that something reads."""
    columns = how.task.columns
    names = {*FORMAT_COLUMNS[how.format]}
    ours = [*KNOWN, "input", "output"] if how.format == "columns" else [*KNOWN]
    if how.format != "kto" and "label" not in columns:
        ours.remove("label")
    for name in ours:
        column = columns.get(name, name)
        if isinstance(column, str):
            names |= {column, column.split(".")[0]}
        elif isinstance(column, dict | list):
            names |= set(map(str, column.values() if isinstance(column, dict) else column))
    return names
