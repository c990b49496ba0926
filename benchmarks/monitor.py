"""How often 06 cries wolf in a quiet year, and after how many days it finds a real fall.

python -m benchmarks.monitor [--json] [--years N] [--seed S]
python -m benchmarks.monitor --log 1000000 [--json]     what 06 costs on a year of so many rows
python -m benchmarks.monitor --unrated                  only what needs no ratings (monitor_unrated)
python -m benchmarks.monitor --peers 40 [--install]     only Evidently and NannyML (monitor_peers)

Traffic is drawn as counts per day (ratings as in simulate_logs: `SCORES`), with one seed, and
judged by 06's own functions and budgets; that whole checks say the same as the counts is tried
first (`check_shortcut`). Beside it stands the plain monitor that many teams write: the mean of the
last seven days against the first four weeks, alarm at z < -3.5; and the same monitor with the z
at which it has three times the false alarms that 06 had, looked at nightly.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from helpers import store
from helpers.evaluate import proportion
from helpers.evaluate.statistics import wilson
from helpers.monitor.checks import (
    PROMISE_BUDGET,
    TODAY,
    Served,
    change_checks,
    slice_of,
    volume_check,
)
from helpers.monitor.evidence import (
    REFERENCE_DAYS,
    likeliest_start,
    log_evidence,
    log_evidence_below,
)
from helpers.monitor.watched import SLICED, WATCHED, Watched

SEED = 20261128
YEAR = 365
RATED = 0.3
SLICES = 5  # of equal size: one of them is 20%
RIGHT, FORMAT = 0.9, 0.98  # quiet shares of right answers, and of answers in format
SCORES = {True: (1, 2, 6, 33, 58), False: (47, 34, 14, 4.5, 0.5)}  # ratings 1 to 5, in percent
STARS = np.arange(5) / 4
HITS = np.array([0.0, 1.0])
GRID = np.arange(11) / 10
WEEK = np.array([1.16] * 5 + [0.6] * 2)  # requests by weekday
PLAIN_Z = 3.5
AFTER = 130  # nights within which a fall has to be found
MORE = ("found", "peer", "ours", "ours_found", "mean", "p90", "evaluation", "isotonic", "width")
BY_NAME = {watched.name: watched for watched in WATCHED}
POINTS = 4 * (np.array(SCORES[True]) - np.array(SCORES[False])) @ STARS / 100  # right minus wrong


@dataclass(frozen=True)
class Traffic:
    """What a day is like: shares of right answers by slice, of answers in format, of errors."""

    right: np.ndarray  # (days, slices)
    good_format: np.ndarray  # (days,)
    requests: float  # a day


def quiet(days: int, requests: float) -> Traffic:
    """Nothing changes."""
    return Traffic(np.full((days, SLICES), RIGHT), np.full(days, FORMAT), requests)


@dataclass(frozen=True)
class Cell:
    """A change: what it does to the share of right answers, and of good formats, on day t."""

    name: str
    right: Callable[[int], float] = lambda t: 0.0  # what is taken from it
    good_format: Callable[[int], float] = lambda t: 0.0
    only_slice: bool = False


CELLS = (
    Cell("format", good_format=lambda t: 0.08),
    Cell("ratings_half", right=lambda t: 0.5 / POINTS),
    Cell("ratings_one", right=lambda t: 1.0 / POINTS),
    Cell("slice", right=lambda t: RIGHT, only_slice=True),
    Cell("slow", right=lambda t: min(1.0, t / 60) / POINTS),
    Cell("slow_format", good_format=lambda t: 0.15 * min(1.0, t / 60)),
)


def changed(cell: Cell, change: int, requests: float) -> Traffic:
    """Quiet days until `change`, then the cell's."""
    traffic = quiet(change + AFTER, requests)
    for day in range(change, change + AFTER):
        taken = cell.right(day - change + 1)
        traffic.right[day, : 1 if cell.only_slice else SLICES] -= taken
        traffic.good_format[day] -= cell.good_format(day - change + 1)
    return traffic


