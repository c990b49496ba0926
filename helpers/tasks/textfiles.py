"""Text files as they are: encoding and CSV dialect are judged over the file, then read strictly.

Python's reader takes an unclosed quote for a cell that goes on, over as many rows as it likes; here
a record that cannot be right is given up at its first line, and reading goes on with the next.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from statistics import median_high
from typing import Any, NamedTuple

from helpers.records import WorkbookError

# --- encodings ------------------------------------------------------------------------------------

MARKS = (  # the longer ones first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
SAMPLE = 2**20  # bytes that a guess looks at
ALPHABETS = ("cp1251", "cp1250", "cp1252", "gb18030", "shift_jis")  # what is shown to choose from
LETTERS = 20  # bytes beyond ASCII from which a file is in another alphabet, not just broken
# What Western European words are spelled with, without those that Central European ones look like.
WESTERN = frozenset("äöüÄÖÜßéèàçâêîôùûëïñáíóúÁÉÍÓÚÀÈÇÑÊÔåÅøØæÆ€£§°²³½¼×«»„“”‘’–—…·•¿¡®©\xa0")
CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")  # in no text
_SIGN_IN_WORD = re.compile("[a-zA-Z][°²³½¼×«»„“”¿¡®©·][a-zA-Z]")


class TwoReadings(WorkbookError):
    """A file that can be read in several ways; the message says them, and the line that decides."""

    def __init__(self, problem: str, key: str, options: Sequence[str]) -> None:
        """`key` is of task.yaml, such as `columns.dates`; `options` as YAML spells its values."""
        self.problem = problem
        self.key = key
        self.options = tuple(options)
        section, _, name = key.rpartition(".")
        pattern = f"`{section}: {{{{{name}: {{}}}}}}`" if section else f"`{name}: {{}}`"
        lines = " or ".join(map(pattern.format, options))
        super().__init__(f"{problem}; say which in task.yaml: {lines}")


class Encoding(NamedTuple):
    """How a file's bytes are read, and in words why."""

    name: str
    why: str


def encoding_of(path: Path, setting: str = "") -> Encoding:
    """UTF-8 where the file is UTF-8 but for a few broken bytes, else what its bytes speak for.

    `setting` is task.yaml's `encoding`. WorkbookError where two alphabets fit alike.
    """
    if setting:
        try:
            b"x".decode(setting, "replace")  # hex is a codec, and none of text
            return Encoding(codecs.lookup(setting).name, "as task.yaml says")
        except (LookupError, ValueError):
            raise WorkbookError(f"task.yaml: encoding {setting!r} is not known") from None
    with open(path, "rb") as file:
        head = file.read(SAMPLE)
    for mark, name in MARKS:
        if head.startswith(mark):
            return Encoding(name, "its byte order mark")
    for place, name in enumerate(("utf-16-be", "utf-16-le")):
        if head[place:2000:2].count(0) > len(head[:2000]) / 4:
            return Encoding(name, "every second byte is 0")
    broken, letters = _utf8_faults(path)
    if not broken:
        return Encoding("utf-8", "all of its bytes")
    if letters > broken or CONTROL.search(head):
        return Encoding("utf-8", f"but for {broken} broken bytes")
    return _guessed(path, head, broken)


def _utf8_faults(path: Path) -> tuple[int, int]:
    """(bytes that are no UTF-8, characters beyond ASCII that are) of a file."""
    broken = letters = 0
    with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
        while text := file.read(SAMPLE):
            if not text.isascii():
                broken += text.count("\ufffd")
                letters += sum(char > "\x7f" for char in text)
    return broken, letters - broken


def _guessed(path: Path, head: bytes, broken: int) -> Encoding:
    """Windows-1252 where it spells Western words and nothing else; other alphabets are asked for.

    Detectors take one alphabet for another (docs/decisions.md), and a wrong one is a wrong text.
    """
    text = head.decode("cp1252", "replace")
    beyond = {char for char in text if char > "\x7f"}
    if beyond <= WESTERN and not _SIGN_IN_WORD.search(text):
        return Encoding("cp1252", "all of its letters are Western ones")
    if broken < LETTERS:
        return Encoding("utf-8", f"but for {broken} broken bytes")
    start = next(place for place, byte in enumerate(head) if byte > 0x7F)
    some = head[start : start + 12]
    shown = {}
    for name in ALPHABETS:
        with suppress(UnicodeDecodeError):
            head.decode(name)
            shown[name] = f"{name} ({some.decode(name, 'ignore')!r})"
    raise TwoReadings(
        f"{path} is not UTF-8 from byte {start} on, and may be {', or '.join(shown.values())}:"
        " save it as UTF-8, or choose one",
        "encoding",
        list(shown),
    )


