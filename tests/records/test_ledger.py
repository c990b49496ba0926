"""One ledger: no cent is lost or counted twice, whatever dies in between."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading

import pytest

from helpers import store
from helpers.records import Budget, WorkbookError


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path))
    return store.open_run("r")


def test_what_is_reserved_counts_until_its_price_is_known(run):
    budget = Budget(run, 1.0)
    key = budget.reserve(0.6, "rungs")
    assert (budget.spent, budget.reserved) == (0.0, 0.6)
    budget.settle(key, 0.25)
    assert (budget.spent, budget.reserved) == (0.25, 0.0)


def test_nothing_is_reserved_beyond_the_limit_and_the_message_says_how_much_is_needed(run):
    budget = Budget(run, 1.0)
    budget.reserve(0.75, "job")
    with pytest.raises(
        WorkbookError, match=r"judge may cost 0\.5.*0\.7500.*max_cost_usd=1.*1\.2500"
    ):
        budget.reserve(0.5, "judge")
    with pytest.raises(WorkbookError, match="may cost nan USD"):
        budget.reserve(float("nan"), "judge")
    assert budget.reserved == 0.75


def test_without_a_limit_nothing_may_be_spent(run):
    with pytest.raises(WorkbookError, match="max_cost_usd=0"):
        Budget(run).reserve(0.0001, "rungs")
    Budget(run).reserve(0.0, "rungs")


def test_a_thing_with_a_key_of_its_own_is_paid_once(run):
    Budget(run, 1.0).reserve(0.9, "job", key="job:a")
    again = Budget(run, 1.0)  # after a kill
    again.reserve(0.8, "job", key="job:a")
    assert again.reserved == 0.8
    again.settle("job:a", 0.7)
    again.reserve(0.8, "job", key="job:a")
    assert (again.spent, again.reserved) == (0.7, 0.0)


def test_two_ledgers_of_one_run_see_each_other(run):
    one, other = Budget(run, 1.0), Budget(run, 1.0)
    key = one.reserve(0.6, "rungs")
    with pytest.raises(WorkbookError):
        other.reserve(0.6, "judge")
    one.settle(key, 0.1)
    other.reserve(0.6, "judge")
    assert one.by_whom() == {"rungs": 0.1, "judge": 0.6}


def test_a_torn_line_is_no_expense_and_hides_no_other(run):
    budget = Budget(run, 1.0)
    budget.reserve(0.2, "rungs")
    with open(run.path("budget.jsonl"), "a") as file:
        file.write('{"key": "x", "who": "rungs", "reser')
    Budget(run, 1.0).reserve(0.3, "judge")
    assert Budget(run, 1.0).reserved == pytest.approx(0.5)


def test_what_was_never_reserved_is_still_booked(run):
    budget = Budget(run, 1.0)
    budget.settle("job:old", 0.4)
    assert (budget.spent, budget.by_whom()) == (0.4, {"unknown": 0.4})


def test_threads_together_keep_to_the_limit(run):
    budget = Budget(run, 1.0)
    refused = []

    def spend() -> None:
        for _ in range(20):
            try:
                budget.settle(budget.reserve(0.02, "rungs"), 0.02)
            except WorkbookError:
                refused.append(1)

    threads = [threading.Thread(target=spend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert budget.spent == pytest.approx(1.0)
    assert len(refused) == 30


SPENDER = """
import sys
from helpers import store
from helpers.records import Budget
budget = Budget(store.open_run("r"), 100.0)
for number in range(1000):
    key = budget.reserve(0.02, "rungs")
    print("sent", flush=True)  # the endpoint has it now, and bills it
    budget.settle(key, 0.01)
"""


def test_kill_9_loses_no_cent(run):
    """What the endpoint billed is in the ledger, and at most a worst case a kill more."""
    rng = random.Random(7)
    billed = 0
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", SPENDER], stdout=subprocess.PIPE, text=True, cwd=store.PROJECT
        )
        for _ in range(rng.randrange(5, 60)):
            child.stdout.readline()
        child.kill()
        billed += len(child.communicate()[0].splitlines())
        ledger = Budget(run, 100.0)
        lines = run.path("budget.jsonl").read_text().splitlines()
        reservations = sum("reserved" in json.loads(line) for line in lines if line)
        assert ledger.spent + ledger.reserved >= 0.01 * reservations - 1e-9
    assert ledger.reserved <= 3 * 0.02 + 1e-9
