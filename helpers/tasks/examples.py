"""From a source file's rows to TrainingExamples; a filter keeps what nobody wants out of memory."""

from __future__ import annotations

import heapq
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from helpers import store
from helpers.records import (
    PARTS,
    DatasetMetadata,
    DatasetPointer,
    FineTuningDataset,
    Issue,
    Manifest,
    RejectedExample,
    Source,
    TrainingExample,
    WorkbookError,
)
from helpers.tasks.parts import group_of
from helpers.tasks.reading import RowError, SourceRow, batches, digest, read_rows
from helpers.tasks.rows import cell, chat_of, created_at, feedback_score
from helpers.tasks.task import Task

RULES = "tasks-1"
SAMPLE = 1000  # rows kept as evidence of those that a filter drops
KEPT_AS_META = ("model_version", "articles", "conversation_id")
# why a row is dropped, by its score, its time and whether that time is a guess; None: it stays
RowFilter = Callable[[float | None, datetime, bool], Issue | None]


class LoadedRows(NamedTuple):
    """What a source file held: every row is an example, unreadable, or counted in `dropped`."""

    examples: list[TrainingExample]
    unreadable: list[RejectedExample]
    dropped: Counter[str]  # rows by the code of their issue
    sample: list[tuple[TrainingExample | RejectedExample, Issue]]  # up to SAMPLE of the dropped


