"""Accuracy without labels: right where questions change, marked as an estimate, a look at most."""

import math

import numpy
import pytest
from registry_toys import evaluation
from test_health import EARLIER, RECENT, check, health, log, rows, serve

from benchmarks import monitor_unrated as simulation
from helpers import store, tasks
from helpers.monitor.confidence import calibrate, estimate_accuracy
from helpers.monitor.watched import certainty_of
from helpers.records import WorkbookError


@pytest.fixture
def task():
    return tasks.load_task("support_triage")


@pytest.fixture
def rng():
    return numpy.random.default_rng(3)


def test_the_estimate_follows_the_accuracy_where_the_questions_change(rng):
    right, sure = simulation.asked(rng, 400, 0.0)
    calibration = calibrate(simulation.answers(right, sure))
    for shift in (-0.5, 0.0, 1.0):
        _, served = simulation.asked(rng, 400, shift)
        estimate = estimate_accuracy(calibration, simulation.certainties(served))
        assert abs(estimate.value - simulation.truth(shift)) < 0.06
        assert estimate.low <= estimate.value <= estimate.high and estimate.n == 400


def test_the_fit_is_the_logistic_regression_that_everybody_knows(rng):
    from sklearn.linear_model import LogisticRegression

    right, sure = simulation.asked(rng, 300, 0.0)
    levels = numpy.array([certainty_of(each) for each in sure]).clip(1 / 400, 399 / 400)
    odds = numpy.log(levels / (1 - levels))[:, None]
    known = LogisticRegression().fit(odds, right).predict_proba(odds)[:, 1]
    ours = calibrate(simulation.answers(right, sure))[0, (levels * 200).round().astype(int)]
    assert numpy.abs(ours - known).max() < 0.005


def test_certainty_tells_sure_answers_apart_and_bears_every_probability():
    order = [certainty_of(math.exp(-nats)) for nats in (0.0, 0.01, 0.1, 1.0, 10.0, 1000.0)]
    assert order == sorted(order, reverse=True) and len(set(order)) == 6
    assert order[0] == 1.0 and certainty_of(0.0) >= 0


@pytest.mark.parametrize(
    ("rows", "confident", "right", "words"),
    [(49, 49, 30, "49 of 49"), (90, 20, 50, "20 of 90"), (90, 90, 88, "2 of the rarer kind")],
    ids=["few rows", "few confidences", "nearly all right"],
)
def test_what_calibrates_nothing_is_said(rng, rows, confident, right, words):
    answers = simulation.answers(numpy.arange(rows) < right, rng.random(rows))
    blind = [row.model_copy(update={"confidence": None}) for row in answers[confident:]]
    with pytest.raises(WorkbookError, match=words):
        calibrate(answers[:confident] + blind)


def served_with(task, earlier, recent, **more):
    """A version that was evaluated, and logs how sure it was: shifts of its questions."""
    serve(task)
    chance = numpy.random.default_rng(5)
    run = store.open_run("r1")
    right, sure = simulation.asked(chance, 110, 0.0)
    store.write_jsonl(run.path("answers/fine_tuned.jsonl"), simulation.answers(right, sure))
    run.save(evaluation("v1"))
    made = rows(EARLIER) + rows(RECENT, seed=2, **more)
    shifts = [earlier] * len(rows(EARLIER)) + [recent] * len(rows(RECENT))
    for row, shift in zip(made, shifts, strict=True):
        row["confidence"] = float(simulation.asked(chance, 1, shift)[1][0])
    log(task, made)


def test_quiet_weeks_have_an_estimate_with_n_interval_and_baseline(task):
    served_with(task, 0.0, 0.0)
    one = check(health(task), "estimated_accuracy")
    assert one.verdict == "pass" and one.evidence.startswith("ESTIMATE")
    assert one.estimate.n == 105 and one.estimate.low < one.estimate.value < one.estimate.high
    assert one.threshold == 0.5  # what 04 measured
    assert "no concept drift is assumed" in one.evidence


def test_harder_questions_ask_for_a_look_and_never_for_a_retrain(task):
    served_with(task, 0.0, 2.5)
    result = health(task)
    one = check(result, "estimated_accuracy")
    assert (one.verdict, one.severity, result.verdict) == ("fail", "warning", "watch")
    assert one.remedy and one.estimate.value < 0.5


def test_a_log_without_confidence_says_what_is_missing_and_fails_nothing(task):
    serve(task)
    log(task, rows(EARLIER) + rows(RECENT, seed=2))
    result = health(task)
    one = check(result, "estimated_accuracy")
    assert (one.verdict, result.verdict) == ("undecided", "ok")
    assert "the engine gives no logprobs" in one.evidence


def test_what_is_no_probability_in_a_log_is_passed_over(task):
    serve(task)
    made = rows(EARLIER) + rows(RECENT, seed=2)
    for row, odd in zip(made, ["high", 87, -0.1, None, [0.5], True] * len(made), strict=False):
        row["confidence"] = odd
    log(task, made)
    result = health(task)
    assert result.verdict == "ok" and not result.unreadable
