"""A version that lives at its provider is forwarded there, and paid for within a limit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from serve_toys import TASK, TASK_YAML, chat_body, client, gateway, register, task_folder

from helpers import store
from helpers.records import Budget, WorkbookError
from helpers.registry import FineTuneLifecycleManager
from helpers.serve.engines import Hosted, Month
from helpers.serve.served import open_version

PRICE = "prices: {as_of: 2026-11-01, models: {base: {input: 1000.0, output: 1000.0}}}\n"


@pytest.fixture
def hosted(engine):
    """v1 lives at a provider on this machine, which has a price."""
    facts = {"provider": "api", "base_url": engine.url, "model_id": "base", "adapter": None}
    register("v1", "production", **facts)
    store.write_text(task_folder() / "task.yaml", TASK_YAML + PRICE)
    return engine


def ask(address):
    return client.post(f"{address}/v1/chat/completions", json=chat_body())


def test_requests_are_forwarded_and_each_is_booked(hosted):
    with gateway("local", max_cost_usd=5.0) as (address, _):
        reply = ask(address)
        assert reply.json()["choices"][0]["message"]["content"] == "base Hello"
        assert reply.json()["model"] == "v1"
    budget = Budget(Month(TASK), 5.0)
    assert budget.spent == pytest.approx(10 * 1000.0 / 1e6) and budget.reserved == 0


def test_what_is_refused_at_once_costs_nothing(hosted):
    hosted.fails["base"] = 401
    with gateway("local", max_cost_usd=5.0) as (address, _):
        assert {ask(address).status_code for _ in range(3)} == {502}
    assert Budget(Month(TASK)).reserved == Budget(Month(TASK)).spent == 0


def test_requests_that_come_together_are_held_to_one_limit(hosted):
    version = FineTuneLifecycleManager(TASK).get_version("v1")
    gateways = [Hosted(open_version(version, {}), 0.5) for _ in range(8)]
    booked = []

    def book(number):
        with suppress(WorkbookError):
            booked.append(gateways[number % 8]._reserve(0.1))

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(book, range(64)))
    assert len(booked) == 5 and Budget(Month(TASK)).reserved == pytest.approx(0.5)


def test_nothing_is_spent_beyond_the_limit_of_the_month(hosted):
    with gateway("local") as (address, _):  # the limit is 0 unless said otherwise
        refused = ask(address)
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "insufficient_quota"
    assert hosted.asked == [] and Budget(Month(TASK)).spent == 0
