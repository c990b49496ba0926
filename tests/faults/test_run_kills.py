"""kill -9 of driver, kernel and training child at any moment: the next run makes up for it.

It ends like one that nobody disturbed. N points over a flow without a model (`N_SMOKE`, or a third
of N, over the smoke profile); see fault_points.py.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fault_points import every_point, wanted

from helpers import store
from helpers.records import budget

HERE = Path(__file__).parent
DRIVER = """import sys
from pathlib import Path
from helpers import cli, store
if sys.argv[1]:
    store.NOTEBOOKS = Path(sys.argv[1])
sys.exit(cli.main(sys.argv[2:]))
"""
MEASURED = (
    "latency_p50",
    "latency_p95",
    "cost_per_request",
    "timing",
    "quality_scores",
)  # differ between any two runs


class Flow(NamedTuple):
    """A folder in which runs are made; each point has a home of its own."""

    folder: Path
    notebooks: str
    profile: str
    code: int  # how the undisturbed run ends

    def start(self, home: Path, **kill: str) -> subprocess.Popen:
        paths = [HERE / "kill_guard", HERE, HERE.parent, HERE.parent / "registry", store.PROJECT]
        env = (
            os.environ
            | {"WORKBOOK_HOME": str(home), "PYTHONPATH": os.pathsep.join(map(str, paths))}
            | kill
        )
        env.pop("WORKBOOK_DATABASE_URL", None)
        command = [
            sys.executable,
            "-c",
            DRIVER,
            self.notebooks,
            "run",
            self.profile,
            "--run-id",
            "r",
            "--json",
        ]
        log = open(home.with_suffix(".log"), "ab")  # noqa: SIM115 (the child's)
        return subprocess.Popen(
            command,
            env=env,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )

    def result(self, home: Path) -> dict[str, Any]:
        """Everything that has to be the same after a kill."""
        run = home / "runs" / "r"
        read = {
            name: json.loads((run / f"{name}.json").read_text())
            for name in ("dataset", "evaluation", "promotion", "run")
        }
        with sqlite3.connect(home / "registry.db") as db:
            versions = db.execute("select id, status from versions").fetchall()
            routes = db.execute("select task, version from routes").fetchall()
            served = db.execute(
                "select version from audit where to_status = 'production'"
            ).fetchall()
        shown = (
            {
                task: route["version"]
                for task, route in json.loads((home / "routes.json").read_text()).items()
            }
            if routes
            else {}
        )
        promotion = {key: read["promotion"][key] for key in ("version", "target", "verdict")}
        return {
            "dataset": read["dataset"],
            "datasets": sorted(path.name for path in (home / "datasets").iterdir()),
            "evaluation": lasting(read["evaluation"]),
            "promotion": promotion,
            "versions": versions,
            "routes": routes,
            "shown": shown,
            "served": served,
            "exit": (read["run"]["status"], read["run"]["exit_code"]),
        }


def lasting(value: Any) -> Any:
    """Without what is measured by the clock, and what is said about it: no two runs agree in it."""
    if isinstance(value, dict):
        return {
            key: lasting(item)
            for key, item in value.items()
            if key not in (*MEASURED, "reasons", "targets", "evidence")
        }
    return [lasting(item) for item in value] if isinstance(value, list) else value


def torn(home: Path) -> list[str]:
    """Files that are not what their name says, and half-written ones that were left.

    The cache of answers and the ledger are logs that are only added to: whoever reads them passes
    over a torn line (tests/evaluate/test_resume.py, tests/records/test_budget.py).
    """
    found = [str(p) for p in home.rglob("*.partial")] + [
        str(p) for p in home.rglob("k*.json") if p.name == "kernel.json"
    ]
    for path in [*home.rglob("*.json"), *home.rglob("*.ipynb"), *home.rglob("*.jsonl")]:
        if path.parent == home / "cache" / "answers" or path.name == budget.FILE:
            continue
        try:
            text = path.read_text(encoding="utf-8")
            for part in text.splitlines() if path.suffix == ".jsonl" else [text]:
                json.loads(part)
        except ValueError as error:
            found.append(f"{path}: {error}")
    return found


def orphans(home: Path, patience: float = 5.0) -> list[str]:
    """Processes that still work in this home, after those that are ending had time to end."""
    mark, until = f"WORKBOOK_HOME={home}".encode(), time.monotonic() + patience
    while True:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(f"{folder.name}: {(folder / 'cmdline').read_bytes()[:200]!r}")
            except OSError:
                continue
        if not found or time.monotonic() > until:
            return found
        time.sleep(0.2)


def pid_in(path: Path) -> int | None:
    try:
        return json.loads(path.read_text())[0]["pid"]
    except (OSError, ValueError, LookupError):
        return None


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def disturb(flow: Flow, home: Path, point: int, writes: int, seconds: float) -> str:
    """Start the run and kill one of its processes at a moment of this point; says what it did."""
    chance = random.Random(f"kills-{point}")
    target, by_write = ("driver", "kernel", "child")[point % 3], point % 2 == 0 and point % 3 != 2
    pids = home.with_suffix(".pid")
    victim = pids if target == "driver" else home / "runs/r/kernel.json"
    at = chance.randint(1, writes) if by_write else 0
    plan = {
        "KILL_COUNT": str(home.with_suffix(".count")),
        "KILL_AT": str(at),
        "KILL_PID_FILE": str(victim),
    }
    process = flow.start(home, **(plan if by_write else {}))
    pids.write_text(str(process.pid))
    after = 0.0
    if target == "child":
        after = chance.uniform(0, 0.9 if flow.notebooks else 15)
        while process.poll() is None and not pid_in(home / "runs/r/children.json"):
            time.sleep(0.02)
    elif not by_write:
        after = chance.uniform(0, seconds)
    until = time.monotonic() + after
    while process.poll() is None and (by_write or time.monotonic() < until):
        time.sleep(0.02)
    if not by_write and process.poll() is None:
        named = {"kernel": "kernel.json", "child": "children.json"}.get(target)
        kill((named and pid_in(home / "runs/r" / named)) or process.pid)
    code = process.wait(300)
    return f"{target} at {f'write {at} of {writes}' if by_write else f'{after:.2f} s'}: exit {code}"


def examine(
    flow: Flow, base: dict[str, Any], point: int, writes: int, seconds: float
) -> list[str] | None:
    """One point: kill, run again, compare; what was wrong, or None."""
    home = flow.folder / f"p{point}"
    done = disturb(flow, home, point, writes, seconds)
    for path in home.rglob("*.partial"):
        os.utime(path, (0, 0))  # a day passes
    again = flow.start(home)
    code = again.wait(400)
    found = (
        []
        if code == flow.code
        else [f"the second run ended with {code}: {home.with_suffix('.log').read_text()[-1500:]}"]
    )
    found += orphans(home)
    if not found:
        result = flow.result(home)
        found = [
            f"{key}: {result[key]} instead of {base[key]}"
            for key in base
            if result[key] != base[key]
        ] + torn(home)
    subprocess.run(["rm", "-rf", str(home)], check=True)
    return [done, *found] if found else None


@pytest.fixture
def light(tmp_path: Path) -> Flow:
    import run_light

    run_light.write_notebooks(tmp_path / "notebooks", tmp_path / "task")
    return Flow(tmp_path, str(tmp_path / "notebooks"), str(tmp_path / "light.yaml"), 0)


def undisturbed(flow: Flow) -> tuple[dict[str, Any], int, float]:
    home = flow.folder / "undisturbed"
    started, count = time.monotonic(), home.with_suffix(".count")
    code = flow.start(home, KILL_COUNT=str(count)).wait(500)
    assert code == flow.code, home.with_suffix(".log").read_text()[-3000:]
    assert not torn(home) and not orphans(home)
    return flow.result(home), count.stat().st_size, time.monotonic() - started


def test_after_a_kill_the_run_ends_like_an_undisturbed_one(light):
    base, writes, seconds = undisturbed(light)
    assert (
        base["versions"] == [("toy-r", "production")]
        and base["routes"] == [("toy", "toy-r")]
        and base["served"] == [("toy-r",)]
    )
    assert writes > 40, "the guard counts the writes"
    how = {"flow": "without a model", "moments_around_writes": writes}
    assert (
        every_point(
            "run_kills", 3, lambda point: examine(light, base, point, writes, seconds), **how
        )
        == []
    )


@pytest.mark.slow
@pytest.mark.skipif(
    wanted() is None,
    reason="the smoke flow is killed only when N is given: it takes two minutes a point",
)
@pytest.mark.timeout(0)
def test_after_a_kill_the_smoke_run_ends_like_an_undisturbed_one(tmp_path, monkeypatch):
    monkeypatch.setenv("N", os.environ.get("N_SMOKE") or str(max(1, wanted() // 3)))
    flow = Flow(tmp_path, "", "smoke", 3)
    base, writes, seconds = undisturbed(flow)
    how = {"flow": "smoke", "moments_around_writes": writes}
    assert (
        every_point(
            "run_kills_smoke", 1, lambda point: examine(flow, base, point, writes, seconds), **how
        )
        == []
    )
