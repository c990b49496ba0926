"""The processes that a run starts: run to their end, and on record.

After a kill -9 the next run ends those on record. A record is {pid, pgid, started}: a pid alone may
meanwhile belong to somebody else, so a process is ours only when its start time is the recorded
one. Each leads its own group, which holds its children and nobody else.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from helpers import store

log = logging.getLogger(__name__)
MARK = "WORKBOOK_STARTED_BY"  # in the environment of all that a notebook starts: its kernel's mark
LEFT_AFTER = 86400  # seconds; what is half written for so long was left by a killed process
CGROUP = Path("/sys/fs/cgroup")  # what limits this container
KERNEL, CHILDREN = "kernel.json", "children.json"  # the runner's kernel, and what notebooks start
OnLine = Callable[[dict[str, Any]], None]
Entries = list[dict[str, Any]]  # {pid, pgid, started}, as the files of a run's folder hold them


class Program(NamedTuple):
    """A program to run, where its output goes, and the JSONL file that it writes as it goes on."""

    command: list[str]
    environment: dict[str, str]
    output: Path
    lines: Path


def child_environment(
    changes: Mapping[str, str] | None = None, without: tuple[str, ...] = ()
) -> dict[str, str]:
    """This process's environment for a child that imports helpers, whatever folder it works in.

    Variables whose names end in one of `without` are left out; `changes` come last.
    """
    environment = {name: value for name, value in os.environ.items() if not name.endswith(without)}
    paths = filter(None, (str(store.PROJECT), os.environ.get("PYTHONPATH")))
    return environment | {"PYTHONPATH": os.pathsep.join(paths)} | dict(changes or {})


def run_child(program: Program, folder: Path, on_line: OnLine | None = None) -> int:
    """Run a program to its end and return its exit code (negative: the signal that ended it).

    It leads a process group of its own, is listed in children.json of the run's `folder`, and is
    ended on every way out of here. Its stdin stays open as long as this process lives, so that
    `end_with_parent` notices a kill. `on_line` gets each whole line of program.lines as it appears.
    """
    with open(program.output, "wb") as output:
        child = subprocess.Popen(
            program.command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=program.environment,
            start_new_session=True,
        )
    children = folder / CHILDREN
    try:
        record(children, child.pid)
        for line in _follow(child, program.lines):
            if on_line is not None:
                on_line(line)
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if child.poll() is None:
                signal_group(child.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(timeout=5)
        children.unlink(missing_ok=True)
    return child.returncode


def _follow(child: subprocess.Popen[bytes], path: Path) -> Iterator[dict[str, Any]]:
    """Every whole line of a growing JSONL file, until the child has ended and all is read."""
    offset = 0
    ended = False
    while not ended:
        ended = child.poll() is not None
        data = path.read_bytes()[offset:] if path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        offset += len(whole)
        for line in whole.splitlines():
            yield json.loads(line)
        if not ended:
            time.sleep(0.2)


def end_with_parent() -> None:
    """End this process (143) when its parent dies, however it dies; meant for a daemon thread.

    The parent, or the parent's parent where torchrun stands between, holds our stdin open.
    """
    parent = os.getppid()
    started_by_hand = not stat.S_ISFIFO(os.fstat(0).st_mode)
    while os.getppid() == parent:
        if started_by_hand:
            time.sleep(1.0)
        elif select.select([0], [], [], 1.0)[0] and not os.read(0, 4096):
            break
    os._exit(143)


def process_start_time(pid: int) -> float | None:
    """Seconds from boot to a live process's start, in hundredths; the clock's setting is no part.

    With the pid it names one process for ever. None when there is no such process, or a dead one.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return None
        return round(process.create_time() - psutil.boot_time(), 2)
    except psutil.Error:
        return None


def limits(name: str, cgroup: Path = CGROUP) -> list[int]:
    """The numbers in a file of this container's limits; none without the file, or of "max"."""
    with contextlib.suppress(OSError, ValueError):
        return [int(number) for number in (cgroup / name).read_text().split()]
    return []


def free_memory(cgroup: Path = CGROUP) -> int:
    """Bytes that may still be used: of the machine, or of this container where that is less."""
    import psutil

    free = psutil.virtual_memory().available
    with contextlib.suppress(OSError, ValueError):  # no limit, or nothing told of what is used
        (limit,) = limits("memory.max", cgroup)
        (used,) = limits("memory.current", cgroup)
        lines = (cgroup / "memory.stat").read_text().split("\n")
        cached = sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
        free = min(free, max(0, limit - used + cached))  # read files are dropped when need be
    return free


def record(path: Path, pid: int, mark: str = "") -> None:
    """Write down one process that leads its own group, and the mark of what it starts."""
    entry = {"pid": pid, "pgid": pid, "started": process_start_time(pid)}
    store.write_json(path, [entry | {"mark": mark} if mark else entry])


def signal_group(pgid: int, number: int) -> None:
    """Send a signal to a process group that may be gone already."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pgid, number)


def end_recorded(folder: Path, grace: float = 5.0) -> int:
    """End the processes that a run's folder names, and all that they started; their number."""
    files = [folder / KERNEL, folder / CHILDREN]
    recorded = [entry for path in files for entry in _entries(path)]
    groups = list(filter(_lives, recorded))
    others = _marked({entry.get("mark") for entry in recorded} - {None}, groups)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for entry in groups:
            signal_group(entry["pgid"], number)
        for entry in filter(_lives, others):  # in groups of their own
            with contextlib.suppress(OSError):
                os.kill(entry["pid"], number)
        until = time.monotonic() + grace
        while any(map(_lives, groups + others)) and time.monotonic() < until:
            time.sleep(0.05)
    for path in files:
        path.unlink(missing_ok=True)
    return len(groups) + len(others)


def _marked(marks: set[str], groups: Entries) -> Entries:
    """The processes that carry one of these marks, and lead none of the groups."""
    import psutil

    known = {entry["pid"] for entry in groups}
    entries = []
    for process in psutil.process_iter() if marks else ():
        with contextlib.suppress(psutil.Error):
            if process.pid not in known and process.environ().get(MARK) in marks:
                entries.append({"pid": process.pid, "started": process_start_time(process.pid)})
    return entries


def sweep(paths: Iterable[Path]) -> None:
    """Remove half-written files and folders (.NAME.partial) that nobody wrote to for a day.

    A pid would not tell: machines and containers that share a home have pids of their own.
    """
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # its writer was about to finish it
            if store.now().timestamp() - path.stat().st_mtime > LEFT_AFTER:
                discard(path)


def discard(path: Path) -> None:
    """Remove what a killed process left half written, if anything; a folder is told."""
    if path.is_dir():
        log.warning("removed %s, which a killed process left half written", path)
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _entries(path: Path) -> list[dict[str, Any]]:
    with contextlib.suppress(OSError, ValueError):
        return list(json.loads(path.read_text()))
    return []


def _lives(entry: dict[str, Any]) -> bool:
    return entry["started"] is not None and process_start_time(entry["pid"]) == entry["started"]
