"""What was answered, and what people say of it, comes back as data: masked, once, whole."""

from __future__ import annotations

import multiprocessing
import os
from datetime import timedelta
from types import SimpleNamespace

import pytest
from registry_toys import TASK
from serve_toys import chat_body, client, gateway, log_of, register, task_folder, until

from helpers import store
from helpers.curate.corrections import live_corrections
from helpers.records import LateFeedback, LiveRow, read_live_lines
from helpers.serve.livelog import LiveLog, append, folder_of, masked, new_id
from helpers.tasks import load_task

PERSONAL = "Call me at +49 170 1234567 or jane.doe@example.com, key sk-abcdefghijklmnopqrstuvwx"
KEY = "a-very-long-key-of-a-caller"


def row(**changes):
    now = store.now()
    return LiveRow(**({"request_id": new_id(now), "created_at": now, "answer": "yes"} | changes))


def raw_log():
    return "".join(p.read_text() for p in folder_of(TASK).glob("*"))


def test_personal_data_and_keys_are_found_nowhere(engine, home, monkeypatch, caplog):
    monkeypatch.setenv("WORKBOOK_SERVE_KEYS", f"alice:{KEY}")
    register("v1", "production")
    engine.answers = lambda body: f"You said: {body['messages'][-1]['content']}"
    headers = {"authorization": f"Bearer {KEY}"}
    with gateway(engine.url, log_text="masked") as (address, _):
        body = chat_body(PERSONAL, metadata={"conversation_id": "jane.doe@example.com"})
        reply = client.post(f"{address}/v1/chat/completions", json=body, headers=headers)
        said = {"request_id": reply.json()["id"], "correction": PERSONAL, "comment": PERSONAL}
        assert client.post(f"{address}/v1/feedback", json=said, headers=headers).is_success
        engine.fails["v1"] = 500
        failed = client.post(f"{address}/v1/chat/completions", json=body, headers=headers)
        assert failed.status_code == 502
        wrong = client.post(f"{address}/v1/feedback", json={"x": PERSONAL}, headers=headers)
        texts = [failed.text, wrong.text, caplog.text]
        texts.append(client.get(f"{address}/metrics", headers=headers).text)
    texts += [path.read_text(errors="replace") for path in home.rglob("*.jsonl")]
    for text in texts:
        for secret in ("1234567", "jane.doe", "sk-abcdef", KEY):
            assert secret not in text
    first = log_of()[0]
    assert first.caller == "alice" and first.text == "masked"
    assert "[EMAIL_ADDRESS]" in first.messages[0]["content"] and "[PHONE" in first.answer


def test_a_task_may_log_no_text_at_all(engine):
    register("v1", "production")
    with gateway(engine.url, log_text="none") as (address, _):
        client.post(f"{address}/v1/chat/completions", json=chat_body("Hello there"))
    [only] = log_of()
    assert only.answer == "" and only.messages == [{"role": "user", "content": ""}]
    assert only.text == "none" and only.well_formed and "Hello" not in raw_log()


def test_feedback_may_come_late_again_and_changed_and_the_last_word_counts(served):
    address, made, _ = served
    request_id = client.post(f"{address}/v1/chat/completions", json=chat_body()).json()["id"]

    def say(**words):
        body = {"request_id": request_id, **words}
        return client.post(f"{address}/v1/feedback", json=body).status_code

    assert say(thumb="up") == say(thumb="up") == say(score=2) == 200
    made.log._recent.clear()  # as after a restart: found in the file
    until(lambda: log_of() and log_of()[0].feedback_score == 2)
    assert say(correction="No.", comment="wrong") == 200
    until(lambda: log_of()[0].correction == "No.")
    assert log_of()[0].feedback_score == 2 and log_of()[0].comment == "wrong"
    assert say() == say(score=9) == say(thumb="up", score=1) == 400
    for unknown in (new_id(store.now()), "../../etc/passwd", "req-20260101-x"):
        body = {"request_id": unknown, "thumb": "up"}
        assert client.post(f"{address}/v1/feedback", json=body).status_code == 404


def test_a_correction_is_what_02_asks_a_person_about(served):
    address, _, _ = served
    request_id = client.post(f"{address}/v1/chat/completions", json=chat_body("Why?")).json()["id"]
    for correction in ("=Therefore.", "=Because."):  # the last one counts
        body = {"request_id": request_id, "correction": correction}
        client.post(f"{address}/v1/feedback", json=body)
    task = load_task(str(task_folder()))
    until(lambda: [q.correction for q in live_corrections(task, ())[0]] == ["=Because."])
    [only], _ = live_corrections(task, ())
    assert (only.example.id, only.example.user_text) == (request_id, "Why?")
    assert only.example.quality == "unverified"


def test_a_torn_last_line_is_ended_and_never_read_as_something_else(home):
    path = folder_of(TASK) / "2026-11-01.jsonl"
    append(path, '{"request_id": "a", "created_at": "2026-11-01T00:00:00Z", "answer": "x"}\n')
    with open(path, "a") as file:
        file.write('{"request_id": "torn", "created_at": "2026-1')
    append(path, '{"request_id": "b", "created_at": "2026-11-01T00:00:01Z", "answer": "y"}\n')
    result = read_live_lines(path.read_bytes().splitlines())
    assert [r.request_id for r in result.rows] == ["a", "b"] and result.unreadable == 1


def write_rows(number):
    log = LiveLog(lambda task: "full", 0)
    for _ in range(200):
        log.write(TASK, row(answer="z" * 3000, caller=str(number)))
    log.close()


