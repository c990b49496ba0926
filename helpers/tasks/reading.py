"""From a source file to raw rows, one at a time: JSONL, a JSON array, CSV, Excel, Parquet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from helpers import store
from helpers.records import WorkbookError
from helpers.tasks.csvs import MAX_CELL, RowError, csv_rows, judge_dialect
from helpers.tasks.encodings import Encoding, encoding_of

MAX_LINE_BYTES = MAX_CELL  # a longer line is a broken export, not an example
TABLES = (".csv", ".tsv")


class SourceRow(NamedTuple):
    """One row of a file: what it holds, or what is wrong with it."""

    line: int
    content: Any  # dict[str, Any] | RowError
    sha256: str


class FileForm(NamedTuple):
    """How a file is written, as far as it is judged before it is read."""

    encoding: Encoding | None = None
    dialect: Any = None
    note: str = ""

    @property
    def description(self) -> str:
        """In words, such as `UTF-8 (all of its bytes), semicolon`."""
        parts = [self.note] if self.note else []
        if self.encoding is not None:
            parts.append(f"{self.encoding.name} ({self.encoding.why})")
        if self.dialect is not None:
            parts.append(self.dialect.description)
        return ", ".join(parts)


def form_of(path: Path, encoding: str = "") -> FileForm:
    """How a file is written; WorkbookError where that is ambiguous."""
    suffix = path.suffix.lower()
    if suffix in TABLES:
        name = encoding_of(path, encoding)
        return FileForm(name, judge_dialect(path, name))
    if suffix in (".jsonl", ".json"):
        name = encoding_of(path, encoding) if encoding or _has_mark(path) else None
        return FileForm(name, note="a JSON array" if _is_array(path, name) else "JSON Lines")
    return FileForm(note="Excel, first sheet" if suffix == ".xlsx" else "Parquet")


def read_rows(path: Path, form: FileForm | None = None) -> Iterator[SourceRow]:
    """Every row of a JSON, CSV, Excel or Parquet file, one at a time."""
    suffix = path.suffix.lower()
    form = form or form_of(path)
    try:
        if suffix in (".jsonl", ".json"):
            rows = _array_rows if form.note == "a JSON array" else _json_rows
            yield from rows(path, form.encoding)
        elif suffix in TABLES:
            for line, content in csv_rows(path, form.encoding, form.dialect):
                spelling = repr(content).encode("utf-8", "surrogatepass")
                yield SourceRow(line, content, hashlib.sha256(spelling).hexdigest())
        elif suffix == ".xlsx":
            from helpers.extras.excel import excel_rows

            for line, content in excel_rows(path):
                yield SourceRow(line, content, digest(content))
        else:
            whole = integer_columns(path)
            contents = (c for batch in batches(path) for c in contents_of(batch, whole))
            for line, content in enumerate(contents, 1):
                yield SourceRow(line, content, digest(content))
    except UnicodeError as error:
        name = form.encoding.name if form.encoding else "UTF-8"
        place = f", byte {error.start}" if isinstance(error, UnicodeDecodeError) else ""
        raise WorkbookError(f"{path} is not {name} all through{place}; save it as UTF-8") from None


def digest(content: dict[str, Any]) -> str:
    """sha256 of a table's row; its cells may hold dates, bytes and NaN, which JSON cannot spell."""
    return store.fingerprint(repr(sorted(content.items(), key=str)))


# --- tables ---------------------------------------------------------------------------------------


def batches(path: Path, columns: Sequence[str] | None = None) -> Iterator[Any]:
    """A Parquet file in record batches."""
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        yield from file.iter_batches(batch_size=10_000, columns=columns)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0][:120]
        raise WorkbookError(
            f"{path} cannot be read as Parquet ({reason}); export it again"
        ) from None


