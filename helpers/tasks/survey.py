"""How a source file is to be read, judged over all of it before the first row is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from itertools import islice
from pathlib import Path

from helpers import store
from helpers.records import PARTS, ColumnReading, Part, Source, SourceReading
from helpers.tasks.conventions import Token, day_order, judge_scale, token_of
from helpers.tasks.forms import FORMS, LIKES, HowRead, columns_of, format_of
from helpers.tasks.reading import FileForm, form_of, parquet_rows, read_rows
from helpers.tasks.task import KNOWN, Task
from helpers.tasks.textfiles import TwoReadings
from helpers.tasks.values import NUMBERS, as_text, decimal_mark, kind_of, value_at

SAMPLE = 200  # rows that the format is judged by
DISTINCT = 10_000  # values of a column counted one by one; more are free text
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
    there = {name for row in rows for name in row}
    _note_absent(how, there, len(rows))
    stars = "".join(columns_of(task, "feedback_score"))
    at = "".join(columns_of(task, "created_at"))
    asks = how.format != "kto" and "label" not in task.columns
    verdicts = [name for name in VERDICTS.split() if asks and name in there - how.used]
    numbers = _columns_of_numbers(task)
    counts = column_counts(path, form, {stars, at, *verdicts, *numbers.values()})
    for name in verdicts:
        _ask_about_verdicts(name, counts[name], path)
    how.scale = judge_scale(counts[stars], task.columns.get("feedback"), stars, str(path))
    days = (value for _, value in counts[at])
    how.day_order = day_order(days, task.columns.get("dates"), at, str(path))
    for name, column in numbers.items():
        is_whole = kind_of(task.schema["properties"][name]) == "integer"
        values = (value for _, value in counts[column])
        setting = task.columns.get("decimal")
        how.decimals[name] = setting or decimal_mark(values, is_whole, column, str(path))
    return form, how


def _columns_of_numbers(task: Task) -> dict[str, str]:
    """Property of the answer -> its column, of those that are numbers."""
    output = task.columns.get("output")
    properties = (task.schema or {}).get("properties", {})
    columns = output.items() if isinstance(output, dict) else ()
    return {name: col for name, col in columns if kind_of(properties.get(name)) in NUMBERS}


def column_counts(path: Path, form: FileForm, keys: Collection[str]) -> dict[str, Counter[Token]]:
    """How often each value of some columns, or paths, occurs in a file, empty cells too."""
    counts = {key: Counter() for key in keys}
    contents = (row.content for row in read_rows(path, form))
    if form.note.startswith("Parquet"):  # these columns alone
        tops = {key.split(".")[0] for key in keys}
        contents = parquet_rows(path, form.meanings, [*tops.union(keys)])
    for content in contents:
        if isinstance(content, dict):
            for key, counter in counts.items():
                token = token_of(value_at(content, key))
                if token in counter or len(counter) < DISTINCT:
                    counter[token] += 1
    return counts


def _note_absent(how: HowRead, there: set[str], n: int) -> None:
    """A column that task.yaml maps and none of `n` rows has is a slip of the pen, or nothing."""
    for name in {"input", "output", *KNOWN}.intersection(how.task.columns):
        for key in columns_of(how.task, name) if name not in ELSEWHERE[how.source] else ():
            if n and not there & {key, key.split(".")[0]}:
                how.changes[f"columns.{name}: `{key}` is in none of the first rows"] = n


def _ask_about_verdicts(name: str, counts: Counter[Token], path: Path) -> None:
    """A column that says good or bad of each answer is no decoration: it is asked for."""
    values = {str(value).strip().casefold() for _, value in counts} - NO_VERDICTS
    if {LIKES.get(value) for value in values} == {5.0, 1.0}:
        words = " or ".join(sorted(values)[:2])
        raise TwoReadings(
            f"{path}: column `{name}` says {words} of each answer: shall only the good ones be"
            " learnt, or is it an ordinary column (null)",
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
    mapped = how.task.columns
    details = {"created_at": how.day_order}
    if how.scale.rated or how.scale.unknown:
        details["feedback_score"] = how.scale._replace(rows=rows).description
    if how.scale.unknown:
        how.changes["ratings that are none"] += how.scale.unknown
    columns = [
        (as_text(mapped.get(name, name)) or "null", name, details.get(name, ""))
        for name in ("input", "output", *KNOWN)
        if name in mapped or details.get(name)
    ]
    marks = [(name, mark) for name, mark in how.decimals.items() if mark]
    columns += [(name, "numbers", f"`{mark}` stands before decimals") for name, mark in marks]
    columns += [(name, "not used", f"in {n} rows") for name, n in sorted(how.unused.items())]
    return SourceReading(
        file=how.path.name,
        source=how.source,
        rows=rows,
        format=how.format,
        form=form.description,
        columns=[ColumnReading(name=name, use=use, how=detail) for name, use, detail in columns],
        changes=dict(sorted(how.changes.items())),
    )


def used_columns(how: HowRead) -> set[str]:
    """The columns of a file that something reads."""
    columns = how.task.columns
    names = {*FORMS[how.format].columns.split()} - {"system"}.intersection(columns)
    if how.format == "columns":
        names |= {*columns_of(how.task, "input"), *columns_of(how.task, "output")}
    ordinary = ["label", "messages", "system"] + ["split"] * (how.source == "production")
    for name in KNOWN:  # a form has named above those that only some forms read
        if name in columns or name not in ordinary:
            names |= {*columns_of(how.task, name)}
    return names | {name.split(".")[0] for name in names}
