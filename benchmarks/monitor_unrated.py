"""What 06 says without a single rating, where the truth is known: estimated accuracy, and replays.

python -m benchmarks.monitor --unrated [--json] [--years 200] [--seed S]

**Estimated accuracy.** Questions have a difficulty z ~ N(shift, 1); an answer is right with
probability 1 / (1 + exp(1.5 z - 2.2)), and the model's surprise at it is exp(0.9 z - 2.2) nats:
all that makes a question hard can be seen (`shift`); or half of its spread is noise (`noisy`:
times exp(0.5 N(0, 1))), so that harder questions are seen in part. A version is calibrated on 118
test rows (shift 0), then asked 210 questions of a week whose shift is drawn from -0.5 to 1.25. The
estimate is held against the true accuracy on such questions, beside two others: who believes the
evaluation, and CBPE with isotonic calibration. And one world in which it must fail: the same
questions, as sure as ever, but 10 points fewer are right, because the truth has changed.

**Replays.** 20 of 118 test rows a night, one after the other, of which 04 had 85% right. Quiet: an
answer turns to the other side in 1% of the nights (an engine that rounds otherwise than 04 did),
or so often that exactly the margin of 2 points is lost. Then a served model that has lost 10
points, or 5, of its rows for good.

**All together.** The quiet years in which anything at all that 06 watches asks for a look: what
needs ratings or formats (benchmarks.monitor), the estimate, and replays, drawn side by side.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import Any

import numpy as np

from benchmarks.monitor import (
    AFTER,
    REFERENCE_DAYS,
    YEAR,
    alarms,
    draw,
    figure,
    first_look,
    nights_after,
    promise_broken,
    quiet,
    volume_alarms,
)
from helpers import store
from helpers.evaluate.statistics import wilson
from helpers.monitor import confidence
from helpers.monitor.evidence import likeliest_start, log_evidence, log_evidence_of_any_start
from helpers.monitor.replay import BUDGET, judge_replays
from helpers.monitor.watched import STEPS, certainty_of
from helpers.records import AnswerRow, Replay

TESTED, WINDOW = 118, 210
LOWEST, HIGHEST = -0.5, 1.25
ROWS = 20  # asked again a night
RIGHT = 0.85
MARGIN = 0.02
BATCH = 25  # years at a time


def chance_of_right(z: np.ndarray) -> np.ndarray:
    """By difficulty."""
    return 1 / (1 + np.exp(1.5 * z - 2.2))


def asked(
    rng: np.random.Generator, n: int, shift: float, noise: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """(whether right, confidence) of n answers."""
    z = rng.normal(shift, 1, n)
    surprise = np.exp(0.9 * z - 2.2 + noise * rng.normal(size=n))
    return rng.random(n) < chance_of_right(z), np.exp(-surprise)


def truth(shift: float) -> float:
    """The accuracy on questions of such a shift."""
    z = np.linspace(shift - 6, shift + 6, 2001)
    weights = np.exp(-0.5 * (z - shift) ** 2)
    return float(chance_of_right(z) @ weights / weights.sum())


def answers(right: np.ndarray, sure: np.ndarray) -> list[AnswerRow]:
    """As 04 writes them down."""
    rows = []
    for number, (is_right, confidence_) in enumerate(zip(right, sure, strict=True)):
        rows.append(
            AnswerRow(
                id=str(number), group=str(number), answer="", scores={"accuracy": float(is_right)},
                latency_ms=1.0, tokens_in=1, tokens_out=1, confidence=float(confidence_),
            )
        )  # fmt: skip
    return rows


def certainties(sure: np.ndarray) -> Counter[float]:
    """As 06 counts them."""
    return Counter(certainty_of(float(each)) for each in sure)


def isotonic(right: np.ndarray, sure: np.ndarray, served: np.ndarray) -> float:
    """CBPE with another calibration, for comparison."""
    from sklearn.isotonic import IsotonicRegression

    fit = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(sure, right)
    return float(fit.predict(served).mean())


def estimated(rng: np.random.Generator, windows: int) -> dict[str, Any]:
    """Where the confidence tells all of the difficulty, and where it tells a part."""
    return estimated_in(rng, windows, "shift", 0.0) | estimated_in(rng, windows, "noisy", 0.5)


def estimated_in(
    rng: np.random.Generator, windows: int, world: str, noise: float
) -> dict[str, Any]:
    """How far the estimate is from the truth, and how often its interval holds it."""
    errors: dict[str, list[float]] = {"ours": [], "evaluation": [], "isotonic": [], "drift": []}
    held, widths = [], []
    while len(held) < windows:
        right, sure = asked(rng, TESTED, 0.0, noise)
        shift = rng.uniform(LOWEST, HIGHEST)
        _, served = asked(rng, WINDOW, shift, noise)
        calibration = confidence.calibrate(answers(right, sure))
        ours = confidence.estimate_accuracy(calibration, certainties(served))
        true = truth(shift)
        held.append(ours.low <= true <= ours.high)
        widths.append(ours.high - ours.low)
        errors["ours"].append(abs(ours.value - true))
        errors["evaluation"].append(abs(right.mean() - true))
        errors["isotonic"].append(abs(isotonic(right, sure, served) - true))
        errors["drift"].append(abs(ours.value - (true - 0.1)))
    low, high = wilson(float(sum(held)), len(held))
    points = {name: 100 * np.array(each) for name, each in errors.items()}
    mean = {name: float(each.mean()) for name, each in points.items()}
    error = figure(points["ours"], "lower", "points of accuracy, median", "count")
    error |= {"mean": mean["ours"], "p90": float(np.quantile(points["ours"], 0.9))}
    error |= {"evaluation": mean["evaluation"], "isotonic": mean["isotonic"]}
    drift = figure(points["drift"], "lower", "points of accuracy, median", "count")
    return {
        f"estimate_error_{world}": error,
        f"estimate_error_{world}_and_truth_changed": drift,
        f"estimate_coverage_{world}": {
            "kind": "rate", "value": float(np.mean(held)), "low": low, "high": high, "n": len(held),
            "unit": "share of windows whose 95% interval holds the truth", "better": "higher",
            "width": 100 * float(np.mean(widths)),
        },
    }  # fmt: skip


def estimate_years(
    rng: np.random.Generator, years: int, requests: int = 30
) -> tuple[dict[str, Any], np.ndarray]:
    """False looks of quiet years by the estimate, and nights until a shift of 10 points is told.

    And which of the quiet years had one.
    """
    false, nights = [], []
    watched = confidence.ESTIMATED
    for _ in range(0, years, BATCH):
        right, sure = asked(rng, TESTED, 0.0)
        levels = confidence.calibrate(answers(right, sure))[0]
        for change in (YEAR, int(rng.integers(REFERENCE_DAYS + 7, REFERENCE_DAYS + 63))):
            days = min(YEAR, change + AFTER)
            counts = np.zeros((BATCH, days, STEPS + 1))
            for day in range(days):
                served = asked(rng, BATCH * requests, 0.53 if day >= change else 0.0)[1]
                for number, each in enumerate(np.split(served, BATCH)):
                    for certainty, count in certainties(each).items():
                        counts[number, day, round(certainty * STEPS)] += count
            evidence = log_evidence(levels, counts, watched.stakes)
            enough = evidence >= np.log(1 / watched.budget)
            first = np.full(BATCH, -1)
            for number, night in zip(*np.nonzero(enough), strict=True):
                if first[number] < 0:
                    so_far = counts[number, : night + 1]
                    start = likeliest_start(levels, so_far, watched.stakes)
                    before = so_far[: min(start, REFERENCE_DAYS)].sum(axis=0)
                    now = so_far[start:].sum(axis=0)
                    fall = levels @ before / before.sum() - levels @ now / now.sum()
                    first[number] = night if fall >= watched.matters else -1
            if change == YEAR:
                false.append(first >= 0)
            else:
                nights.append(nights_after(first, change))
    told, wrong = np.concatenate(nights), np.concatenate(false)
    return {
        "false_estimate_30": figure(wrong, "lower", "share of quiet years", "rate"),
        "delay_estimate_ten_30": figure(told, "lower", "days", "count")
        | {"found": float((told < AFTER).mean())},
    }, wrong


def night(rng: np.random.Generator, before: np.ndarray, lost: np.ndarray, asks: np.ndarray,
          flips: float, turns: float) -> Replay:  # fmt: skip
    """What one night's rows say: lost for good, or rounded to the other side."""
    now = {}
    for row in asks:
        chance = flips if before[row] else turns
        turned = rng.random() < chance
        now[str(row)] = float((before[row] and not lost[row]) != turned)
    told = {str(row): float(before[row]) for row in asks}
    return Replay(version="v1", at=store.now(), place="", before=told, now=now)


