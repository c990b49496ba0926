"""What curations of growing numbers of rows took: held to a memory, written down, simulated, drawn.

benchmarks/grow.py measures; docs/measured/growth.json has what it wrote, and `plot` makes the
figure of docs/scaling.md of that.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

GROWTH = Path(__file__).resolve().parents[1] / "docs" / "measured" / "growth.json"
PICTURE = GROWTH.parents[1] / "images" / "growth.png"
SIMULATED = (1, 2, 4, 10)  # workers


@contextlib.contextmanager
def limited(gib: float) -> Iterator[Path | None]:
    """A control group (version 1) in this one with so much memory; None where none can be made.

    With version 2: `systemd-run --user --scope -p MemoryMax=4G -p MemorySwapMax=0 python -m …`.
    """
    own = [line for line in Path("/proc/self/cgroup").read_text().split() if ":memory:" in line]
    if not gib or not own:
        yield None
        return
    place = Path("/sys/fs/cgroup/memory") / own[0].split(":")[2].lstrip("/")
    group = place / f"grow{os.getpid()}"
    group.mkdir()
    (group / "memory.limit_in_bytes").write_text(str(int(gib * 2**30)))
    try:
        yield group
    finally:
        sys.stderr.write(f"most in the group, read files included: {_used(group):.2f} GiB\n")
        while left := (group / "cgroup.procs").read_text().split():  # what an engine left running
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(process), signal.SIGKILL)
            time.sleep(0.5)
        group.rmdir()


def _used(group: Path) -> float:
    return int((group / "memory.max_usage_in_bytes").read_text()) / 2**30


def recorded(entry: dict[str, Any]) -> None:
    """Put an entry into docs/measured/growth.json, in the place of the one that it repeats."""
    from helpers import store

    command = ["git", "-C", str(store.PROJECT), "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"
    entries = json.loads(GROWTH.read_text()) if GROWTH.exists() else []
    kind = ("rows", "engine")
    others = [old for old in entries if any(old[name] != entry[name] for name in kind)]
    entries = [*others, entry | {"commit": commit, "machine": machine}]
    entries.sort(key=lambda old: (old["engine"], old["rows"]))
    store.write_json(GROWTH, entries)


class Timed:
    """A function of one item that also tells the processor's seconds that it took, and where."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __call__(self, item: Any) -> tuple[Any, float, int]:
        """The result, the seconds, and the process."""
        began = time.process_time()
        result = self.function(item)
        return result, time.process_time() - began, os.getpid()


def traced() -> dict[str, Any]:
    """From now on the local engine's tasks, by the name of their function, with their seconds.

    `here` are those seconds that were this process's own.
    """
    from helpers.extras import big

    graph: dict[str, Any] = {"tasks": {}, "here": 0.0}
    plain_map = big.Local.map

    def map_traced(engine: big.Local, function: Callable, items: Iterable) -> Iterator[Any]:
        name = getattr(getattr(function, "func", function), "__name__", "bands")
        for result, seconds, process in plain_map(engine, Timed(function), items):
            graph["tasks"].setdefault(name, []).append(seconds)
            graph["here"] += seconds * (process == os.getpid())
            yield result

    big.Local.map = map_traced
    return graph


def total(graph: dict[str, Any]) -> float:
    """The processor's seconds of all tasks and of what is between them."""
    return graph["serial"] + sum(map(sum, graph["tasks"].values()))


def speed_up(graph: dict[str, Any], workers: int) -> float:
    """One worker's time over that of many, simulated: each stage's tasks in their order, each to
    the worker who is free first; a stage begins when the one before it has ended (Graham 1966).

    What it costs to send batches about is not in it.
    """
    seconds = graph["serial"]
    for tasks in graph["tasks"].values():
        free = [0.0] * workers
        for task in tasks:
            heapq.heapreplace(free, free[0] + task)
        seconds += max(free)
    return total(graph) / seconds


def growth_figure(entries: list[dict[str, Any]]) -> Any:
    """Minutes and GiB by rows, a line for each engine."""
    from helpers import show

    figure, axes = show.subplots(1, 2, figsize=(10, 3.8))
    engines = sorted({entry["engine"] for entry in entries})
    colours = dict(zip(engines, (show.TUNED, show.OTHER), strict=False))
    units = {"seconds": "minutes", "gib": "GiB, all processes together"}
    for axis, (name, unit) in zip(axes, units.items(), strict=True):
        for engine in engines:
            mine = [entry for entry in entries if entry["engine"] == engine]
            values = [entry[name] / (60 if name == "seconds" else 1) for entry in mine]
            rows = [entry["rows"] for entry in mine]
            axis.plot(rows, values, color=colours[engine], label=engine)
            for entry, x, y in zip(mine, rows, values, strict=True):
                filled = "white" if entry["beside_other_work"] else colours[engine]
                axis.plot(x, y, "o", color=colours[engine], markerfacecolor=filled)
                at_same = [other[name] for other in entries if other["rows"] == entry["rows"]]
                place = (0, 7) if entry[name] == max(at_same) else (0, -15)
                axis.annotate(f"{y:.1f}", (x, y), place, textcoords="offset points", ha="center")
        axis.margins(0.12, 0.2)
        axis.set(xlabel="rows", ylabel=unit)
        axis.xaxis.set_major_formatter(lambda rows, _: f"{rows:,.0f}")
        axis.legend(loc="lower right")
    axes[0].set_ylim(0)
    axes[1].set_ylim(0, 5.2)
    axes[1].axhline(4, color=show.BASE, linestyle="--")
    axes[0].set_title("Time; hollow: beside other work")
    axes[1].set_title("Memory; dashed: what it was held to")
    return show.finished(figure)


def plot(picture: Path = PICTURE) -> None:
    """The picture of docs/scaling.md, from what was measured."""
    figure = growth_figure(json.loads(GROWTH.read_text()))
    figure.savefig(picture, dpi=110, facecolor="white", bbox_inches="tight")
