"""Evidently and NannyML beside 06, on the very same simulated series.

python -m benchmarks.monitor --peers 40 [--json] [--install]

Each peer lives in an environment of its own: WORKBOOK_EVIDENTLY and WORKBOOK_NANNYML name a python
that has it, `--install` makes one in the cache (WORKBOOK_PEERS, as benchmarks/evaluate.py; needs a
package index), and a peer that is not there is reported as skipped. Each gets one table of answers
(rating, where there is one; format_ok; answer_length) and looks as it is usually set up, with the
first 28 days as its reference and (`_84`) with as many as 06 takes:

- Evidently every night at the last seven days against the reference, each column by the test and
  threshold that it chooses itself (`get_stattest`; a whole Report over the last night has to
  say the same for every cell's first series).
- NannyML's UnivariateDriftCalculator, fitted on the reference, at the end of each calendar
  week, by its own methods and thresholds.

An alarm is the drift flag of the column that changed. Theirs counts from the first one since the
change, whatever was flagged before it; ours counts as not found when a false alarm came before.
`_tuned` is the peer with a factor on each column's threshold that gives it, in these very years,
three times our false years (of at least one), half of them by each of the two columns.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import evaluate
from benchmarks.monitor import (
    AFTER,
    CELLS,
    GRID,
    STARS,
    YEAR,
    alarms,
    changed,
    draw,
    figure,
    first_look,
    nights_after,
    quiet,
)
from helpers.monitor.evidence import REFERENCE_DAYS

PINS = {
    "evidently": ["evidently==0.7.23", "pandas==2.3.3"],  # it does not import with pandas 3
    "nannyml": ["nannyml==0.13.1", "pandas==2.3.3", "statsmodels==0.15.0"],
}
REQUESTS = 30
CHANGES = ("format", "ratings_half", "ratings_one", "slow")
COLUMNS = {
    "rating": ("feedback_mean", 1 + 4 * STARS),
    "format_ok": ("format_compliance", np.array([0, 1])),
    "answer_length": ("answer_length", 400 * GRID),  # characters
}
REFERENCES = {"": 28, "_84": REFERENCE_DAYS}  # days: what is usual, and as many as 06 takes
WATCHED = ("rating", "format_ok")  # what can change in these cells
NEVER = -99.0

TABLE = """
import json, sys, warnings
import numpy as np, pandas as pd
warnings.simplefilter("ignore")
def table(asked):
    size = max(len(each["counts"]) for each in asked["columns"].values())
    days = range(size)
    rows = [max(sum(each["counts"][day]) for each in asked["columns"].values()) for day in days]
    found = {"day": np.repeat(days, rows)}
    for name, each in asked["columns"].items():
        parts = []
        for day in days:
            values = np.repeat(np.array(each["values"], float), each["counts"][day])
            parts.append(np.pad(values, (0, rows[day] - len(values)), constant_values=np.nan))
        found[name] = np.concatenate(parts)
    if "format_ok" in found:
        found["format_ok"] = np.where(found["format_ok"] > 0, "yes", "no").astype(object)
    return pd.DataFrame(found)
def answer(said):
    print("@@" + json.dumps(said), flush=True)
"""

EVIDENTLY = """
import evidently
from evidently import DataDefinition, Dataset, Report
from evidently.legacy.calculations.stattests import get_stattest
from evidently.legacy.core import ColumnType
from evidently.presets import DataDriftPreset
KINDS = {"format_ok": ColumnType.Categorical}
def look(name, before, now):
    before, now = before[name].dropna(), now[name].dropna()
    kind = KINDS.get(name, ColumnType.Numerical)
    test = get_stattest(before, now, kind, None)
    found = test(before, now, kind, None)
    small = found.drift_score < found.actual_threshold  # a p value, else a distance
    ratio = np.log(max(found.drift_score, 1e-40) / found.actual_threshold)
    return float(-ratio if small == found.drifted else ratio), float(found.drift_score)
def whole(before, now, names):
    kinds = DataDefinition(
        numerical_columns=[name for name in names if name not in KINDS],
        categorical_columns=[name for name in names if name in KINDS],
    )
    sets = [Dataset.from_pandas(part[names], data_definition=kinds) for part in (now, before)]
    metrics = Report([DataDriftPreset()]).run(*sets).dict()["metrics"][1:]
    said = {metric["config"]["column"]: float(metric["value"]) for metric in metrics}
    for name in names:
        assert abs(look(name, before, now)[1] - said[name]) < 1e-9, (name, said)
