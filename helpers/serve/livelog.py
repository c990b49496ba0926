"""Writes the live log: every answered request once, whoever else writes, whatever is killed.

A row is written within milliseconds by a thread of its own, since masking takes longer than
answering may. A lock around each write makes sure that a line which a kill has torn is ended before
the next one begins.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import queue
import re
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from helpers import curate, store
from helpers.records import LateFeedback, LiveRow, LogText, read_live_lines

REMEMBERED = 10_000  # ids of requests that need not be on the disk yet
PATIENCE = 1.0  # seconds before a write that failed is tried again
MOST_AT_ONCE = 200  # rows of one write
SALT = secrets.token_hex(16)  # of this process: nobody can look for what a hash hides
ID = re.compile(r"req-(\d{4})(\d\d)(\d\d)-[0-9a-f]{20}")
Line = LiveRow | LateFeedback
_log = logging.getLogger(__name__)


def new_id(moment: datetime) -> str:
    """The id of a request; it tells on which day it was logged, and nobody can guess it."""
    return f"req-{moment:%Y%m%d}-{secrets.token_hex(10)}"


def folder_of(task: str) -> Path:
    """Where a task's live log is."""
    return store.home() / "live" / task


class LiveLog:
    """The log of every task that this gateway serves."""

    def __init__(self, text_of: Callable[[str], LogText], keep_days: int) -> None:
        self._text_of = text_of
        self._keep_days = keep_days
        self._folder = folder_of("")
        self._lines: queue.SimpleQueue[tuple[str, Line] | None] = queue.SimpleQueue()
        self._recent: OrderedDict[str, tuple[str, str]] = OrderedDict()
        self._closing = threading.Event()
        self.problem = ""  # why nothing can be written at present
        self._thread = threading.Thread(target=self._work, name="live-log", daemon=True)
        self._thread.start()

    def write(self, task: str, line: Line) -> None:
        """Have a line written; returns at once."""
        if isinstance(line, LiveRow):
            self._recent[line.request_id] = (task, line.version)
            if len(self._recent) > REMEMBERED:
                self._recent.popitem(last=False)
        self._lines.put((task, line))

    def close(self) -> None:
        """Write what waits, then end; on a disk that is full each line is tried once more."""
        self._closing.set()
        self._lines.put(None)
        self._thread.join()

    def find(self, request_id: str, tasks: Iterable[str]) -> tuple[str, str] | None:
        """(task, version) of an answered request; None where nobody logged it."""
        recent = self._recent.get(request_id)
        day = ID.fullmatch(request_id)
        if recent is not None or day is None:
            return recent
        key = f'"{request_id}"'.encode()
        for task in tasks:
            path = self._folder / task / f"{'-'.join(day.groups())}.jsonl"
            if path.exists():
                with open(path, "rb") as lines:
                    rows = read_live_lines(line for line in lines if key in line).rows
                for row in rows:
                    if row.request_id == request_id:  # a shadow names it, too
                        return task, row.version
        return None

    def warm_up(self, tasks: Iterable[str]) -> None:
        """Load what masking takes, which is seconds of imports, before the first request."""
        if any(self._text_of(task) == "masked" for task in tasks):
            curate.masked_text("mail someone@example.org or call +49 170 1234567")

    def _work(self) -> None:
        is_open = True
        while is_open:
            batch = [self._lines.get()]
            while len(batch) < MOST_AT_ONCE and not self._lines.empty():
                batch.append(self._lines.get())
            is_open = None not in batch
            lines: dict[Path, list[str]] = {}
            for task, line in filter(None, batch):
                moment = line.created_at if isinstance(line, LiveRow) else line.at
                path = self._folder / task / f"{moment:%Y-%m-%d}.jsonl"
                lines.setdefault(path, []).append(self._text(task, line))
            for path, texts in lines.items():
                self._append(path, texts)

    def _text(self, task: str, line: Line) -> str:
        """A line as it is written; where that fails, without its texts: the log goes on."""
        try:
            return _spelt(masked(line, self._text_of(task)))
        except Exception as error:  # whatever a recogniser throws at an odd text
            _log.error("a text is left out of the live log: %s", type(error).__name__)
            if isinstance(line, LiveRow):
                line = line.model_copy(update={"conversation_id": ""})
            return _spelt(masked(line, "none"))

    def _append(self, path: Path, texts: Sequence[str]) -> None:
        """Write until it is done; a disk that is full stops the log, not the answers."""
        is_closing = False
        while not is_closing:
            is_closing = self._closing.is_set()  # then this is the last try
            try:
                append(path, "".join(f"{text}\n" for text in texts))
                self.problem = ""
                return
            except OSError as error:
                problem = f"the live log cannot be written ({error.strerror})"
            if not self.problem:
                _log.error("%s", problem)
            self.problem = problem
            self._closing.wait(PATIENCE)
        _log.error("%d lines of %s are lost: %s", len(texts), path, self.problem)

    def old_days(self, task: str) -> list[Path]:
        """The files of a task that are older than its log is kept."""
        oldest = f"{store.now() - timedelta(self._keep_days):%Y-%m-%d}"
        days = folder_of(task).glob("????-??-??.jsonl") if self._keep_days else ()
        return [path for path in days if path.stem < oldest]

    def sweep(self, task: str) -> None:
        """Delete them."""
        for path in self.old_days(task):
            path.unlink(missing_ok=True)
            _log.info("%s is deleted, as --keep-days says", path)


