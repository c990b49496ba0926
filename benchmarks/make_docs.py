"""docs/artifacts.md and docs/task.md, made from the records and the task model.

`python -m benchmarks.make_docs` writes both; a test holds that the committed pages equal these.
A field is explained by the comment beside it in the code, else by a line of reference_text.py.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
import types
import typing
from collections.abc import Iterator, Mapping
from datetime import datetime
from inspect import getsource
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from benchmarks import reference_text as text
from helpers import records
from helpers.records import Artifact, Record
from helpers.tasks import Task

DOCS = Path(__file__).resolve().parents[1] / "docs"
SHARED = ("Asking", "Finding", "Estimate", "EvalResults", "MetricComparison", "RungResult")
WORDS = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    datetime: "time",
    Path: "path",
    re.Pattern[str]: "regular expression",
    Any: "anything",
    type(None): "null",
}


class Row(NamedTuple):
    """One field of a record, in words."""

    name: str
    kind: str
    default: str
    meaning: str


def comments(kind: type[BaseModel]) -> dict[str, str]:
    """field -> the comment beside it, or right above it, in the source of its class."""
    source = getsource(kind)
    beside: dict[int, str] = {}
    alone = set()  # lines that hold nothing but a comment
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            beside[token.start[0]] = token.string.lstrip("# ").rstrip()
            if token.line.lstrip().startswith("#"):
                alone.add(token.start[0])
    spoken = {}
    for node in ast.parse(source).body[0].body:  # type: ignore[attr-defined]
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            first = node.lineno
            while first - 1 in alone:
                first -= 1
            lines = range(first, (node.end_lineno or node.lineno) + 1)
            spoken[node.target.id] = " ".join(beside[line] for line in lines if line in beside)
    return spoken


def described(kind: type[BaseModel]) -> list[Row]:
    """The fields of a record in the order of its code; `schema_version` is explained once above."""
    spoken: dict[str, str] = {}
    for parent in reversed(kind.__mro__):
        if isinstance(parent, type) and issubclass(parent, Record) and parent is not Record:
            spoken |= comments(parent)
    rows = []
    for name, field in kind.model_fields.items():
        if name == "schema_version":
            continue
        shown = field.alias if field.alias else name
        key = f"{kind.__name__}.{name}"
        meaning = re.sub(r"\bNone\b", "null", spoken.get(name) or text.MEANINGS.get(key, ""))
        rows.append(Row(shown, in_words(field.annotation), default_of(field), meaning))
    return rows


def in_words(annotation: Any) -> str:
    """A type as a reader of JSON would say it; records become links."""
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin is Literal:
        return " · ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(in_words(argument) for argument in arguments)
    if origin is typing.Annotated:
        return in_words(arguments[0])
    if origin is list:
        return f"list of {in_words(arguments[0])}"
    if origin is dict:
        return "object" if arguments[1] is Any else f"object of name: {in_words(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, Record):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    return WORDS[annotation]


def default_of(field: FieldInfo) -> str:
    """What a missing field means; "" where it has to be there."""
    if field.is_required():
        return ""
    value = field.get_default(call_default_factory=True)
    named = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return f"`{named[value]}`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def parts_of(annotation: Any) -> Iterator[type[Record]]:
    """The records that a type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, Record):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from parts_of(argument)


def table(rows: list[Row], default: bool = True) -> list[str]:
    """The fields as a table; the column of defaults only where one has one."""
    default = default and any(row.default for row in rows)
    lines = ["| field | type | default | meaning |", "|---|---|---|---|"]
    if not default:
        lines = ["| field | type | meaning |", "|---|---|---|"]
    for row in rows:
        cells = [f"`{row.name}`", row.kind, *([row.default] if default else []), row.meaning]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


def first_line(kind: type) -> str:
    """What a class says of itself, its examples and further words left out."""
    sentence = str(kind.__doc__).partition("\n\n")[0]
    return re.sub(r"\bNone\b", "null", " ".join(sentence.split()))


class ArtifactsPage:
    """docs/artifacts.md: every artifact, and each record in it where it first stands."""

    KINDS: ClassVar[Mapping[str, type[Artifact]]] = {
        kind.FILE: kind
        for kind in vars(records).values()
        if isinstance(kind, type) and hasattr(kind, "FILE")
    }

    def __init__(self) -> None:
        self.written: set[str] = set(SHARED)
        self.lines = text.ARTIFACTS_HEAD.strip().splitlines()

    def page(self) -> str:
        """The whole page."""
        for file in text.ARTIFACTS:
            kind = self.KINDS[file]
            self._begin(f"## {file}", text.ARTIFACTS[file])
            self._add(f"Written by {kind.WRITTEN_BY}. In code: `{kind.__name__}`.", "")
            self._record(kind)
        self._begin("## Records that stand in several files", text.SHARED)
        for name in SHARED:
            self._part(getattr(records, name))
        self._begin("## Files that are not one JSON object", text.OTHER)
        for name, words in text.LINES.items():
            self._begin(f"### {words.file}", words.text)
            self._record(getattr(records, name))
        self._add("", *text.ARTIFACTS_FOOT.strip().splitlines())
        return "\n".join(self.lines) + "\n"

    def _add(self, *lines: str) -> None:
        self.lines += lines

    def _begin(self, title: str, words: str) -> None:
        self._add("", title, "", *words.strip().splitlines(), "")

    def _record(self, kind: type[Record]) -> None:
        """The table of a record, then the records in it that were not explained yet."""
        self._add(*table(described(kind)))
        for field in kind.model_fields.values():
            for part in parts_of(field.annotation):
                if part.__name__ not in self.written:
                    self.written.add(part.__name__)
                    self._part(part)

    def _part(self, kind: type[Record]) -> None:
        self._begin(f"### {kind.__name__}", first_line(kind))
        self._record(kind)


def artifacts_page() -> str:
    """docs/artifacts.md."""
    return ArtifactsPage().page()


def task_page() -> str:
    """docs/task.md: task.yaml field by field, in the nesting that a user writes."""
    lines = text.TASK_HEAD.strip().splitlines()
    rows = {row.name: row for row in described(Task)}
    for title, words, names in text.TASK_SECTIONS:
        shown = [rows[name]._replace(name=text.IN_YAML.get(name, name)) for name in names]
        lines += ["", f"## {title}", "", *words.strip().splitlines()]
        if shown:
            lines += ["", *table(shown)]
    lines += ["", *text.TASK_FOOT.strip().splitlines()]
    return "\n".join(lines) + "\n"


PAGES = {"artifacts.md": artifacts_page, "task.md": task_page}


def main() -> None:
    """Write the pages."""
    for name, make in PAGES.items():
        (DOCS / name).write_text(make(), encoding="utf-8")
        print(DOCS / name)


if __name__ == "__main__":
    main()
