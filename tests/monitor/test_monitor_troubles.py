"""Every trouble of what serves ends in exactly one message, however often it is looked at."""

import pytest
from test_health import EARLIER, NEW, RECENT, log, rows, serve
from trouble_toys import (
    bad_first_days,
    clock_of_1970,
    compressed_days,
    dead_slice,
    doubled,
    doubled_after_months,
    errors_at_three_a_day,
    flood,
    lines_nobody_can_read,
    nothing_is_logged,
    old_model,
    ratings_in_words,
    rotated,
    since,
    strange_version,
    strangers,
    turned_scale,
    worse_than_before,
)

from helpers import monitor, registry, store, tasks
from helpers.registry import FineTuneLifecycleManager
from helpers.registry.database import open_registry
from helpers.registry.versions import audit, row_of


@pytest.fixture
def task():
    return tasks.load_task("support_triage")


TROUBLES = {
    "every request fails, at three a day": (errors_at_three_a_day, "error_rate needs a look"),
    "ratings fell": (since(rating=2.5), "feedback_mean asks for a retrain"),
    "the format broke": (since(broken=0.4), "format_compliance asks for a retrain"),
    "bad from the first day": (bad_first_days, "roll back to the version that served before"),
    "worse than its predecessor": (worse_than_before, "feedback_mean_against_predecessor"),
    "one slice is dead": (dead_slice, "category = MU"),
    "replies got slow": (since(latency=20000.0), "latency_p95 needs a look"),
    "traffic collapsed": (since(per_day=2), "volume needs a look"),
    "fewer people rate": (since(rated=0.05), "feedback_rate needs a look"),
    "new topics": (since(words=NEW), "new_words needs a look"),
    "the log is written twice": (doubled, "which two writers log the same requests"),
    "the log is written twice, after months": (doubled_after_months, "which two writers"),
    "lines that are no requests": (lines_nobody_can_read, "90 lines of the log are no requests"),
    "days that somebody compressed": (compressed_days, "3 files beside the log are not read"),
    "a log that was rotated": (rotated, "files beside the log are not read: app.jsonl.1"),
    "a clock that nobody set": (clock_of_1970, "180 requests say that they came before"),
    "a flood": (flood, "volume needs a look"),
    "the scale was turned": (turned_scale, "turn the scale back"),
    "ratings that nobody can read": (ratings_in_words, "what the ratings of this log mean"),
    "a version that nobody registered": (strange_version, "have the logger write version 'v1'"),
    "a model that got old": (old_model, "model_age needs a look"),
    "nothing is logged": (nothing_is_logged, "volume needs a look"),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_trouble_is_one_message_however_often_one_looks_and_stays_open(task, hook, trouble):
    prepare, words = TROUBLES[trouble]
    prepare(task)
    registry.reconcile()  # tells of the promotion
    hook.got.clear()
    for look in range(2):
        read = monitor.read_live(task)
        run = store.open_run(f"look-{look}")
        result = monitor.check_health(task, run, log=read)
        assert result.verdict != "ok"
        monitor.publish(task, run, result, read)
    (message,) = hook.got
    assert "alarm" in message["title"] and words in message["message"]
    assert registry.list_alarms(task.registry_name, state="open")


def test_a_few_rows_of_a_wrong_clock_blind_nobody(task):
    serve(task)
    made = rows(EARLIER) + rows(RECENT, seed=2, broken=0.4)
    log(task, made)
    expected = monitor.check_health(task, store.open_run("look"))
    log(task, made + strangers(3))
    seen = monitor.check_health(task, store.open_run("look"))
    assert seen.reasons == expected.reasons == ["format_compliance"]


@pytest.mark.parametrize(
    "prepare", [since(), since(error=0.01), since(rated=0.45)], ids=["quiet", "an error", "chance"]
)
def test_a_quiet_week_is_no_message(task, hook, prepare):
    prepare(task)
    registry.reconcile()
    hook.got.clear()
    read = monitor.read_live(task)
    run = store.open_run("look")
    result = monitor.check_health(task, run, log=read)
    monitor.publish(task, run, result, read)
    assert (result.verdict, hook.got) == ("ok", [])


def test_an_open_alarm_outlives_quiet_looks_refused_candidates_and_a_shell_without_a_channel(
    task, hook, monkeypatch
):
    since(rating=2.5)(task)
    registry.reconcile()
    hook.got.clear()
    monkeypatch.delenv("WORKBOOK_NOTIFY_URLS")
    read = monitor.read_live(task)
    run = store.open_run("look")
    monitor.publish(task, run, monitor.check_health(task, run, log=read), read)
    registry.reconcile()  # a shell that has no channel marks nothing as sent
    assert hook.got == []
    manager = FineTuneLifecycleManager(task.registry_name)
    manager.open_version("v2", "r2", "tiny", "d1")
    with open_registry().transaction() as db:
        audit(db, row_of(db, "v2"), "refuse", "the gate says no")
    monkeypatch.setenv("WORKBOOK_NOTIFY_URLS", hook.url)
    log(task, rows(EARLIER) + rows(RECENT, seed=3))
    for look in range(2):
        read = monitor.read_live(task)
        run = store.open_run(f"later-{look}")
        monitor.publish(task, run, monitor.check_health(task, run, log=read), read)
    assert [("feedback_mean" in message["message"]) for message in hook.got] == [True]
    (alarm,) = registry.list_alarms(task.registry_name, state="open")
    assert alarm.severity == "critical"
