"""The page of a task's life: what it shows, what it never holds, and that its bands hold."""

import random
from collections import Counter
from datetime import date, timedelta

import pytest
from test_health import EARLIER, NEW, RECENT, log, rows, serve

from helpers import monitor, registry, store, tasks
from helpers.extras.life import confidence_sequence, write_page


@pytest.fixture
def task():
    return tasks.load_task("support_triage")


def test_the_page_shows_versions_alarms_decisions_and_money_and_asks_for_nothing_outside(task):
    serve(task)
    log(task, rows(EARLIER) + rows(RECENT, seed=2, rating=2.0, words=[*NEW, "jane@example.org"]))
    read = monitor.read_live(task)
    run = store.open_run("night")
    monitor.publish(task, run, monitor.check_health(task, run, log=read), read)
    page = (store.home() / "monitor" / "demo.support_triage.html").read_text()
    (alarm,) = registry.list_alarms(task.registry_name, state="open")[:1]
    for words in (
        "v1 serves",
        alarm.name,
        "promote",
        "$0.00",
        "525",
        "class=production",
        "week of",
    ):
        assert words in page, words
    assert "http" not in page and "jane@example.org" not in page and "<script" not in page
    assert "prefers-color-scheme:dark" in page


def test_a_reason_with_markup_in_it_stays_text(task):
    serve(task)
    log(task, rows(RECENT, broken=0.9))
    read = monitor.read_live(task)
    run = store.open_run("night")
    monitor.publish(task, run, monitor.check_health(task, run, log=read), read)
    (alarm,) = registry.list_alarms(task.registry_name, state="open")[:1]
    registry.close_alarm(alarm.id, "acknowledged", "<b>bold</b> & so on")
    assert "&lt;b&gt;bold&lt;/b&gt; &amp; so on" in write_page(task, read).read_text()


def test_nothing_that_ever_happened_is_a_page_too(task):
    assert "Nothing serves" in write_page(task, monitor.LiveLog()).read_text()


def test_bands_hold_on_all_days_together():
    chance = random.Random(5)
    broken = 0
    for _ in range(100):
        days = {}
        for number in range(60):
            hits = sum(chance.random() < 0.9 for _ in range(30))
            numbers = {"format_compliance": Counter({1.0: hits, 0.0: 30 - hits})}
            days[date(2026, 1, 1) + timedelta(days=number)] = numbers
        bands = confidence_sequence(days, "format_compliance")
        broken += any(not band.low <= 0.9 <= band.high for band in bands)
    assert broken <= 12  # of 100; 5% were promised


def test_a_page_that_cannot_be_written_costs_no_look(task, monkeypatch):
    serve(task)
    log(task, rows(RECENT))
    monkeypatch.setattr("helpers.extras.life.write_page", lambda task, log: 1 / 0)
    read = monitor.read_live(task)
    run = store.open_run("night")
    monitor.publish(task, run, monitor.check_health(task, run, log=read), read)
    assert run.has("health.json")
