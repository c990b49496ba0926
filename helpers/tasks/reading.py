"""From a source file to raw rows, one at a time: JSONL, CSV, Excel, Parquet."""

from __future__ import annotations

import csv
import hashlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from helpers import store
from helpers.records import WorkbookError

MAX_LINE_BYTES = 8 * 2**20  # a longer line is a broken export, not an example


class RowError(ValueError):
    """One row that cannot become an example; the message says what is wrong with it."""


class SourceRow(NamedTuple):
    """One row of a file: what it holds, or what is wrong with it."""

    line: int
    content: Any  # dict[str, Any] | RowError
    sha256: str


def read_rows(path: Path) -> Iterator[SourceRow]:
    """Every row of a JSONL, CSV, Excel or Parquet file, one at a time."""
    if path.suffix == ".jsonl":
        yield from _json_rows(path)
    elif path.suffix == ".csv":
        yield from _csv_rows(path)
    elif path.suffix == ".xlsx":
        for line, content in enumerate(_excel_rows(path), 2):
            yield SourceRow(line, content, digest(content))
    else:
        contents = (content for batch in batches(path) for content in batch.to_pylist())
        for line, content in enumerate(contents, 1):
            yield SourceRow(line, content, digest(content))


def digest(content: dict[str, Any]) -> str:
    """sha256 of a table's row; its cells may hold dates, bytes and NaN, which JSON cannot spell."""
    return store.fingerprint(repr(sorted(content.items(), key=str)))


def batches(path: Path) -> Iterator[Any]:
    """A Parquet file in record batches."""
    import pyarrow
    from pyarrow import parquet

    try:
        yield from parquet.ParquetFile(path).iter_batches(batch_size=10_000)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0][:120]
        raise WorkbookError(
            f"{path} cannot be read as Parquet ({reason}); export it again"
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
        sheet = openpyxl.load_workbook(path, read_only=True, data_only=True).worksheets[0]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        raise WorkbookError(
            f"{path} cannot be read as an Excel workbook; save it again as .xlsx or .csv"
        ) from None
    rows = sheet.iter_rows(values_only=True)
    names = [str(name) for name in next(rows, ())]
    for row in rows:
        if any(value is not None for value in row):
            yield dict(zip(names, row, strict=False))


def _json_rows(path: Path) -> Iterator[SourceRow]:
    with open(path, "rb") as file:
        line = 0
        while chunk := file.readline(MAX_LINE_BYTES + 1):
            line += 1
            if len(chunk) > MAX_LINE_BYTES:
                while chunk and not chunk.endswith(b"\n"):  # the rest of it belongs to this line
                    chunk = file.readline(MAX_LINE_BYTES)
                yield SourceRow(line, RowError(f"longer than {MAX_LINE_BYTES // 2**20} MiB"), "")
            elif chunk.strip():
                content = _parse(chunk, "utf-8-sig" if line == 1 else "utf-8")
                yield SourceRow(line, content, hashlib.sha256(chunk).hexdigest())


def _parse(chunk: bytes, encoding: str) -> dict[str, Any] | RowError:
    try:
        content = json.loads(chunk.decode(encoding))
        if b"\\ud" in chunk.lower():
            json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return RowError("holds half of a surrogate pair, which no UTF-8 file can keep")
    except UnicodeDecodeError as error:
        return RowError(f"not UTF-8 (byte {error.start})")
    except (json.JSONDecodeError, RecursionError) as error:
        return RowError(f"not valid JSON ({getattr(error, 'msg', 'nested too deeply')})")
    if not isinstance(content, dict):
        return RowError("a row must be a JSON object")
    return content


def _csv_rows(path: Path) -> Iterator[SourceRow]:
    """Rows of a CSV: comma, semicolon or tab, whichever the header uses."""
    csv.field_size_limit(MAX_LINE_BYTES)
    with open(path, encoding=_encoding_of(path), errors="replace", newline="") as file:
        header = file.readline(MAX_LINE_BYTES)
        file.seek(0)
        reader = csv.DictReader(file, delimiter=max(",;\t", key=header.count))
        reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
        line = reader.line_num + 1
        while True:
            try:
                content: dict[str, Any] | RowError = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                content = RowError(f"not a CSV row ({error})")
            if isinstance(content, dict) and None in content:
                content = RowError(
                    "has more cells than the header has names; quote cells that hold the separator"
                )
            # spreadsheets leave rows of empty cells behind
            if isinstance(content, RowError) or any(content.values()):
                spelling = repr(content).encode("utf-8", "surrogatepass")
                yield SourceRow(line, content, hashlib.sha256(spelling).hexdigest())
            line = reader.line_num + 1


def _encoding_of(path: Path) -> str:
    """UTF-8 or, failing that, Windows-1252."""
    encoding = "utf-8-sig"
    try:
        with open(path, encoding=encoding) as file:
            while file.read(2**20):
                pass
    except UnicodeDecodeError:
        return "cp1252"
    return encoding