answer({"version": evidently.__version__})
for line in sys.stdin:
    asked = json.loads(line)
    rows, names = table(asked), list(asked["columns"])
    last = int(rows["day"].max())
    edges = np.searchsorted(rows["day"], np.arange(last + 2))
    before = rows.iloc[: edges[asked["reference"]]]
    strength = {name: [asked["never"]] * (last + 1) for name in names}
    for night in range(max(asked["reference"] + 6, asked["since"]), last + 1):
        now = rows.iloc[edges[night - 6] : edges[night + 1]]
        for name in names:
            strength[name][night] = look(name, before, now)[0]
        if max(strength[name][night] for name in names) > asked["enough"]:
            break
    if asked["whole"]:
        now = rows.iloc[edges[last - 6] :]
        whole(before, now, names)
    answer(strength)
"""

NANNYML = """
import nannyml
answer({"version": nannyml.__version__})
for line in sys.stdin:
    asked = json.loads(line)
    rows, names = table(asked), list(asked["columns"])
    rows["when"] = pd.Timestamp("2026-01-05") + pd.to_timedelta(rows["day"], unit="D")
    first = rows["day"] < asked["reference"]
    calculator = nannyml.UnivariateDriftCalculator(
        column_names=names, timestamp_column_name="when", chunk_period="W"
    )
    calculator.fit(rows[first].reset_index(drop=True))
    found = calculator.calculate(rows[~first].reset_index(drop=True)).filter(period="analysis")
    found, last = found.to_df(), int(rows["day"].max())
    strength = {name: [asked["never"]] * (last + 1) for name in names}
    for name in names:
        each = found[name]["jensen_shannon"]
        for week in range(len(each)):
            night = asked["reference"] + 7 * week + 6
            if night > last:
                continue
            value, high = each["value"].iloc[week], each["upper_threshold"].iloc[week]
            strength[name][night] = float(np.log(max(value, 1e-40) / high))
            assert bool(each["alert"].iloc[week]) == bool(value > high), name
    answer(strength)