def stars(right: np.ndarray) -> np.ndarray:
    """Shares of the ratings 1 to 5 where such a share of answers is right."""
    good, bad = np.array(SCORES[True]) / 100, np.array(SCORES[False]) / 100
    return right[..., None] * good + (1 - right[..., None]) * bad


def draw(rng: np.random.Generator, traffic: Traffic, runs: int, looks: int = 1) -> dict[str, Any]:
    """Counts by quantity and slice, (runs, days * looks, values); `values_of` has the values."""
    days = len(traffic.good_format)
    rate = traffic.requests / SLICES / looks * np.repeat(WEEK[np.arange(days) % 7], looks)
    right = np.repeat(traffic.right, looks, axis=0)
    good_format = np.repeat(traffic.good_format, looks)
    counts: dict[str, Any] = {}
    total = np.zeros((runs, days * looks), int)
    for number in range(SLICES):
        n = rng.poisson(rate, (runs, days * looks))
        total += n
        hits = rng.binomial(n, good_format)
        rated = rng.binomial(n, RATED)
        part = f", slice = {number}"
        counts[f"format_compliance{part}"] = np.stack([n - hits, hits], axis=-1).astype(float)
        drawn = rng.multinomial(rated, stars(right[:, number]))
        counts[f"feedback_mean{part}"] = drawn.astype(float)
    for name in SLICED:
        counts[name] = sum(counts[f"{name}, slice = {number}"] for number in range(SLICES))
    rated = counts["feedback_mean"].sum(axis=-1)
    counts["feedback_rate"] = np.stack([total - rated, rated], axis=-1)
    shares = {"error_rate": 0.012, "refusal_rate": 0.005, "correction_rate": 0.01}
    shares |= {"latency_p95": 0.03, "empty_rate": 0.001}
    for name, share in shares.items():
        hits = rng.binomial(total, share)
        counts[name] = np.stack([total - hits, hits], axis=-1).astype(float)
    lengths = np.exp(-0.5 * ((GRID - 0.5) / 0.1) ** 2)
    counts["answer_length"] = rng.multinomial(total, lengths / lengths.sum()).astype(float)
    words = np.array([0.8, 0.15, 0.04, 0.01, *[0.0] * 7])
    counts["new_words"] = rng.multinomial(total, words).astype(float)
    return counts


def values_of(name: str) -> np.ndarray:
    """The values whose counts `draw` gives."""
    if name.startswith("feedback_mean"):
        return STARS
    return GRID if name in ("answer_length", "new_words") else HITS


def judged_names() -> list[tuple[str, Watched]]:
    """Everything that is tested, with its share of the year's budget."""
    names = [(watched.name, watched) for watched in WATCHED]
    slices = [f"{name}, slice = {number}" for name in SLICED for number in range(SLICES)]
    for name in slices:
        whole = BY_NAME[name.partition(",")[0]]
        names.append((name, slice_of(whole, len(slices))))
    return names


def alarms(counts: dict[str, Any], looks: int = 1) -> dict[str, np.ndarray]:
    """By quantity: at which looks it fails, (runs, days * looks); as `judge_series` decides."""
    failing = {}
    for name, watched in judged_names():
        values = values_of(name)
        fails = np.zeros(counts[name].shape[:2], bool)
        for sign in watched.signs:
            turned = values if sign > 0 else 1 - values
            evidence = log_evidence(turned, counts[name], watched.stakes, looks)
            needed = np.full(evidence.shape[1], np.log(len(watched.signs) / watched.budget))
            needed += np.log(TODAY) * (np.arange(1, len(needed) + 1) % looks > 0)
            enough = evidence >= needed
            for run in np.flatnonzero(enough.any(axis=1)):
                fails[run] |= matters(turned, counts[name][run], enough[run], watched, looks)
        failing[name] = fails
    return failing