# --- CSV ------------------------------------------------------------------------------------------

MAX_CELL = 8 * 2**20  # characters
JUDGED = 2_000  # lines that the dialect is judged by
FIRST = 10  # rows by which a title above the names of the columns is known
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
UNNAMED = "unnamed column"  # such as the row numbers that pandas writes
OFTEN = 0.2  # of the records with quotes inside: so many are a habit, not a slip
LABEL = 40  # characters: the last cell of a swallowed row is recognised up to this length
MULTILINE = 3  # lines inside of one cell that are all rows are no text
QUOTING = {  # how a habit is said, and what Python's reader is told
    "doubled": ("", {}),  # "a ""b"""
    "backslash": (", quotes escaped by a backslash", {"doublequote": False, "escapechar": "\\"}),
    "none": (", quotes are part of the text", {"quoting": csv.QUOTE_NONE}),
}
_EXCELS_LINE = re.compile(r"sep=(.)\s*", re.IGNORECASE)
_BROKEN_BYTE = re.compile("[\udc80-\udcff]")  # as `surrogateescape` reads one


Row = dict[str, Any]  # by the names of the columns


class RowError(ValueError):
    """One row that cannot become an example; the message says what is wrong with it."""


class Dialect(NamedTuple):
    """How a CSV file is written."""

    delimiter: str
    quoting: str = "doubled"
    skipped: int = 0  # lines before the header
    spaced: bool = False  # a space stands between a separator and a quote

    @property
    def description(self) -> str:
        """In words."""
        return DELIMITERS.get(self.delimiter, self.delimiter) + QUOTING[self.quoting][0]

    def reader(self, lines: Iterator[str]) -> Any:
        """A strict reader of lines."""
        quoting = QUOTING[self.quoting][1]
        return csv.reader(
            lines, delimiter=self.delimiter, skipinitialspace=self.spaced, strict=True, **quoting
        )


def records(lines: Iterator[str], dialect: Dialect) -> Iterator[tuple[int, list[str] | RowError]]:
    """(line, cells) of every record, the header too; what is no record is one line of its own."""
    csv.field_size_limit(MAX_CELL)
    taken = []  # lines of the record that is being read
    again = []  # lines of one that was given up, the last of them first

    def feed() -> Iterator[str]:
        while line := again.pop() if again else next(lines, ""):
            taken.append(line)
            yield line

    for _ in range(dialect.skipped):
        next(lines, "")
    reader = dialect.reader(feed())
    number = 1 + dialect.skipped
    endings = set()
    width = 0
    while True:
        try:
            cells = next(reader, None)
            problem = _swallowed(taken, dialect, endings) if width and len(taken) > 1 else ""
        except csv.Error as error:
            problem = _fault(taken, str(error))
        if problem:
            yield number, RowError(f"{problem}; close the quote, or double it inside a cell")
            again += reversed(taken[1:])
            del taken[1:]
            reader = dialect.reader(feed())
        elif cells is None:
            return
        elif "".join(cells).strip():
            width = width or len(cells)
            if len(endings) < 1000 and len(cells[-1]) <= LABEL:
                endings.add(cells[-1].strip())
            yield number, cells
        number += len(taken)
        taken.clear()


def _fault(taken: Sequence[str], error: str) -> str:
    if "unexpected end of data" in error or "field larger than" in error:
        return "a quote is opened and never closed"
    if "expected after" not in error:
        return f"not a CSV row ({error})"
    above = f" that began with one {len(taken) - 1} lines above" if len(taken) > 1 else ""
    return f"a quote stands inside a cell{above}"


def _swallowed(taken: Sequence[str], dialect: Dialect, endings: set[str]) -> str:
    """What is wrong with a record whose lines look like records of their own; "" if they do not."""
    cells = [line.rstrip("\r\n").split(dialect.delimiter) for line in taken]
    inside = cells[1:-1] or cells[1:]
    if len(cells[0]) < 2 or any(len(each) != len(cells[0]) for each in inside):
        return ""
    are_rows = len(inside) >= MULTILINE or all(
        each[-1].strip().strip('"') in endings for each in [cells[0], *inside]
    )
    return "a quote that is opened here swallows the rows below it" if are_rows else ""