class _Sample:
    """The SAMPLE dropped rows of the smallest hash: the same ones on every reading."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._heap: list[tuple[int, int, SourceRow, Issue]] = []  # -hash, line, row, issue

    def offer(self, row: SourceRow, issue: Issue) -> None:
        """Keep the row if it belongs to the sample; only then is a lazy row read."""
        key = -zlib.crc32(f"{self._file}:{row.line}".encode())
        full = len(self._heap) >= SAMPLE
        if full and key <= self._heap[0][0]:
            return
        if callable(row.content):
            row = row._replace(content=row.content())
        if full:
            heapq.heapreplace(self._heap, (key, row.line, row, issue))
        else:
            heapq.heappush(self._heap, (key, row.line, row, issue))

    def rows(self) -> list[tuple[SourceRow, Issue]]:
        """The rows in the order of the file."""
        entries = sorted(self._heap, key=lambda entry: entry[1])
        return [(row, issue) for _, _, row, issue in entries]


def load_examples(
    task: Task, source: Source = "human", row_filter: RowFilter | None = None
) -> LoadedRows:
    """Read human.* or production.* of the task, one row at a time.

    A broken human row raises WorkbookError with file and line (somebody wrote it and can mend it);
    a broken production row is kept as `unreadable` with its reason, since nobody can mend a log. A
    row that `row_filter` drops is only counted and sampled, so a log may be larger than memory.
    """
    path = task.data_file(source)
    if path is None:
        if source == "human":
            raise WorkbookError(
                f"{task.folder}: human.jsonl (or .csv, .parquet) is missing; README.md says how a"
                " row looks"
            )
        return LoadedRows([], [], Counter(), [])
    loaded = LoadedRows([], [], Counter(), [])
    file = path.name  # asked once: pathlib takes it apart each time, and a log has a million rows
    sample = _Sample(file)
    for row, issue in _filtered_rows(task, path, row_filter):
        if issue is not None:
            loaded.dropped[issue.code] += 1
            sample.offer(row, issue)
            continue
        try:
            loaded.examples.append(to_example(task, row.content, source, _where(row, file), path))
        except RowError as error:
            if source == "human":
                raise WorkbookError(
                    f"{path}, line {row.line}: {error}; mend or delete that row"
                ) from None
            issue = Issue(code="invalid_format", evidence=str(error))
            loaded.unreadable.append(_rejected(row, source, file, issue, "read"))
    for row, issue in sample.rows():
        try:
            loaded.sample.append(
                (to_example(task, row.content, source, _where(row, file), path), issue)
            )
        except RowError:  # dropped before it was read whole
            loaded.sample.append((_rejected(row, source, file, issue, "filter"), issue))
    return loaded


def _where(row: SourceRow, file: str) -> dict[str, Any]:
    return {"file": file, "line": row.line, "sha256": row.sha256}


def _rejected(
    row: SourceRow, source: Source, file: str, issue: Issue, stage: str
) -> RejectedExample:
    example = {"id": f"{file}:{row.line}", "source": source, **_where(row, file)}
    return RejectedExample(example=example, issues=[issue], stage=stage, rule_version=RULES)


def has_feedback(task: Task, source: Source = "production") -> bool:
    """Whether any row of the source was rated; reads no further than the first that was."""
    path = task.data_file(source)
    if path is None:
        return False
    for row in read_rows(path):
        if isinstance(row.content, dict) and cell(task, row.content, "feedback_score") is not None:
            return True
    return False


def _filtered_rows(
    task: Task, path: Path, row_filter: RowFilter | None
) -> Iterator[tuple[SourceRow, Issue | None]]:
    """Every row with the reason to drop it."""
    judge = partial(_issue_of, task, path, row_filter)
    if path.suffix == ".parquet" and row_filter is not None:
        yield from _filtered_parquet(task, path, judge)
        return
    for row in read_rows(path):
        yield row, judge(row.content)


def _issue_of(task: Task, path: Path, row_filter: RowFilter | None, content: Any) -> Issue | None:
    if row_filter is None or not isinstance(content, dict):
        return None
    try:
        return row_filter(feedback_score(task, content), *created_at(task, content, path))
    except RowError:  # what cannot be judged is read, and fails there
        return None


def _filtered_parquet(
    task: Task, path: Path, judge: Callable[[Any], Issue | None]
) -> Iterator[tuple[SourceRow, Issue | None]]:
    """The same for a big table: the judged columns first, and whole only the rows that stay.

    The content of a row that is dropped is a function that reads it.
    """
    import pyarrow

    names = [str(task.columns.get(n, n)).split(".")[0] for n in ("feedback_score", "created_at")]
    line = 0
    for batch in batches(path):
        there = [name for name in dict.fromkeys(names) if name in batch.schema.names]
        judged = batch.select(there).to_pylist() or [{}] * batch.num_rows
        issues = [judge(row) for row in judged]
        stays = pyarrow.array([issue is None for issue in issues], pyarrow.bool_())
        kept = iter(batch.filter(stays).to_pylist())
        for place, issue in enumerate(issues):
            line += 1
            if issue is None:
                content = next(kept)
                yield SourceRow(line, content, digest(content)), None
            else:
                yield SourceRow(line, partial(_row_at, batch, place), ""), issue


def _row_at(batch: Any, place: int) -> dict[str, Any]:
    return batch.slice(place, 1).to_pylist()[0]


def to_example(
    task: Task, raw: dict[str, Any] | RowError, source: Source, where: dict[str, Any], path: Path
) -> TrainingExample:
    """One row as a TrainingExample; RowError says what is wrong with it.

    `where` (file, line, sha256) goes into its meta; the date of `path` stands for a missing time.
    """
    if isinstance(raw, RowError):
        raise raw
    messages = chat_of(task, raw)
    user_text = "\n".join(m.content or "" for m in messages if m.role == "user")
    moment, guessed = created_at(task, raw, path)
    conversation = str(cell(task, raw, "group") or cell(task, raw, "conversation_id") or "")
    part = cell(task, raw, "split")
    if part not in (None, *PARTS):
        raise RowError(f"split is {part!r}; it must be one of {', '.join(PARTS)}")
    meta = {**where, "created_at_guessed": guessed}
    for name in KEPT_AS_META:
        value = cell(task, raw, name)
        if value is not None:
            meta[name] = value
    content_hash = store.fingerprint([m.model_dump(exclude_none=True) for m in messages])
    verified = source == "human"
    return TrainingExample(
        id=str(cell(task, raw, "id") or content_hash[:16]),
        messages=messages,
        source=source,
        quality="verified" if verified else "unverified",
        created_at=moment,
        group=group_of(user_text, conversation),
        part=part if verified else None,
        feedback_score=feedback_score(task, raw),
        meta=meta,
    )


def read_dataset(run: store.Run) -> FineTuningDataset:
    """The dataset version that 02 published for this run."""
    pointer = run.load(DatasetPointer)
    folder = store.home() / "datasets" / pointer.version
    path = folder / Manifest.FILE
    raw = store.read_json(path, f"run 02_curate with run_id={run.id!r} again")
    manifest = Manifest.parse(raw, str(path))
    if manifest.fingerprint != pointer.fingerprint:
        raise WorkbookError(
            f"{path} does not belong to {run.path(DatasetPointer.FILE)}; run 02_curate again"
        )
    examples = []
    for part in PARTS:
        rows = store.read_jsonl(folder / f"{part}.jsonl")
        examples += [TrainingExample(**row) for row in rows]
    metadata = DatasetMetadata(
        **{name: getattr(manifest, name) for name in DatasetMetadata.model_fields}
    )
    return FineTuningDataset(examples=examples, metadata=metadata, splits=manifest.splits)