def matters(
    values: np.ndarray, counts: np.ndarray, enough: np.ndarray, watched: Watched, looks: int
) -> np.ndarray:
    """At which looks with enough evidence the change is large enough; the first such look tells."""
    fails = np.zeros(len(enough), bool)
    for look in np.flatnonzero(enough):
        last_day = look // looks
        whole = counts[: last_day * looks].reshape(last_day, looks, -1).sum(axis=1)
        days = np.concatenate([whole, counts[last_day * looks : look + 1].sum(axis=0)[None]])
        start = likeliest_start(values, days, watched.stakes)
        before, now = days[: min(start, REFERENCE_DAYS)].sum(axis=0), days[start:].sum(axis=0)
        fall = before @ values / max(1, before.sum()) - now @ values / max(1, now.sum())
        if fall >= watched.matters:
            fails[look] = True
            return fails
    return fails


def first_look(failing: dict[str, np.ndarray], critical: bool, every: int = 1) -> np.ndarray:
    """The first look (of every so many) at which something fails, by run; -1: never."""
    fails = None
    for name, watched in judged_names():
        if watched.severity == "critical" or not critical:
            fails = failing[name] if fails is None else fails | failing[name]
    seen = np.logical_or.accumulate(fails, axis=1)[:, every - 1 :: every]
    return np.where(seen.any(axis=1), seen.argmax(axis=1), -1)


def volume_alarms(counts: dict[str, Any]) -> np.ndarray:
    """At which nights `volume_check` fails; asked only where a quick look says that it may."""
    totals = counts["error_rate"].sum(axis=-1)
    fails = np.zeros(totals.shape, bool)
    for run, daily in enumerate(totals):
        for night in range(13, len(daily)):
            window = daily[night - 6 : night + 1].sum()
            if window >= 7 * daily[: night - 6].mean() / 2 and window >= 5:
                continue
            start = date(2026, 1, 5)
            days = {
                start + timedelta(days=day): {"error_rate": Counter({0.0: int(n)})}
                for day, n in enumerate(daily[: night + 1])
            }
            served = Served(days, start + timedelta(days=night), window_days=7)
            fails[run, night] = volume_check(served).verdict == "fail"
    return fails


def promise_broken(
    rng: np.random.Generator, traffic: Traffic, runs: int
) -> tuple[np.ndarray, np.ndarray]:
    """By run: nights until a new version's format, and ratings, break their promise; -1: never.

    As `_promise` decides, by night; the evaluation has 110 rows, the version before was quiet.
    """
    nights = np.full((2, runs), -1)
    counts = draw(rng, traffic, runs)
    before = draw(rng, quiet(56, traffic.requests), runs)["feedback_mean"].sum(axis=1)
    for run in range(runs):
        tested = [1.0] * int(rng.binomial(110, FORMAT))
        tested += [0.0] * (110 - len(tested))
        rated = before[run] / before[run].sum()
        spread = np.sqrt(rated @ STARS**2 - (rated @ STARS) ** 2)
        low = rated @ STARS - 1.96 * spread / np.sqrt(before[run].sum())
        floors = (
            proportion(tested).low - BY_NAME["format_compliance"].matters,
            low - BY_NAME["feedback_mean"].matters,
        )
        for row, (name, floor) in enumerate(zip(SLICED, floors, strict=True)):
            evidence = log_evidence_below(values_of(name), counts[name][run], floor)
            enough = np.flatnonzero(evidence >= -np.log(PROMISE_BUDGET))
            if len(enough):
                nights[row, run] = enough[0] + 1
    return nights[0], nights[1]


