"""The registry under real processes: killed at any moment, opened and changed by many at once."""

import multiprocessing
import random
import signal
import time

from registry_toys import TASK, candidate, contradictions, in_processes

from helpers import registry, store
from helpers.records import WorkbookError
from helpers.registry import FineTuneLifecycleManager
from helpers.registry.database import open_registry


def roll_back_for_ever(first_done):
    manager = FineTuneLifecycleManager(TASK)
    while True:
        manager.rollback(because="loop")
        first_done.set()


def test_kill_9_leaves_no_contradiction():
    for name in ("v1", "v2"):
        manager = candidate(name)
        manager.promote(name, "production", because="test")
    chance, context = random.Random(7), multiprocessing.get_context("fork")
    for _ in range(12):
        first_done = context.Event()
        loop = context.Process(target=roll_back_for_ever, args=(first_done,))
        loop.start()
        assert first_done.wait(60), "the loop did not start"
        time.sleep(chance.uniform(0.0, 0.2))
        loop.kill()
        loop.join()
        assert loop.exitcode == -signal.SIGKILL
        assert contradictions() == []
    manager = FineTuneLifecycleManager(TASK)  # the next opening repairs the views
    assert (
        store.read_json(store.home() / "routes.json")[TASK]["version"]
        == manager.get_production_version().id
    )
    sent = {row["event_id"] for row in open_registry().rows("outbox")}
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
        seen = manager.route().generation
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
    assert manager.route().generation == 42
    assert contradictions() == []
    assert store.read_json(store.home() / "routes.json")[TASK]["generation"] == 42
