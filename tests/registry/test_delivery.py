"""Messages to the team: after the commit, at least once, and never in the way of a promotion."""

import json
import logging
import time
from datetime import timedelta

import pytest
import sqlalchemy
from registry_toys import TASK, candidate, model
from webhook_toy import Webhook

from helpers import registry, store
from helpers.records import WorkbookError
from helpers.registry import FineTuneLifecycleManager, database, delivery
from helpers.registry.database import open_registry

apprise = pytest.importorskip("apprise", reason="the extra notify is not installed")


def later(monkeypatch, minutes):
    now = store.now() + timedelta(minutes=minutes)
    monkeypatch.setattr(store, "now", lambda: now)


def test_a_promotion_is_told_once_with_its_event_id(hook):
    candidate("v1").promote("v1", "production", because="it is better")
    FineTuneLifecycleManager(TASK)
    FineTuneLifecycleManager(TASK)
    event = open_registry().rows("outbox")[0]
    assert [event["event_id"] in said["message"] for said in hook.got] == [True]
    assert "promote" in hook.got[0]["title"] and "it is better" in hook.got[0]["message"]
    assert event["sent_at"] is not None


@pytest.mark.parametrize("trouble", ["500", "slow", "down"])
def test_a_channel_in_trouble_never_stops_a_promotion_and_is_told_later(hook, monkeypatch, trouble):
    manager = candidate("v1")
    if trouble == "down":
        hook.close()
    hook.status, hook.wait = (500, 0.0) if trouble == "500" else (200, 3.0)
    began = time.monotonic()
    assert manager.promote("v1", "production").promoted
    assert time.monotonic() - began < 15
    assert registry.routes()[TASK]["version"] == "v1"
    assert store.read_jsonl(store.home() / "notifications.jsonl")[0]["version"] == "v1"
    waiting = open_registry().rows("outbox")[0]
    assert (waiting["sent_at"], waiting["attempts"]) == (None, 1)
    FineTuneLifecycleManager(TASK)  # not due yet: no second attempt
    assert open_registry().rows("outbox")[0]["attempts"] == 1
    if trouble == "down":
        hook = Webhook()
        monkeypatch.setenv("WORKBOOK_NOTIFY_URLS", hook.url)
    hook.status, hook.wait = 200, 0.0
    time.sleep(0.1)
    hook.got.clear()
    later(monkeypatch, 2)
    FineTuneLifecycleManager(TASK)
    assert len(hook.got) == 1
    assert open_registry().rows("outbox")[0]["sent_at"] is not None


def test_attempts_come_further_and_further_apart_and_end(hook, monkeypatch):
    hook.status = 500
    candidate("v1").promote("v1", "production")
    seen = []
    for _ in range(delivery.MAX_ATTEMPTS + 2):
        row = open_registry().rows("outbox")[0]
        seen.append(row["attempts"])
        later(monkeypatch, 300)
        FineTuneLifecycleManager(TASK)
    assert seen[-1] == delivery.MAX_ATTEMPTS
    assert any(
        "did not reach every channel" in problem for problem in registry.reconcile()["problems"]
    )


def test_addresses_of_a_file_with_windows_line_ends_are_read(monkeypatch):
    monkeypatch.setenv("WORKBOOK_NOTIFY_URLS", "json://a/x,y\r\njson://b\r\n")
    assert delivery.channels() == ["json://a/x,y", "json://b"]


def test_of_two_channels_the_one_that_has_it_is_not_told_again(hook, monkeypatch):
    other = Webhook()
    other.status = 500
    monkeypatch.setenv("WORKBOOK_NOTIFY_URLS", f"{hook.url}, {other.url}")
    candidate("v1").promote("v1", "production")
    other.status = 200
    later(monkeypatch, 2)
    FineTuneLifecycleManager(TASK)
    assert (len(hook.got), len(other.got)) == (1, 1)
    other.close()


def test_what_happened_waits_for_a_channel_and_is_marked_sent_by_none_without(hook, monkeypatch):
    monkeypatch.delenv("WORKBOOK_NOTIFY_URLS")
    candidate("v1").promote("v1", "production")
    FineTuneLifecycleManager(TASK)
    assert open_registry().rows("outbox")[0]["sent_at"] is None
    monkeypatch.setenv("WORKBOOK_NOTIFY_URLS", hook.url)
    candidate("v2").promote("v2", "production")
    assert ["v1" in said["title"] for said in hook.got] == [True, False]