def plain_monitor(name: str, counts: dict[str, Any]) -> np.ndarray:
    """How far the last seven days' mean is below the first four weeks', in z, by night."""
    values, each = values_of(name), counts[name]
    first = each[:, :28].sum(axis=1)
    n = first.sum(axis=1)
    mean = first @ values / n
    spread = np.sqrt(np.maximum(first @ values**2 / n - mean**2, 1e-9))
    summed = np.concatenate([np.zeros_like(each[:, :1]), each.cumsum(axis=1)], axis=1)
    week = summed[:, 7:] - summed[:, :-7]
    rows = np.maximum(week.sum(axis=2), 1)
    below = np.full(each.shape[:2], -np.inf)
    below[:, 6:] = (mean[:, None] - week @ values / rows) / (spread[:, None] / np.sqrt(rows))
    below[:, :35] = -np.inf
    return below


def plain_first(name: str, counts: dict[str, Any], cut: float) -> np.ndarray:
    """The first night at which the plain monitor tells, by run; -1: never."""
    seen = plain_monitor(name, counts) > cut
    return np.where(seen.any(axis=1), seen.argmax(axis=1), -1)


def figure(values: np.ndarray, better: str, unit: str, kind: str) -> dict[str, Any]:
    """The median with its order statistics, or a share with Wilson's interval."""
    if kind == "rate":
        low, high = wilson(float(values.sum()), len(values))
        value = float(values.mean())
    else:
        ordered = np.sort(values)
        rank = 0.98 * np.sqrt(len(ordered))
        middle = len(ordered) / 2
        low = float(ordered[max(0, int(middle - rank))])
        high = float(ordered[min(len(ordered) - 1, int(middle + rank))])
        value = float(np.median(ordered))
    return {
        "kind": kind, "value": value, "low": low, "high": high,
        "n": len(values), "unit": unit, "better": better,
    }  # fmt: skip


def chunks(years: int, size: int = 20) -> list[int]:
    """Runs at a time, so that hours of many years fit into memory."""
    return [min(size, years - done) for done in range(0, years, size)]


def quiet_years(
    rng: np.random.Generator, requests: int, years: int
) -> tuple[dict[str, Any], float]:
    """Shares of quiet years with a false retrain, or a false watch, looked at in three rhythms.

    And the z at which the plain monitor is wrong three times as often as 06 is nightly.
    """
    seen: dict[str, list[np.ndarray]] = {}
    plain: list[np.ndarray] = []
    told: Counter[str] = Counter()
    for runs in chunks(years):
        counts = draw(rng, quiet(YEAR, requests), runs)
        failing = alarms(counts)
        rated, formats = promise_broken(rng, quiet(28, requests), runs)
        promised = (rated >= 0) | (formats >= 0)
        told.update({name: int(fails.any(axis=1).sum()) for name, fails in failing.items()})
        told["a promise"] += int(promised.sum())
        less = volume_alarms(counts)
        hourly = draw(rng, quiet(YEAR, requests), runs, looks=24)
        by_hour = alarms(hourly, looks=24)
        for rhythm, found, every in (
            ("", failing, 1),
            ("_weekly", failing, 7),
            ("_hourly", by_hour, 1),
        ):
            retrain = (first_look(found, True, every) >= 0) | promised
            watch = (first_look(found, False, every) >= 0) | promised
            watch |= less[:, every - 1 :: every].any(axis=1)
            seen.setdefault(f"false_retrain{rhythm}_{requests}", []).append(retrain)
            seen.setdefault(f"false_watch{rhythm}_{requests}", []).append(watch)
        plain.append(np.maximum(*[plain_monitor(name, counts).max(axis=1) for name in SLICED]))
    wrong = {name: count for name, count in told.items() if count}
    print(f"{requests} a day, quiet years in which something failed: {wrong}", file=sys.stderr)
    highest = np.concatenate(plain)
    seen[f"plain_false_{requests}"] = [highest > PLAIN_Z]
    out = {
        name: figure(np.concatenate(parts), "lower", "share of quiet years", "rate")
        for name, parts in seen.items()
    }
    allowed = 3 * max(1 / years, out[f"false_retrain_{requests}"]["value"])
    return out, float(np.quantile(highest, 1 - allowed))


