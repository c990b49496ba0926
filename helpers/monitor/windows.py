"""Live logs as rows, cut into the window that is judged and the time before it."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from helpers import evaluate, store
from helpers.records import Day, WorkbookError
from helpers.tasks import Task

EARLIER_WINDOWS = 4  # how many windows before the judged one it is compared with
GOOD_STATUS = ("ok", "200", "success")


class LiveRow(NamedTuple):
    """One request as it was served."""

    created_at: datetime
    version: str
    answer: str
    ok: bool
    latency_ms: float | None
    feedback: float | None  # 1 to 5
    words: frozenset[str] = frozenset()  # of the user's turns


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


def read_live(task: Task, live_path: str = "") -> LiveLog:
    """Read the live log: `live_path`, else artifacts/live/<task>/, else the task's simulation.

    A row that cannot be read is counted; a request that was logged twice counts once.
    """
    files = live_files(task, live_path)
    rows: dict[str, LiveRow] = {}
    unreadable = 0
    simulated = False
    for file in files:
        with open(file, encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines):
                try:
                    raw = json.loads(line)
                    rows[str(raw.get("request_id") or f"{file.name}:{number}")] = _row(raw)
                    simulated = simulated or bool(raw.get("simulated"))
                except (ValueError, TypeError, KeyError, AttributeError):
                    unreadable += 1
    in_order = sorted(rows.values(), key=lambda row: row.created_at)
    return LiveLog(in_order, unreadable, simulated, files)


def live_files(task: Task, live_path: str = "") -> list[Path]:
    """The files of the live log; WorkbookError for a `live_path` that is not there."""
    if live_path:
        path = store.PROJECT / Path(live_path).expanduser()  # an absolute path stays itself
        if not path.exists():
            raise WorkbookError(
                f"live_path: {path} does not exist; give a .jsonl file or a folder of them"
            )
        return sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    logged = sorted((store.home() / "live" / task.registry_name).glob("*.jsonl"))
    return logged or sorted(task.folder.glob("live.jsonl"))


def _row(raw: dict[str, Any]) -> LiveRow:
    created_at = datetime.fromisoformat(raw["created_at"])
    if created_at.tzinfo is None:
        created_at = created_at.replace(tzinfo=UTC)
    latency = raw.get("latency_ms")
    if not isinstance(latency, int | float) or latency <= 0:
        latency = None
    feedback = raw.get("feedback_score")
    if not isinstance(feedback, int | float) or not 1 <= feedback <= 5:
        feedback = None
    turns = [turn for turn in raw.get("messages") or [] if turn.get("role") == "user"]
    text = " ".join(str(turn.get("content") or "") for turn in turns)
    return LiveRow(
        created_at=created_at,
        version=str(raw.get("version") or ""),
        answer=str(raw.get("answer") or ""),
        ok=str(raw.get("status", "ok")).lower() in GOOD_STATUS,
        latency_ms=latency,
        feedback=feedback,
        words=frozenset(re.findall(r"\w{3,}", text.lower())),
    )


def cut(log: LiveLog, window_days: int, version: str = "") -> Windows:
    """The last `window_days` and the rows before them, of one version where the rows name theirs.

    A simulation stands still, so its window ends at its newest row; a real one ends now.
    """
    if window_days < 1:
        raise WorkbookError(f"window_days is {window_days}; give at least 1")
    rows = log.rows
    end = store.now()
    if log.simulated and rows:
        end = rows[-1].created_at
    elif version:  # what other versions answered says nothing about this one
        rows = [row for row in rows if row.version in ("", version)]
    start = end - timedelta(days=window_days)
    oldest = start - timedelta(days=window_days * EARLIER_WINDOWS)
    return Windows(
        start,
        end,
        recent=[row for row in rows if start < row.created_at <= end],
        earlier=[row for row in rows if oldest < row.created_at <= start],
    )


def well_formed(task: Task, rows: Sequence[LiveRow]) -> list[float]:
    """1.0 for an answer in the task's format, 0.0 for another; failed requests are left out."""
    answers = [row.answer for row in rows if row.ok]
    if task.schema is None:
        return [float(bool(answer.strip())) for answer in answers]
    return [float(not evaluate.format_reason(answer, task.schema)) for answer in answers]


def ratings(rows: Sequence[LiveRow]) -> list[float]:
    """The ratings, 1 to 5, of the rows that have one."""
    return [row.feedback for row in rows if row.feedback is not None]


def answer_lengths(rows: Sequence[LiveRow]) -> list[float]:
    """Characters of each answer; failed requests are left out."""
    return [float(len(row.answer)) for row in rows if row.ok]


def new_words(windows: Windows) -> tuple[list[float], list[float]]:
    """Share of each request's words that were never seen before, now and in the time before.

    The older half of the time before is the vocabulary; its younger half says how many new words
    are usual.
    """
    half = len(windows.earlier) // 2
    vocabulary: set[str] = set()
    for row in windows.earlier[:half]:
        vocabulary |= row.words
    usual = windows.earlier[half:] if vocabulary else []
    return _new_shares(windows.recent, vocabulary), _new_shares(usual, vocabulary)


def _new_shares(rows: Sequence[LiveRow], vocabulary: set[str]) -> list[float]:
    return [len(row.words - vocabulary) / len(row.words) for row in rows if row.words]


def daily(task: Task, log: LiveLog) -> list[Day]:
    """Format and feedback per day with intervals; a day without ratings has n = 0 there."""
    rows_by_day: dict[str, list[LiveRow]] = defaultdict(list)
    for row in log.rows:
        rows_by_day[row.created_at.astimezone(UTC).date().isoformat()].append(row)
    days = []
    for day, rows in rows_by_day.items():
        compliance = evaluate.proportion(well_formed(task, rows))
        feedback = evaluate.mean(ratings(rows))
        days.append(Day(day=day, n=len(rows), format_compliance=compliance, feedback=feedback))
    return days
