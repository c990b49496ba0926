"""Asking about more rows: as few as decide, and all looks together err as rarely as one."""

from __future__ import annotations

import random

import pytest
from evaluate_toys import RIGHT, WRONG, constant, session, toy_rows, toy_task

from helpers import evaluate
from helpers.evaluate.ladder import at_look, next_look, rows_to_ask
from helpers.records import Asking, Estimate, EvalResults, RungResult


def test_an_undecided_rung_is_asked_more_and_only_as_much_as_that_takes(tmp_path, run):
    """60 of 60 right cannot show 95%; 110 rows can, at the price of 50 more questions."""
    task = toy_task(tmp_path, targets={"accuracy": 0.95, "format_compliance": 0.95})
    model, rows = constant(RIGHT), toy_rows(300, "validation")
    where = session(task, run, model, latency_rows=0)
    ways = evaluate.ways_to_ask(["zero_shot", "prompt"], Asking(), task, model)
    measured = evaluate.ask_ladder(ways, rows[:60], where)
    assert rows_to_ask(task, measured[0], 300) == 110
    assert rows_to_ask(task, measured[0], 112) == 112, "nearly all is all"
    more = evaluate.ask_more(measured, rows, where, 300)
    assert [rung.n for rung in more] == [110, 60], "the cheapest is enough, so the next waits"
    assert more[0].results.accuracy.low >= 0.95
    assert len(model.asked) == 60 + 60 + 50, "answers are remembered"
    assert evaluate.ask_more(measured, rows, where, 0) == measured


def test_a_rung_that_surely_misses_is_not_asked_again(tmp_path, run):
    task = toy_task(tmp_path, targets={"accuracy": 0.95})
    model, rows = constant(WRONG), toy_rows(90, "validation")
    where = session(task, run, model, latency_rows=0)
    ways = evaluate.ways_to_ask(["prompt"], Asking(), task, model)
    measured = evaluate.ask_ladder(ways, rows[:20], where)
    assert [rung.n for rung in evaluate.ask_more(measured, rows, where, 300)] == [20]
    assert len(model.asked) == 20


def looks_of(task, hits):
    """The looks at a rung whose true answers are `hits`, as asking would go on."""
    most = len(hits)

    def asked(n):
        share = evaluate.proportion(hits[:n])
        return toy_rung(share, n)

    result = at_look(task, asked(60), most)
    looks = [result]
    while (look := next_look(task, None, {"prompt": result}, most)) is not None:
        result = at_look(task, asked(look.n), most, result)
        looks.append(result)
    return looks


def toy_rung(share, n):
    nothing = Estimate(value=0.0, low=0.0, high=0.0, n=0)
    rest = dict.fromkeys(("latency_p50", "latency_p95", "cost_per_request"), nothing)
    form = evaluate.proportion([1.0] * n)
    return RungResult(
        name="prompt",
        model="toy",
        part="validation",
        n=n,
        results=EvalResults(accuracy=share, format_compliance=form, **rest),
        tokens_per_request=1.0,
        answers="",
        asking=Asking().for_rung("prompt", "toy"),
    )


def test_all_looks_together_are_wrong_as_rarely_as_one(tmp_path):
    """At the target itself: good enough by mistake in at most 2.5%, however often it is asked."""
    task = toy_task(tmp_path, targets={"accuracy": 0.8})
    rng = random.Random(3)
    passes = 0
    for _ in range(1000):
        looks = looks_of(task, [float(rng.random() < 0.8) for _ in range(300)])
        passes += evaluate.check_rung(task, looks[-1])["accuracy"].verdict == "pass"
        assert sum(look.alpha for look in looks) <= 0.025 + 1e-9
    assert passes <= 35, "2.5% of 1,000 and two standard errors"


def test_a_look_that_cannot_show_the_target_uses_up_nothing(tmp_path):
    task = toy_task(tmp_path, targets={"accuracy": 0.95})
    looks = looks_of(task, [1.0] * 300)
    assert looks[0].alpha == 0.0 and looks[-1].n < 300
    assert evaluate.check_rung(task, looks[-1])["accuracy"].verdict == "pass"
    only = looks_of(task, [1.0] * 60)
    assert [look.alpha for look in only] == [0.025], "all rows there are: the usual interval"


@pytest.mark.parametrize(("hits", "n"), [(60, 60), (54, 60), (0, 60), (150, 300), (1, 300)])
def test_surer_bounds_are_wilsons_and_wider(hits, n):
    share = evaluate.proportion([1.0] * hits + [0.0] * (n - hits))
    statistics = evaluate.statistics
    again = statistics.surer(share, 0.01)
    expected = statistics.wilson(hits, n, statistics.upper_normal(0.01))
    assert again == pytest.approx(expected) and statistics.surer(share, 0.025) == (
        share.low,
        share.high,
    )


def test_where_people_decide_there_is_one_look_with_the_whole_error(tmp_path, run):
    task = toy_task(tmp_path, accuracy_from="human", targets={"format_compliance": 0.95})
    model, rows = constant(RIGHT), toy_rows(90, "validation")
    where = session(task, run, model, latency_rows=0)
    measured = evaluate.ask_ladder([Asking().for_rung("prompt", model.spec)], rows[:20], where)
    assert evaluate.ask_more(measured, rows, where, 300) == measured
    assert measured[0].alpha == 0.025