def append(path: Path, text: str) -> None:
    """Add whole lines to a file that others write too, in one write after ending a torn line."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            text = f"\n{text}"
        data = text.encode("utf-8", "replace")
        try:
            while data:
                data = data[os.write(descriptor, data) :]
        except OSError:  # what found room would be written a second time
            os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)


def add_rows(
    task: str, rows: Sequence[LiveRow], text: LogText, rated_at: Mapping[str, datetime | None]
) -> tuple[int, int]:
    """Log requests that others served, each once; how many are new, and how many ratings."""
    added = rated = 0
    by_day: dict[str, list[LiveRow]] = {}
    for row in rows:
        by_day.setdefault(f"{row.created_at:%Y-%m-%d}", []).append(row)
    for day, those in by_day.items():
        path = folder_of(task) / f"{day}.jsonl"
        logged = path.read_bytes().splitlines() if path.exists() else []
        known = {row.request_id: row.feedback_score for row in read_live_lines(logged).rows}
        new = {row.request_id: row for row in those if row.request_id not in known}
        lines: list[Line] = [masked(row, text) for row in new.values()]
        for row in those:  # rated since it was logged
            score = row.feedback_score
            if score is not None and known.get(row.request_id, score) != score:
                at = rated_at.get(row.request_id) or row.created_at  # else it is not known
                said = {"request_id": row.request_id, "at": at, "feedback_score": score}
                lines.append(LateFeedback.model_validate(said))
        append(path, "".join(f"{_spelt(line)}\n" for line in lines))
        added += len(new)
        rated += sum(getattr(line, "feedback_score", None) is not None for line in lines)
    return added, rated


def _spelt(line: Line) -> str:
    """A line of JSON without what is empty; an answer is there in any case."""
    content = line.model_dump(mode="json", exclude_defaults=True)
    if isinstance(line, LiveRow):
        content = {"answer": "", "status": "ok"} | content
    return store.dumps(content)


def masked(line: Any, text: LogText) -> Any:
    """A line with as much text as a task's log may hold; masked by 02's rules."""
    if text == "full" or (isinstance(line, LiveRow) and line.text != "full"):
        return line
    hide = curate.masked_text if text == "masked" else lambda _: ""
    if isinstance(line, LateFeedback):
        spoken = {"correction": line.correction, "comment": line.comment}
        return line.model_copy(
            update={name: hide(value) for name, value in spoken.items() if value is not None}
        )
    turns = []  # names, tool calls and their arguments may hold anything: left out
    for turn in line.messages:
        turns.append({"role": turn["role"], "content": hide(str(turn.get("content") or ""))})
    changes = {"messages": turns, "answer": hide(line.answer), "text": text}
    if curate.masked_text(line.conversation_id) != line.conversation_id:  # an e-mail address
        changes["conversation_id"] = short_hash(line.conversation_id, SALT)
    return line.model_copy(update=changes)


def short_hash(text: str, salt: str = "") -> str:
    """What stands for a conversation's id: two of them stay two."""
    return hashlib.sha256(f"{salt}{text}".encode(errors="replace")).hexdigest()[:16]
