"""How a source file is to be read, judged over all of it before the first row is."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from helpers import store
from helpers.records import PARTS, ColumnReading, Part, Source, SourceReading, WorkbookError
from helpers.tasks.conventions import Token, day_order, judge_scale, token_of
from helpers.tasks.forms import FORMS, LIKES, HowRead, format_of, input_columns, output_columns
from helpers.tasks.reading import FileForm, form_of, parquet_rows, read_rows
from helpers.tasks.task import KNOWN, Task
from helpers.tasks.textfiles import Row, TwoReadings
from helpers.tasks.values import NUMBERS, DecimalMark, as_text, decimal_mark, kind_of, value_at

SAMPLE = 200  # rows that the format is judged by
DISTINCT = 10_000  # values of a column counted one by one; more are free text
CHUNK = 2**20
_WORDS = {
    "train": "train training",
    "validation": "validation valid val dev",
    "test": "test testing holdout",
}
SPLITS: dict[str, Part] = {word: part for part, words in _WORDS.items() for word in words.split()}
ELSEWHERE = {  # columns that only the other file has to hold
    "human": ("feedback_score", "model_version"),
    "production": ("split", "label", "messages", "articles", "group"),
}
VERDICTS = "label verdict rating thumb good accepted correct grade answer"
NO_VERDICTS = {"", "none", "nan", "neutral"}
MANY = 50  # rows from which a column's values say what it is
PER_GROUP = 10  # rows of a conversation, on average; more are a region, a product, a language


def survey(task: Task, path: Path, source: Source) -> tuple[FileForm, HowRead]:
    """How a file is written, and how its rows are read; WorkbookError where two readings fit."""
    form = form_of(path, task.encoding)
    rows = [
        row.content
        for row in islice(read_rows(path, form), SAMPLE)
        if isinstance(row.content, dict)
    ]
    how = HowRead(task, path, source, format_of(task, rows))
    how.used = used_columns(how)
    _note_absent(how, rows)
    _ask_about_verdicts(how, form, rows)
    stars, at = (str(task.columns.get(name, name)) for name in ("feedback_score", "created_at"))
    how.scale = judge_scale(
        column_counts(path, form, stars), task.columns.get("feedback"), stars, str(path)
    )
    days = column_counts(path, form, at)
    texts = [value for _, value in days if isinstance(value, str)]
    if form.note == "JSON Lines" and any(re.match(r"\s*\d\d?[/-]\d", text) for text in texts):
        # of JSON it has looked at any depth, where other times than the rows' may stand
        days = column_counts(path, form._replace(note=""), at)
    moments = (value for _, value in days)
    how.day_order = day_order(moments, task.columns.get("dates"), at, str(path))
    how.decimals = _decimal_marks(how, form)
    return form, how


def _decimal_marks(how: HowRead, form: FileForm) -> dict[str, DecimalMark]:
    """The decimal mark of each number of the answer: task.yaml's, or what its column speaks for."""
    output = how.task.columns.get("output")
    setting = how.task.columns.get("decimal")
    properties = (how.task.schema or {}).get("properties", {})
    if setting not in (None, ",", "."):
        raise WorkbookError('task.yaml: columns.decimal is "," or "."')
    marks = {}
    for name, column in output.items() if isinstance(output, dict) else ():
        kind = kind_of(properties.get(name))
        if kind in NUMBERS:
            values = (value for _, value in column_counts(how.path, form, column))
            marks[name] = setting or decimal_mark(values, kind == "integer", column, str(how.path))
    return marks


def column_counts(path: Path, form: FileForm, key: str) -> Counter[Token]:
    """How often each value of a column, or path, occurs in a file, empty cells too."""
    counts = Counter()
    if form.note == "JSON Lines" and not form.encoding and "." not in key:
        return json_counts([path], key)
    contents = (row.content for row in read_rows(path, form))
    if form.note.startswith("Parquet"):  # the one column alone
        top = key.split(".")[0]
        contents = parquet_rows(path, form.meanings, [*{key, top}])
    for content in contents:
        if isinstance(content, dict):
            _count(counts, value_at(content, key))
    return counts


def _count(counts: Counter[Token], value: Any, n: int = 1) -> None:
    token = token_of(value)
    if token in counts or len(counts) < DISTINCT:
        counts[token] += n