def integer_columns(path: Path) -> frozenset[str]:
    """Columns of floats that are integers but for empty cells: pandas has no other way."""
    import pyarrow
    from pyarrow import compute, parquet

    try:
        schema = parquet.read_schema(path)
    except (pyarrow.ArrowException, OSError):
        return frozenset()  # reading it says why
    names = [field.name for field in schema if pyarrow.types.is_floating(field.type)]
    whole = dict.fromkeys(names, False)
    for batch in batches(path, names) if names else ():
        for name in names:
            values = batch.column(name)
            full = values.drop_null().filter(compute.is_finite(values.drop_null()))
            if len(full) < len(values):
                whole[name] = whole.get(name, True) is not None
            if not compute.all(compute.equal(full, compute.floor(full)), min_count=0).as_py():
                whole[name] = None
                names = [each for each in names if each != name]
    return frozenset(name for name, is_whole in whole.items() if is_whole)


def contents_of(batch: Any, whole: frozenset[str]) -> list[dict[str, Any]]:
    """The rows of a batch, its whole floats as integers."""
    contents = batch.to_pylist()
    for name in whole.intersection(batch.schema.names):
        for content in contents:
            value = content[name]
            if value is not None:
                content[name] = int(value) if value == value else None
    return contents


# --- JSON -----------------------------------------------------------------------------------------


def _has_mark(path: Path) -> bool:
    """Whether a JSON file is UTF-16: a broken first line must not look like it."""
    with open(path, "rb") as file:
        head = file.read(4)
    return head.removeprefix(b"\xff\xfe")[:2] in (b"{\0", b"[\0") or (
        head.removeprefix(b"\xfe\xff")[:2] in (b"\0{", b"\0[")
    )


def _text_of(path: Path, encoding: Encoding | None) -> str:
    return path.read_bytes().decode(encoding.name if encoding else "utf-8-sig")


def _is_array(path: Path, encoding: Encoding | None) -> bool:
    """Whether a file is one JSON value with a list of objects, whatever its name says."""
    if encoding is None:
        with open(path, "rb") as file:
            head = file.read(200).removeprefix(b"\xef\xbb\xbf").lstrip()
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 200))
            tail = file.read().rstrip()
        wrapped = path.suffix.lower() == ".json" and head[:1] == b"{"
        if not wrapped and not (head[:1] == b"[" and tail[-1:] == b"]"):
            return False
    try:
        return _holds_rows(_items(json.loads(_text_of(path, encoding))))
    except (ValueError, RecursionError):
        return False


def _items(value: Any) -> list[Any]:
    """The rows of a JSON file: the list that it is, or the one list of objects that it holds."""
    if isinstance(value, list):
        return value
    lists = [each for each in value.values() if isinstance(each, list) and _holds_rows(each)]
    return lists[0] if len(lists) == 1 else []


def _holds_rows(items: list[Any]) -> bool:
    return any(isinstance(item, dict) for item in items)


def _array_rows(path: Path, encoding: Encoding | None) -> Iterator[SourceRow]:
    text = _text_of(path, encoding)
    value = json.loads(text)
    items = _items(value)
    place = text.index("[")
    if isinstance(value, dict):
        key = next(key for key, each in value.items() if each is items)
        place = text.index("[", text.index(f'"{key}"'))
    decoder = json.JSONDecoder()
    line = 1 + text.count("\n", 0, place)
    for item in items:
        start = place + 1
        while text[start] in " \t\r\n,":
            start += 1
        line += text.count("\n", place, start)
        _, end = decoder.raw_decode(text, start)
        spelling = text[start:end]
        content = item if isinstance(item, dict) else RowError("a row must be a JSON object")
        sha256 = hashlib.sha256(spelling.encode("utf-8", "surrogatepass")).hexdigest()
        yield SourceRow(line, content, sha256)
        line += spelling.count("\n")
        place = end - 1


def _json_rows(path: Path, encoding: Encoding | None) -> Iterator[SourceRow]:
    if encoding is not None and encoding.name not in ("utf-8", "utf-8-sig"):
        for line, text in enumerate(_text_of(path, encoding).split("\n"), 1):
            if text.strip():
                chunk = text.encode("utf-8", "surrogatepass")
                yield SourceRow(line, _parse(chunk, "utf-8"), hashlib.sha256(chunk).hexdigest())
        return
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
