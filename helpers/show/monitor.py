"""What 06 shows: quality day by day, and the checks. A simulation says so in every title."""

from __future__ import annotations

from collections.abc import Sequence

from helpers import show
from helpers.records import Day, Estimate, Finding, Health

MOST_DAYS = 60  # the newest ones, so that labels stay readable
MOST_COUNTS = 25  # more of them above the days would overlap
TOO_LITTLE = "too little"  # to say how it is
WORST_FIRST = ("retrain", "watch", "ok", TOO_LITTLE)
MEANING = {None: "ok", "info": "ok", "warning": "watch", "critical": "retrain"}  # of a severity


def checks_table(health: Health) -> show.Table:
    """Every check with its value, interval, baseline and meaning, what needs a look first."""
    columns = {
        "verdict": _meaning,
        "check": show.name_of,
        "value": "estimate",
        "baseline": "threshold",
        "evidence": "evidence",
    }
    rows = sorted(health.checks, key=lambda check: WORST_FIRST.index(_meaning(check)))
    version = health.version or "no version"
    return show.table(rows, f"Health of {version}: {health.verdict}{_simulated(health)}", columns)


def _meaning(check: Finding) -> str:
    return TOO_LITTLE if check.verdict == "undecided" else MEANING[check.severity]


def causes_table(health: Health) -> show.Table:
    """What stands behind the changes, with its rows, and what to do about it."""
    columns = {"cause": show.name_of, "rows": "evidence", "what to do": "remedy"}
    return show.table(health.causes, f"Causes{_simulated(health)}", columns)


def daily_quality(days: Sequence[Day], health: Health) -> show.Figure:
    """Well-formed answers and mean rating per day, with intervals and n; the window is shaded."""
    days = days[-MOST_DAYS:]
    start = health.window.start.date().isoformat()
    judged = sum(day.day >= start for day in days)
    baselines = {check.name: check.threshold for check in health.checks}
    figure, axes = show.subplots(2, 1, figsize=(9, 5.4), sharex=True)
    _draw(axes[0], [day.format_compliance for day in days], (0.0, 1.05))
    _draw(axes[1], [day.feedback for day in days], (0.8, 5.2))
    axes[0].set_ylabel("answers in format\n(share)")
    axes[1].set_ylabel("rating\n(mean, 1 to 5)")
    for axis, name in zip(axes, ("format_compliance", "feedback_mean"), strict=True):
        _mark(axis, baselines.get(name), judged, len(days))
    if axes[0].get_legend_handles_labels()[0]:
        axes[0].legend(loc="lower left", ncols=2)
    step = max(1, len(days) // 8)
    axes[1].set_xticks(range(0, len(days), step), [day.day[5:] for day in days[::step]])
    axes[1].set_xlabel("day (month-day, UTC); n = rows of that day behind the mark")
    requests = sum(day.n for day in days)
    title = f"Quality by day with 95% intervals, {requests} requests{_simulated(health)}"
    axes[0].set_title(title, pad=18)
    return show.finished(figure)


def _draw(axis: show.Axes, estimates: Sequence[Estimate], limits: tuple[float, float]) -> None:
    """One mark a day with its interval, and above it the rows behind it."""
    colour = show.TUNED
    bottom, top = limits
    measured = [(x, estimate) for x, estimate in enumerate(estimates) if estimate.n]
    for x, estimate in measured:
        ends = [max(estimate.low, bottom), min(estimate.high, top)]
        axis.plot([x, x], ends, color=colour, lw=2, alpha=0.5, solid_capstyle="butt")
        axis.plot(x, estimate.value, "o", color=colour, ms=5)
        if len(estimates) <= MOST_COUNTS:
            n = str(estimate.n)
            axis.text(x, top, n, ha="center", va="bottom", fontsize=8, color="#555555")
    if not measured:
        middle = {"ha": "center", "va": "center", "transform": axis.transAxes}
        axis.text(0.5, 0.5, "nothing was logged", **middle)
    axis.set_ylim(bottom, top)
    axis.margins(x=0.03)


def _mark(axis: show.Axes, baseline: float | None, judged: int, days: int) -> None:
    """The baseline as a dashed line, and the judged window, the last days, shaded."""
    if baseline is not None:
        axis.axhline(baseline, color=show.TARGET, ls="--", lw=1, label="baseline")
    if judged:
        left, right = days - judged - 0.5, days - 0.5
        axis.axvspan(left, right, color=show.OTHER, alpha=0.15, label="judged window")


def _simulated(health: Health) -> str:
    return " (SIMULATED traffic)" if health.simulated else ""
