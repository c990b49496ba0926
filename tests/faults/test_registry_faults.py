"""The registry under real processes, on SQLite and PostgreSQL: killed, changed, opened by many.

N=200 ROOM=registry python -m pytest tests/faults -q
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import random
import signal
import statistics
import time

import pytest
from fault_points import every_point, points, record
from postgres_toy import server
from registry_toys import TASK, candidate, contradictions, home, in_processes  # noqa: F401 (home: a fixture)

from helpers import registry, store
from helpers.records import WorkbookError
from helpers.registry import FineTuneLifecycleManager
from helpers.registry.database import open_registry

SEED = 7


@pytest.fixture(scope="module")
def databases():
    """Makes a new, empty database per kind: its URL, "" for SQLite in the home."""
    running = {}
    with contextlib.ExitStack() as stack:

        def new(kind):
            if kind == "sqlite":
                return ""
            if kind not in running:
                running[kind] = stack.enter_context(server())
            return running[kind]()

        yield new


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request):
    return request.param


def fresh(monkeypatch, databases, kind, folder):
    """A new home with a new database."""
    monkeypatch.setenv("WORKBOOK_HOME", str(folder))
    monkeypatch.setenv("WORKBOOK_DATABASE_URL", databases(kind))


def promote_and_roll_back(first_done, seconds):
    """New versions go to production, back and forth again, for ever; the first round is told."""
    for number in itertools.count():
        name = f"v{number}"
        manager = candidate(name)
        began = time.perf_counter()
        manager.promote(name, "production", because="loop")
        seconds.put(time.perf_counter() - began)
        if number:
            first_done.set()
            manager.rollback(because="loop")
            manager.rollback(because="loop")


def kill_at(point):
    """Kill -9 a loop of changes at a random moment; what is wrong, and what promotions took."""
    FineTuneLifecycleManager(TASK)  # makes the tables, and imports once what every loop needs
    context = multiprocessing.get_context("fork")
    first_done, seconds = context.Event(), context.SimpleQueue()
    loop = context.Process(target=promote_and_roll_back, args=(first_done, seconds))
    loop.start()
    assert first_done.wait(120), "the loop did not start"
    time.sleep(random.Random(f"{SEED}:{point}").uniform(0.0, 0.25))
    loop.kill()
    loop.join()
    assert loop.exitcode == -signal.SIGKILL
    found, took = contradictions(), [seconds.get() for _ in range(2)]
    manager = FineTuneLifecycleManager(TASK)  # the next opening repairs what follows a commit
    if store.read_json(store.home() / "routes.json")[TASK]["version"] != manager.route().version:
        found.append("routes.json was not repaired")
    told = {row["event_id"] for row in store.read_jsonl(store.home() / "notifications.jsonl")}
    if told != {row["event_id"] for row in open_registry().rows("outbox")}:
        found.append("an event was lost")
    return found, took


def test_kill_9_at_any_moment_leaves_no_contradiction(monkeypatch, databases, tmp_path, kind):
    took = []

    def one(point):
        fresh(monkeypatch, databases, kind, tmp_path / f"home{point}")
        found, seconds = kill_at(point)
        took.extend(seconds)
        return found

    more = {
        "moment": "uniform in the 0.25 s after the first full round of register, promote,"
        " roll back, roll back"
    }
    failures = every_point(f"registry_kill_{kind}", 3, one, SEED, **more)
    if took:
        told = {"median": statistics.median(took) * 1000, "slowest": max(took) * 1000}
        record(
            f"registry_promote_ms_{kind}",
            len(took),
            [],
            SEED,
            unit="ms",
            **{k: round(v, 1) for k, v in told.items()},
        )
    assert failures == []


def change_many_times(changes):
    def work(_number, queue):
        manager, done, refused = FineTuneLifecycleManager(TASK), 0, 0
        try:
            while done < changes:
                seen = manager.route().generation
                try:
                    manager.rollback(because="turn", expected_generation=seen)
                    done += 1
                except WorkbookError as error:
                    if "production changed since you looked" not in str(error):
                        raise
                    refused += 1
            queue.put(refused)
        except Exception as error:
            queue.put(repr(error))

    return work


def test_many_processes_change_production_and_no_change_is_lost(
    monkeypatch, databases, tmp_path, kind
):
    processes, changes = (8, 50) if os.environ.get("N") else (4, 8)
    fresh(monkeypatch, databases, kind, tmp_path / "home")
    for name in ("v1", "v2"):
        manager = candidate(name)
        manager.promote(name, "production", because="test")
    began = time.perf_counter()
    refused = in_processes(processes, change_many_times(changes))
    seconds = time.perf_counter() - began
    assert [said for said in refused if not isinstance(said, int)] == []
    found = contradictions()
    generation = manager.route().generation
    if generation != 2 + processes * changes:
        found.append(f"generation {generation} after {processes} x {changes} changes and 2")
    more = {
        "processes": processes,
        "changes": changes,
        "refused_and_repeated": sum(refused),
        "seconds": round(seconds, 1),
    }
    record(f"registry_writers_{kind}", processes * changes, found, SEED, **more)
    assert found == []
    assert store.read_json(store.home() / "routes.json")[TASK]["generation"] == generation


def open_fresh(own_home):
    def work(number, queue):
        if own_home:  # as on many machines: no file lock in common
            os.environ["WORKBOOK_HOME"] += f"-{number}"
        try:
            queue.put(registry.list_versions())
        except Exception as error:
            queue.put(repr(error))

    return work


def test_sixteen_processes_may_open_a_new_database_at_once(monkeypatch, databases, tmp_path, kind):
    def one(point):
        fresh(monkeypatch, databases, kind, tmp_path / f"home{point}")
        return [said for said in in_processes(16, open_fresh(kind == "postgresql")) if said != []]

    limit = {"processes": 16}
    rounds = min(10, len(points(1)))
    failures = [found for point in range(rounds) if (found := one(point))]
    record(f"registry_openers_{kind}", rounds, failures, SEED, **limit)
    assert failures == []