def json_counts(paths: Sequence[Path], key: str) -> Counter[Token]:
    """The values of a key wherever it stands in JSON Lines files, by their bytes: 10 times as fast.

    A key that stands inside of a text is escaped there, so it is not found.
    """
    counts = Counter()
    quoted = json.dumps(key).encode()
    pattern = re.compile(re.escape(quoted) + rb'\s*:\s*("(?:[^"\\\n]|\\.)*"|[^\s,}\]]+)')
    spellings = Counter()
    for path in paths:
        with open(path, "rb") as file:
            while lines := file.read(CHUNK) + file.readline():
                if quoted in lines and len(spellings) < DISTINCT:
                    spellings.update(pattern.findall(lines))
    for spelling, n in spellings.items():
        try:
            _count(counts, json.loads(spelling), n)
        except ValueError:
            continue  # an object, or a broken line
    return counts


def _note_absent(how: HowRead, rows: Sequence[Row]) -> None:
    """A column that task.yaml maps and no row has is a slip of the pen, or nothing."""
    there = {name for row in rows for name in row}
    for name in ("output", *KNOWN):
        column = how.task.columns.get(name)
        columns = column.values() if isinstance(column, dict) else [column]
        for key in columns if rows and name not in ELSEWHERE[how.source] else ():
            if isinstance(key, str) and not there & {key, key.split(".")[0]}:
                how.changes[f"columns.{name}: `{key}` is in none of the first rows"] = len(rows)


def _ask_about_verdicts(how: HowRead, form: FileForm, rows: Sequence[Row]) -> None:
    """A column that says good or bad of each answer is no decoration: it is asked for.

    The first rows say which columns there are, and all of them what one says.
    """
    if how.format == "kto" or "label" in how.task.columns:
        return
    for name in VERDICTS.split():
        if name in how.used or not any(name in row for row in rows):
            continue
        counts = column_counts(how.path, form, name)
        values = {str(value).strip().casefold() for _, value in counts} - NO_VERDICTS
        if {LIKES.get(value) for value in values} == {5.0, 1.0}:
            words = " or ".join(sorted(values)[:2])
            raise TwoReadings(
                f"{how.path}: column `{name}` says {words} of each answer: shall only the good ones"
                " be learnt, or is it an ordinary column (null)",
                "columns.label",
                (name, "null"),
            )


def check_columns(how: HowRead, n: int) -> None:
    """WorkbookError where `group` or `split` is an ordinary column of that name, and not ours."""
    groups = how.groups
    columns = how.task.columns
    if "group" not in columns and n >= MANY and groups and n > PER_GROUP * len(groups):
        raise TwoReadings(
            f"{how.path}: column `group` has {len(groups)} values in {n} rows: shall all rows with"
            " the same value stand in one part, or is it an ordinary column (null)",
            "columns.group",
            ("group", "null"),
        )
    unknown = [value for value in how.splits if value.strip().casefold() not in SPLITS]
    if unknown:
        column = columns.get("split", "split")
        raise TwoReadings(
            f"{how.path}, line {how.splits[unknown[0]]}: column `{column}` holds a"
            f" {store.outline(unknown[0])}, which is no part ({', '.join(PARTS)}): mend that row,"
            " or, if it is an ordinary column, say so (null)",
            "columns.split",
            ("null",),
        )


def reading_of(how: HowRead, form: FileForm, rows: int) -> SourceReading:
    """What was read, and how, for the manifest and for 02."""
    columns = []
    details = {"created_at": how.day_order}
    if how.scale.rated or how.scale.unknown:
        details["feedback_score"] = how.scale._replace(rows=rows).description
    if how.scale.unknown:
        how.changes["ratings that are none"] += how.scale.unknown
    for name in ("input", "output", *KNOWN):
        detail = details.get(name, "")
        if detail or name in how.task.columns:
            columns.append(
                ColumnReading(
                    name=as_text(how.task.columns.get(name, name)) or "null", use=name, how=detail
                )
            )
    columns += [
        ColumnReading(name=name, use="numbers", how=f"`{mark}` stands before decimals")
        for name, mark in how.decimals.items()
        if mark
    ]
    columns += [
        ColumnReading(name=name, use="not used", how=f"in {n} rows")
        for name, n in sorted(how.unused.items())
    ]
    return SourceReading(
        file=how.path.name,
        source=how.source,
        rows=rows,
        format=how.format,
        form=form.description,
        columns=columns,
        changes=dict(sorted(how.changes.items())),
    )


def used_columns(how: HowRead) -> set[str]:
    """The columns of a file that something reads."""
    columns = how.task.columns
    names = {*FORMS[how.format].columns.split()} - {"system"}.intersection(columns)
    if how.format == "columns":
        names |= {*input_columns(how.task), *output_columns(how.task)}
    ordinary = ["label", "messages", "system"] + ["split"] * (how.source == "production")
    for name in KNOWN:  # a form has named above those that only some forms read
        column = columns.get(name, name)
        if isinstance(column, str) and (name in columns or name not in ordinary):
            names.add(column)
    return names | {name.split(".")[0] for name in names}
