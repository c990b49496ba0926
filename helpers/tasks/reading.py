"""From a source file to raw rows, one at a time: JSONL, a JSON array, CSV, Excel, Parquet."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from helpers import store
from helpers.records import WorkbookError
from helpers.tasks.task import ENDINGS
from helpers.tasks.textfiles import (
    MAX_CELL,
    Encoding,
    Row,
    RowError,
    csv_rows,
    encoding_of,
    judge_dialect,
    names_again,
)

TABLES = (".csv", ".tsv")
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd
BEGINNINGS = {b"PAR1": ".parquet", b"PK": ".xlsx", b"{": ".jsonl", b"[": ".jsonl"}
_WIDE_JSON = re.compile(rb"(?:\xff\xfe)?[{\[]\0|(?:\xfe\xff)?\0[{\[]")  # its beginning in UTF-16
_NEXT = re.compile(r"[\s,:]*(?=[^\s,:\]}])")  # item of a list; key, or its value, of an object

# columns of a Parquet file, and what makes their values what they mean
Meanings = Sequence[tuple[str, Callable[[Any], Any]]]


class SourceRow(NamedTuple):
    """One row of a file: what it holds, or what is wrong with it."""

    line: int
    content: Any  # Row | RowError
    sha256: str


class FileForm(NamedTuple):
    """How a file is written, as far as it is judged before it is read."""

    encoding: Encoding | None = None
    dialect: Any = None
    note: str = ""
    start: int = -1  # where the list of its rows begins
    meanings: Meanings = ()

    @property
    def description(self) -> str:
        """In words, such as `UTF-8 (all of its bytes), semicolon`."""
        encoding = f"{self.encoding.name} ({self.encoding.why})" if self.encoding else ""
        dialect = self.dialect.description if self.dialect else ""
        return ", ".join(filter(None, (self.note, encoding, dialect)))


def ending_of(path: Path) -> str:
    """A file's ending where it is one that we know, else that of what its first bytes are."""
    suffix = path.suffix.lower()
    if not path.is_file():  # a pipe would be waited for, a device read without end
        raise WorkbookError(f"{path} is no regular file; save what it holds to one first")
    with open(path, "rb") as file:
        head = file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
    if head.startswith(COMPRESSED) or (
        head.startswith(b"PK\3\4") and suffix in (*TABLES, ".json", ".jsonl")
    ):
        raise WorkbookError(f"{path} is compressed; unpack it first")
    if suffix in ENDINGS:
        return suffix
    for beginning, ending in BEGINNINGS.items():
        if head.startswith(beginning):
            return ending
    return ".csv"


def form_of(path: Path, encoding: str = "") -> FileForm:
    """How a file is written; WorkbookError where that is ambiguous."""
    suffix = ending_of(path)
    if suffix in TABLES:
        name = encoding_of(path, encoding)
        return FileForm(name, judge_dialect(path, name))
    if suffix in (".jsonl", ".json"):
        with open(path, "rb") as file:  # a broken first line must not look like UTF-16
            is_wide = _WIDE_JSON.match(file.read(4))
        name = encoding_of(path, encoding) if encoding or is_wide else None
        start = _start_of_rows(path, name)
        return FileForm(name, note="JSON Lines" if start < 0 else "a JSON array", start=start)
    if suffix == ".xlsx":
        from helpers.extras.excel import sheet_names

        return FileForm(note=f"Excel, the first visible sheet, {', not '.join(sheet_names(path))}")
    return _parquet_form(path)


def read_rows(path: Path, form: FileForm | None = None) -> Iterator[SourceRow]:
    """Every row of a JSON, CSV, Excel or Parquet file, one at a time."""
    suffix = ending_of(path)
    form = form or form_of(path)
    try:
        if suffix in (".jsonl", ".json"):
            yield from (_json_rows if form.start < 0 else _array_rows)(path, form)
        else:
            for line, content in _table_rows(path, suffix, form):
                if suffix in TABLES:
                    sha256 = _sha256(repr(content).encode("utf-8", "surrogatepass"))
                else:  # its cells may hold dates, bytes and NaN, which JSON cannot spell
                    sha256 = store.fingerprint(repr(sorted(content.items(), key=str)))
                if isinstance(content, dict) and names_again(content):
                    content = RowError("names the columns again, as where two files become one")
                yield SourceRow(line, content, sha256)
    except UnicodeError as error:
        name = form.encoding.name if form.encoding else "UTF-8"
        place = f", byte {error.start}" if isinstance(error, UnicodeDecodeError) else ""
        raise WorkbookError(f"{path} is not {name} all through{place}; save it as UTF-8") from None


