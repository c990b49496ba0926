"""Excel files as rows: the first visible sheet, as it is shown; refused without its results."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from helpers import tasks
from helpers.records import WorkbookError

_ZEROS = re.compile("0{2,}")  # a number format that shows 7 as 007


def sheet_names(path: Path) -> list[str]:
    """The names of the sheets, that of the one that is read first."""
    return [sheet.title for sheet in _sheets_of(path)]


def excel_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number, row) of the first sheet; its first row holds the names of the columns."""
    rows = [[_shown(cell) for cell in row] for row in _sheets_of(path)[0].iter_rows()]
    if not rows:
        return
    names = tasks.header_of(path, rows[0], rows[1:10])
    _refuse_formulas(path, names, rows[1:])
    dates = _date_columns(rows[1:], len(names))
    for number, row in enumerate(rows[1:], 2):
        if any(value is not None for value in row):
            for place in dates.intersection(range(len(row))):
                row[place] = row[place] and row[place].date()
            yield number, dict(zip(names, row, strict=False))


def _sheets_of(path: Path, data_only: bool = True) -> list[Any]:
    """The sheets, those that are shown first, with formulas or what they gave."""
    try:
        import openpyxl

        sheets = openpyxl.load_workbook(path, read_only=True, data_only=data_only).worksheets
        first, *others = sorted(sheets, key=lambda sheet: sheet.sheet_state != "visible")
        return [first, *others]  # none, as of a book of charts alone, is a ValueError
    except ImportError:
        raise WorkbookError(
            f'{path}: Excel needs the package openpyxl: pip install -e ".[curate]"'
        ) from None
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        raise WorkbookError(
            f"{path} cannot be read as an Excel workbook; save it again as .xlsx or .csv"
        ) from None


def _shown(cell: Any) -> Any:
    """A cell's value, a number with leading zeros as it is shown."""
    value = cell.value
    form = getattr(cell, "number_format", "") or ""
    if isinstance(value, int) and not isinstance(value, bool) and _ZEROS.fullmatch(form):
        return str(value).zfill(len(form))
    return value


def _date_columns(rows: Sequence[Sequence[Any]], width: int) -> set[int]:
    """Columns that hold days without a time of day."""
    columns = set()
    for place in range(width):
        values = [row[place] for row in rows if place < len(row) and row[place] is not None]
        if values and all(map(_is_day, values)):
            columns.add(place)
    return columns


def _is_day(value: Any) -> bool:
    return isinstance(value, datetime) and value.time() == datetime.min.time()


def _refuse_formulas(path: Path, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """An empty cell may hold a formula whose result nobody saved."""
    if all(value is not None for row in rows for value in row):
        return
    formulas = _sheets_of(path, data_only=False)[0].iter_rows(min_row=2, values_only=True)
    for row, spelled in zip(rows, formulas, strict=False):
        for name, value, formula in zip(names, row, spelled, strict=False):
            if value is None and str(formula).startswith("="):
                raise WorkbookError(
                    f"{path}: column {name!r} holds formulas without their results; open the file"
                    " in a spreadsheet program and save it, or paste the column as values"
                )
