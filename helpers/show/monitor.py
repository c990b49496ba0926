"""What 06 shows: quality day by day, and the checks. A simulation says so in every title."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from helpers import show
from helpers.records import Day, Estimate, Finding, Health

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_DAYS = 60  # the newest ones, so that labels stay readable
MOST_COUNTS = 25  # more of them above the days would overlap
TOO_LITTLE = "too little"  # to say how it is
MEANING = {None: "ok", "info": "ok", "warning": "watch", "critical": "retrain"}  # of a severity


def checks_table(health: Health) -> show.Table:
    """Every check with its value, interval, baseline, n and meaning, what needs a look first."""
    order = ["retrain", "watch", "ok", TOO_LITTLE]
    rows = [_row(check) for check in health.checks]
    rows.sort(key=lambda row: order.index(row["verdict"]))
    version = health.version or "no version"
    caption = f"Health of {version}: {health.verdict}{_simulated(health)}"
    return show.table(rows, caption)


def causes_table(health: Health) -> show.Table:
    """What stands behind the changes, with its rows, and what to do about it."""
    rows = [
        {"cause": cause.name.replace("_", " "), "rows": cause.evidence, "what to do": cause.remedy}
        for cause in health.causes
    ]
    nothing = [{"cause": "none was found", "rows": "-", "what to do": "-"}]
    return show.table(rows or nothing, f"Causes{_simulated(health)}")


def _row(check: Finding) -> dict[str, str | int]:
    value = "-"
    if check.estimate is not None:
        low, high = show.number(check.estimate.low), show.number(check.estimate.high)
        value = show.number(check.estimate.value)
        if low != high:
            value = f"{value} [{low}, {high}]"
    verdict = MEANING[check.severity]
    if check.verdict == "undecided":
        verdict = TOO_LITTLE
    return {
        "verdict": verdict,
        "check": check.name.replace("_", " "),
        "value": value,
        "baseline": show.number(check.threshold),
        "n": check.estimate.n if check.estimate else 0,
        "evidence": check.evidence,
    }


def daily_quality(days: Sequence[Day], health: Health) -> Figure:
    """Well-formed answers and mean rating per day, with intervals and n; the window is shaded."""
    plt = show.pyplot()

    days = days[-MOST_DAYS:]
    start = health.window.start.date().isoformat()
    judged = sum(day.day >= start for day in days)
    baselines = {check.name: check.threshold for check in health.checks}
    figure, axes = plt.subplots(2, 1, figsize=(9, 5.4), sharex=True)
    formats = [day.format_compliance for day in days]
    ratings = [day.feedback for day in days]
    panels = [
        ("format_compliance", formats, (0.0, 1.05), "answers in format\n(share)"),
        ("feedback_mean", ratings, (0.8, 5.2), "rating\n(mean, 1 to 5)"),
    ]
    for axis, (name, estimates, limits, label) in zip(axes, panels, strict=True):
        _draw(axis, estimates, limits)
        _mark(axis, baselines.get(name), judged, len(days))
        axis.set_ylabel(label)
    if axes[0].get_legend_handles_labels()[0]:
        axes[0].legend(loc="lower left", ncols=2)
    step = max(1, len(days) // 8)
    axes[1].set_xticks(range(0, len(days), step), [day.day[5:] for day in days[::step]])
    axes[1].set_xlabel("day (month-day, UTC); n = rows of that day behind the mark")
    requests = sum(day.n for day in days)
    title = f"Quality by day with 95% intervals, {requests} requests{_simulated(health)}"
    axes[0].set_title(title, pad=18)
    return show.finished(figure)


def _draw(axis: Axes, estimates: Sequence[Estimate], limits: tuple[float, float]) -> None:
    """One mark a day with its interval, and above it the rows behind it."""
    colour = show.COLOURS["tuned"]
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


def _mark(axis: Axes, baseline: float | None, judged: int, days: int) -> None:
    """The baseline as a dashed line, and the judged window, the last days, shaded."""
    if baseline is not None:
        axis.axhline(baseline, color=show.COLOURS["target"], ls="--", lw=1, label="baseline")
    if judged:
        left, right = days - judged - 0.5, days - 0.5
        axis.axvspan(left, right, color=show.COLOURS["other"], alpha=0.15, label="judged window")


def _simulated(health: Health) -> str:
    return " (SIMULATED traffic)" if health.simulated else ""
