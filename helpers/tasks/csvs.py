"""CSV as it is: the dialect is judged over the file, and a broken quote costs its own line alone.

Python's reader takes an unclosed quote for a cell that goes on, over as many rows as it likes; here
a record that cannot be right is given up at its first line, and reading goes on with the next.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from helpers.records import WorkbookError
from helpers.tasks.encodings import Encoding

MAX_CELL = 8 * 2**20  # characters
JUDGED = 2_000  # lines that the dialect is judged by
DELIMITERS = ",;\t|"
OFTEN = 0.2  # of the records with quotes inside: so many are a habit, not a slip
LABEL = 40  # characters: the last cell of a swallowed row is recognised up to this length
MULTILINE = 3  # lines inside of one cell that are all rows are no text


class RowError(ValueError):
    """One row that cannot become an example; the message says what is wrong with it."""


class Dialect(NamedTuple):
    """How a CSV file is written."""

    delimiter: str
    quoting: str  # doubled: "a ""b"""; backslash: "a \"b\""; none: quotes are part of the text
    skipped: int = 0  # lines before the header
    spaced: bool = False  # a space stands between a separator and a quote

    @property
    def description(self) -> str:
        """In words."""
        names = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
        quotes = {
            "doubled": "",
            "backslash": ", quotes escaped by a backslash",
            "none": ", quotes are part of the text",
        }
        return names.get(self.delimiter, self.delimiter) + quotes[self.quoting]

    def reader(self, lines: Iterator[str]) -> Any:
        """A strict reader of lines."""
        options: dict[str, Any] = {"delimiter": self.delimiter, "strict": True}
        options["skipinitialspace"] = self.spaced
        if self.quoting == "backslash":
            options |= {"doublequote": False, "escapechar": "\\"}
        elif self.quoting == "none":
            options |= {"quoting": csv.QUOTE_NONE}
        return csv.reader(lines, **options)


