"""What 06 shows: quality day by day, and the checks. A simulation says so in every title."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from helpers import show

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas.io.formats.style import Styler

    from helpers.records import Estimate

MOST_DAYS = 60  # the newest ones, so that labels stay readable


def checks_table(health: Any) -> Styler:
    """Every check with its value, interval, baseline, n and meaning, what needs a look first."""
    order = {"retrain": 0, "watch": 1, "ok": 2}
    rows = []
    for c in sorted(health.checks, key=lambda c: order[c.verdict]):
        value = show.number(c.value) + (
            f" [{show.number(c.low)}, {show.number(c.high)}]" if c.low is not None else ""
        )
        row = {"verdict": c.verdict, "check": c.name.replace("_", " "), "value": value}
        rows.append(row | {"baseline": show.number(c.baseline), "n": c.n, "evidence": c.evidence})
    return show.table(
        rows, f"Health of {health.version or 'no version'}: {health.verdict}{_simulated(health)}"
    )


def daily_quality(days: Sequence[Any], health: Any) -> Figure:
    """Share of well-formed answers and mean rating per day, each with its interval and n; the judged window is shaded."""
    import matplotlib.pyplot as plt

    days = days[-MOST_DAYS:]
    panels = [
        ("format_compliance", "format_compliance", "answers in format\n(share)", (0.0, 1.05)),
        ("feedback", "feedback_mean", "rating\n(mean, 1 to 5)", (0.8, 5.2)),
    ]
    baselines = {c.name: c.baseline for c in health.checks}
    first = sum(d.day < health.window["from"].date().isoformat() for d in days)
    figure, axes = plt.subplots(2, 1, figsize=(9, 5.4), sharex=True, layout="constrained")
    for axis, (field, check, label, limits) in zip(axes, panels, strict=True):
        _draw(axis, [getattr(d, field) for d in days], limits)
        axis.set_ylabel(label)
        if baselines.get(check) is not None:
            axis.axhline(
                baselines[check], color=show.COLOURS["target"], ls="--", lw=1, label="baseline"
            )
        if first < len(days):
            axis.axvspan(
                first - 0.5,
                len(days) - 0.5,
                color=show.COLOURS["other"],
                alpha=0.15,
                label="judged window",
            )
    if axes[0].get_legend_handles_labels()[0]:
        axes[0].legend(loc="lower left", frameon=False, ncols=2)
    step = max(1, len(days) // 8)
    axes[1].set_xticks(range(0, len(days), step), [d.day[5:] for d in days[::step]])
    axes[1].set_xlabel("day (month-day, UTC); n = rows of that day behind the mark")
    title = (
        f"Quality by day with 95% intervals, {sum(d.n for d in days)} requests{_simulated(health)}"
    )
    axes[0].set_title(title, loc="left", pad=18)
    plt.close(figure)
    return figure


def _draw(axis: Axes, estimates: Sequence[Estimate], limits: tuple[float, float]) -> None:
    points = [(x, e) for x, e in enumerate(estimates) if e.n]
    for x, e in points:
        low, high = max(e.low, limits[0]), min(e.high, limits[1])
        axis.plot(
            [x, x], [low, high], color=show.COLOURS["tuned"], lw=2, alpha=0.5, solid_capstyle="butt"
        )
        axis.plot(x, e.value, "o", color=show.COLOURS["tuned"], ms=5)
        if len(estimates) <= 25:  # more of them would overlap
            axis.text(x, limits[1], str(e.n), ha="center", va="bottom", fontsize=8, color="#555555")
    if not points:
        axis.text(
            0.5, 0.5, "nothing was logged", ha="center", va="center", transform=axis.transAxes
        )
    axis.set_ylim(*limits)
    axis.margins(x=0.03)
    axis.spines[["top", "right"]].set_visible(False)


def _simulated(health: Any) -> str:
    return " (SIMULATED traffic)" if health.simulated else ""