def test_what_happened_long_before_a_channel_was_set_is_not_told(hook, monkeypatch):
    monkeypatch.delenv("WORKBOOK_NOTIFY_URLS")
    candidate("v1").promote("v1", "production")
    monkeypatch.setenv("WORKBOOK_NOTIFY_URLS", hook.url)
    later(monkeypatch, 60 * 24 * 15)
    candidate("v2").promote("v2", "production")
    assert ["v2" in said["title"] for said in hook.got] == [True]


def test_a_message_says_who_did_it(hook):
    candidate("v1").promote("v1", "production")
    assert "@" in json.loads(hook.got[0]["message"].split("\n", 1)[1].rpartition("\n")[0])["by"]


def test_an_address_that_is_not_understood_is_reported_without_itself(monkeypatch, caplog):
    monkeypatch.setenv("WORKBOOK_NOTIFY_URLS", "slaack://secret-token-123/x")
    with caplog.at_level(logging.WARNING):
        assert candidate("v1").promote("v1", "production").promoted
    assert "not understood" in caplog.text and "secret-token" not in caplog.text


def test_planted_secrets_and_addresses_reach_no_file_no_row_and_no_channel(hook, monkeypatch):
    manager = candidate("v1")
    monkeypatch.setenv("WORKBOOK_API_KEY", "planted-key-12345")
    planted = ("planted-key-12345", "jane.doe@example.org", "sk-abcdefghijklmnopqrstuvwx")
    manager.promote(
        "v1", "production", because="asked by jane.doe@example.org with planted-key-12345"
    )
    candidate(
        "v2", verdict="fail", reasons=["see sk-abcdefghijklmnopqrstuvwx of jane.doe@example.org"]
    )
    manager.promote("v2", "production", because="sk-abcdefghijklmnopqrstuvwx", force=True)
    candidate("v3")
    planted_url = "http://jane.doe@example.org/sk-abcdefghijklmnopqrstuvwx"
    manager.record_model("v3", model("v3", model_id="m", base_url=planted_url))
    manager.schedule_retrain("0 3 * * 0", because="jane.doe@example.org wants it")
    registry.backup(store.home() / "backup.json")
    files = [path for path in store.home().iterdir() if path.is_file()]
    assert {"registry.db", "notifications.jsonl", "backup.json"} <= {path.name for path in files}
    everything = b"".join(path.read_bytes() for path in files).decode(
        errors="replace"
    ) + json.dumps(hook.got)
    assert [word for word in planted if word in everything] == []
    assert "[e-mail]" in everything and "[secret]" in everything


def test_a_failed_run_is_told_once_under_its_own_id(hook):
    for _ in range(2):
        registry.notify("run a failed; next: workbook run tutorial --run-id a", "a@now")
    told = [
        json.loads(line) for line in (store.home() / "notifications.jsonl").read_text().splitlines()
    ]
    assert [line["event_id"] for line in told] == ["a@now"]
    assert len(hook.got) == 1 and "next: workbook run" in json.dumps(hook.got[0])


@pytest.mark.parametrize(
    "problem",
    [
        sqlalchemy.exc.OperationalError("", {}, Exception("no such column: x")),
        sqlalchemy.exc.OperationalError("", {}, Exception("database is locked")),
        sqlalchemy.exc.OperationalError("", {}, Exception("SSL SYSCALL error: EOF detected")),
        RuntimeError("whatever a driver throws"),
    ],
    ids=["an old schema", "a lock", "a lost server", "another error"],
)
def test_a_failed_run_is_told_by_every_channel_whatever_the_registry_and_one_of_them_throw(
    hook, monkeypatch, problem
):
    def refuse(*_, **__):
        raise problem

    def notify(client, **message):
        if "broken" in client.urls()[0]:
            raise RuntimeError("a plug-in's own fault")
        return told(client, **message)

    told = apprise.Apprise.notify
    monkeypatch.setattr(apprise.Apprise, "notify", notify)
    monkeypatch.setattr(database, "migrate", refuse)
    monkeypatch.setenv("WORKBOOK_NOTIFY_URLS", f"json://broken.invalid {hook.url}")
    with pytest.raises((WorkbookError, type(problem))):
        registry.notify("run a failed", "a@now")
    (message,) = hook.got
    assert "run a failed" in message["message"]
