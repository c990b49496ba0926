"""run.json: what a run does and how it ended; environment.json: what this machine has."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Literal

from helpers.records.base import Artifact, Record
from helpers.records.findings import Finding, Verdict

RunStatus = Literal["running", "finished", "nothing_to_do", "failed", "interrupted"]
NotebookStatus = Literal["pending", "running", "finished", "skipped", "reused", "failed"]


class Versions(Record):
    """What one needs to repeat a run; the commit ends with "+changes" when files differ from it."""

    python: str
    packages: dict[str, str]
    commit: str | None


class Allowance(Record):
    """One line of the tutorial's budget: the largest amount found, and what it is made for."""

    what: str
    unit: str
    largest: int
    limit: int

    @property
    def kept(self) -> bool:
        """Whether the largest is within the limit."""
        return self.largest <= self.limit


class Environment(Artifact):
    """environment.json."""

    FILE: ClassVar[str] = "environment.json"
    WRITTEN_BY: ClassVar[str] = "00_start_here"

    ready: bool
    checks: list[Finding]
    budget: list[Allowance]
    versions: Versions


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
    resume: str = ""  # the command that goes on with it; "": an older version wrote it
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
