"""The longest answer follows from the gold answers, and what it cuts is named."""

from __future__ import annotations

import pytest
from evaluate_toys import answer_row, constant, session, toy_rows, toy_task

from helpers import evaluate
from helpers.models import Answer
from helpers.records import Asking, Estimate, Message


def long_rows(words, n=20, part="validation", first=0):
    rows = []
    for example in toy_rows(n, part, first):
        answer = Message(role="assistant", content=" ".join(["word"] * words))
        rows.append(example.model_copy(update={"messages": [example.messages[0], answer]}))
    return rows


def test_the_limit_holds_every_gold_answer_but_exceptions_and_some_more():
    assert evaluate.limit_of([60] * 200) == 75
    assert evaluate.limit_of([10] * 999 + [900]) == 18, "one answer in a thousand is an exception"
    assert evaluate.limit_of([10] * 90 + [300] * 10) == 375
    assert evaluate.limit_of([]) == 64


def test_nought_means_from_the_gold_answers_of_train_and_validation(task):
    messages: list[str] = []
    rows = long_rows(60) + long_rows(60, part="train", first=50)
    test = long_rows(5000, part="test", first=100)
    basis = Asking(max_new_tokens=0)
    way = evaluate.with_answer_limit(task, basis, rows + test, constant("x"), messages.append)
    assert way.max_new_tokens == 75 and "75 tokens, from 40 gold answers" in messages[0]


def test_a_limit_below_the_gold_answers_is_kept_and_said(task):
    messages: list[str] = []
    basis = Asking(max_new_tokens=40)
    way = evaluate.with_answer_limit(task, basis, long_rows(60), constant("x"), messages.append)
    assert way == basis and "less than 20 of 20 gold answers take" in messages[0]
    evaluate.with_answer_limit(task, basis, long_rows(30), constant("x"), messages.append)
    assert len(messages) == 1, "a limit that fits is not talked about"


class Cut:
    """Right as far as it may speak."""

    provider, is_loopback, name, spec, fingerprint = "local", True, "cut", "cut", "cut"

    def answer(self, chats, max_new_tokens):
        text = " ".join(["word"] * max_new_tokens)
        took = {"tokens_in": 1, "tokens_out": max_new_tokens, "latency_ms": 1.0}
        return [Answer(text=text, finish="length", **took) for _ in chats]

    def count_tokens(self, chat):
        return 0


def test_answers_that_the_limit_cut_are_counted_and_named(tmp_path, run):
    task = toy_task(tmp_path, schema=None, scored_fields=[], accuracy_from="scorer")
    messages: list[str] = []
    rows = long_rows(60)
    way = Asking(max_new_tokens=40).for_rung("prompt", "cut")
    rung = evaluate.ask_rung(way, rows, session(task, run, Cut(), say=messages.append))
    answers = evaluate.read_answers(run, rung)
    assert len(evaluate.cut_short(rows, answers)) == 20
    assert "20 cut off at max_new_tokens=40" in messages[-1]
    assert "cut off at the token limit" in answers[0].format_reason
    longer = answer_row("r0000", "word " * 99, endless=1.0)
    assert evaluate.cut_short(rows, [longer]) == [], "an answer that never ends was not cut short"


class Silent(Cut):
    """An endpoint that answers every other row."""

    def answer(self, chats, max_new_tokens):
        answers = super().answer(chats, max_new_tokens)
        lost = {"text": "", "error": "500"}
        return [a.model_copy(update=lost) if i % 2 else a for i, a in enumerate(answers)]


def test_rows_without_an_answer_are_wrong_and_among_the_limits(tmp_path, run):
    task = toy_task(tmp_path, schema=None, scored_fields=[], accuracy_from="scorer")
    rows = long_rows(60)
    way = Asking(max_new_tokens=60).for_rung("prompt", "cut")
    rung = evaluate.ask_rung(way, rows, session(task, run, Silent()))
    errors = [row.error for row in evaluate.read_answers(run, rung)]
    lines = evaluate.cut_answers([rung], rows, run)
    assert any(errors)
    assert f"{20 - errors.count(None)} of 20 rows have no answer" in lines[0]
    assert rung.results.accuracy.n == 20, "they count"


@pytest.mark.parametrize(
    ("value", "n", "target", "expected"),
    [(1.0, 60, 0.95, 73), (0.9, 60, 0.8, 62), (0.5, 60, 0.5, 0), (0.4, 60, 0.5, 97)],
)
def test_the_rows_that_decide_a_target_put_the_bound_past_it(value, n, target, expected):
    low, high = value - 0.1, value + 0.1
    estimate = Estimate(value=value, low=max(0.0, low), high=min(1.0, high), n=n)
    needed = evaluate.statistics.rows_that_decide(estimate, target)
    assert needed == expected
    if needed:
        low, high = evaluate.statistics.wilson(value * needed, needed)
        assert low >= target or high < target
        low, high = evaluate.statistics.wilson(value * (needed - 1), needed - 1)
        assert low < target <= high or needed == n + 1
