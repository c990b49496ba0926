"""The registry under real processes: killed at any moment, opened by many at once, changed by many at once."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from registry_toys import TASK, candidate, contradictions, in_processes

from helpers import registry, store
from helpers.records import WorkbookError
from helpers.registry import FineTuneLifecycleManager
from helpers.registry.database import open_registry, tables

LOOP = """
import sys
from registry_toys import TASK
from helpers.registry import FineTuneLifecycleManager
manager = FineTuneLifecycleManager(TASK)
while True:
    print(manager.rollback(because="loop").version, flush=True)
"""


def start_loop():
    path = os.pathsep.join([str(Path(__file__).parent), str(store.PROJECT)])
    environment = os.environ | {"PYTHONPATH": path}
    loop = subprocess.Popen([sys.executable, "-c", LOOP], env=environment, stdout=subprocess.PIPE, text=True)
    assert loop.stdout.readline().strip(), "the loop did not start"
    return loop


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_kill_9_leaves_no_contradiction(seed):
    for name in ("v1", "v2"):
        manager = candidate(name)
        manager.promote(name, "production", because="test")
    chance = random.Random(seed)
    for _ in range(3):
        loop = start_loop()
        time.sleep(chance.uniform(0.0, 0.4))
        loop.kill()
        assert loop.wait() == -signal.SIGKILL
        assert contradictions() == []
    manager = FineTuneLifecycleManager(TASK)  # the next opening repairs the views
    assert store.read_routes()[TASK]["version"] == manager.get_production_version().id
    t = tables().outbox
    with open_registry().transaction(read_only=True) as db:
        sent = {row["event_id"] for row in db.execute(t.select()).mappings()}
    told = {row["event_id"] for row in store.read_jsonl(store.home() / "notifications.jsonl")}
    assert told == sent


def open_fresh(_number, queue):
    try:
        queue.put(registry.list_versions())
    except Exception as error:
        queue.put(repr(error))


def test_sixteen_processes_may_open_a_new_database_at_once():
    assert in_processes(16, open_fresh) == [[]] * 16


def change_ten_times(_number, queue):
    manager, done, refused = FineTuneLifecycleManager(TASK), 0, 0
    while done < 10:
        seen = manager.route()["generation"]
        try:
            manager.rollback(because="turn", expected_generation=seen)
            done += 1
        except WorkbookError as error:
            assert "production changed since you looked" in str(error)
            refused += 1
    queue.put(refused)


def test_four_processes_with_ten_changes_each_lose_none():
    for name in ("v1", "v2"):
        manager = candidate(name)
        manager.promote(name, "production", because="test")
    in_processes(4, change_ten_times)
    assert manager.route()["generation"] == 42
    assert contradictions() == []
    assert store.read_routes()[TASK]["generation"] == 42