# --- tables ---------------------------------------------------------------------------------------


def _table_rows(path: Path, suffix: str, form: FileForm) -> Iterator[tuple[int, Any]]:
    """(line, row or RowError) of a table."""
    if suffix in TABLES:
        return csv_rows(path, form.encoding, form.dialect)
    if suffix == ".xlsx":
        from helpers.extras.excel import excel_rows

        return excel_rows(path)
    return enumerate(parquet_rows(path, form.meanings), 1)


def parquet_rows(
    path: Path, meanings: Meanings, columns: Sequence[str] | None = None
) -> Iterator[Row]:
    """The rows of a Parquet file, or some of their columns, each value as what it means."""
    for batch in batches(path, columns):
        try:
            contents = batch.to_pylist(maps_as_pydicts="strict")
        except KeyError as error:
            raise WorkbookError(
                f"a map of a Parquet file holds a key twice ({error}); rename one"
            ) from None
        for content in contents:
            for name, meaning in meanings:
                if content.get(name) is not None:
                    content[name] = meaning(content[name])
            yield content


def _named(names: Sequence[str], value: Any) -> Any:
    """The name of a class, or of several; None for the -1 of a row without one."""
    if isinstance(value, list):
        return [_named(names, each) for each in value]
    return {-1: None, **dict(enumerate(names))}.get(value, value)


def _parquet_form(path: Path) -> FileForm:
    """What the numbers of a Parquet file are: of classes, as Hugging Face names them; integers.

    Floats are integers where all are whole but for empty cells: pandas has no other way.
    """
    import pyarrow
    from pyarrow import compute, parquet

    try:
        schema = parquet.read_schema(path)
    except (pyarrow.ArrowException, OSError):
        return FileForm(note="Parquet")  # reading it says why
    meanings = []
    for field in schema:
        if pyarrow.types.is_floating(field.type):
            column = parquet.read_table(path, columns=[field.name])[field.name].drop_null()
            full = column.filter(compute.invert(compute.is_nan(column)))
            has_gaps = len(full) < parquet.read_metadata(path).num_rows
            are_whole = compute.and_(
                compute.is_finite(full), compute.equal(full, compute.floor(full))
            )
            if has_gaps and compute.all(are_whole).as_py():
                meanings.append((field.name, lambda value: int(value) if value == value else None))
    note = "Parquet"
    features = {}
    with suppress(KeyError, ValueError, TypeError):  # nobody named any
        features = dict(json.loads(schema.metadata[b"huggingface"])["info"]["features"])
    for name, feature in features.items():
        with suppress(AttributeError, IndexError, KeyError, TypeError):  # it has no classes
            feature = feature[0] if isinstance(feature, list) else feature.get("feature", feature)
            if feature["_type"] == "ClassLabel":
                meanings.append((name, partial(_named, list(feature["names"]))))
                note += f", with the names of the classes of {name}"
    return FileForm(note=note, meanings=meanings)


def batches(path: Path, columns: Sequence[str] | None = None) -> Iterator[Any]:
    """A Parquet file in record batches."""
    import pyarrow
    from pyarrow import parquet

    try:
        yield from parquet.ParquetFile(path).iter_batches(batch_size=10_000, columns=columns)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0][:120]
        raise WorkbookError(
            f"{path} cannot be read as Parquet ({reason}); export it again"
        ) from None


# --- JSON -----------------------------------------------------------------------------------------


def _text_of(path: Path, encoding: Encoding | None) -> str:
    return path.read_bytes().decode(encoding.name if encoding else "utf-8-sig")


def _start_of_rows(path: Path, encoding: Encoding | None) -> int:
    """Where the list of objects begins that a file is, or holds under a key; -1: JSON Lines."""
    if encoding is None:
        with open(path, "rb") as file:
            head = file.read(200).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
            file.seek(max(0, path.stat().st_size - 200))
            tail = file.read().rstrip()[-1:]
        if (head, tail) != (b"[", b"]") and (head, path.suffix.lower()) != (b"{", ".json"):
            return -1
    try:
        values = _values_in(_text_of(path, encoding))
    except (ValueError, RecursionError):
        return -1
    tables = {
        key: start
        for key, (start, value) in values.items()
        if isinstance(value, list) and any(isinstance(item, dict) for item in value)
    }
    if len(tables) > 1:
        raise WorkbookError(
            f"{path} holds several lists of rows ({', '.join(tables)}); write them as one"
            " list, with a key `split` if they are parts"
        )
    if not tables and _are_columns([value for _, value in values.values()]):
        raise WorkbookError(
            f"{path} is written column by column, or its rows have names of their own"
            f" ({len(values)} of them); export its rows, as in pandas'"
            ' to_json(orient="records", lines=True)'
        )
    return next(iter(tables.values()), -1)


