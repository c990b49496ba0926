"""The processes that a run starts, on record so that they can be ended, also by the run after a kill -9.

A record is {pid, pgid, started}: a pid alone may meanwhile belong to somebody else, so a process is ours only when its
start time (clock ticks since boot, from /proc) is the recorded one.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from helpers import store

KERNEL, CHILDREN = "kernel.json", "children.json"


def start_time(pid: int) -> int | None:
    """When a live process started, in clock ticks since boot; None when there is none (or it is a zombie)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else int(fields[19])


def record(path: Path, pid: int) -> None:
    """Write down one process that leads its own group."""
    store.write_json(path, [{"pid": pid, "pgid": pid, "started": start_time(pid)}])


def signal_group(pgid: int, number: int) -> None:
    """Send a signal to a process group that may be gone already."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pgid, number)


def end_recorded(folder: Path, grace: float = 5.0) -> int:
    """End the processes that a run's folder names and that still live; returns how many there were."""
    living = [entry for name in (KERNEL, CHILDREN) for entry in _read(folder / name) if _ours(entry)]
    for entry in living:
        _signal(entry, signal.SIGTERM)
    until = time.monotonic() + grace
    while any(_ours(entry) for entry in living) and time.monotonic() < until:
        time.sleep(0.05)
    for entry in living:
        if _ours(entry):
            _signal(entry, signal.SIGKILL)
    for name in (KERNEL, CHILDREN):
        (folder / name).unlink(missing_ok=True)
    return len(living)


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        return list(json.loads(path.read_text()))
    except (OSError, ValueError):
        return []


def _ours(entry: dict[str, Any]) -> bool:
    started = start_time(entry["pid"])
    return started is not None and started == entry["started"]


def _signal(entry: dict[str, Any], number: int) -> None:
    if entry["pgid"] == entry["pid"]:  # it leads its group: the group holds its children, and nobody else
        signal_group(entry["pgid"], number)
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(entry["pid"], number)