class _Lines:
    """The lines of a file, with those of the record that is being read kept to begin anew."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._again: list[str] = []
        self.taken: list[str] = []
        self.number = 1  # of the first line taken

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.pop() if self._again else next(self._lines)
        self.taken.append(line)
        return line

    def accept(self) -> None:
        """The record is read: the next one begins here."""
        self.number += len(self.taken)
        self.taken.clear()

    def give_up(self) -> None:
        """Its first line is no record; the others are read anew."""
        self._again += reversed(self.taken[1:])
        self.number += 1
        self.taken.clear()


def records(lines: Iterator[str], dialect: Dialect) -> Iterator[tuple[int, list[str] | RowError]]:
    """(line, cells) of every record, the header too; what is no record is one line of its own."""
    csv.field_size_limit(MAX_CELL)
    source = _Lines(lines)
    for _ in range(dialect.skipped):
        next(source, None)
        source.accept()
    reader = dialect.reader(source)
    width = 0
    endings: set[str] = set()
    while True:
        problem = ""
        cells: list[str] = []
        try:
            cells = next(reader)
        except StopIteration:
            if not source.taken:
                return
        except csv.Error as error:
            problem = _fault(source.taken, str(error))
        spans = len(source.taken) > 1
        if not problem and spans and width and _swallows_rows(source.taken, dialect, endings):
            problem = "a quote that is opened here swallows the rows below it"
        if problem:
            yield source.number, RowError(f"{problem}; close the quote, or double it inside a cell")
            source.give_up()
            reader = dialect.reader(source)
            continue
        if any(cell.strip() for cell in cells):
            width = width or len(cells)
            if len(endings) < 1000 and len(cells[-1]) <= LABEL:
                endings.add(cells[-1].strip())
            yield source.number, cells
        source.accept()


def _fault(taken: Sequence[str], error: str) -> str:
    if "unexpected end of data" in error or "field larger than" in error:
        return "a quote is opened and never closed"
    if "expected after" in error:
        return "a quote stands inside a cell" + (
            f" that began with one {len(taken) - 1} lines above" if len(taken) > 1 else ""
        )
    return f"not a CSV row ({error})"


def _swallows_rows(taken: Sequence[str], dialect: Dialect, endings: set[str]) -> bool:
    """Whether the lines inside of a record look like records of their own."""
    cells = [line.rstrip("\r\n").split(dialect.delimiter) for line in taken]
    width = len(cells[0])
    inside = cells[1:-1] or cells[1:]
    if width < 2 or any(len(each) != width for each in inside):
        return False
    if len(inside) >= MULTILINE:
        return True
    return all(each[-1].strip().strip('"') in endings for each in [cells[0], *inside])


def judge_dialect(path: Path, encoding: Encoding) -> Dialect:
    """The delimiter of the header, and the way of quoting that the fewest records break."""
    with open(path, encoding=encoding.name, errors="replace", newline="") as file:
        lines = list(islice(file, JUDGED))
        cut = bool(file.readline(1))
    skipped = 0
    delimiter = ""
    if lines and lines[0].casefold().startswith("sep=") and len(lines[0].strip()) == 5:
        delimiter = lines[0].strip()[-1]
        skipped = 1
    header = lines[skipped] if len(lines) > skipped else ""
    delimiter = delimiter or max(DELIMITERS, key=_outside_quotes(header).count)
    body = lines[:-1] if cut else lines  # a record may be cut off by the end of the sample
    spaced = sum(f'{delimiter} "' in line for line in body) > len(body) / 2
    doubled = Dialect(delimiter, "doubled", skipped, spaced)
    faults, n, wrapped = _faults(body, doubled)
    if not faults:
        return doubled
    backslash = Dialect(delimiter, "backslash", skipped, spaced)
    if any('\\"' in line for line in lines) and _faults(body, backslash)[0] < faults:
        return backslash
    literal = Dialect(delimiter, "none", skipped)
    if faults > OFTEN * n and _faults(body, literal)[0] == 0 and not wrapped:
        return literal
    return doubled


def _outside_quotes(line: str) -> str:
    return "".join(line.split('"')[::2])


def _faults(lines: Sequence[str], dialect: Dialect) -> tuple[int, int, bool]:
    """(records that are broken, records, whether a cell is wrapped in quotes as a whole)."""
    faults = n = 0
    width = 0
    for _, cells in records(iter(lines), dialect):
        n += 1
        if isinstance(cells, RowError) or (width and len(cells) != width):
            faults += 1
        else:
            width = len(cells)
    whole = (part.strip() for line in lines for part in line.split(dialect.delimiter))
    wrapped = any(len(part) > 1 and part[0] == part[-1] == '"' for part in whole)
    return faults, n, wrapped


def csv_rows(
    path: Path, encoding: Encoding, dialect: Dialect
) -> Iterator[tuple[int, dict[str, Any] | RowError]]:
    """(line, row) of a CSV file; an empty cell is ""."""
    names: list[str] = []
    with open(path, encoding=encoding.name, errors="surrogateescape", newline="") as file:
        for line, cells in records(file, dialect):
            if isinstance(cells, RowError):
                yield line, cells
            elif not names:
                names = header_of(path, cells)
            elif len(cells) == len(names):
                row = dict(zip(names, cells, strict=True))
                row.pop("", None)
                broken = None if encoding.name != "utf-8" else _broken_byte(cells)
                yield line, RowError(broken) if broken else row
            else:
                more = "more" if len(cells) > len(names) else "fewer"
                yield (
                    line,
                    RowError(
                        f"has {more} cells ({len(cells)}) than the header has names ({len(names)});"
                        " quote cells that hold the separator"
                    ),
                )


def _broken_byte(cells: Sequence[str]) -> str:
    for number, cell in enumerate(cells, 1):
        if cell.isascii():
            continue
        for place, char in enumerate(cell):
            if "\udc80" <= char <= "\udcff":
                return (
                    f"cell {number}, character {place + 1}: the byte 0x{ord(char) - 0xDC00:X} is"
                    " not UTF-8; save the file as UTF-8"
                )
    return ""


def header_of(path: Path, cells: Sequence[Any]) -> list[str]:
    """The names of the columns; WorkbookError when two are the same."""
    names = ["" if cell is None else str(cell).strip() for cell in cells]
    for name in names:
        if name and names.count(name) > 1:
            places = [str(i) for i, each in enumerate(names, 1) if each == name]
            raise WorkbookError(
                f"{path}: columns {' and '.join(places)} are both called {name!r}; rename one"
            )
    return names
