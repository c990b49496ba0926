"""A log too big to read: a folder production/ of Parquet files, of which what is asked for is read.

Dates and scores are compared by Arrow, file by file: what a file's own statistics rule out is not
opened, and what does not pass never becomes a Python object. Files of one day each
(production/date=2026-11-01/….parquet), or sorted by time, make a week cost a week.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from helpers import store
from helpers.records import WorkbookError
from helpers.tasks import Task

ROWS = 20_000  # of a batch


class Selected(NamedTuple):
    """The rows that passed, as one file, and how many did not, by the code of their issue."""

    path: Path
    dropped: Counter[str]


def select(
    task: Task, start: datetime | None, end: datetime | None, least_score: float
) -> Selected | None:
    """The rows of a task's production/ from `start` to `end` with at least this score (1 to 5).

    None where there is no such folder. Scores count where any row is rated, as everywhere.
    """
    folder = task.folder / "production"
    if not folder.is_dir():
        return None
    file = task.data_file("production")
    if file is not None:
        raise WorkbookError(f"{task.folder}: both production/ and {file.name} exist; keep one")
    import pyarrow
    from pyarrow import dataset, parquet

    try:
        log = dataset.dataset(folder, format="parquet", partitioning="hive")
        name, column = _column(task, log, "feedback_score", pyarrow.types.is_floating)
        dates, moment = _column(task, log, "created_at", pyarrow.types.is_timestamp)
        in_dates = dataset.scalar(True)
        for bound, is_first in ((start, True), (end, False)):
            if bound is not None:
                utc = bound.astimezone(UTC)
                limit = pyarrow.scalar(utc if moment.tz else utc.replace(tzinfo=None), moment)
                in_dates &= dates >= limit if is_first else dates <= limit
        rows = log.count_rows()
        is_rated = least_score > 0 and log.head(1, filter=name.is_valid()).num_rows > 0
        passes = name >= pyarrow.scalar(least_score, column) if is_rated else dataset.scalar(True)
        scored = log.count_rows(filter=passes) if is_rated else rows
        path = store.make_folder(store.home() / "cache" / "selected") / f"{task.name}.parquet"
        scanner = log.scanner(
            filter=in_dates & passes, batch_size=ROWS, batch_readahead=2, fragment_readahead=2
        )
        kept = 0
        with parquet.ParquetWriter(path, log.schema) as writer:
            for batch in scanner.to_batches():
                kept += batch.num_rows
                writer.write_batch(batch)
    except (pyarrow.ArrowException, OSError) as error:
        raise WorkbookError(f"{folder} cannot be read: {str(error).splitlines()[0]}") from None
    return Selected(path, +Counter(low_feedback=rows - scored, out_of_date_range=scored - kept))


def _column(task: Task, log: Any, name: str, is_right: Any) -> tuple[Any, Any]:
    """A column to filter by and its type; WorkbookError where Arrow cannot compare it."""
    from pyarrow import dataset, types

    own = str(task.columns.get(name, name))
    if own not in log.schema.names:
        raise WorkbookError(f"{task.folder}/production has no column {own}")
    kind = log.schema.field(own).type
    if not (is_right(kind) or (name == "feedback_score" and types.is_integer(kind))):
        wanted = "a timestamp" if name == "created_at" else "a number from 1 to 5"
        raise WorkbookError(f"{task.folder}/production: {own} is {kind}; write it as {wanted}")
    return dataset.field(own), kind
