"""The processes that a run starts, on record so that they can be ended, also by the run after a kill -9.

A record is {pid, pgid, started}: a pid alone may meanwhile belong to somebody else, so a process is ours only when its
start time is the recorded one. Each leads its own group, which holds its children and nobody else.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from helpers import store
from helpers.train.launch import process_start_time

KERNEL, CHILDREN = "kernel.json", "children.json"  # ours; and what helpers/train writes


def record(path: Path, pid: int) -> None:
    """Write down one process that leads its own group."""
    store.write_json(path, [{"pid": pid, "pgid": pid, "started": process_start_time(pid)}])


def signal_group(pgid: int, number: int) -> None:
    """Send a signal to a process group that may be gone already."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pgid, number)


def end_recorded(folder: Path, grace: float = 5.0) -> int:
    """End the processes that a run's folder names and that still live; returns how many there were."""
    files = [folder / KERNEL, folder / CHILDREN]
    living = [entry for path in files for entry in _living(path)]
    for entry in living:
        signal_group(entry["pgid"], signal.SIGTERM)
    until = time.monotonic() + grace
    while any(_lives(entry) for entry in living) and time.monotonic() < until:
        time.sleep(0.05)
    for entry in filter(_lives, living):
        signal_group(entry["pgid"], signal.SIGKILL)
    for path in files:
        path.unlink(missing_ok=True)
    return len(living)


def sweep(files: Iterable[Path]) -> None:
    """Remove the half-written files (store.write_text: .NAME.PID.partial) of processes that are gone."""
    for path in files:
        pid = path.suffixes[-2][1:] if len(path.suffixes) > 1 else ""
        if pid.isdigit() and process_start_time(int(pid)) is None:
            path.unlink(missing_ok=True)


def _living(path: Path) -> list[dict[str, Any]]:
    with contextlib.suppress(OSError, ValueError):
        return [entry for entry in json.loads(path.read_text()) if _lives(entry)]
    return []


def _lives(entry: dict[str, Any]) -> bool:
    return entry["started"] is not None and process_start_time(entry["pid"]) == entry["started"]
