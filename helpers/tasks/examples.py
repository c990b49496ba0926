"""From a source file's rows to TrainingExamples: chat lines, prompt/completion, or columns named in task.yaml."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from helpers import store
from helpers.records import (
    PARTS,
    FineTuningDataset,
    Issue,
    Message,
    RejectedExample,
    Source,
    Splits,
    TrainingExample,
    WorkbookError,
)
from helpers.tasks.parts import group_of
from helpers.tasks.task import Task

RULES = "tasks-1"
MAX_LINE_BYTES = 8 * 2**20  # a longer line is a broken export, not an example
TEXT_SCORES = {"up": 5, "thumbs_up": 5, "👍": 5, "good": 5, "true": 5, "down": 1, "thumbs_down": 1, "👎": 1, "bad": 1, "false": 1}


class LoadedRows(NamedTuple):
    """What a source file held: every row is in exactly one of the two lists."""

    examples: list[TrainingExample]
    unreadable: list[RejectedExample]
    files: list[Path]


class _RowError(ValueError):
    """One row that cannot become an example; the message says what is wrong with it."""


def load_examples(task: Task, source: Source = "human") -> LoadedRows:
    """Read human.* or production.* of the task.

    A broken human row raises WorkbookError with file and line (somebody wrote it and can mend it); a broken
    production row is kept as `unreadable` with its reason, since nobody can mend a log.
    """
    path = task.data_file(source)
    if path is None:
        if source == "human":
            raise WorkbookError(f"{task.folder}: human.jsonl (or .csv, .parquet) is missing; README.md says how a row looks")
        return LoadedRows([], [], [])
    examples, unreadable = [], []
    for line, raw, digest in _rows(path):
        where = {"file": path.name, "line": line, "sha256": digest}
        try:
            if isinstance(raw, _RowError):
                raise raw
            examples.append(to_example(task, raw, source, where, path))
        except _RowError as error:
            if source == "human":
                raise WorkbookError(f"{path}, line {line}: {error}; mend or delete that row") from None
            issue = Issue(code="invalid_format", evidence=str(error))
            example = {"id": f"{path.name}:{line}", "source": source, **where}
            unreadable.append(RejectedExample(example=example, issues=[issue], stage="read", rule_version=RULES))
    return LoadedRows(examples, unreadable, [path])


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | _RowError, str]]:
    """(line, row or what is wrong with it, sha256 of the raw line) of a JSONL, CSV or Parquet file."""
    if path.suffix == ".jsonl":
        yield from _json_lines(path)
        return
    import pandas as pd

    rows = _csv_rows(path) if path.suffix == ".csv" else pd.read_parquet(path).to_dict("records")
    for line, row in enumerate(rows, 2):
        yield line, row, store.fingerprint(row)


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | _RowError, str]]:
    with open(path, "rb") as file:
        line = 0
        while chunk := file.readline(MAX_LINE_BYTES + 1):
            line += 1
            if len(chunk) > MAX_LINE_BYTES:
                while chunk and not chunk.endswith(b"\n"):  # the rest of the endless line belongs to it
                    chunk = file.readline(MAX_LINE_BYTES)
                yield line, _RowError(f"longer than {MAX_LINE_BYTES // 2**20} MiB"), ""
                continue
            if chunk.strip():
                yield line, _parse(chunk, first=line == 1), hashlib.sha256(chunk).hexdigest()


def _parse(chunk: bytes, first: bool) -> dict[str, Any] | _RowError:
    try:
        row = json.loads(chunk.decode("utf-8-sig" if first else "utf-8"))
    except UnicodeDecodeError as error:
        return _RowError(f"not UTF-8 (byte {error.start})")
    except (json.JSONDecodeError, RecursionError) as error:
        return _RowError(f"not valid JSON ({getattr(error, 'msg', 'nested too deeply')})")
    if not isinstance(row, dict):
        return _RowError("a row must be a JSON object")
    if b"\\ud" in chunk.lower() and any("\ud800" <= c <= "\udfff" for c in json.dumps(row, ensure_ascii=False)):
        return _RowError("holds half of a surrogate pair, which no UTF-8 file can keep")
    return row


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a CSV: UTF-8 or, failing that, Windows-1252; comma, semicolon or tab, whichever the header uses."""
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
    header = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)
    yield from csv.DictReader(text.splitlines(keepends=True), delimiter=delimiter)


