"""run.json: of a run in progress, which always says how far it is, and of every run before it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import Any

from helpers import processes, store
from helpers.records import RunRecord, WorkbookError
from helpers.run.ending import KILLED, Stop

Tell = Callable[[str], None]
log = logging.getLogger(__name__)


@dataclass
class Book:
    """What is to be done, how far it is, and whom to tell."""

    run: store.Run
    values: dict[str, Any]  # run-level values, and what the profile and the command line set
    task_folder: Path
    queue: list[str]  # the notebooks of this start, in order; 01 may join them
    may_stop: bool  # a reason not to train ends the run; --only and --from ignore it
    tell: Tell
    record: RunRecord
    stop: Stop = field(default_factory=Stop)

    @property
    def train_anyway(self) -> str:
        """The reason to train against all advice, or ""."""
        return str(self.values.get("train_anyway_because", "")).strip()

    def update(self, **changes: Any) -> None:
        """Change run.json."""
        self.record = self.record.model_copy(update=changes)
        self.run.save(self.record)

    def mark(self, name: str, **changes: Any) -> None:
        """Change one notebook's entry in run.json."""
        self.update(notebooks=self.record.with_entry(name, **changes).notebooks)


def past_runs() -> list[RunRecord]:
    """run.json of every run, oldest first; the log names those that cannot be read."""
    records = []
    for path in (store.home() / "runs").glob("*/run.json"):
        try:
            record = store.Run(path.parent.name).load(RunRecord)
            # a copied folder is a run of its own, whatever its file says; all have one zone
            changes = {"run_id": path.parent.name, "started_at": record.started_at.astimezone(UTC)}
            records.append(record.model_copy(update=changes))
        except WorkbookError as error:
            log.warning("a run is left out: %s", error)
    return sorted(records, key=lambda record: record.started_at)


def end_dead_runs(tell: Tell) -> list[RunRecord]:
    """End what is left of killed runs: those that say `running` while we hold the lock."""
    ended = []
    for record in past_runs():
        if record.status != "running":
            continue
        run = store.Run(record.run_id)
        count = processes.end_recorded(run.folder)
        changes = {
            "status": "interrupted",
            "exit_code": KILLED,
            "reason": "the process that ran it was killed",
        }
        ended.append(record.model_copy(update=changes))
        run.save(ended[-1])
        tell(
            f"run {run.id} had been killed; {count} of its processes were still alive and are ended"
        )
    return ended