def falls(rng: np.random.Generator, requests: int, years: int, cut: float) -> dict[str, Any]:
    """Median nights until a fall is told, over all runs; one that is never told counts AFTER.

    `peer` is the plain monitor with three times our false alarms.
    """
    out: dict[str, Any] = {}
    shares = []
    for cell in CELLS:
        ours, plain = [], []
        for runs in chunks(years):
            change = int(rng.integers(REFERENCE_DAYS + 7, REFERENCE_DAYS + 63))
            counts = draw(rng, changed(cell, change, requests), runs)
            ours.append(nights_after(first_look(alarms(counts), True), change))
            name = "format_compliance" if "format" in cell.name else "feedback_mean"
            plain.append(nights_after(plain_first(name, counts, cut), change))
        nights = np.concatenate(ours)
        out[f"delay_{cell.name}_{requests}"] = figure(nights, "lower", "days", "count") | {
            "found": float((nights < AFTER).mean()),
            "peer": float(np.median(np.concatenate(plain))),
        }
        shares.append(float((nights < AFTER).mean()))
    bad = quiet(28, requests)
    bad.right[:] = 0.1  # ratings of 2.0 on average, where the version before had 4.2
    _, nights = promise_broken(rng, bad, years)
    nights = np.where(nights < 0, AFTER, nights)
    shares.append(float((nights < AFTER).mean()))
    out[f"delay_first_day_{requests}"] = figure(nights, "lower", "days", "count")
    out[f"found_worst_{requests}"] = {
        "kind": "rate", "value": min(shares), "n": years, "unit": "share of falls that were told",
        "better": "higher",
    }  # fmt: skip
    return out


def nights_after(first: np.ndarray, change: int) -> np.ndarray:
    """Nights since the change; AFTER where none told, or a false alarm came before it."""
    nights = first - change + 1
    return np.where((first >= change) & (nights <= AFTER), nights, AFTER)


LOOK = """
import json, resource, sys, time
from datetime import datetime, timedelta
from helpers import monitor, store, tasks
from helpers.registry import FineTuneLifecycleManager
from helpers.registry.database import open_registry
from helpers.registry.versions import row_of, switch
task = tasks.load_task("support_triage")
manager = FineTuneLifecycleManager(task.registry_name)
if not manager.list_versions():
    now = store.now
    moment = now() - timedelta(days=365)
    store.now = lambda: moment
    manager.open_version("v1", "r1", "tiny", "d1")
    with open_registry().transaction() as db:
        switch(db, task.registry_name, row_of(db, "v1"), "promote", "a year ago", {})
    store.now = now
run = store.open_run("dev")
log = monitor.read_live(task)
monitor.publish(task, run, monitor.check_health(task, run, log=log), log)
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, log.requests]))
"""