def to_example(task: Task, raw: dict[str, Any], source: Source, where: dict[str, Any], path: Path) -> TrainingExample:
    """One row as a TrainingExample; raises ValueError that says what is wrong with the row."""
    columns = {k: v for k, v in task.columns.items() if isinstance(v, str)}

    def cell(name: str) -> Any:
        value = raw.get(columns.get(name, name))
        return None if value is None or value == "" or value != value else value

    messages = _messages(raw, cell("input"), cell("output"))
    user_text = "\n".join(m.content or "" for m in messages if m.role == "user")
    created_at, guessed = _created_at(cell("created_at"), path)
    conversation = str(cell("group") or cell("conversation_id") or "")
    part = cell("split")
    if part is not None and part not in PARTS:
        raise _RowError(f"split is {part!r}; it must be one of {', '.join(PARTS)}")
    extra = {name: cell(name) for name in ("model_version", "articles", "conversation_id") if cell(name) is not None}
    content = store.fingerprint([m.model_dump(exclude_none=True) for m in messages])
    return TrainingExample(
        id=str(cell("id") or content[:16]),
        messages=messages,
        source=source,
        quality="verified" if source == "human" else "unverified",
        created_at=created_at,
        group=group_of(user_text, conversation),
        part=part if source == "human" else None,
        feedback_score=_feedback(cell("feedback_score"), task.columns.get("feedback")),
        meta={**where, "created_at_guessed": guessed, **extra},
    )


def _messages(raw: dict[str, Any], given: Any, wanted: Any) -> list[Message]:
    """The chat of a row in any of the three accepted forms."""
    turns = raw.get("messages")
    if turns is None and "prompt" in raw and "completion" in raw:
        given, wanted = raw["prompt"], raw["completion"]
    if turns is None:
        if given is None:
            raise _RowError("neither `messages`, nor prompt/completion, nor the input column of task.yaml is there")
        turns = [{"role": "user", "content": str(given)}]
        if wanted is not None:
            text = wanted if isinstance(wanted, str) else json.dumps(wanted, ensure_ascii=False, separators=(",", ":"))
            turns.append({"role": "assistant", "content": text})
    if not isinstance(turns, list) or not turns:
        raise _RowError("`messages` must be a non-empty list")
    try:
        return [Message(**{k: v for k, v in turn.items() if k != "weight"}) for turn in turns]
    except (ValidationError, AttributeError, TypeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": ("?",), "msg": str(error)}
        raise _RowError(f"messages: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _created_at(value: Any, path: Path) -> tuple[datetime, bool]:
    """The row's time with a zone (UTC when it names none); the file's own date, flagged, when it is missing."""
    if value is None:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC).replace(microsecond=0), True
    try:
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value, UTC), False
        moment = datetime.fromisoformat(str(value))
    except (ValueError, OverflowError, OSError):
        raise _RowError(f"created_at {str(value)[:40]!r} is not an ISO 8601 time") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)), False


def _feedback(value: Any, mapping: dict[str, Any] | None) -> float | None:
    """1-5 from stars, thumbs, booleans, shares 0-1 or words; None when the row was not rated."""
    if value is None:
        return None
    text = str(value).strip().casefold()
    if mapping:
        scores = {str(k).casefold(): float(v) for k, v in mapping.items()}
        if text in scores:
            return scores[text]
    if text in TEXT_SCORES:
        return float(TEXT_SCORES[text])
    try:
        score = float(text)
    except ValueError:
        raise _RowError(f"feedback_score {text[:20]!r} is not known; map it in task.yaml under columns.feedback") from None
    if isinstance(value, float) and 0 <= score < 1:
        score = 1 + 4 * score
    if not 1 <= score <= 5:
        raise _RowError(f"feedback_score {score:g} is outside 1-5; map it in task.yaml under columns.feedback")
    return score


def read_dataset(run: store.Run) -> FineTuningDataset:
    """The dataset version that 02 published for this run."""
    pointer = run.read("dataset.json")
    folder = store.home() / "datasets" / pointer["version"]
    manifest = store.read_json(folder / "manifest.json", f"run 02_curate with run_id={run.id!r} again")
    if manifest["fingerprint"] != pointer["fingerprint"]:
        raise WorkbookError(f"{folder}/manifest.json does not belong to {run.path('dataset.json')}; run 02_curate again")
    examples = [TrainingExample(**row) for part in PARTS for row in store.read_jsonl(folder / f"{part}.jsonl")]
    metadata = {key: manifest[key] for key in ("version", "task", "created_at", "fingerprint", "params")}
    return FineTuningDataset(examples=examples, metadata=metadata, splits=Splits(**manifest["splits"]))
