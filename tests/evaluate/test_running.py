from __future__ import annotations

import json

import pytest
from evaluate_toys import (
    RIGHT,
    ScriptedModel,
    ask_rung,
    asking,
    constant,
    right_where,
    session,
    toy_rows,
    toy_task,
)

from helpers import evaluate, store
from helpers.evaluate.running import choose_rows, read_answers
from helpers.evaluate.scorers import score_answer
from helpers.models import Answer
from helpers.records import Budget, WorkbookError


def test_every_example_has_one_line_and_every_score_can_be_recomputed_from_it(task, run):
    rows = toy_rows(10)
    rung = ask_rung(right_where(lambda i: i % 2, "m"), "zero_shot", rows, task, run)
    lines = read_answers(run, rung)
    assert [line.id for line in lines] == [e.id for e in rows]
    for example, line in zip(rows, lines, strict=True):
        again = score_answer(task, example, line.answer)[0]
        assert again == {k: v for k, v in line.scores.items() if k != "failed"}
    written = store.read_jsonl(run.path(rung.answers))
    fields = {"id", "group", "answer", "scores", "latency_ms", "tokens_in", "tokens_out"}
    assert all(set(line) >= fields for line in written)
    assert rung.results.accuracy.value == 0.5 and rung.n == 10


def test_a_question_is_asked_once(task, run):
    model, rows = constant(RIGHT), toy_rows(7)
    first = ask_rung(model, "prompt", rows, task, run)
    assert len(model.asked) == 7
    second = ask_rung(model, "prompt", rows, task, run)
    assert len(model.asked) == 7
    assert first.results.accuracy == second.results.accuracy


def test_another_model_prompt_or_length_is_another_question(task, run):
    model, rows = constant(RIGHT), toy_rows(3)
    ask_rung(model, "prompt", rows, task, run)
    ask_rung(model, "zero_shot", rows, task, run)
    ask_rung(model, "prompt", rows, task, run, max_new_tokens=7)
    assert len(model.asked) == 9
    other = constant(RIGHT, "other")
    ask_rung(other, "prompt", rows, task, run)
    assert len(other.asked) == 3


def test_a_killed_run_goes_on_where_it_stopped(task, run):
    model, rows = constant(RIGHT), toy_rows(80)
    model.fail_after = 70
    with pytest.raises(KeyboardInterrupt):
        ask_rung(model, "prompt", rows, task, run)
    model.fail_after = None
    done = len(model.asked)
    ask_rung(model, "prompt", rows, task, run)
    assert len(model.asked) - done == 15, "the one asked alone and the first chunk of 64 were kept"


def test_a_torn_last_line_of_the_cache_is_only_lost_work(task, run, home):
    model, rows = constant(RIGHT), toy_rows(4)
    ask_rung(model, "prompt", rows, task, run)
    [file] = (home / "cache" / "answers").iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    ask_rung(model, "prompt", rows, task, run)
    assert len(model.asked) == 5
    ask_rung(model, "prompt", rows, task, run)
    assert len(model.asked) == 5
    assert sum(1 for line in file.read_text().splitlines() if line.endswith("}")) == 4


def test_an_answer_with_any_line_break_is_remembered(task, run):
    """Read by Python's idea of a line, it was asked, and paid, again each time."""
    model, rows = constant(f"{RIGHT}\u2028\u0085\r\n.", "breaks"), toy_rows(4)
    ask_rung(model, "prompt", rows, task, run)
    ask_rung(model, "prompt", rows, task, run)
    assert len(model.asked) == 4


class Flaky:
    """Fails for some questions, as endpoints do."""

    provider, is_loopback, name, spec, fingerprint = "api", True, "flaky", "flaky", "f"

    def __init__(self, fails):
        self.fails = fails

    def answer(self, chats, max_new_tokens):
        good = Answer(text=RIGHT, tokens_in=5, tokens_out=3, latency_ms=20, finish="stop")
        bad = Answer(
            text="",
            tokens_in=0,
            tokens_out=0,
            latency_ms=0,
            finish="error",
            error="500 sk-abcdefghijklmnopqrstuvwx",
        )
        return [bad if self.fails(int(c[-1].content.split()[-1])) else good for c in chats]


