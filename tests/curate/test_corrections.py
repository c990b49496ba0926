"""What users corrected in a live log of any system: asked, and learnt only once it is decided."""

from __future__ import annotations

import csv

import pytest
from toy_curate import TASK, chat

from helpers import curate, store, tasks
from helpers.curate.corrections import live_corrections
from helpers.records import read_live_lines

MOMENT = "2026-11-05T10:00:00+00:00"
RIGHT = '{"label":"yes"}'
KEY = "sk-" + "proj-abcdefghijklmnopqrstuvwx1234567890"


@pytest.fixture
def live(make_task, config, home, sentences):
    """A function (request_id, what the user turn holds, correction) -> the task's folder."""
    texts = sentences(21)

    def write(request_id="req-1", correction=RIGHT, **turn):
        folder = make_task([chat(text, id=f"req-{n}") for n, text in enumerate(texts[1:], 2)])
        user = {"role": "user", "content": texts[0]} | turn
        turns = [{"role": "system", "content": "Answer with JSON."}, user]
        row = {"request_id": request_id, "created_at": MOMENT, "messages": turns}
        late = {"request_id": request_id, "at": MOMENT, "correction": correction}
        log = [row | {"answer": '{"label":"no"}'}, late]
        store.write_jsonl(home / "live" / "toy" / "2026-11-05.jsonl", log)
        return folder

    return write


def asked(curated):
    return [row for row in curated.review if row["why"] == "corrected by a user"]


def logged(curated):
    return [example for example in curated.examples if example.source == "production"]


def decide(folder, row_id, content=""):
    row = {"id": row_id, "decision": "fix", "corrected_output": RIGHT, "content": content}
    with open(folder / "review.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow(row)


def test_a_number_is_a_request_id_too(live, config):
    (row,) = asked(curate.curate(config(live(17))))
    assert (row["id"], row["corrected_output"]) == ("17", RIGHT)


def test_a_request_that_has_a_human_rows_id_is_asked_about_under_another_one(live, config):
    folder = live("req-2")
    (row,) = asked(curate.curate(config(folder)))
    assert row["id"] == "live-req-2"
    decide(folder, row["id"], row["content"])
    (learnt,) = logged(curate.curate(config(folder)))
    assert (learnt.answer, learnt.quality) == (RIGHT, "verified")


def test_a_decision_about_another_chat_teaches_no_answer_that_a_user_called_wrong(live, config):
    folder = live()
    (row,) = asked(curate.curate(config(folder)))
    decide(folder, row["id"], row["content"])
    assert [example.answer for example in logged(curate.curate(config(folder)))] == [RIGHT]
    # the log's system message is not the task's own any more, so that the chat is another one
    (folder / "task.yaml").write_text(TASK.replace("Answer with JSON.", "Give JSON.", 1))
    curated = curate.curate(config(folder))
    assert not logged(curated) and len(asked(curated)) == 1
    assert any("1 decisions are not applied" in warning for warning in curated.warnings)


def test_parts_of_a_content_are_its_text_and_what_is_no_chat_is_named(live, config):
    (row,) = asked(curate.curate(config(live(content=[{"type": "text", "text": "so it is"}]))))
    assert row["input"] == "so it is"
    curated = curate.curate(config(live(role="robot")))
    assert not asked(curated)
    (warning,) = [text for text in curated.warnings if "are no chats" in text]
    assert "1 corrected answers" in warning and "req-1, messages.1: role" in warning


def test_a_correction_is_shown_without_keys_and_addresses_and_keeps_its_numbers(live, config):
    said = f'{{"label": "ann@example.org {KEY}", "order": 4123807367}}'
    (row,) = asked(curate.curate(config(live(correction=said))))
    assert row["corrected_output"] == '{"label": "[e-mail] [secret]", "order": 4123807367}'


def test_a_line_nested_without_end_is_one_that_nobody_can_read():
    assert read_live_lines(["[" * 100_000, '{"a":' * 100_000]) == ([], 2)


def test_the_chat_that_was_corrected_is_found_in_every_form_of_a_log(make_task, home):
    """A trace's corrections were lost, and the pieces of an answer were put together twice."""
    task = tasks.load_task(str(make_task([])))
    path = home / "live" / "toy" / "2026-11-05.jsonl"
    row = {"created_at": MOMENT, "messages": [{"role": "user", "content": "?"}]}

    def corrected(lines):
        store.write_jsonl(path, lines)
        return [(q.example.answer, q.correction) for q in live_corrections(task, ())[0]]

    turns = [[{"role": "user", "content": f"question {n}"}] for n in range(4)]
    trace = [row | {"request_id": "t", "messages": each, "answer": "no"} for each in turns]
    trace[2] |= {"correction": RIGHT}
    assert corrected(trace) == [("no", RIGHT)]
    pieces = [row | {"request_id": "p", "answer": text} for text in ("Hel", "lo ", "you")]
    pieces[2] |= {"correction": RIGHT}
    assert corrected(pieces) == [("Hello you", RIGHT)]
    late = {"request_id": 17, "at": MOMENT, "correction": RIGHT}
    assert corrected([row | {"request_id": "17", "answer": "no"}, late]) == [("no", RIGHT)]
