"""kill -9 of an evaluation after a random number of answers, then the same call again.

No question is answered twice, none is lost, and each answer is booked once.

2 points by default; `N=50 pytest tests/faults -k evaluate` runs and records more.
"""

from __future__ import annotations

import json
import os
import platform
import random
import subprocess
import sys

import pytest

from helpers import store
from helpers.records import Budget

sys.path.insert(0, str(store.PROJECT / "tests" / "evaluate"))
from test_resume import PRICE, ROWS, Endpoint, kill_after, start

SEED = 3
N = int(os.environ.get("N") or 2)
pytestmark = pytest.mark.skipif(
    os.environ.get("ROOM", "evaluate") != "evaluate", reason="another room's faults were asked for"
)
failures: list[dict] = []


@pytest.mark.parametrize("point", range(N))
def test_a_kill_after_any_answer_asks_nothing_twice_and_loses_nothing(point, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path / "home"))
    wanted, endpoint = random.Random(f"{SEED}-{point}").randrange(1, ROWS - 8), Endpoint()
    kill_after(start(endpoint, tmp_path), endpoint, wanted)
    code = start(endpoint, tmp_path).wait(timeout=120)
    endpoint.server.shutdown()
    endpoint.server.server_close()
    twice, lost = sum(v > 1 for v in endpoint.answered.values()), ROWS - len(endpoint.answered)
    unbooked = round(ROWS * PRICE - Budget(store.open_run("killed")).spent, 6)
    if code or twice or lost or unbooked:
        failure = {"point": point, "after": wanted, "exit": code, "twice": twice, "lost": lost}
        failures.append(failure | {"unbooked_usd": unbooked})
    assert (code, twice, lost, unbooked) == (0, 0, 0, 0)


@pytest.fixture(scope="module", autouse=True)
def recorded():
    yield
    if os.environ.get("N"):
        told = ["git", "-C", str(store.PROJECT), "describe", "--always", "--dirty", "--exclude=*"]
        commit = subprocess.run(told, capture_output=True, text=True, check=False).stdout.strip()
        value = {"n": N, "failures": failures, "seed": SEED, "commit": commit}
        system = f"{platform.system()} {platform.release()}"
        value["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, {system}"
        path = store.PROJECT / "docs" / "measured" / "evaluate_kills.json"
        store.write_text(path, json.dumps(value, indent=2) + "\n")