def test_failed_requests_are_kept_counted_and_wrong(task, run):
    rung = ask_rung(Flaky(lambda i: i < 2), "prompt", toy_rows(8), task, run)
    assert rung.results.quality_scores["failed"].value == 0.25
    assert rung.results.accuracy.value == 0.75
    assert rung.results.latency_p50.n == 6
    lines = store.read_jsonl(run.path(rung.answers))
    assert [("error" in line) for line in lines] == [True, True] + [False] * 6
    assert "sk-abc" not in json.dumps(lines)


def test_a_failed_request_is_asked_again_next_time(task, run):
    ask_rung(Flaky(lambda i: i < 2), "prompt", toy_rows(8), task, run)
    assert (
        ask_rung(Flaky(lambda i: False), "prompt", toy_rows(8), task, run).results.accuracy.value
        == 1
    )


class Slow(Flaky):
    """Says how long an answer took, also where it is none."""

    def answer(self, chats, max_new_tokens):
        took = {"latency_ms": 500.0}
        return [a.model_copy(update=took) for a in super().answer(chats, max_new_tokens)]


def test_a_request_that_failed_is_no_time_of_the_answer_that_is_remembered(task, run):
    ask_rung(Flaky(lambda i: False), "prompt", toy_rows(8), task, run, latency_rows=0)
    timed = ask_rung(Slow(lambda i: i > 3), "prompt", toy_rows(8), task, run, latency_rows=7)
    assert timed.results.accuracy.value == 1 and timed.results.quality_scores["failed"].value == 0
    assert timed.results.latency_p50.n == 3, "after the warm-up, those that were answered"


def test_a_provider_that_answers_nothing_is_exit_5_and_leaves_no_answers(task, run):
    with pytest.raises(WorkbookError) as error:
        ask_rung(Flaky(lambda i: True), "prompt", toy_rows(3), task, run)
    assert error.value.exit_code == 5
    assert not run.path("answers").exists()


class Remote(Flaky):
    is_loopback = False

    def count_tokens(self, chat):
        return 1000


def test_text_stays_here_unless_the_task_lets_it_go(tmp_path, run):
    model = Remote(lambda i: False)
    with pytest.raises(WorkbookError, match="data_may_leave"):
        ask_rung(model, "prompt", toy_rows(3), toy_task(tmp_path), run)
    prices = {"models": {"flaky": {"input": 1.0, "output": 2.0}}}
    open_task = toy_task(tmp_path, data_may_leave=True, prices=prices)
    with pytest.raises(WorkbookError, match="max_cost_usd=0"):
        ask_rung(model, "prompt", toy_rows(3), open_task, run)
    with pytest.raises(WorkbookError, match=r"prices\.models has no entry"):
        ask_rung(
            model,
            "prompt",
            toy_rows(3),
            toy_task(tmp_path, data_may_leave=True),
            run,
            limit_usd=1.0,
        )
    rung = ask_rung(model, "prompt", toy_rows(3), open_task, run, limit_usd=1.0)
    assert rung.results.cost_per_request.value == pytest.approx((5 * 1 + 3 * 2) / 1e6)


PRICED = {"models": {"flaky": {"input": 1.0, "output": 2.0}}}


class Priced(Remote):
    """An endpoint on this machine, which costs what task.yaml says."""

    is_loopback = True


def test_a_paid_endpoint_is_booked_also_on_this_machine_and_failures_cost_nothing(tmp_path, run):
    task = toy_task(tmp_path, prices=PRICED)
    ask_rung(Priced(lambda i: i < 2), "prompt", toy_rows(8), task, run, limit_usd=1.0)
    budget = Budget(run)
    assert budget.spent == pytest.approx(6 * (5 * 1 + 3 * 2) / 1e6) and budget.reserved == 0
    assert set(budget.by_whom()) == {"rung prompt"}


def test_what_is_remembered_is_not_paid_again_even_over_the_limit(tmp_path, run):
    task, model = toy_task(tmp_path, prices=PRICED), Priced(lambda i: False)
    ask_rung(model, "prompt", toy_rows(8), task, run, limit_usd=1.0)
    spent = Budget(run).spent
    ask_rung(model, "prompt", toy_rows(8), task, run, limit_usd=0.0)
    assert Budget(run).spent == spent


def test_an_endpoint_without_a_price_on_this_machine_costs_nothing(task, run):
    ask_rung(Flaky(lambda i: False), "prompt", toy_rows(3), task, run)
    assert not run.has("budget.jsonl")


