"""run.json: what a run does, how far it is, and how it ended."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Literal

from helpers.records.base import Artifact, Record
from helpers.records.environment import Versions
from helpers.records.finding import Verdict

RunStatus = Literal["running", "finished", "nothing_to_do", "failed", "interrupted"]
NotebookStatus = Literal["pending", "running", "finished", "skipped", "reused", "failed"]


class NotebookEntry(Record):
    """One notebook of a run: how far it is, its seconds, and how often it was started."""

    name: str
    status: NotebookStatus = "pending"
    seconds: float | None = None
    attempts: int = 0


class RunRecord(Artifact):
    """run.json."""

    FILE: ClassVar[str] = "run.json"
    WRITTEN_BY: ClassVar[str] = "`workbook run`"

    run_id: str
    profile: str
    params: dict[str, Any]  # run-level values, and what the profile and the command line set
    status: RunStatus
    reason: str = ""
    verdict: Verdict | None = None
    exit_code: int | None = None
    started_at: datetime
    finished_at: datetime | None = None
    notebooks: list[NotebookEntry]
    versions: Versions

    def entry(self, name: str) -> NotebookEntry:
        """One notebook's entry."""
        return next(entry for entry in self.notebooks if entry.name == name)

    def with_entry(self, name: str, **changes: Any) -> RunRecord:
        """The record with one notebook's entry changed."""
        entries = [
            entry.model_copy(update=changes) if entry.name == name else entry
            for entry in self.notebooks
        ]
        return self.model_copy(update={"notebooks": entries})
