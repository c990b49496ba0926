"""Where artifacts live: one folder per run, atomic writes, fingerprints, the lock.

A run's artifacts are records: `run.save(evaluation)` writes one, `run.load(Evaluation)` reads it,
checked, and nothing else does.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
import unicodedata
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from helpers.records import Artifact, WorkbookError
from helpers.redaction import (  # noqa: F401 - what all rooms take from here
    as_csv_cell,
    clean,
    from_csv_cell,
    outline,
    printable,
    redact,
    without_secrets,
)

PROJECT = Path(__file__).resolve().parents[1]
NOTEBOOKS = PROJECT / "notebooks"
A = TypeVar("A", bound=Artifact)
PROSE = ("reason", "reasons", "warnings", "evidence", "remedy")  # fields of records
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


def home() -> Path:
    """The folder of all runtime output: WORKBOOK_HOME, or artifacts/ beside pyproject.toml."""
    return Path(os.environ.get("WORKBOOK_HOME") or PROJECT / "artifacts").expanduser().resolve()


def home_id() -> str:
    """What tells this home from others that share its registry: made at first use."""
    path = home() / ".identity"
    if not path.exists():
        write_text(path, uuid.uuid4().hex)
    return path.read_text(encoding="utf-8").strip()


def cache() -> Path:
    """Converted models and tokenizer files, shared by all homes.

    WORKBOOK_CACHE, or fine-tuning-workbook in the user's cache folder.
    """
    user = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    own = Path(os.environ.get("WORKBOOK_CACHE") or user / "fine-tuning-workbook")
    return own.expanduser().resolve()


def headless() -> bool:
    """True under `workbook run`: no widgets, masked excerpts only, quiet progress."""
    return os.environ.get("WORKBOOK_HEADLESS") == "1"


def now() -> datetime:
    """The present moment, with its time zone."""
    return datetime.now(UTC)


def make_folder(folder: Path) -> Path:
    """The folder, made with what is missing above it; in the home, for its owner alone (0700)."""
    mode = 0o700 if folder.is_relative_to(home()) else 0o777
    for path in (*reversed(folder.parents), folder):
        if not path.exists():
            path.mkdir(mode=mode, exist_ok=True)
    return folder


def nameless_file() -> BinaryIO:
    """A file in the home that is gone with this process, however that ends."""
    return tempfile.TemporaryFile(dir=make_folder(home() / "cache"))


def write_text(path: Path, text: str | Iterable[str]) -> Path:
    """Write `text` (in pieces: too long to hold) so that a reader sees the old file or the whole
    new one, come what may.

    Half of a surrogate pair, which UTF-8 cannot spell, is spelt as JSON does: \\ud800.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.partial")
    mode = 0o600 if path.is_relative_to(home()) else 0o666
    try:
        make_folder(path.parent)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
        with open(
            descriptor, "w", encoding="utf-8", errors="backslashreplace", newline="\n"
        ) as file:
            file.writelines([text] if isinstance(text, str) else text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except Exception as error:  # a row that is no JSON, too
        with contextlib.suppress(OSError):
            partial.unlink()
        raise (_disk_error(path, error) if isinstance(error, OSError) else error) from error
    return path


def _disk_error(path: Path, error: OSError) -> Exception:
    """Disk full is exit 6 with a remedy; a folder that cannot be written is a setting (2)."""
    if error.errno in (28, 122):  # ENOSPC, EDQUOT
        return WorkbookError(
            f"no space left to write {path}; free some disk space and run again with the same"
            " run id",
            6,
        )
    # EPERM, ENOENT, EACCES, ENOTDIR, EISDIR, EROFS, ENAMETOOLONG, ELOOP
    if error.errno in (1, 2, 13, 20, 21, 30, 36, 40):
        return WorkbookError(
            f"{path} cannot be written ({error.strerror}); set WORKBOOK_HOME to a folder you may"
            " write to"
        )
    return error


def _json_default(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if hasattr(value, "item"):  # numpy scalars
        return value.item()
    raise TypeError(f"{type(value).__name__} is not JSON")


def dumps(value: Any, indent: int | None = None) -> str:
    """JSON text of records and plain values; NaN and infinity are refused, as readers do."""
    return json.dumps(
        value, default=_json_default, ensure_ascii=False, allow_nan=False, indent=indent
    )


def write_json(path: Path, value: Any) -> Path:
    """Write one JSON value atomically."""
    return write_text(path, dumps(value, indent=2) + "\n")


def write_jsonl(path: Path, rows: Iterable[Any]) -> Path:
    """Write one JSON value a line, atomically."""
    return write_text(path, (dumps(row) + "\n" for row in rows))


def read_text(path: Path) -> str:
    """The text of a file; a pipe or a device, whose end may never come, is an OSError."""
    if path.exists() and not path.is_file():
        raise OSError(22, "no regular file")
    return path.read_text(encoding="utf-8")


def read_json(path: Path, remedy: str = "") -> Any:
    """Read one JSON value; a missing or torn file is an error that says what to do."""
    then = f"; {remedy}" if remedy else ""
    try:
        return json.loads(read_text(path), parse_constant=_no_number)
    except FileNotFoundError:
        raise WorkbookError(f"{path} is missing{then}") from None
    except OSError as error:
        raise WorkbookError(f"{path} cannot be read ({error.strerror}){then}") from None
    except (ValueError, RecursionError) as error:
        then = then or "; delete it and run its notebook again"
        raise WorkbookError(f"{path} is not valid JSON ({_problem(error)}){then}") from None


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _problem(error: Exception) -> str:
    """What is wrong with a JSON text, without quoting it."""
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8, byte {error.start}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def read_jsonl(path: Path) -> list[Any]:
    """Read a file that we wrote ourselves: one JSON value a line."""
    rows = []
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            try:
                rows.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise WorkbookError(
                    f"{path}, line {number}: not valid JSON ({_problem(error)})"
                ) from None
    return rows


def canonical(value: Any) -> str:
    """One spelling per value: sorted keys, NFC text, no spaces.

    To compare by and never read back, so that a number without end (1e999) has one too.
    """
    text = json.dumps(
        value, default=_json_default, ensure_ascii=False, sort_keys=True, separators=(",", ":")
    )
    return unicodedata.normalize("NFC", text)


def fingerprint(value: Any) -> str:
    """sha256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical(value).encode("utf-8", "surrogatepass")).hexdigest()


def sha256_file(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def lock() -> Iterator[None]:
    """Hold the home's one lock, or raise with exit code 75 at once.

    Reentrant in a process; a notebook started by `workbook run` works under its parent's lock.
    The system's lock on a file dies with its holder, so a killed run leaves no stale lock; the
    descriptor is close-on-exec (PEP 446).
    """
    path = home() / ".lock"
    if os.environ.get("WORKBOOK_LOCK_HELD") == str(path):
        yield
        return
    from filelock import FileLock, Timeout

    holder = FileLock(path, timeout=0, thread_local=False, is_singleton=True, mode=0o600)
    try:
        make_folder(path.parent)
        holder.acquire()
    except Timeout:
        raise WorkbookError(
            f"another run holds {path}; wait until it has finished (`workbook runs` shows it)", 75
        ) from None
    except OSError as error:
        raise _disk_error(path, error) from error
    try:
        yield
    finally:
        holder.release()


def _clean_prose(value: Any) -> Any:
    """An artifact without keys and addresses in what people read of it; what is asked stays exact.

    (A row's words may have come into a reason or into the evidence of a finding.)
    """
    if isinstance(value, list):
        return [_clean_prose(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    return {name: (clean if name in PROSE else _clean_prose)(each) for name, each in value.items()}


class Run:
    """The folder of one run, and its hand-over files."""

    def __init__(self, run_id: str) -> None:
        if not RUN_ID.fullmatch(run_id):
            raise WorkbookError(
                f"run_id {run_id!r}: use letters, digits, dot, dash and underscore (at most 80)"
            )
        self.id = run_id
        self.folder = home() / "runs" / run_id

    def path(self, name: str) -> Path:
        """Where the artifact `name` is, or will be."""
        return self.folder / name

    def has(self, what: str | type[Artifact]) -> bool:
        """Whether a file, or an artifact of this kind, was written."""
        return self.path(what if isinstance(what, str) else what.FILE).exists()

    def save(self, artifact: Artifact) -> Path:
        """Publish one artifact atomically, under the home's lock."""
        with lock():
            return write_json(self.path(artifact.FILE), _clean_prose(json.loads(dumps(artifact))))

    def load(self, kind: type[A]) -> A:
        """Read an artifact of this run; a missing one names the notebook that writes it."""
        path = self.path(kind.FILE)
        raw = read_json(path, f"run {kind.WRITTEN_BY} with run_id={self.id!r} first")
        params = None
        if isinstance(raw, dict) and "schema_version" not in raw and self.has("run.json"):
            # 0.1.0 did not write down how models were asked; the run's own parameters tell it
            record = read_json(self.path("run.json"))
            params = record.get("params") if isinstance(record, dict) else None
        return kind.parse(raw, str(path), params)

    @property
    def private(self) -> Path:
        """The one place for full example text of a headless run (mode 0700)."""
        return make_folder(self.path("private"))


def open_run(run_id: str) -> Run:
    """The run's folder, made when it is new."""
    run = Run(run_id)
    make_folder(run.folder)
    return run
