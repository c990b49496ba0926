from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import record_toys
from evaluate_toys import (
    BROKEN,
    RIGHT,
    constant,
    in_file,
    measure,
    right_where,
    scored_rows,
    toy_rows,
    toy_task,
    trained_toy,
)

from helpers import store
from helpers.evaluate import compare_results, statistics
from helpers.evaluate.evaluation import count_attempts, record_attempt

START = datetime(2026, 1, 4, tzinfo=UTC)


pytestmark = pytest.mark.usefixtures("prints")


def lines(weeks, rows="same"):
    return [
        {"key": f"{w}", "rows": rows, "n": 118, "at": (START + timedelta(weeks=w)).isoformat()}
        for w in weeks
    ]


def test_a_year_of_attempts_stays_within_five_percent_however_often_one_tries():
    alphas = [statistics.attempt_alpha(k) for k in range(1, 5001)]
    assert alphas[0] == statistics.TAIL and alphas == sorted(alphas, reverse=True)
    assert sum(alphas[:52]) < 0.045 and sum(alphas) < 0.05


def test_attempts_older_than_a_year_give_their_budget_back():
    known = lines(range(60))
    assert count_attempts(known[:1], "0").number == 1
    assert count_attempts(known[:10], "9").number == 10
    assert count_attempts(known, "59").number == 53, "52 weeks before it, and itself"


def test_an_old_attempt_keeps_its_number_whatever_came_later():
    known = lines(range(9))
    assert count_attempts(known, "3") == count_attempts(known[:4], "3")


def test_fresh_rows_are_due_when_only_much_larger_gains_could_be_shown():
    assert count_attempts(lines(range(1)), "0").fresh_rows_needed == 0
    late = count_attempts(lines(range(40)), "39")
    assert late.fresh_rows_needed > 100 and late.looks_at_these_rows == 40
    assert late.detectable_difference > 1.5 * statistics.detectable_difference(118)


def test_the_same_model_on_the_same_rows_is_one_attempt_and_another_is_the_next(task, run):
    model, rows = constant(RIGHT, "one"), toy_rows(20)
    first = record_attempt(task, run, model, rows, "v1", in_file)
    assert record_attempt(task, store.open_run("t2"), model, rows, "v2", in_file) == first
    assert record_attempt(task, run, constant(RIGHT, "two"), rows, "v3", in_file).number == 2
    assert record_attempt(task, run, model, toy_rows(19), "v4", in_file).looks_at_these_rows == 1
    assert len(store.read_jsonl(store.home() / "attempts" / "toy.jsonl")) == 3


def test_a_later_attempt_has_to_be_surer(task):
    ours, theirs = (
        scored_rows([1] * 12 + [0] * 3 + [1] * 85),
        scored_rows([0] * 12 + [1] * 3 + [1] * 85),
    )
    first = compare_results(ours, theirs, task)["accuracy"]
    late = compare_results(ours, theirs, task, alpha=statistics.attempt_alpha(20))["accuracy"]
    assert (first.verdict, late.verdict) == ("pass", "inconclusive")
    assert first.difference == late.difference, "the interval that is shown stays the 95% one"


def test_the_reasons_of_a_later_attempt_name_it_and_the_rows_that_are_due(task, run):
    record_attempt(task, run, constant(RIGHT, "before"), toy_rows(100), "v0", in_file)
    base = right_where(lambda i: i < 40, "b", BROKEN)
    found = measure(task, run, constant(RIGHT, "t"), base, toy_rows(100))
    assert found.verdict == "pass" and found.attempt.number == 2
    assert any("attempt 2 of the past year" in reason for reason in found.reasons)


def test_the_version_in_production_is_the_second_opponent(task, run, monkeypatch):
    serving = record_toys.in_production("old-1")
    way = trained_toy().asking.model_copy(update={"model": "old-1", "max_new_tokens": 60})
    store.open_run("old").save(trained_toy(version="old-1", asking=way))
    perfect, base = constant(RIGHT, "t"), right_where(lambda i: i < 40, "b", BROKEN)
    old = right_where(lambda i: i < 99, "old")
    monkeypatch.setattr("helpers.evaluate.evaluation.load_models", lambda card: (base, old))
    found = measure(task, run, perfect, base, toy_rows(100), production=serving)
    assert found.rung("production").asking == way and old.limits == {60}, "as it was trained"
    assert (
        found.comparison["accuracy"].verdict == "pass"
        and found.against["production"]["accuracy"].gained == 1
    )
    assert found.verdict == "inconclusive" and found.production == "old-1"
    assert any(
        "tuned minus production" in reason and "more rows would decide" in reason
        for reason in found.reasons
    )


def test_an_incumbent_has_to_be_beaten_too(tmp_path, run):
    base, today = right_where(lambda i: i < 40, "b", BROKEN), constant(RIGHT, "today")
    task = toy_task(tmp_path, incumbent={"model": "today"})
    found = measure(task, run, constant(RIGHT, "t"), base, toy_rows(100), today)
    assert (
        found.comparison["accuracy"].verdict == "pass"
        and found.against["incumbent"]["accuracy"].verdict == "inconclusive"
    )
    assert found.verdict == "inconclusive" and found.production == ""


def test_a_version_in_production_that_is_gone_makes_the_verdict_inconclusive_and_is_named(
    task, run
):
    serving = record_toys.in_production("gone-1", run_id="gone")
    base = right_where(lambda i: i < 40, "b", BROKEN)
    found = measure(task, run, constant(RIGHT, "t"), base, toy_rows(100), production=serving)
    assert found.verdict == "inconclusive" and any(
        "gone-1, which serves now, could not be asked" in r for r in found.reasons
    )
    assert "ratings" not in " ".join(found.reasons)