def write_year(folder: Path, rows: int) -> None:
    """A live log of the last 365 days: the shipped simulation's rows, again and again."""
    chance = random.Random(SEED)
    source = (store.PROJECT / "helpers/tasks/support_triage/live.jsonl").read_text("utf-8")
    lines = [json.loads(line) for line in source.splitlines()]
    store.make_folder(folder)
    for back in range(365, 0, -1):
        day = store.now().date() - timedelta(days=back)
        with open(folder / f"{day}.jsonl", "w", encoding="utf-8") as file:
            for number in range(rows // 365):
                row = chance.choice(lines) | {
                    "request_id": f"{day}-{number}",
                    "created_at": f"{day}T{number % 24:02}:{number // 24 % 60:02}:00.{number:06}Z",
                    "version": "v1",
                    "simulated": False,
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def reading(rows: int) -> dict[str, Any]:
    """CPU seconds and MiB of 06's first look at a year's log, and of the next night's."""
    out: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as home:
        write_year(Path(home) / "live/demo/support_triage", rows)
        environment = os.environ | {"WORKBOOK_HOME": home, "OMP_NUM_THREADS": "1"}
        for look in ("first", "nightly"):
            command = [sys.executable, "-c", LOOK]
            done = subprocess.run(
                command,
                env=environment,
                cwd=store.PROJECT,
                capture_output=True,
                text=True,
                check=True,
            )
            seconds, size, judged = json.loads(done.stdout.splitlines()[-1])
            print(f"{look} look: {judged} of {rows} rows were judged", file=sys.stderr)
            out[f"look_{look}"] = {
                "kind": "seconds", "value": seconds, "n": rows, "unit": "s of CPU",
                "better": "lower",
            }  # fmt: skip
            out[f"look_{look}_memory"] = {
                "kind": "size", "value": size, "n": rows, "unit": "MiB", "better": "lower",
            }  # fmt: skip
    return out


def check_shortcut(rng: np.random.Generator) -> None:
    """Whole checks over the same days have to fail exactly where the counts say so."""
    for cell in (CELLS[0], CELLS[2], CELLS[3]):
        counts = draw(rng, changed(cell, 100, 30.0), 2)
        short = {name: each[:, :120] for name, each in counts.items()}
        failing = alarms(short)
        for run in range(2):
            start = date(2026, 1, 5)
            days = {}
            for day in range(120):
                numbers = {}
                for name, each in short.items():
                    pairs = zip(values_of(name).tolist(), each[run, day].astype(int), strict=True)
                    numbers[name] = Counter({value: int(n) for value, n in pairs if n})
                days[start + timedelta(days=day)] = numbers
            served = Served(days, start + timedelta(days=119), window_days=7)
            whole = {check.name for check in change_checks(served) if check.verdict == "fail"}
            ours = {name for name, fails in failing.items() if fails[run].any()}
            assert whole <= ours, (cell.name, whole, ours)
            assert ours & {"format_compliance", "feedback_mean"} <= whole, (cell.name, whole, ours)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Simulate, print, return the named figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    parser.add_argument("--years", type=int, default=200, help="simulated years per cell")
    parser.add_argument("--log", type=int, default=0, metavar="ROWS", help="only this")
    parser.add_argument("--unrated", action="store_true", help="only what needs no ratings")
    parser.add_argument("--peers", type=int, default=0, metavar="SERIES", help="only this")
    parser.add_argument("--install", action="store_true", help="make the peers' environments")
    parser.add_argument("--seed", type=int, default=SEED, help="any but 20261128 is a fresh one")
    given = parser.parse_args(arguments)
    started, rng = time.monotonic(), np.random.default_rng(given.seed)
    out: dict[str, Any] = reading(given.log) if given.log else {}
    whole = not (given.log or given.peers or given.unrated)
    if whole:
        check_shortcut(rng)
    for requests in (5, 30, 200) if whole else ():
        quiet_figures, cut = quiet_years(rng, requests, given.years)
        out |= quiet_figures | falls(rng, requests, given.years, cut)
        print(f"{requests} a day: {time.monotonic() - started:.0f} s", file=sys.stderr)
    if whole or given.unrated:
        from benchmarks import monitor_unrated

        out |= monitor_unrated.compare(given.seed, given.years)
    if whole or given.peers:
        from benchmarks import monitor_peers

        here = monitor_peers.peers(given.install)
        out |= monitor_peers.compare(given.seed, given.peers or 40, here)
    if given.json:
        print(json.dumps(out))
        return out
    for name, one in out.items():
        more = "".join(f", {key} {one[key]:.3g}" for key in MORE if key in one)
        bounds = f" [{one['low']:.3g}, {one['high']:.3g}]" if "low" in one else ""
        print(f"{name:32} {one['value']:.3g}{bounds} {one['unit']}{more}")
    return out


if __name__ == "__main__":
    main()