def replay_year(
    rng: np.random.Generator, flips: float, turns: float, change: int, points: float
) -> int:
    """The first night at which the check fails; -1: never."""
    before = rng.permutation(TESTED) < round(RIGHT * TESTED)
    gone = np.zeros(TESTED, bool)
    right = np.flatnonzero(before)
    gone[rng.choice(right, round(points * TESTED), replace=False)] = True
    nights: list[Replay] = []
    counts = np.zeros((YEAR, 3))
    values = np.array([0.0, 0.5, 1.0])
    for day in range(min(YEAR, change + AFTER)):
        asks = np.arange(day * ROWS, (day + 1) * ROWS) % TESTED
        lost = gone if day >= change else np.zeros(TESTED, bool)
        nights.append(night(rng, before, lost, asks, flips, turns))
        for name, score in nights[-1].now.items():
            counts[day, round(1 + score - nights[-1].before[name])] += 1
        if not counts[day, 0]:
            continue  # without a loss the capital does not rise to what is needed
        capital, _ = log_evidence_of_any_start(values, counts[: day + 1], (1 - MARGIN) / 2)
        enough = capital >= -np.log(BUDGET)
        if enough and judge_replays(nights, MARGIN).verdict == "fail":
            return day
    return -1


def replays(rng: np.random.Generator, years: int) -> tuple[dict[str, Any], np.ndarray]:
    """False alarms of quiet years, and nights until lost points are told.

    And which of the years had one in which exactly the margin was lost.
    """
    out: dict[str, Any] = {}
    worst = MARGIN / RIGHT  # so many right rows turn wrong, and none the other way
    for name, flips, turns in (("rounding", 0.01, 0.01), ("margin", worst, 0.0)):
        false = [replay_year(rng, flips, turns, YEAR, 0.0) >= 0 for _ in range(years)]
        out[f"replay_false_{name}"] = figure(
            np.array(false), "lower", "share of quiet years", "rate"
        )
    for name, points in (("ten", 0.1), ("five", 0.05)):
        nights = []
        for _ in range(years):
            change = int(rng.integers(0, 200))
            first = replay_year(rng, 0.01, 0.01, change, points)
            nights.append(nights_after(np.array([first]), change)[0])
        told = np.array(nights)
        out[f"replay_delay_{name}"] = figure(told, "lower", "nights", "count") | {
            "found": float((told < AFTER).mean())
        }
    return out, np.array(false)


def watched_years(rng: np.random.Generator, years: int, requests: int) -> np.ndarray:
    """Which quiet years had a false look by what needs ratings or formats, looked at nightly."""
    wrong = []
    for _ in range(0, years, BATCH):
        counts = draw(rng, quiet(YEAR, requests), BATCH)
        rated, formats = promise_broken(rng, quiet(28, requests), BATCH)
        watch = (first_look(alarms(counts), False) >= 0) | (rated >= 0) | (formats >= 0)
        wrong.append(watch | volume_alarms(counts).any(axis=1))
    return np.concatenate(wrong)


def compare(seed: int, years: int) -> dict[str, Any]:
    """All of it."""
    rng, started = np.random.default_rng(seed), time.monotonic()
    out = estimated(rng, years)
    quiet_ones, by_estimate = estimate_years(rng, years)
    asked_again, by_replay = replays(rng, years)
    out |= quiet_ones | asked_again
    for requests in (5, 30, 200):
        wrong = watched_years(rng, len(by_estimate), requests) | by_estimate
        wrong[: len(by_replay)] |= by_replay
        name = f"false_watch_with_unrated_{requests}"
        out[name] = figure(wrong, "lower", "share of quiet years", "rate")
        print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    return out
