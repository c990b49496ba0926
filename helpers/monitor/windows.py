"""Live logs as rows, cut into the window that is judged and the time before it."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from helpers import store
from helpers.evaluate import scorers, statistics
from helpers.records import Estimate, Record, WorkbookError
from helpers.tasks import Task

EARLIER_WINDOWS = 4  # how many windows before the judged one it is compared with


class LiveRow(NamedTuple):
    """One request as it was served."""

    created_at: datetime
    version: str
    answer: str
    ok: bool
    latency_ms: float | None
    feedback: float | None  # 1 to 5
    asked: frozenset[str] = frozenset()  # the words of the user's turns


class LiveLog(NamedTuple):
    """All readable rows in time order, where they came from, and whether they are a simulation."""

    rows: list[LiveRow]
    unreadable: int
    simulated: bool
    files: list[Path]


class Windows(NamedTuple):
    """The window that is judged, and the rows before it."""

    start: datetime
    end: datetime
    recent: list[LiveRow]
    earlier: list[LiveRow]


class Day(Record):
    """One day of live traffic, for a figure."""

    day: str
    n: int
    format_compliance: Estimate
    feedback: Estimate


def read_live(task: Task, live_path: str = "") -> LiveLog:
    """Read the live log: `live_path`, else artifacts/live/<task>/, else the task's simulated live.jsonl.

    A row that cannot be read is counted; a request that was logged twice counts once.
    """
    files = sorted((store.home() / "live" / task.registry_name).glob("*.jsonl")) or sorted(
        task.folder.glob("live.jsonl")
    )
    if live_path:
        path = store.PROJECT / Path(live_path).expanduser()  # an absolute path stays itself
        if not path.exists():
            raise WorkbookError(
                f"live_path: {path} does not exist; give a .jsonl file or a folder of them"
            )
        files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    rows: dict[str, LiveRow] = {}
    unreadable, simulated = 0, False
    for file in files:
        with open(file, encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines):
                try:
                    raw = json.loads(line)
                    rows[str(raw.get("request_id") or f"{file.name}:{number}")] = _row(raw)
                    simulated = simulated or bool(raw.get("simulated"))
                except (ValueError, TypeError, KeyError, AttributeError):
                    unreadable += 1
    return LiveLog(
        sorted(rows.values(), key=lambda row: row.created_at), unreadable, simulated, files
    )


def _row(raw: dict[str, Any]) -> LiveRow:
    at = datetime.fromisoformat(raw["created_at"])
    score, latency = raw.get("feedback_score"), raw.get("latency_ms")
    turns = [
        str(m.get("content") or "") for m in raw.get("messages") or [] if m.get("role") == "user"
    ]
    return LiveRow(
        created_at=at if at.tzinfo else at.replace(tzinfo=UTC),
        version=str(raw.get("version") or ""),
        answer=str(raw.get("answer") or ""),
        ok=str(raw.get("status", "ok")).lower() in ("ok", "200", "success"),
        latency_ms=float(latency) if isinstance(latency, int | float) and latency > 0 else None,
        feedback=float(score) if isinstance(score, int | float) and 1 <= score <= 5 else None,
        asked=frozenset(re.findall(r"\w{3,}", " ".join(turns).lower())),
    )


def cut(log: LiveLog, window_days: int, version: str = "") -> Windows:
    """The last `window_days` and the rows before them, of one version where the rows say which one answered.

    A simulation stands still, so its window ends at its newest row; a real one ends now.
    """
    if window_days < 1:
        raise WorkbookError(f"window_days is {window_days}; give at least 1")
    rows = log.rows
    if (
        version and not log.simulated
    ):  # a promotion resets the comparison: other versions' rows say nothing about it
        rows = [row for row in rows if row.version in ("", version)]
    end = log.rows[-1].created_at if log.simulated and log.rows else store.now()
    start = end - timedelta(days=window_days)
    oldest = start - timedelta(days=window_days * EARLIER_WINDOWS)
    recent = [row for row in rows if start < row.created_at <= end]
    return Windows(start, end, recent, [row for row in rows if oldest < row.created_at <= start])


def well_formed(task: Task, rows: list[LiveRow]) -> list[float]:
    """1.0 for each answer that keeps the task's format, 0.0 for one that breaks it; failed requests are left out."""
    answers = [row.answer for row in rows if row.ok]
    return [
        float(not scorers.format_reason(a, task.schema) if task.schema else bool(a.strip()))
        for a in answers
    ]


def ratings(rows: list[LiveRow]) -> list[float]:
    """The ratings, 1 to 5, of the rows that have one."""
    return [row.feedback for row in rows if row.feedback is not None]


def daily(task: Task, log: LiveLog) -> list[Day]:
    """Format and feedback per day with intervals; a day without ratings has n = 0 there."""
    days: dict[str, list[LiveRow]] = {}
    for row in log.rows:
        days.setdefault(row.created_at.astimezone(UTC).date().isoformat(), []).append(row)
    made = []
    for day, rows in days.items():
        formed, rated = (
            statistics.proportion(well_formed(task, rows)),
            statistics.mean(ratings(rows)),
        )
        made.append(Day(day=day, n=len(rows), format_compliance=formed, feedback=rated))
    return made
