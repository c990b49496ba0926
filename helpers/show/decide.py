"""What 01 shows: the ladder of rungs against the targets, what each costs, and why the verdict is what it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from helpers import show
from helpers.records import PARTS, Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas.io.formats.style import Styler

# metric: marker, filled, line of its target, offset in its row
SCORES = {"accuracy": ("o", True, "--", -0.13), "format_compliance": ("s", False, ":", 0.13)}


def rung_table(rungs: Sequence[Any]) -> Styler:
    """One row per rung: scores with intervals, and what a request takes: latency, tokens and cost."""
    rows = [
        {
            "rung": r.name,
            "model": r.model,
            "accuracy": r.results.accuracy,
            "format": r.results.format_compliance,
            "p50, ms": r.results.latency_p50,
            "p95, ms": r.results.latency_p95,
            "tokens": r.tokens_per_request,
            "USD per 1,000": 1000 * r.results.cost_per_request.value if r.results.cost_per_request.n else "unknown",
        }
        for r in rungs
    ]
    return show.table(rows, f"Rungs on the {rungs[0].part} part, 95% intervals" if rungs else "No rung was asked")


def ladder(rungs: Sequence[Any], targets: Mapping[str, float]) -> Figure:
    """Every rung's scores with intervals against the targets (left), and what a request takes (right)."""
    import matplotlib.pyplot as plt

    figure, (scores, costs) = plt.subplots(1, 2, sharey=True, width_ratios=[3, 1], layout="constrained")
    figure.set_size_inches(10, 1.5 + 0.75 * len(rungs))
    draw_scores(scores, rungs, targets, [show.COLOURS["other"]] * len(rungs))
    bars = costs.barh(range(len(rungs)), [r.tokens_per_request for r in rungs], color=show.COLOURS["base"], height=0.5)
    costs.bar_label(bars, fmt=" {:.0f}")
    costs.margins(x=0.25)
    costs.set_xlabel("tokens per request")
    costs.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"What each rung scores and costs ({rungs[0].part} part, n = {rungs[0].n})", x=0.01, ha="left")
    plt.close(figure)
    return figure


def draw_scores(axis: Axes, rungs: Sequence[Any], targets: Mapping[str, float], colours: Sequence[str]) -> None:
    """Accuracy (filled) and format compliance (open) of each rung with intervals, and the targets as dashed lines."""
    from matplotlib.ticker import PercentFormatter

    for metric, (marker, filled, line, offset) in SCORES.items():
        name = metric.replace("_", " ")
        for y, (rung, colour) in enumerate(zip(rungs, colours, strict=True)):
            e: Estimate = getattr(rung.results, metric)
            if e.n:
                at, face = y + offset, colour if filled else "white"
                axis.plot([e.low, e.high], [at, at], color=colour, lw=2.2, solid_capstyle="butt", zorder=2)
                axis.plot(e.value, at, marker, ms=8, mfc=face, mec=colour, mew=1.8, zorder=3)
                said = f"{100 * e.value:.0f}% [{100 * e.low:.0f}, {100 * e.high:.0f}]"
                axis.text(1.04, at, said, va="center", fontsize=9, color="#333333")
        axis.plot([], [], marker, color="#555555", mfc="#555555" if filled else "white", label=f"{name}, 95% interval")
        if metric in targets:
            label = f"target {100 * targets[metric]:g}% {name}"
            axis.axvline(targets[metric], color=show.COLOURS["target"], ls=line, lw=1.2, zorder=1, label=label)
    axis.set(xlim=(-0.02, 1.28), ylim=(len(rungs) - 0.45, -0.55), xticks=[0, 0.2, 0.4, 0.6, 0.8, 1])
    axis.set_yticks(range(len(rungs)), [r.name for r in rungs])
    axis.xaxis.set_major_formatter(PercentFormatter(1))
    axis.grid(axis="x", color="#eeeeee", zorder=0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False, fontsize=9)


def parts_and_targets(task: Any, examples: Sequence[Any]) -> Styler:
    """What the verdict can rest on: verified rows per part, and what the task needs."""
    verified = [e.part for e in examples if e.quality == "verified"]
    rows = [{"what": f"{part} rows", "value": verified.count(part)} for part in PARTS]
    rows += [{"what": f"target: {metric}", "value": target} for metric, target in task.targets.items()]
    return show.table(rows, f"{task.name}: verified rows and targets")


def screening_table(screening: Any) -> Styler:
    """The questionnaire's two columns."""
    rows = [{"speaks": "for fine-tuning", "because": reason} for reason in screening.good]
    rows += [{"speaks": "against", "because": reason} for reason, _ in screening.poor]
    rows += [{"speaks": "note", "because": warning} for warning in screening.warnings]
    return show.table(rows, "What kind of problem is this?", ["speaks", "because"])


def verdict_table(decision: Any) -> Styler:
    """The recommendation with its reasons, what to do next, and what to keep in mind."""
    rows = [("recommendation", f"{decision.recommendation} ({decision.status})")]
    rows += [("because", reason) for reason in decision.reasons]
    rows += [("next", decision.next_action), *(("keep in mind", warning) for warning in decision.warnings)]
    return show.table([{"": what, "said": said} for what, said in rows], "The verdict")


def plan_table(decision: Any) -> Styler:
    """Upkeep, break-even and power: what saying yes would mean."""
    numbers, power, plan = decision.economics, decision.power, decision.plan
    needed = numbers["break_even_requests_per_month"]
    rows = {
        "break-even against the best rung": f"{needed:,} requests a month" if needed else "never by cost alone",
        "the task's own volume": f"{numbers['volume_per_month']:,} requests a month",
        "one-off work": f"{numbers['one_off_usd']:,.0f} USD, prices of {numbers['prices_as_of'] or 'an unknown day'}",
        "upkeep": f"{numbers['monthly_usd']:,.0f} USD and {plan['hours_per_month']:g} hours a month",
        "smallest gain that 04 can show": f"{100 * power['detectable_difference']:.0f} points, {power['n']} test rows",
        "who looks after it": f"{plan['owner']}, {plan['cadence']}; decide anew on {plan['review_on']}",
    }
    return show.table([{"": what, "value": value} for what, value in rows.items()], "Cost, power and upkeep")