"""
PROGRAMS = {"evidently": TABLE + EVIDENTLY, "nannyml": TABLE + NANNYML}
QUIETLY = {"DO_NOT_TRACK": "1", "NML_DISABLE_USAGE_LOGGING": "1", "OMP_NUM_THREADS": "1"}


@dataclass
class Peer:
    """One that answers: how far beyond its own threshold each column is, by night, as a log."""

    name: str
    child: evaluate.Child

    days: int = 28  # of its reference

    def strength(
        self, counts: dict[str, Any], columns: tuple[str, ...], **how: float
    ) -> dict[str, np.ndarray]:
        """Above 0 is drift by its defaults; nights at which it does not look are NEVER.

        It may begin at night `since`, and stop at the first that is above `enough`.
        """
        asked: dict[str, Any] = {"reference": self.days, "never": NEVER, "since": 0, "enough": 99.0}
        asked |= how
        asked["columns"] = {
            name: {
                "values": COLUMNS[name][1].tolist(),
                "counts": counts[COLUMNS[name][0]][0].astype(int).tolist(),
            }
            for name in columns
        }
        return {name: np.array(each) for name, each in self.child.ask(asked).items()}


def peers(make: bool) -> Iterator[Peer]:
    """Those that are here; of the others it is said why not."""
    evaluate.PEERS.update(PINS)
    for name, program in PROGRAMS.items():
        python = evaluate.peer_python(name, make)
        if not python:
            reason = f"not installed (--install, or WORKBOOK_{name.upper()} names a python)"
            print(f"{name}: skipped, {reason}", file=sys.stderr)
            continue
        try:
            peer = Peer(name, evaluate.Child([python, "-c", program], QUIETLY))
        except (OSError, RuntimeError) as error:
            print(f"{name}: skipped, {error}", file=sys.stderr)
            continue
        print(f"{name} {peer.child.ready['version']}", file=sys.stderr)
        yield peer
        peer.child.close()


def since(strength: np.ndarray, change: int, cut: float = 0.0) -> int:
    """Nights from the change to the first flag after it; AFTER where there is none."""
    flagged = np.flatnonzero(strength[change:] > cut)
    return min(AFTER, int(flagged[0]) + 1) if len(flagged) else AFTER


@dataclass(frozen=True)
class Fall:
    """A change in one series, and how long 06 took."""

    counts: dict[str, Any]
    change: int
    ours: int


def draw_falls(rng: np.random.Generator, series: int) -> dict[str, list[Fall]]:
    """By cell, drawn and dated as `monitor.falls` does."""
    found: dict[str, list[Fall]] = {name: [] for name in CHANGES}
    for cell in (cell for cell in CELLS if cell.name in CHANGES):
        for _ in range(series):
            change = int(rng.integers(REFERENCE_DAYS + 7, REFERENCE_DAYS + 63))
            counts = draw(rng, changed(cell, change, REQUESTS), 1)
            ours = nights_after(first_look(alarms(counts), True), change)[0]
            found[cell.name].append(Fall(counts, change, int(ours)))
    return found


def compare(seed: int, series: int, here: Iterable[Peer]) -> dict[str, Any]:
    """Every peer over the same quiet years and the same changes, ours beside it."""
    rng = np.random.default_rng([seed, 1])
    years = [draw(rng, quiet(YEAR, REQUESTS), 1) for _ in range(series)]
    told = np.array([first_look(alarms(each), True)[0] >= 0 for each in years])
    falls = draw_falls(rng, series)
    out: dict[str, Any] = {}
    for peer in here:
        for word, days in REFERENCES.items():
            started, peer.days = time.monotonic(), days
            out |= measured(peer, f"{peer.name}{word}", years, told, falls)
            took = time.monotonic() - started
            print(f"{peer.name}, {days} days of reference: {took:.0f} s", file=sys.stderr)
    return out


def measured(
    peer: Peer,
    name: str,
    years: list[dict[str, Any]],
    told: np.ndarray,
    falls: dict[str, list[Fall]],
) -> dict[str, Any]:
    """One peer's false years and delays, by its defaults and tuned."""
    found = [peer.strength(each, tuple(COLUMNS), whole=row == 0) for row, each in enumerate(years)]
    out = false_years(name, found, told)
    allowed = 3 * max(1 / len(years), told.mean()) / len(WATCHED)
    for cell, each in falls.items():
        column = "format_ok" if "format" in cell else "rating"
        highest = [year[column].max() for year in found]
        cut = float(np.quantile(highest, max(0.0, 1 - allowed)))
        drifts = [
            peer.strength(
                fall.counts, (column,), whole=row == 0, since=fall.change, enough=max(cut, 0.0)
            )[column]
            for row, fall in enumerate(each)
        ]
        ours = np.array([fall.ours for fall in each])
        for word, limit in (("", 0.0), ("_tuned", cut)):
            pairs = zip(drifts, each, strict=True)
            nights = np.array([since(drift, fall.change, limit) for drift, fall in pairs])
            out[f"{name}{word}_delay_{cell}_{REQUESTS}"] = delay(nights, ours)
    return out


def false_years(name: str, found: list[dict[str, np.ndarray]], told: np.ndarray) -> dict[str, Any]:
    """Shares of quiet years with a flag: of what can change, and of any column."""
    out = {}
    for word, columns in (("false", WATCHED), ("false_any_column", tuple(COLUMNS))):
        years = np.array([any((year[c] > 0).any() for c in columns) for year in found])
        out[f"{name}_{word}_{REQUESTS}"] = figure(
            years, "lower", "share of quiet years", "rate"
        ) | {"ours": float(told.mean())}
    looks = np.concatenate([year[c][year[c] > NEVER] for year in found for c in WATCHED])
    out[f"{name}_false_looks_{REQUESTS}"] = figure(
        looks > 0, "lower", "share of quiet looks at a column", "rate"
    )
    return out


def delay(nights: np.ndarray, ours: np.ndarray) -> dict[str, Any]:
    """Their median with the share found, and ours over the same series."""
    return figure(nights, "lower", "days", "count") | {
        "found": float((nights < AFTER).mean()),
        "ours": float(np.median(ours)),
        "ours_found": float((ours < AFTER).mean()),
    }
