"""The life of a task on one page: who served when, how good it was, alarms, decisions, money.

One HTML file without outside parts (life.html), drawn in the colours of the reader's theme; 06
writes it.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from helpers import registry, store
from helpers.monitor import LiveLog, Numbers, estimate, requests_of, stars
from helpers.records import Budget, FineTunedModelVersion
from helpers.tasks import Task

WIDTH, LEFT, ROW, PANEL, GAP = 960, 150, 26, 150, 34
WEEK = timedelta(days=7)
MOST_TOLD = 200  # rows of a table; the registry has them all
MOST_VERSIONS = 20  # of the newest ones
ALPHA = 0.05  # of a band: it holds all the time with 1 - ALPHA
DENSE = 500  # rows at which a band is narrowest for what it promises
FEW = 30  # rows; before them a band would say nothing
Served = dict[str, dict[date, Numbers]]  # what each version was counted to have done


class Band(NamedTuple):
    """What is known of a running mean on one day."""

    day: date
    low: float
    mean: float
    high: float


def confidence_sequence(days: dict[date, Numbers], name: str) -> list[Band]:
    """The running mean since a version's first day; its band holds on all days together.

    Asymptotic, for means that may drift: Waudby-Smith et al. 2024, Time-uniform central limit
    theory, (theorem 2.2), with one row of each end added so that no band has a width of 0.
    """
    rho2 = (-2 * math.log(ALPHA) + math.log(-2 * math.log(ALPHA)) + 1) / DENSE
    counts: Counter[float] = Counter({0.0: 1, 1.0: 1})
    bands = []
    for day, numbers in days.items():
        counts.update(numbers.get(name, {}))
        n = counts.total()
        mean = sum(value * times for value, times in counts.items()) / n
        variance = sum(value**2 * times for value, times in counts.items()) / n - mean**2
        spread = n * rho2 + 1
        half = math.sqrt(
            variance * 2 * spread / (n * n * rho2) * math.log(math.sqrt(spread) / ALPHA)
        )
        if n >= FEW:
            bands.append(Band(day, max(0.0, mean - half), mean, min(1.0, mean + half)))
    return bands


def publish_page(task: Task, log: LiveLog) -> None:
    """Write the page; what it cannot show must cost no night's look."""
    try:
        write_page(task, log)
    except Exception as error:
        problem = store.without_secrets(f"{type(error).__name__}: {error}")
        logging.getLogger(__name__).warning("no page of %s: %s", task.registry_name, problem)


def write_page(task: Task, log: LiveLog) -> Path:
    """Write artifacts/monitor/TASK.html from the registry, the alarms, and what was counted."""
    from jinja2 import Environment

    name = task.registry_name
    manager = registry.FineTuneLifecycleManager(name)
    versions = manager.list_versions()[:MOST_VERSIONS][::-1]
    history = manager.history()
    alarms = registry.list_alarms(name)
    changes = [entry for entry in history if entry["to_status"] != entry["from_status"]]
    served = {version.id: log.of({version.id, version.model_id}) for version in versions}
    told_alarms = [[a.opened_at.date(), a.version, a.name, a.state, a.because] for a in alarms]
    decisions = [
        [e["at"][:10], e["version"], e["action"], e["to_status"], e["because"]]
        for e in history
        if e["action"] not in ("model", "open")
    ]
    page = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    text = (
        Environment(autoescape=True)
        .from_string(page)
        .render(
            name=name,
            now=store.now(),
            versions=versions,
            alarms=alarms,
            told_alarms=told_alarms[-MOST_TOLD:],
            decisions=decisions[-MOST_TOLD:],
            money=_money(versions, served),
            **_picture(versions, changes, served),
        )
    )
    return store.write_text(store.home() / "monitor" / f"{name.replace('/', '.')}.html", text)


def _money(versions: Sequence[FineTunedModelVersion], served: Served) -> list[list[str]]:
    """What each version cost until it was judged, and about what its requests cost."""
    rows = []
    for version in versions:
        spent = Budget(store.Run(version.run_id)).spent
        requests = sum(map(requests_of, served[version.id].values()))
        cost = version.eval_results.cost_per_request.value if version.eval_results else 0.0
        rows.append([version.id, f"${spent:.2f}", f"${cost * requests:.2f}", f"{requests}"])
    return rows


def _picture(
    versions: Sequence[FineTunedModelVersion], changes: Sequence[dict[str, str]], served: Served
) -> dict[str, Any]:
    """A line of time per version, and below it ratings and format by week; {} where nothing was."""
    days = [date.fromisoformat(entry["at"][:10]) for entry in changes]
    days += [day for numbers in served.values() for day in numbers]
    if not days:
        return {}
    first, last = min(days), max(max(days), store.now().date())

    def x(day: date) -> float:
        """Days run from LEFT to the right edge."""
        share = (day - first).days / max(1, (last - first).days)
        return round(LEFT + share * (WIDTH - LEFT - 10), 1)

    bars = []
    for row, version in enumerate(versions):
        own = [entry for entry in changes if entry["version"] == version.id]
        starts = [date.fromisoformat(entry["at"][:10]) for entry in own]
        statuses = [entry["to_status"] for entry in own]
        spans = list(zip(statuses, starts, [*starts[1:], last], strict=False))
        bars.append((version.id, row * ROW + 20, spans))
    top = len(versions) * ROW + 20 + GAP
    rated = _panel(top, "feedback_mean", "rating, 1 to 5", served, last)
    formed = _panel(top + PANEL + GAP, "format_compliance", "in format", served, last)
    height = top + 2 * (PANEL + GAP)
    whole = (first + timedelta(days=n) for n in range((last - first).days + 1))
    months = [day for day in whole if day.day == 1]
    return {
        "x": x,
        "left": LEFT,
        "width": WIDTH,
        "height": height,
        "bottom": height - GAP,
        "bars": bars,
        "panels": [rated, formed],
        "months": months[:: math.ceil(len(months) / 12) or 1],
    }


def _panel(top: int, name: str, label: str, served: Served, last: date) -> tuple[Any, ...]:
    """Of one quantity: its place, its scale with the values at its edges, bands and weeks."""
    curves = [
        (confidence_sequence(days, name), _weeks(days, name, last)) for days in served.values()
    ]
    # what the weeks need; the bands of a version's first days are wider, and cut
    lows = [mean.low for _, weeks in curves for *_, mean in weeks]
    shown, steps = (stars, 8) if name == "feedback_mean" else (float, 10)
    floor = min(math.floor(min(lows, default=0.0) * steps), steps - 1) / steps

    def y(value: float) -> float:
        return round(top + PANEL * (1 - (max(value, floor) - floor) / (1 - floor)), 1)

    return label, top, y, shown, (floor, (1 + floor) / 2, 1.0), curves


def _weeks(days: dict[date, Numbers], name: str, last: date) -> list[tuple[date, date, Any]]:
    """The weeks of a version's service: first day, middle, and the mean of what came."""
    weeks: dict[date, Counter[float]] = {}
    for day, numbers in days.items():
        if name in numbers:
            start = day - timedelta(days=day.weekday())
            weeks.setdefault(start, Counter()).update(numbers[name])
    return [(day, min(day + WEEK / 2, last), estimate(week)) for day, week in weeks.items()]
