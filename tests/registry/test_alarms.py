"""Alarms: told once, repeated while nobody looks, closed by a reason or by another version."""

from datetime import timedelta

import pytest
from registry_toys import TASK, candidate, in_processes

from helpers import registry, store
from helpers.records import Finding, WorkbookError
from helpers.registry.database import open_registry

FALL = Finding(name="feedback_mean", verdict="fail", severity="critical", evidence="3.1, was 4.2")
ERRORS = Finding(name="error_rate", verdict="fail", severity="warning", evidence="all of them")


def messages():
    events = [row["event"] for row in open_registry().rows("outbox")]
    return [event for event in events if event["action"] == "alarm"]


def later(monkeypatch, days):
    now = store.now() + timedelta(days=days)
    monkeypatch.setattr(store, "now", lambda: now)


def test_one_look_tells_of_all_that_is_new_in_one_message_and_looking_again_tells_nothing():
    registry.raise_alarms(TASK, "v1", [FALL, ERRORS])
    alarms = registry.raise_alarms(TASK, "v1", [FALL, ERRORS])
    assert [alarm.name for alarm in alarms] == ["error_rate", "feedback_mean"]
    (message,) = messages()
    assert "feedback_mean asks for a retrain: 3.1, was 4.2" in message["because"]
    assert "error_rate needs a look" in message["because"]


def test_an_alarm_stays_open_when_a_later_look_sees_nothing():
    registry.raise_alarms(TASK, "v1", [FALL])
    assert [alarm.state for alarm in registry.raise_alarms(TASK, "v1", [])] == ["open"]
    assert [alarm.name for alarm in registry.list_alarms(TASK, state="open")] == ["feedback_mean"]


def test_what_nobody_looked_at_is_told_again_after_a_week_and_what_is_acknowledged_is_not(
    monkeypatch,
):
    (alarm,) = registry.raise_alarms(TASK, "v1", [FALL])
    later(monkeypatch, 6)
    registry.raise_alarms(TASK, "v1", [FALL])
    assert len(messages()) == 1
    later(monkeypatch, 2)
    registry.raise_alarms(TASK, "v1", [FALL])
    assert "nobody has looked: feedback_mean" in messages()[1]["because"]
    acknowledged = registry.close_alarm(alarm.id, "acknowledged", "a strike; it will pass")
    assert "@" in acknowledged.actor and acknowledged.because == "a strike; it will pass"
    for _ in range(10):
        later(monkeypatch, 20)
        registry.raise_alarms(TASK, "v1", [FALL])
    assert len(messages()) == 2
    assert registry.history()[-1]["action"] == "acknowledge"


def test_what_was_acknowledged_went_away_and_comes_back_is_told_again(monkeypatch):
    (alarm,) = registry.raise_alarms(TASK, "v1", [FALL])
    registry.close_alarm(alarm.id, "acknowledged", "holidays")
    for _ in range(5):
        later(monkeypatch, 7)
        assert registry.raise_alarms(TASK, "v1", [])[0].state == "acknowledged"
    for _ in range(2):
        (again,) = registry.raise_alarms(TASK, "v1", [FALL])
        assert (again.state, again.because) == ("open", "holidays")
    assert len(messages()) == 2 and "is back: feedback_mean" in messages()[1]["because"]


@pytest.mark.parametrize("days", [1, 31, 92])
def test_what_stands_and_was_acknowledged_stays_so_however_rarely_one_looks(monkeypatch, days):
    (alarm,) = registry.raise_alarms(TASK, "v1", [FALL])
    registry.close_alarm(alarm.id, "acknowledged", "a strike; it will pass")
    registry.raise_alarms(TASK, "v1", [])  # one look that saw nothing, long ago
    for passed in (1, days, days):
        later(monkeypatch, passed)
        assert registry.raise_alarms(TASK, "v1", [FALL])[0].state == "acknowledged"
    assert len(messages()) == 1


def test_a_warning_that_was_acknowledged_and_becomes_critical_is_open_again_and_told():
    warning = FALL.model_copy(update={"severity": "warning", "evidence": "the scale was turned"})
    (alarm,) = registry.raise_alarms(TASK, "v1", [warning])
    registry.close_alarm(alarm.id, "acknowledged", "the scale")
    (again,) = registry.raise_alarms(TASK, "v1", [FALL])
    assert (again.id, again.state, again.severity) == (alarm.id, "open", "critical")
    assert "feedback_mean asks for a retrain: 3.1" in messages()[1]["because"]
    registry.close_alarm(alarm.id, "acknowledged", "a strike")
    for finding in (FALL, warning, FALL):
        assert registry.raise_alarms(TASK, "v1", [finding])[0].state == "acknowledged"
    assert len(messages()) == 2


def test_a_first_version_in_production_resolves_what_was_found_while_nothing_served():
    registry.raise_alarms(TASK, "", [ERRORS])
    candidate("v1").promote("v1", "production", because="the first")
    assert [alarm.state for alarm in registry.list_alarms(TASK)] == ["resolved"]


def test_a_resolved_alarm_that_comes_back_is_a_new_one():
    (first,) = registry.raise_alarms(TASK, "v1", [FALL])
    registry.close_alarm(first.id, "resolved", "mended upstream")
    with pytest.raises(WorkbookError, match="resolved already: mended upstream"):
        registry.close_alarm(first.id, "resolved", "again")
    (second,) = registry.raise_alarms(TASK, "v1", [FALL])
    assert (second.id != first.id, len(messages())) == (True, 2)


def test_another_version_in_production_resolves_the_alarms_of_the_one_before():
    manager = candidate("v1")
    manager.promote("v1", "production")
    registry.raise_alarms(TASK, "v1", [FALL])
    candidate("v2").promote("v2", "production", because="retrained", force=True)
    (alarm,) = registry.list_alarms(TASK)
    assert (alarm.state, alarm.because) == ("resolved", "displaced by v2: retrained")


@pytest.mark.parametrize(
    ("alarm_id", "because", "words"), [("nobody", "why", "no alarm"), ("", " ", "say why")]
)
def test_closing_what_is_not_there_or_without_a_reason_is_refused(alarm_id, because, words):
    with pytest.raises(WorkbookError, match=words):
        registry.close_alarm(alarm_id, "resolved", because)


def look(number, queue):
    queue.put([alarm.id for alarm in registry.raise_alarms(TASK, "v1", [FALL, ERRORS])])


def test_many_looks_at_once_open_one_alarm_and_tell_once():
    registry.list_alarms()
    seen = in_processes(6, look)
    assert all(ids == seen[0] for ids in seen) and len(seen[0]) == 2
    assert len(messages()) == 1
