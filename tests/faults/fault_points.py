"""Fault tests take few seeded points by default, and the full number from N.

A long run can be stopped and goes on.

N=200 ROOM=registry python -m pytest tests/faults -q      (or: make faults N=200 ROOM=registry)
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
MEASURED = PROJECT / "docs" / "measured"
PROGRESS = PROJECT / "build" / "faults"  # points that were done, until their record is written


def wanted() -> int | None:
    """N, when it was given."""
    return int(os.environ["N"]) if os.environ.get("N", "").strip() else None


def points(default: int) -> list[int]:
    """0, 1, … : the seeds of the points to test; `default` of them, or N."""
    return list(range(wanted() or default))


@cache
def commit() -> str:
    """The commit that is tested, with a mark when files differ from it."""
    told = ["git", "-C", str(PROJECT), "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(told, capture_output=True, text=True, check=False).stdout.strip()


def record(name: str, n: int, failures: list[Any], seed: int = 0, **more: Any) -> None:
    """Write docs/measured/<name>.json, when N was given."""
    if wanted() is None:
        return
    machine = (
        f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"
    )
    value = {
        "n": n,
        "failures": failures,
        "seed": seed,
        "commit": commit(),
        "machine": machine,
        **more,
    }
    MEASURED.mkdir(parents=True, exist_ok=True)
    (MEASURED / f"{name}.json").write_text(
        json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def every_point(
    name: str, default: int, work: Callable[[int], Any], seed: int = 0, **more: Any
) -> list[Any]:
    """Call `work(point)` at every point; return what it found wrong (falsy: nothing).

    Under N it is recorded, and a run that was stopped goes on after the last point that it finished
    for the same commit.
    """
    log = PROGRESS / f"{name}.jsonl"
    done: dict[int, Any] = {}
    if wanted() is not None and log.exists():
        rows = [
            json.loads(line)
            for line in log.read_text(encoding="utf-8").splitlines()
            if line.endswith("}")
        ]
        done = {row["point"]: row["found"] for row in rows if row["commit"] == commit()}
    for point in points(default):
        if point in done:
            continue
        done[point] = work(point) or None
        if wanted() is not None:
            PROGRESS.mkdir(parents=True, exist_ok=True)
            with open(log, "a", encoding="utf-8") as file:
                file.write(
                    json.dumps(
                        {"point": point, "found": done[point], "commit": commit()}, default=str
                    )
                    + "\n"
                )
    failures = [{"point": point, "found": done[point]} for point in points(default) if done[point]]
    record(name, len(points(default)), failures, seed, **more)
    log.unlink(missing_ok=True)
    return failures