def _are_columns(values: Sequence[Any]) -> bool:
    """Whether two lists of one length, or objects of the same keys, are the columns of a table."""
    if not {*map(type, values)} <= {list, dict}:
        return False
    lists = [len(value) for value in values if isinstance(value, list)]
    sizes = lists or [tuple(value) for value in values]
    return len(sizes) > 1 and len({*sizes}) == 1 and any(sizes)


def _values_in(text: str) -> dict[str, tuple[int, Any]]:
    """Where the value of each key of a JSON object begins, and the value; a list has the key ""."""
    whole = json.loads(text)
    if not isinstance(whole, dict):
        return {"": (text.find("["), whole)}
    items = _items(text, text.index("{"))
    # key and value by turns; of a key that is there twice the last
    return {
        key: (start, value) for (_, _, key), (start, _, value) in zip(items, items, strict=True)
    }


def _items(text: str, end: int) -> Iterator[tuple[int, int, Any]]:
    """(beginning, end, value) of each item of the list or object whose bracket stands at `end`."""
    decode = json.JSONDecoder().raw_decode
    end += 1
    while match := _NEXT.match(text, end):
        value, end = decode(text, match.end())
        yield match.end(), end, value


def _array_rows(path: Path, form: FileForm) -> Iterator[SourceRow]:
    text = _text_of(path, form.encoding)
    line = 1
    counted = 0
    for start, end, _ in _items(text, form.start):
        line += text.count("\n", counted, start)
        counted = start
        spelling = text[start:end].encode("utf-8", "surrogatepass")
        yield SourceRow(line, _parse(spelling, "utf-8"), _sha256(spelling))


def _json_rows(path: Path, form: FileForm) -> Iterator[SourceRow]:
    """The rows of JSON Lines, each line read for itself; one that is too long is not held."""
    with open(path, "rb") as file:
        lines = file
        if form.encoding is not None and form.encoding.name not in ("utf-8", "utf-8-sig"):
            lines = io.BytesIO(_text_of(path, form.encoding).encode("utf-8", "surrogatepass"))
        line = 0
        while chunk := lines.readline(MAX_CELL + 1):
            line += 1
            if len(chunk) > MAX_CELL:
                while chunk and not chunk.endswith(b"\n"):  # the rest of it belongs to this line
                    chunk = lines.readline(MAX_CELL)
                yield SourceRow(line, RowError(f"longer than {MAX_CELL // 2**20} MiB"), "")
            elif chunk.strip():
                content = _parse(chunk, "utf-8-sig" if line == 1 else "utf-8")
                yield SourceRow(line, content, _sha256(chunk))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _object(pairs: list[tuple[str, Any]]) -> Row:
    """A JSON object; RowError where it has a key twice, of which the last would win."""
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        raise RowError(f"the key {max(keys, key=keys.count)!r} stands twice in one object")
    return row


_STRICT = json.JSONDecoder(object_pairs_hook=_object)
# of answers; int gives a ValueError: NaN is Python's, not JSON's
DECODER = json.JSONDecoder(parse_constant=int, object_pairs_hook=_object)


def _parse(chunk: bytes, encoding: str) -> Row | RowError:
    try:
        content = _STRICT.decode(chunk.decode(encoding))
        if b"\\ud" in chunk.lower():
            json.dumps(content, ensure_ascii=False).encode()
    except RowError as error:
        return error
    except UnicodeEncodeError:
        return RowError("holds half of a surrogate pair, which no UTF-8 file can keep")
    except UnicodeDecodeError as error:
        return RowError(f"not UTF-8 (byte {error.start})")
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits is a ValueError
        reason = getattr(error, "msg", "nested too deeply, or a number is too long")
        return RowError(f"not valid JSON ({reason})")
    if not isinstance(content, dict):
        return RowError("a row must be a JSON object")
    return content
