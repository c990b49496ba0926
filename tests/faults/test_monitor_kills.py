"""Alarms under kill -9: none is lost, and nothing is told more than twice.

N=20 ROOM=monitor python -m pytest tests/faults -q
"""

from __future__ import annotations

import itertools
import multiprocessing
import random
import time
from collections import Counter
from datetime import timedelta

from fault_points import every_point
from registry_toys import TASK, home  # noqa: F401 (home: a fixture)

from helpers import registry, store
from helpers.records import Finding
from helpers.registry import FineTuneLifecycleManager
from helpers.registry.database import open_registry

SEED = 17
FALL = Finding(name="feedback_mean", verdict="fail", severity="critical", evidence="3.1, was 4.2")


def raise_for_ever(begun):
    """A new version with a new alarm, again and again; every second one is acknowledged."""
    for number in itertools.count():
        (alarm,) = registry.raise_alarms(TASK, f"v{number}", [FALL])
        begun.set()
        if number % 2:
            registry.close_alarm(alarm.id, "acknowledged", "loop")


def kill_at(point, hook, monkeypatch):
    """What is wrong after a kill at a random moment, and the repair at the next opening."""
    registry.notify("imports what every loop needs", f"begin {point}")
    hook.got.clear()
    context = multiprocessing.get_context("fork")
    begun = context.Event()
    loop = context.Process(target=raise_for_ever, args=(begun,))
    loop.start()
    assert begun.wait(120)
    time.sleep(random.Random(f"{SEED}:{point}").uniform(0.0, 0.5))
    loop.kill()
    loop.join()
    later = store.now() + timedelta(minutes=5)  # what was claimed and never sent is due again
    with monkeypatch.context() as patched:
        patched.setattr(store, "now", lambda: later)
        for _ in range(3):
            FineTuneLifecycleManager(TASK)  # an opening delivers what waits
    versions = {alarm.version for alarm in registry.list_alarms(TASK)}
    events = [row["event"] for row in open_registry().rows("outbox")]
    announced = Counter(event["version"] for event in events if event["action"] == "alarm")
    titles = [message["title"] for message in hook.got]
    told = Counter(title.split()[-1] for title in titles if "alarm" in title)
    problems = []
    if announced != Counter(versions):
        problems.append(f"alarms {sorted(versions)}, announced {announced}")
    if set(told) != versions or max(told.values()) > 2:
        problems.append(f"alarms {sorted(versions)}, told {told}")
    return problems


def test_kill_9_in_the_bookkeeping_of_alarms_loses_none_and_tells_none_three_times(
    hook, monkeypatch, tmp_path
):
    def one(point):
        monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path / f"home{point}"))
        return kill_at(point, hook, monkeypatch)

    every_point("monitor_kill_alarms", 1, one, SEED, moment="uniform in the first 0.5 s of alarms")