def judge_dialect(path: Path, encoding: Encoding) -> Dialect:
    """The delimiter of the header, and the way of quoting that the fewest records break."""
    with open(path, encoding=encoding.name, errors="replace", newline="") as file:
        lines = list(islice(file, JUDGED))
        cut = bool(file.readline(1))  # a record may be cut off by the end of the sample
    named = _EXCELS_LINE.fullmatch("".join(lines[:1]))
    bare = ("".join(line.split('"')[::2]) for line in lines[:FIRST])  # without what is quoted
    header = next((line for line in bare if not {*line}.isdisjoint(DELIMITERS)), "")
    delimiter = named[1] if named else max(DELIMITERS, key=header.count)
    body = lines[:-1] if cut else lines
    spaced = sum(f'{delimiter} "' in line for line in body) > len(body) / 2
    dialect = Dialect(delimiter, "doubled", int(named is not None), spaced)
    faults, n = _faults(body, dialect)
    backslash = dialect._replace(quoting="backslash")
    if faults and any('\\"' in line for line in lines) and _faults(body, backslash)[0] < faults:
        return backslash
    literal = dialect._replace(quoting="none", spaced=False)
    if faults > OFTEN * n and not _faults(body, literal)[0] and not _wraps(body, delimiter):
        return literal
    return dialect


def _wraps(lines: Sequence[str], delimiter: str) -> bool:
    """Whether quotes stand around a whole cell anywhere."""
    cells = (cell.strip() for line in lines for cell in line.split(delimiter))
    return any(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in cells)


def _faults(lines: Sequence[str], dialect: Dialect) -> tuple[int, int]:
    """(records that are broken, records)."""
    widths = [
        0 if isinstance(cells, RowError) else len(cells)
        for _, cells in records(iter(lines), dialect)
    ]
    width = next(filter(None, widths), 0)
    return sum(each != width for each in widths), len(widths)


def csv_rows(
    path: Path, encoding: Encoding, dialect: Dialect
) -> Iterator[tuple[int, Row | RowError]]:
    """(line, row) of a CSV file; an empty cell is ""."""
    with open(path, encoding=encoding.name, errors="surrogateescape", newline="") as file:
        parsed = records(file, dialect)
        firsts = list(islice(parsed, JUDGED))
        header, *below = [cells for _, cells in firsts if isinstance(cells, list)] or [[]]
        names = header_of(path, header, below[:FIRST])
        for line, cells in chain(firsts, parsed):
            if isinstance(cells, RowError):
                yield line, cells
            elif cells is not header:
                yield line, _row_of(names, cells, encoding)


def names_again(row: Row) -> bool:
    """Whether a row of a table holds the names of the columns, as where two files become one."""
    names = {name.casefold() for name in row if not name.startswith(UNNAMED)}
    first = _bare(next(filter(None, row.values()), "")).casefold()
    return first in names and names == {_bare(cell).casefold() for cell in row.values()} - {""}


def _bare(cell: Any) -> str:
    """A cell without spaces and byte order marks around it."""
    return "" if cell is None else str(cell).strip().strip("\ufeff").strip()


def _row_of(names: Sequence[str], cells: Sequence[str], encoding: Encoding) -> Any:
    """The cells by their columns, or the RowError that says why they are none."""
    if not any(cells[len(names) :]):  # separators at the end
        cells = cells[: len(names)]
    if len(cells) != len(names):
        more = "more" if len(cells) > len(names) else "fewer"
        return RowError(
            f"has {more} cells ({len(cells)}) than the header has names ({len(names)}); quote"
            " cells that hold the separator"
        )
    for number, cell in enumerate(cells, 1):
        broken = None if cell.isascii() else _BROKEN_BYTE.search(cell)
        if broken and encoding.name == "utf-8":
            return RowError(
                f"cell {number}, character {broken.start() + 1}: the byte"
                f" 0x{ord(broken[0]) - 0xDC00:X} is not UTF-8; save the file as UTF-8"
            )
    return dict(zip(names, cells, strict=True))


def header_of(path: Path, cells: Sequence[Any], below: Sequence[Sequence[Any]]) -> list[str]:
    """The names of the columns; WorkbookError when two are the same, or they are a title."""
    names = [*map(_bare, cells)]
    filled = sum(map(bool, names))
    usual = median_high([0, *(sum(cell not in (None, "") for cell in row) for row in below)])
    # but for one column beside the row numbers of pandas
    if usual > 1 and 2 * filled <= usual and not (names[:1] == [""] and all(names[1:])):
        raise WorkbookError(
            f"{path}: row 1 holds {filled} cells ({''.join(names)[:30]!r}) and most rows below"
            f" {usual}: it looks like a title; delete what stands above the column names, name the"
            " empty columns, or quote cells that hold the separator"
        )
    names = [name or f"{UNNAMED} {place}" for place, name in enumerate(names, 1)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        places = [str(place) for place, name in enumerate(names, 1) if name == twice]
        raise WorkbookError(
            f"{path}: columns {' and '.join(places)} are both called {twice!r}; rename one"
        )
    return names