class Unreachable(Priced):
    def answer(self, chats, max_new_tokens):
        raise WorkbookError("nobody is there", 5)


def test_money_for_a_request_that_reached_nobody_is_given_back(tmp_path, run):
    task = toy_task(tmp_path, prices=PRICED)
    with pytest.raises(WorkbookError, match="nobody is there"):
        ask_rung(Unreachable(bool), "prompt", toy_rows(3), task, run, limit_usd=1.0)
    assert Budget(run).spent == Budget(run).reserved == 0


def test_latency_and_cost_come_from_single_requests(task, run):
    results = ask_rung(constant(RIGHT), "prompt", toy_rows(40), task, run, latency_rows=8).results
    assert results.latency_p50.n == results.latency_p95.n == results.cost_per_request.n == 1
    assert results.latency_p50.value == pytest.approx(100), "of rows asked alone, not of a batch"
    assert results.cost_per_request.value == pytest.approx(0.1 * 0.36 / 3600)


class Uneven(ScriptedModel):
    """One answer takes longer than another."""

    def answer(self, chats, max_new_tokens):
        answers = super().answer(chats, max_new_tokens)
        return [
            a.model_copy(update={"latency_ms": 80 + 10 * (len(self.asked) % 5)}) for a in answers
        ]


def test_more_rows_are_timed_where_they_decide_a_ceiling_and_change_no_answer(tmp_path, run):
    for target, timed in ((1e6, 6), (10, 6), (110, 8)):
        task = toy_task(tmp_path, targets={"latency_p95": target})
        model = Uneven(lambda chat: RIGHT, f"uneven {target}")
        rung = ask_rung(model, "prompt", toy_rows(20), task, run, latency_rows=8)
        assert (rung.results.latency_p95.n, len(model.asked)) == (timed, 20 + timed - 1)
        model.reply = lambda chat: "changed"
        again = ask_rung(model, "prompt", toy_rows(20), task, run, latency_rows=8)
        assert again.results == rung.results and len(model.asked) == 20 + timed - 1


def test_a_rung_that_surely_misses_another_target_is_timed_once(tmp_path, run):
    task = toy_task(tmp_path, targets={"accuracy": 0.5, "latency_p95": 1e6, "cost_per_request": 1})
    model = constant('{"colour": "pink"}')
    results = ask_rung(model, "prompt", toy_rows(40), task, run, latency_rows=8).results
    assert results.latency_p95.n == 1 and len(model.asked) == 40
    targets = evaluate.check_targets(task, results)
    assert {targets[name].verdict for name in ("latency_p95", "cost_per_request")} == {"undecided"}


def test_a_way_that_a_run_has_timed_is_not_timed_again_for_another_part(task, run):
    model = Uneven(lambda chat: RIGHT)
    first = ask_rung(model, "prompt", toy_rows(9), task, run, latency_rows=8).results
    rest = toy_rows(42)[9:]
    rung = ask_rung(model, "prompt", rest, task, run, latency_rows=8)
    assert rung.results.latency_p95 == first.latency_p95 and first.latency_p95.n == 1
    assert rung.results.cost_per_request == first.cost_per_request and len(model.asked) == 42
    untimed = ask_rung(model, "prompt", rest, task, run, latency_rows=0)
    assert untimed.results.latency_p95.n == 0
    other = ask_rung(model, "zero_shot", toy_rows(9), task, run, latency_rows=8)
    assert other.results.latency_p95.n == 1 and other.results.latency_p95 != first.latency_p95


class Log(ScriptedModel):
    """Says nothing of time."""

    def answer(self, chats, max_new_tokens):
        answers = super().answer(chats, max_new_tokens)
        return [a.model_copy(update={"latency_ms": 0.0}) for a in answers]


def test_the_answers_of_a_log_have_no_latency(task, run):
    model = Log(lambda chat: RIGHT)
    for rows in (toy_rows(9), toy_rows(40)):
        results = ask_rung(model, "prompt", rows, task, run, latency_rows=8).results
        assert results.latency_p95.n == 0


class Drifting(ScriptedModel):
    """Answers otherwise whenever it is asked again, as bf16 may in another batch."""

    def answer(self, chats, max_new_tokens):
        answers = super().answer(chats, max_new_tokens)
        return [a.model_copy(update={"text": f"{a.text}{len(self.asked)}"}) for a in answers]


