"""Rows that may be more than memory holds: the first ones in memory, the others in a file."""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, Generic, TypeVar

from helpers.records.base import WorkbookError

HELD = 20_000  # rows in memory, some 100 MB of them
RECENT = 2_048  # rows that at least are known again when they are appended elsewhere
BUFFER = 2**20  # bytes written at a time
OBJECTS = 50_000  # made before Python looks for cycles among them
T = TypeVar("T")


@contextlib.contextmanager
def few_collections() -> Iterator[None]:
    """Meanwhile Python looks for cycles seldom: by default that is a third of reading all rows."""
    thresholds = gc.get_threshold()
    gc.set_threshold(OBJECTS, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)


class _Pool(Generic[T]):
    """Rows by number: the first HELD in memory, the others pickled in a file, if it may have one.

    The file has no name, so it is gone with its process, however that ends.
    """

    def __init__(self, open_file: Callable[[], BinaryIO] | None) -> None:
        self._open_file = open_file
        self._held: list[T] = []
        self._file: BinaryIO | None = None
        self._ends = array("q", [0])  # of the rows in the file
        self._buffer = bytearray()  # its end, not written yet
        # id() -> the row, which keeps that id its own, and its number
        self._recent: dict[int, tuple[T, int]] = {}
        self._older: dict[int, tuple[T, int]] = {}

    def number_of(self, row: T) -> int:
        """The number of a row: its own when it was read or added just now, else a new one."""
        known = self._recent.get(id(row)) or self._older.get(id(row))
        if known:
            return known[1]
        if self._open_file is None or len(self._held) < HELD:
            self._held.append(row)
            return self._remember(row, len(self._held) - 1)
        data = pickle.dumps(row, pickle.HIGHEST_PROTOCOL)
        self._buffer += data
        self._ends.append(self._ends[-1] + len(data))
        if len(self._buffer) >= BUFFER:
            self._write()
        return self._remember(row, len(self._held) + len(self._ends) - 2)

    def row(self, number: int) -> T:
        """The row of a number."""
        if number < len(self._held):
            row = self._held[number]
        else:
            place = number - len(self._held)
            start, end = self._ends[place : place + 2]
            if end > self._ends[-1] - len(self._buffer):
                self._write()
            row = pickle.loads(os.pread(self._file.fileno(), end - start, start))
        self._remember(row, number)
        return row

    def _remember(self, row: T, number: int) -> int:
        if len(self._recent) >= RECENT:
            self._older = self._recent
            self._recent = {}
        self._recent[id(row)] = (row, number)
        return number

    def _write(self) -> None:
        try:
            self._file = self._file or self._open_file()
            self._file.write(self._buffer)
            self._file.flush()
        except OSError as error:
            raise WorkbookError(
                f"rows that are too many for memory cannot be kept on disk ({error.strerror}); free"
                " some space under WORKBOOK_HOME and run again",
                6,
            ) from None
        self._buffer.clear()


class Rows(Sequence[T]):
    """A list of frozen rows, of which memory need not hold all; parts of it share one file."""

    def __init__(
        self, open_file: Callable[[], BinaryIO] | None = None, pool: _Pool[T] | None = None
    ) -> None:
        self._pool = pool or _Pool(open_file)
        self._numbers = array("q")

    def append(self, row: T) -> None:
        """Add a row; one that was just read from here, or from a part, is not kept twice."""
        self._numbers.append(self._pool.number_of(row))

    def at(self, places: Iterable[int]) -> Rows[T]:
        """The rows of these places, in their order."""
        chosen: Rows[T] = Rows(pool=self._pool)
        chosen._numbers.extend(self._numbers[place] for place in places)
        return chosen

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[T]:
        return map(self._pool.row, self._numbers)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self._pool.row(number) for number in self._numbers[place]]
        return self._pool.row(self._numbers[place])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)


def beside(rows: Iterable[Any]) -> Any:
    """An empty list for some of these rows, or others: on disk where they are on disk."""
    return Rows(pool=rows._pool) if isinstance(rows, Rows) else []


def chosen(rows: Sequence[T], test: Callable[[T], bool]) -> Sequence[T]:
    """Those of the rows that pass a test."""
    passed = beside(rows)
    for row in rows:
        if test(row):
            passed.append(row)
    return passed


def in_order(rows: Sequence[T], places: Iterable[int]) -> Sequence[T]:
    """The rows of these places, in their order."""
    return rows.at(places) if isinstance(rows, Rows) else [rows[place] for place in places]
