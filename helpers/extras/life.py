"""The life of a task on one page: who served when, how good it was, alarms, decisions, money.

One HTML file without outside parts, drawn in the colours of the reader's theme; 06 writes it.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from html import escape
from pathlib import Path
from typing import NamedTuple

from helpers import registry, store
from helpers.monitor import LiveLog, Numbers, estimate, requests_of, stars
from helpers.records import Alarm, Budget, FineTunedModelVersion
from helpers.tasks import Task

WIDTH, LEFT, ROW, PANEL, GAP = 960, 150, 26, 150, 34
WEEK = timedelta(days=7)
MOST_TOLD = 200  # rows of a table; the registry has them all
MOST_VERSIONS = 20  # of the newest ones
ALPHA = 0.05  # of a band: it holds all the time with 1 - ALPHA
DENSE = 500  # rows at which a band is narrowest for what it promises
FEW = 30  # rows; before them a band would say nothing
STYLE = """
:root{--bg:#fff;--fg:#1f2328;--soft:#656d76;--line:#d0d7de;--staging:#9a6700;--production:#0969da;
--deprecated:#afb8c1;--bad:#cf222e;--band:#0969da33}
@media(prefers-color-scheme:dark){:root{--bg:#0d1117;--fg:#e6edf3;--soft:#8d96a0;--line:#30363d;
--staging:#d29922;--production:#4493f8;--deprecated:#484f58;--bad:#f85149;--band:#4493f844}}
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;
background:var(--bg);color:var(--fg)}
h2{margin-top:2rem}svg{width:100%;height:auto}svg text{font:12px system-ui;fill:var(--fg)}
.soft,svg .soft{color:var(--soft);fill:var(--soft)}table{border-collapse:collapse;width:100%}
td,th{text-align:left;vertical-align:top;padding:.25rem .8rem .25rem 0;
border-bottom:1px solid var(--line)}td:last-child{overflow-wrap:anywhere}
td:first-child{white-space:nowrap}
.grid{stroke:var(--line)}.band{fill:var(--band)}.mean{stroke:var(--production);fill:none}
.dot{fill:var(--fg)}.bar{stroke:var(--fg);opacity:.45}.alarm{stroke:var(--bad);stroke-dasharray:3 3}
.staging{fill:var(--staging)}.production{fill:var(--production)}.deprecated{fill:var(--deprecated)}
"""


class Band(NamedTuple):
    """What is known of a running mean on one day."""

    day: date
    low: float
    mean: float
    high: float


class Scale(NamedTuple):
    """From days and values to places on the picture."""

    first: date
    last: date

    def x(self, day: date) -> float:
        """Days run from LEFT to the right edge."""
        share = (day - self.first).days / max(1, (self.last - self.first).days)
        return LEFT + share * (WIDTH - LEFT - 10)


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
    name = task.registry_name
    manager = registry.FineTuneLifecycleManager(name)
    versions = manager.list_versions()[:MOST_VERSIONS][::-1]
    history = manager.history()
    alarms = registry.list_alarms(name)
    changes = [entry for entry in history if entry["to_status"] != entry["from_status"]]
    served = {version.id: log.of({version.id, version.model_id}) for version in versions}
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(name)}</title>",
        f"<meta name=viewport content='width=device-width'><style>{STYLE}</style>",
        f"<h1>{escape(name)}</h1><p>{escape(_state(versions, alarms))}",
        _picture(versions, changes, served, alarms),
        "<p class=soft>Dots are weeks with their 95% intervals; bands are the running mean since"
        " a version's first day, and hold on all days together. Dashed: an alarm was raised.",
        "<h2>Alarms</h2>",
        _table(
            "opened version what state because",
            [[_day(a.opened_at), a.version, a.name, a.state, a.because] for a in alarms],
        ),
        "<h2>Decisions</h2>",
        _table(
            "when version what becomes because",
            [
                [e["at"][:10], e["version"], e["action"], e["to_status"], e["because"]]
                for e in history
                if e["action"] not in ("model", "open")
            ],
        ),
        "<h2>Money</h2>",
        _table("version training serving requests", _money(versions, served)),
    ]
    path = store.home() / "monitor" / f"{name.replace('/', '.')}.html"
    store.write_text(path, "".join(parts))
    return path


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"


def _state(versions: Sequence[FineTunedModelVersion], alarms: Sequence[Alarm]) -> str:
    serving = [version.id for version in versions if version.status == "production"]
    waiting = [alarm.name for alarm in alarms if alarm.state == "open"]
    state = f"{', '.join(serving) or 'Nothing'} serves; as of {_day(store.now())}."
    return f"{state} Open alarms: {', '.join(waiting) or 'none'}."


def _table(columns: str, rows: Sequence[Sequence[object]]) -> str:
    """The newest rows of a table; every cell is text."""
    head = "".join(f"<th>{name}" for name in columns.split())
    lines = [
        "<tr>" + "".join(f"<td>{escape(str(cell or ''))}" for cell in row)
        for row in rows[-MOST_TOLD:]
    ]
    return f"<table><tr>{head}{''.join(lines)}</table>" if rows else "<p class=soft>none"


def _money(
    versions: Sequence[FineTunedModelVersion], served: dict[str, dict[date, Numbers]]
) -> list[list[str]]:
    """What each version cost until it was judged, and about what its requests cost."""
    rows = []
    for version in versions:
        spent = Budget(store.Run(version.run_id)).spent
        requests = sum(map(requests_of, served[version.id].values()))
        cost = version.eval_results.cost_per_request.value if version.eval_results else 0.0
        rows.append([version.id, f"${spent:.2f}", f"${cost * requests:.2f}", f"{requests}"])
    return rows


def _picture(
    versions: Sequence[FineTunedModelVersion],
    changes: Sequence[dict[str, str]],
    served: dict[str, dict[date, Numbers]],
    alarms: Sequence[Alarm],
) -> str:
    """A line of time per version, and below it ratings and format by week."""
    days = [date.fromisoformat(entry["at"][:10]) for entry in changes]
    days += [day for numbers in served.values() for day in numbers]
    if not days:
        return "<p class=soft>nothing has happened yet"
    scale = Scale(min(days), max(max(days), store.now().date()))
    parts = []
    for row, version in enumerate(versions):
        parts += _life(scale, row * ROW + 20, version.id, changes)
    top = len(versions) * ROW + 20 + GAP
    for name, label in (("feedback_mean", "rating, 1 to 5"), ("format_compliance", "in format")):
        parts += _panel(scale, top, name, label, served)
        top += PANEL + GAP
    for alarm in alarms:
        x = scale.x(alarm.opened_at.date())
        parts.append(
            f"<line class=alarm x1={x:.1f} x2={x:.1f} y1=12 y2={top - GAP}>"
            f"<title>{escape(alarm.name)}, {_day(alarm.opened_at)}</title></line>"
        )
    parts += _months(scale, top - GAP)
    return (
        f"<svg viewBox='0 0 {WIDTH} {top}' role=img aria-label='time line'>{''.join(parts)}</svg>"
    )


def _life(scale: Scale, top: int, version: str, changes: Sequence[dict[str, str]]) -> list[str]:
    """One bar a status, from the day that it began to the next one."""
    own = [entry for entry in changes if entry["version"] == version]
    starts = [date.fromisoformat(entry["at"][:10]) for entry in own]
    parts = [f"<text x={LEFT - 8} y={top + 14} text-anchor=end>{escape(version)}</text>"]
    for entry, start, end in zip(own, starts, [*starts[1:], scale.last], strict=True):
        left, right = scale.x(start), scale.x(end)
        height = 16 if entry["to_status"] == "production" else 6
        parts.append(
            f"<rect class={entry['to_status']} x={left:.1f} y={top + 9 - height / 2:.1f}"
            f" width={max(1.0, right - left):.1f} height={height} rx=2><title>{escape(version)}:"
            f" {entry['to_status']} since {start}</title></rect>"
        )
    return parts


def _panel(
    scale: Scale, top: int, name: str, label: str, served: dict[str, dict[date, Numbers]]
) -> list[str]:
    """Bands and weeks of one quantity, and the values at its edges."""
    bands = {version: confidence_sequence(days, name) for version, days in served.items()}
    weeks = {version: _weeks(days, name) for version, days in served.items()}
    # what the weeks need; the bands of a version's first days are wider, and cut
    lows = [estimate(week).low for each in weeks.values() for week in each.values()]
    shown, steps = (stars, 8) if name == "feedback_mean" else (float, 10)
    floor = min(math.floor(min(lows, default=0.0) * steps), steps - 1) / steps

    def y(value: float) -> float:
        return top + PANEL * (1 - (max(value, floor) - floor) / (1 - floor))

    parts = [f"<text class=soft x={LEFT - 8} y={top - 14} text-anchor=end>{label}</text>"]
    for value in (floor, (1 + floor) / 2, 1.0):
        parts.append(
            f"<line class=grid x1={LEFT} x2={WIDTH - 10} y1={y(value):.1f} y2={y(value):.1f} />"
            f"<text class=soft x={LEFT - 8} y={y(value) + 4:.1f} text-anchor=end>"
            f"{shown(value):.3g}</text>"
        )
    for version, band in bands.items():
        upper = [f"{scale.x(b.day):.1f},{y(b.high):.1f}" for b in band]
        lower = [f"{scale.x(b.day):.1f},{y(b.low):.1f}" for b in reversed(band)]
        middle = [f"{scale.x(b.day):.1f},{y(b.mean):.1f}" for b in band]
        parts.append(f"<polygon class=band points='{' '.join(upper + lower)}' />")
        parts.append(f"<polyline class=mean points='{' '.join(middle)}' />")
        for day, week in weeks[version].items():
            mean = estimate(week)
            x = scale.x(min(day + WEEK / 2, scale.last))
            parts.append(
                f"<line class=bar x1={x:.1f} x2={x:.1f} y1={y(mean.low):.1f} y2={y(mean.high):.1f}"
                f" /><circle class=dot cx={x:.1f} cy={y(mean.value):.1f} r=2.5><title>week of"
                f" {day}: {shown(mean.value):.3g}, n = {mean.n}</title></circle>"
            )
    return parts


def _weeks(days: dict[date, Numbers], name: str) -> dict[date, Counter[float]]:
    """What came in each week of a version's service."""
    weeks: dict[date, Counter[float]] = {}
    for day, numbers in days.items():
        if name in numbers:
            start = day - timedelta(days=day.weekday())
            weeks.setdefault(start, Counter()).update(numbers[name])
    return weeks


def _months(scale: Scale, bottom: int) -> list[str]:
    """The first of every month, below."""
    days = [scale.first + timedelta(days=i) for i in range((scale.last - scale.first).days + 1)]
    firsts = [day for day in days if day.day == 1]
    step = -(-len(firsts) // 12) or 1
    return [
        f"<text class=soft x={scale.x(day):.1f} y={bottom + 18}>{day:%b %y}</text>"
        for day in firsts[::step]
    ]