def test_what_a_row_answered_first_stays_when_it_is_timed_again(tmp_path, run):
    task = toy_task(tmp_path, targets={"latency_p95": 1e6})
    model = Drifting(lambda chat: RIGHT)
    first = ask_rung(model, "prompt", toy_rows(9), task, run, latency_rows=0)
    answers = [row.answer for row in read_answers(run, first)]
    timed = ask_rung(model, "prompt", toy_rows(9), task, run, latency_rows=8)
    assert timed.results.latency_p95.n == 6
    assert [row.answer for row in read_answers(run, timed)] == answers
    again = ask_rung(model, "prompt", toy_rows(9), task, run, latency_rows=8)
    assert [row.answer for row in read_answers(run, again)] == answers


class Endpoint(Flaky):
    """Writes down how many requests run side by side; the first request of all is slow."""

    def __init__(self):
        self.chunks: list[int] = []

    def answer(self, chats, max_new_tokens):
        self.chunks.append(len(chats))
        ms = 500 if len(self.chunks) == 1 else 20 * len(chats)
        return [
            Answer(text=RIGHT, tokens_in=5, tokens_out=3, latency_ms=ms, finish="stop")
            for _ in chats
        ]


def test_an_endpoint_is_timed_on_rows_asked_alone_after_a_warm_up_and_no_row_is_asked_twice(
    task, run
):
    model = Endpoint()
    results = ask_rung(model, "prompt", toy_rows(40), task, run, latency_rows=8).results
    assert model.chunks == [1] * 40
    assert results.latency_p95.n == 8 and results.latency_p95.high == 20, (
        "neither the warm-up nor the crowd counts"
    )
    assert results.cost_per_request.value == pytest.approx(0.020 * 0.36 / 3600)
    assert ask_rung(model, "prompt", toy_rows(40), task, run, latency_rows=8).results == results
    assert len(model.chunks) == 40, "nothing is asked again"


def test_latency_can_be_left_out(task, run):
    assert (
        ask_rung(Endpoint(), "prompt", toy_rows(4), task, run, latency_rows=0).results.latency_p95.n
        == 0
    )


def test_rows_are_chosen_from_one_part_and_more_rows_keep_the_earlier_ones(task):
    rows = toy_rows(30, "validation") + toy_rows(30, "test", 30)
    ten, twenty = (
        choose_rows(task, rows, "validation", 10),
        choose_rows(task, list(reversed(rows)), "validation", 20),
    )
    assert ten == twenty[:10] and {e.part for e in twenty} == {"validation"}
    unverified = [rows[0].model_copy(update={"quality": "unverified"})]
    assert choose_rows(task, unverified, "validation") == []


def test_validation_answers_stay_when_the_test_part_is_asked(task, run):
    model = constant(RIGHT)
    first = ask_rung(model, "prompt", toy_rows(3, "validation"), task, run)
    second = ask_rung(model, "prompt", toy_rows(4, "test"), task, run)
    assert first.answers != second.answers
    assert len(read_answers(run, first)) == 3 and len(read_answers(run, second)) == 4


def test_each_rung_says_one_line_when_it_starts_and_one_when_it_is_done(task, run):
    said: list[str] = []
    model = constant(RIGHT)
    ways = [asking("zero_shot", model), asking("rag", model)]
    found = evaluate.ask_ladder(ways, toy_rows(3), session(task, run, model, say=said.append))
    assert [r.name for r in found] == ["zero_shot"]
    assert len(said) == 3 and "rag: left out" in said[0] and "accuracy 1.000 [" in said[2]
    assert "thing number" not in "".join(said)


def test_a_task_judged_by_people_has_an_accuracy_of_no_rows(tmp_path, run):
    task = toy_task(tmp_path, schema=None, scored_fields=[], accuracy_from="human")
    results = ask_rung(constant("x"), "zero_shot", toy_rows(3), task, run).results
    assert results.accuracy.n == 0 and results.format_compliance.value == 1


def test_results_are_plain_json(task, run):
    rung = ask_rung(constant(RIGHT), "zero_shot", toy_rows(3), task, run)
    assert json.loads(store.dumps(rung))["results"]["accuracy"]["value"] == 1
