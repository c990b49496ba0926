"""The evidence: silent in quiet times however often one looks, and quick when something falls."""

import numpy
import pytest

from helpers import monitor
from helpers.monitor.evidence import REFERENCE_DAYS, likeliest_start, log_evidence_below

BINARY = numpy.array([0.0, 1.0])
STAKES = (0.3, 0.6)


def days(chance, series, good):
    """Counts of 30 answers a day, of which a share `good[day]` is in format."""
    hits = chance.binomial(30, numpy.asarray(good), (series, len(good)))
    return numpy.stack([30 - hits, hits], axis=-1).astype(float)


def test_quiet_years_seldom_gather_evidence_though_looked_at_daily():
    counts = days(numpy.random.default_rng(1), 200, [0.95] * 365)
    highest = monitor.log_evidence(BINARY, counts, STAKES).max(axis=1)
    assert (highest >= numpy.log(1 / 0.03)).mean() <= 0.03


def test_a_fall_is_found_within_days_and_dated():
    change = REFERENCE_DAYS + 20
    counts = days(numpy.random.default_rng(2), 40, [0.95] * change + [0.8] * 10)
    found = monitor.log_evidence(BINARY, counts, STAKES)[:, -1] >= numpy.log(1 / 0.03)
    assert found.all()
    starts = [likeliest_start(BINARY, one, STAKES) for one in counts]
    assert abs(numpy.median(starts) - change) <= 2


def test_a_slow_decline_does_not_take_the_reference_along():
    slow = [0.98] * REFERENCE_DAYS + [0.98 - 0.15 * day / 60 for day in range(40)]
    counts = days(numpy.random.default_rng(3), 40, slow)
    assert (monitor.log_evidence(BINARY, counts, STAKES)[:, -1] >= numpy.log(1 / 0.03)).all()


def test_hourly_looks_see_at_night_what_daily_looks_see():
    chance = numpy.random.default_rng(4)
    hits = chance.binomial(2, 0.9, (3, 120 * 24))
    hourly = numpy.stack([2 - hits, hits], axis=-1).astype(float)
    daily = hourly.reshape(3, 120, 24, 2).sum(axis=2)
    at_night = monitor.log_evidence(BINARY, hourly, STAKES, looks=24)[:, 23::24]
    assert at_night == pytest.approx(monitor.log_evidence(BINARY, daily, STAKES))


def test_without_a_reference_there_is_no_evidence():
    counts = days(numpy.random.default_rng(5), 2, [0.1] * 7)
    assert numpy.isneginf(monitor.log_evidence(BINARY, counts, STAKES)).all()


def test_a_promise_is_held_against_a_known_mean_night_by_night():
    counts = days(numpy.random.default_rng(6), 200, [0.9] * 28)
    quiet = [log_evidence_below(BINARY, one, 0.9)[-1] >= numpy.log(20) for one in counts]
    assert sum(quiet) <= 10  # 5% of 200
    bad = days(numpy.random.default_rng(7), 40, [0.6] * 3)
    assert all(log_evidence_below(BINARY, one, 0.9)[-1] >= numpy.log(200) for one in bad)


@pytest.mark.parametrize("floor", [0.0, 0.5, 1.0])
def test_good_days_are_no_evidence_against_any_promise(floor):
    counts = numpy.array([[0.0, 30.0]] * 28)
    assert log_evidence_below(BINARY, counts, floor)[-1] == pytest.approx(0.0)
