"""`evaluate_on: all`: every answer of a chat is a row, and the answers of one chat a cluster."""

from __future__ import annotations

import json
import math

import pytest
from evaluate_toys import (
    ScriptedModel,
    ask_rung,
    constant,
    measure,
    toy_dataset,
    toy_rows,
    toy_task,
)

from helpers import evaluate
from helpers.records import Asking, Message, TrainingExample

Z = 1.959963984540054
ANSWERS = (
    {"colour": "red", "size": 1},
    {"colour": "blue", "size": 2},
    {"colour": "red", "size": 3},
)


def chats(n: int, part: str = "test", **changes: object) -> list[TrainingExample]:
    """Chats of three answers, each by its own user turn; the chat's number stands in all."""
    rows = []
    for row in toy_rows(n, part):
        turns = []
        for number, answer in enumerate(ANSWERS):
            turns.append(Message(role="user", content=f"{row.id} turn {number}"))
            turns.append(Message(role="assistant", content=json.dumps(answer)))
        rows.append(row.model_copy(update={"messages": turns} | changes))
    return rows


@pytest.fixture
def every_turn(tmp_path):
    return toy_task(tmp_path, evaluate_on="all")


def gold(chat: list[Message]) -> str:
    return json.dumps(ANSWERS[int((chat[-1].content or "")[-1])])


def of_half(chat: list[Message]) -> str:
    """Right about every answer of half of the chats, and about none of the others."""
    return gold(chat) if int((chat[-1].content or "")[1:5]) % 2 else "no"


def test_each_answer_is_a_row_asked_with_the_gold_turns_before_it(every_turn, run):
    model = ScriptedModel(gold)
    rows = evaluate.choose_rows(every_turn, chats(4), "test")
    result = ask_rung(model, "prompt", rows, every_turn, run, latency_rows=0)
    assert len({row.id for row in rows}) == result.n == 12 and result.results.accuracy.value == 1
    asked = {chat[-1].content: [turn.content for turn in chat[1:]] for chat in model.asked}
    assert asked["r0002 turn 2"] == [
        "r0002 turn 0",
        json.dumps(ANSWERS[0]),
        "r0002 turn 1",
        json.dumps(ANSWERS[1]),
        "r0002 turn 2",
    ]
    last = evaluate.choose_rows(
        every_turn.model_copy(update={"evaluate_on": "last"}), chats(4), "test"
    )
    assert [row.id for row in last] == [row.id for row in rows if "#" not in row.id]


@pytest.mark.parametrize("reply", [gold, of_half])
def test_answers_that_stand_or_fall_with_their_chat_count_as_one(every_turn, run, reply):
    rows = evaluate.choose_rows(every_turn, chats(40), "test")
    result = ask_rung(ScriptedModel(reply), "prompt", rows, every_turn, run, latency_rows=0)
    share, n = result.results.accuracy.value, 40  # chats, of 120 answers
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n * n)) / (1 + Z**2 / n)
    assert result.n == 120 and result.results.accuracy.n == 120
    assert result.results.accuracy.low <= middle - half + 1e-9
    assert result.results.accuracy.low == pytest.approx(middle - half, abs=0.02)


@pytest.mark.usefixtures("prints")
def test_the_comparison_counts_chats_too(every_turn, run):
    rows = evaluate.choose_rows(every_turn, chats(12), "test")
    evaluation = measure(
        every_turn, run, ScriptedModel(gold, "tuned"), constant("no", "base"), rows
    )
    findings = {finding.name: finding for finding in evaluation.findings}
    assert evaluation.n_test == 36 and evaluation.comparison["accuracy"].gained == 36
    assert findings["power"].verdict == "undecided", "36 answers of 12 chats are 12"
    single = evaluate.paired_difference([1.0] * 12, [0.0] * 12)[0]
    assert evaluation.comparison["accuracy"].difference.low == pytest.approx(single.low)
    assert evaluation.attempt.detectable_difference == pytest.approx(
        evaluate.detectable_difference(12), abs=1e-3
    )


def test_weight_0_and_what_is_no_gold_are_left_out_and_said(every_turn):
    said: list[str] = []
    (chat,) = chats(1)
    turns = list(chat.messages)
    turns[1] = turns[1].model_copy(update={"weight": 0})
    turns[3] = turns[3].model_copy(update={"content": "one moment, please"})
    odd = chat.model_copy(update={"messages": turns})
    rows = evaluate.choose_rows(every_turn, [odd], "test", say=said.append)
    assert [row.id for row in rows] == [chat.id]
    assert "1 answers of 1 chats" in said[0] and "2 are left out" in said[0]
    assert said[0].endswith(f"such as {chat.id}#2, {chat.id}#4")
    assert rows[0].prompt[1].weight == 0, "it is still shown"


@pytest.mark.usefixtures("prints")
def test_04_names_among_its_limits_what_was_left_out(every_turn, run):
    rows = chats(40)
    turns = [rows[0].messages[0], Message(role="assistant", content="one moment")]
    rows[0] = rows[0].model_copy(update={"messages": [*turns, *rows[0].messages[2:]]})
    tuned, base = ScriptedModel(gold, "tuned"), constant("no", "base")
    asked = evaluate.choose_rows(every_turn, rows, "test", 100)
    found = measure(every_turn, run, tuned, base, asked, dataset=toy_dataset(rows))
    assert len(found.limits) == 2 and "1 are left out" in found.limits[0]
    assert found.limits[1] == "100 of 119 test answers of chats asked, by max_test_rows"


def test_limits_and_the_classifier_know_every_answer(every_turn):
    said: list[str] = []
    long = json.dumps({"colour": "red " * 30, "size": 1})
    rows = []
    for chat in chats(24, "train"):
        turns = [chat.messages[0], Message(role="assistant", content=long), *chat.messages[2:]]
        rows.append(chat.model_copy(update={"messages": turns}))
    limits = []
    for evaluate_on in ("last", "all"):
        task = every_turn.model_copy(update={"evaluate_on": evaluate_on})
        basis = Asking(max_new_tokens=0)
        way = evaluate.with_answer_limit(task, basis, rows, constant("x"), said.append)
        limits.append(way.max_new_tokens)
    assert limits[1] > limits[0] and "72 gold answers" in said[1]
    assert evaluate.why_not(every_turn, rows[:8]) == "", "24 answers of 8 chats are enough"
