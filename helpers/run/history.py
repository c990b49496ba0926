"""What run.json says of every run in this home, and of those that were killed."""

from __future__ import annotations

import logging
from collections.abc import Callable

from helpers import processes, store
from helpers.records import RunRecord, WorkbookError
from helpers.run.ending import KILLED

log = logging.getLogger(__name__)


def past_runs() -> list[RunRecord]:
    """run.json of every run, oldest first; the log names those that cannot be read."""
    records = []
    for path in (store.home() / "runs").glob("*/run.json"):
        try:
            record = store.Run(path.parent.name).load(RunRecord)
            # a copied folder is a run of its own, whatever its file says
            records.append(record.model_copy(update={"run_id": path.parent.name}))
        except WorkbookError as error:
            log.warning("a run is left out: %s", error)
    return sorted(records, key=lambda record: record.started_at)


def end_dead_runs(tell: Callable[[str], None]) -> list[RunRecord]:
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
