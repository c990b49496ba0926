"""From a source file to raw rows, one at a time: JSONL, CSV, Excel, Parquet; what cannot be read is a RowError."""

from __future__ import annotations

import csv
import hashlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helpers import store
from helpers.records import WorkbookError

MAX_LINE_BYTES = 8 * 2**20  # a longer line is a broken export, not an example


class RowError(ValueError):
    """One row that cannot become an example; the message says what is wrong with it."""


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | RowError, str]]:
    """(line, row or what is wrong with it, sha256 of it) of a JSONL, CSV, Excel or Parquet file, one at a time."""
    if path.suffix == ".jsonl":
        yield from _json_lines(path)
    elif path.suffix == ".csv":
        yield from _csv_rows(path)
    else:
        rows = (
            _excel_rows(path)
            if path.suffix == ".xlsx"
            else (r for batch in batches(path) for r in batch.to_pylist())
        )
        for line, row in enumerate(rows, 2 if path.suffix == ".xlsx" else 1):
            yield line, row, store.fingerprint(spelled(row))


def spelled(row: dict[str, Any]) -> str:
    """A row as text, to be hashed: a table's cells may hold dates, bytes and NaN, which JSON has no form for."""
    return repr(sorted(row.items(), key=str))


def batches(path: Path) -> Iterator[Any]:
    """A Parquet file in record batches."""
    import pyarrow
    from pyarrow import parquet

    try:
        yield from parquet.ParquetFile(path).iter_batches(batch_size=10_000)
    except (pyarrow.ArrowException, OSError) as error:
        raise WorkbookError(
            f"{path} cannot be read as Parquet ({str(error).splitlines()[0][:120]}); export it again"
        ) from None


def _excel_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of the first sheet; its first row holds the names of the columns."""
    try:
        import openpyxl
    except ImportError:
        raise WorkbookError(
            f'{path}: Excel needs the package openpyxl: pip install -e ".[curate]"'
        ) from None
    try:
        rows = (
            openpyxl.load_workbook(path, read_only=True, data_only=True)
            .worksheets[0]
            .iter_rows(values_only=True)
        )
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        raise WorkbookError(
            f"{path} cannot be read as an Excel workbook; save it again as .xlsx or .csv"
        ) from None
    names = [str(name) for name in next(rows, ())]
    yield from (
        dict(zip(names, row, strict=False))
        for row in rows
        if any(value is not None for value in row)
    )


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | RowError, str]]:
    with open(path, "rb") as file:
        line = 0
        while chunk := file.readline(MAX_LINE_BYTES + 1):
            line += 1
            if len(chunk) > MAX_LINE_BYTES:
                while chunk and not chunk.endswith(
                    b"\n"
                ):  # the rest of the endless line belongs to it
                    chunk = file.readline(MAX_LINE_BYTES)
                yield line, RowError(f"longer than {MAX_LINE_BYTES // 2**20} MiB"), ""
                continue
            if chunk.strip():
                yield line, _parse(chunk, first=line == 1), hashlib.sha256(chunk).hexdigest()


def _parse(chunk: bytes, first: bool) -> dict[str, Any] | RowError:
    try:
        row = json.loads(chunk.decode("utf-8-sig" if first else "utf-8"))
    except UnicodeDecodeError as error:
        return RowError(f"not UTF-8 (byte {error.start})")
    except (json.JSONDecodeError, RecursionError) as error:
        return RowError(f"not valid JSON ({getattr(error, 'msg', 'nested too deeply')})")
    if not isinstance(row, dict):
        return RowError("a row must be a JSON object")
    if b"\\ud" in chunk.lower() and any(
        "\ud800" <= c <= "\udfff" for c in json.dumps(row, ensure_ascii=False)
    ):
        return RowError("holds half of a surrogate pair, which no UTF-8 file can keep")
    return row


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | RowError, str]]:
    """Rows of a CSV: UTF-8 or, failing that, Windows-1252; comma, semicolon or tab, whichever the header uses."""
    encoding = "utf-8-sig"
    try:
        with open(path, encoding=encoding) as file:
            while file.read(2**20):
                pass
    except UnicodeDecodeError:
        encoding = "cp1252"
    csv.field_size_limit(MAX_LINE_BYTES)
    with open(path, encoding=encoding, errors="replace", newline="") as file:
        header = file.readline(MAX_LINE_BYTES)
        file.seek(0)
        reader = csv.DictReader(file, delimiter=max(",;\t", key=header.count))
        reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
        line = reader.line_num + 1
        while True:
            try:
                row: dict[str, Any] | RowError = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                row = RowError(f"not a CSV row ({error})")
            if isinstance(row, dict) and None in row:
                row = RowError(
                    "has more cells than the header has names; quote cells that hold the separator"
                )
            if isinstance(row, RowError) or any(
                row.values()
            ):  # spreadsheets leave rows of empty cells behind
                yield (
                    line,
                    row,
                    hashlib.sha256(repr(row).encode("utf-8", "surrogatepass")).hexdigest(),
                )
            line = reader.line_num + 1