def test_many_processes_write_one_log_and_no_line_is_lost(home):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_rows, args=(n,)) for n in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    rows = log_of()
    assert len(rows) == 800 and {r.caller for r in rows} == {"0", "1", "2", "3"}


def test_old_days_are_deleted_and_a_file_that_is_no_day_stays(home):
    old = folder_of(TASK) / f"{store.now() - timedelta(days=8):%Y-%m-%d}.jsonl"
    young = folder_of(TASK) / f"{store.now() - timedelta(days=6):%Y-%m-%d}.jsonl"
    review = folder_of(TASK) / "review.csv"
    for path in (old, young, review):
        store.write_text(path, "")
    log = LiveLog(lambda task: "full", keep_days=7)
    log.sweep("another task, whose turn is a turn of its own")
    log.sweep(TASK)
    log.close()
    assert not old.exists() and young.exists() and review.exists()


def test_days_that_are_too_old_are_named_before_they_are_deleted(engine, caplog):
    register("v1", "production")
    old = folder_of(TASK) / "2020-01-01.jsonl"
    store.write_text(old, "")
    with gateway(engine.url) as (_, made):
        until(lambda: made.lanes[TASK].current)
        assert "1 days of the live log are before" in caplog.text and old.exists()
        made.lanes[TASK].swept_from = 0.0  # an hour later
        until(lambda: not old.exists())


def test_a_folder_that_cannot_be_read_stops_the_gateway_from_following_nothing(served, monkeypatch):
    address, made, _ = served

    def broken(task):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(made.log, "old_days", broken)
    made.lanes.clear()  # as if a new task came
    until(lambda: TASK in made.lanes and made.lanes[TASK].current and not made.problem)
    assert client.post(f"{address}/v1/chat/completions", json=chat_body()).is_success


def test_a_text_that_cannot_be_masked_is_left_out_and_the_log_goes_on(home, monkeypatch, caplog):
    def masked(text):
        return 1 / 0 if "odd" in text else text

    monkeypatch.setattr("helpers.serve.livelog.curate.masked_text", masked)
    log = LiveLog(lambda task: "masked", 0)
    for answer in ("odd", "fine"):
        log.write(TASK, row(answer=answer, conversation_id=answer))
    log.close()
    assert [(r.answer, r.text) for r in log_of()] == [("", "none"), ("fine", "masked")]
    assert "left out of the live log: ZeroDivisionError" in caplog.text


def test_a_disk_that_is_full_stops_the_log_and_not_the_answers(served, monkeypatch):
    address, made, _ = served

    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("helpers.serve.livelog.PATIENCE", 0.02)
    with monkeypatch.context() as patch:
        patch.setattr("helpers.serve.livelog.append", full)
        assert client.post(f"{address}/v1/chat/completions", json=chat_body()).is_success
        until(lambda: made.log.problem)
        state = client.get(f"{address}/readyz")
        assert state.status_code == 503 and "live log" in state.json()["problems"][0]
        assert "workbook_log_problem 1.0" in client.get(f"{address}/metrics").text
    until(lambda: len(log_of()) == 1)  # what waited is written when there is room again
    assert client.get(f"{address}/readyz").status_code == 200


def test_what_found_room_before_the_disk_was_full_is_not_written_twice(home, monkeypatch):
    path = folder_of(TASK) / "2026-11-01.jsonl"
    append(path, "first\n")
    real = os.write

    def half(descriptor, data):
        if len(data) < 8:
            raise OSError(28, "No space left on device")
        return real(descriptor, data[:8])

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        ours = SimpleNamespace(**(vars(os) | {"write": half}))  # others go on writing
        patch.setattr("helpers.serve.livelog.os", ours)
        append(path, "second\nthird\n")
    append(path, "second\nthird\n")
    assert path.read_text() == "first\nsecond\nthird\n"


def test_a_log_that_ends_on_a_full_disk_says_how_much_is_lost(home, monkeypatch, caplog):
    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("helpers.serve.livelog.append", full)
    log = LiveLog(lambda task: "full", 0)
    log.write(TASK, row())
    until(lambda: log.problem)
    log.write(TASK, row())
    log.close()
    assert caplog.text.count("1 lines of") == 2 and "are lost" in caplog.text


def test_conversations_whose_ids_are_personal_data_stay_apart_and_tell_nothing():
    names = [f"someone{n}@example.org" for n in range(5)]
    names += [f"+49 170 123456{n}" for n in range(5)] + ["thread_7", "0", ""]
    kept = [masked(row(conversation_id=name), "masked").conversation_id for name in names]
    assert len(set(kept)) == len(names) and kept[-3:] == names[-3:]
    assert not set(kept[:-3]) & set(names)


def test_late_feedback_of_foreign_systems_is_merged_and_strangers_are_counted():
    first = '{"request_id": "a", "created_at": "2026-11-01T00:00:00", "answer": "x", "extra": 1}'
    thumb = '{"request_id": "a", "thumb": "down", "at": "2026-11-03T00:00:00Z"}'
    lost = '{"request_id": "zz", "thumb": "up", "at": "2026-11-03T00:00:00Z"}'
    rows, unreadable = read_live_lines([thumb, first, "", lost, "[1]", "{"])
    assert [(r.request_id, r.feedback_score) for r in rows] == [("a", 1.0)] and unreadable == 3
    assert LateFeedback.model_validate({"request_id": "a", "at": store.now()}).score is None
