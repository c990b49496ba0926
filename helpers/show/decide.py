"""What 01 shows: the ladder of rungs against the targets, what each costs, and why the verdict is what it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from helpers import show
from helpers.records import PARTS, Estimate

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas.io.formats.style import Styler

RUNG_NAMES = {
    "zero_shot": "zero-shot\n(short prompt)",
    "prompt": "full prompt",
    "few_shot": "few-shot",
    "rag": "rag",
    "fine_tuned": "fine-tuned",
}
METRIC_STYLE = {
    "accuracy": {"marker": "o", "offset": -0.13, "fill": True},
    "format_compliance": {"marker": "s", "offset": 0.13, "fill": False},
}


def percent(estimate: Estimate) -> str:
    """An estimate as "41% [33, 50]"; "not measured" without rows."""
    if not estimate.n:
        return "not measured"
    return f"{100 * estimate.value:.0f}% [{100 * estimate.low:.0f}, {100 * estimate.high:.0f}]"


def money(estimate: Estimate) -> str:
    """USD per 1,000 requests."""
    return f"{1000 * estimate.value:.4f}" if estimate.n else "unknown"


def rung_table(rungs: Sequence[Any]) -> pd.DataFrame:
    """One row per rung: scores with intervals, latency of single requests, tokens and cost."""
    rows = [
        {
            "rung": r.name,
            "model": r.model,
            "n": r.n,
            "accuracy": percent(r.results.accuracy),
            "format": percent(r.results.format_compliance),
            "p50 ms": round(r.results.latency_p50.value),
            "p95 ms": round(r.results.latency_p95.value),
            "tokens": r.tokens_per_request,
            "USD per 1,000": money(r.results.cost_per_request),
        }
        for r in rungs
    ]
    return show.table(rows, f"Rungs on the {rungs[0].part} part, 95% intervals" if rungs else "No rung was asked")


def ladder(rungs: Sequence[Any], targets: Mapping[str, float]) -> Figure:
    """Every rung's scores with intervals against the targets (left), and what a request takes (right)."""
    import matplotlib.pyplot as plt

    figure, (scores, costs) = plt.subplots(
        1, 2, figsize=(10, 1.5 + 0.75 * len(rungs)), width_ratios=[3, 1.3], sharey=True, layout="constrained"
    )
    draw_scores(scores, rungs, targets, show.COLOURS["other"])
    priced = all(r.results.cost_per_request.n for r in rungs)
    sizes = [1000 * r.results.cost_per_request.value if priced else r.tokens_per_request for r in rungs]
    costs.barh(range(len(rungs)), sizes, height=0.45, color=show.COLOURS["base"])
    for y, (rung, size) in enumerate(zip(rungs, sizes, strict=True)):
        text = f" {size:.3g} USD, {rung.tokens_per_request:.0f} tokens" if priced else f" {size:.0f} tokens"
        costs.text(size, y, text, va="center", fontsize=9)
    costs.set_xlim(0, max(sizes, default=1) * 2.8 or 1)
    costs.locator_params(axis="x", nbins=3)
    costs.set_xlabel("USD per 1,000 requests" if priced else "tokens per request")
    costs.spines[["top", "right"]].set_visible(False)
    costs.tick_params(axis="y", length=0)
    figure.suptitle(f"What each rung scores and costs ({rungs[0].part} part, n = {rungs[0].n})", x=0.01, ha="left")
    plt.close(figure)
    return figure


def draw_scores(axis: Axes, rungs: Sequence[Any], targets: Mapping[str, float], *colours: str) -> None:
    """Accuracy (filled) and format compliance (open) of each rung with intervals, and the targets as dashed lines."""
    from matplotlib.ticker import PercentFormatter

    for metric, style in METRIC_STYLE.items():
        for y, rung in enumerate(rungs):
            e: Estimate = getattr(rung.results, metric)
            if not e.n:
                continue
            colour = colours[y % len(colours)]
            at = y + style["offset"]
            axis.plot([e.low, e.high], [at, at], color=colour, lw=2.2, solid_capstyle="butt", zorder=2)
            face = colour if style["fill"] else "white"
            axis.plot(e.value, at, style["marker"], ms=8, mfc=face, mec=colour, mew=1.8, zorder=3)
            axis.text(1.04, at, percent(e), va="center", fontsize=9, color="#333333")
        if metric in targets:
            top, bottom = -0.55, len(rungs) - 0.45
            lines = "--" if style["fill"] else ":"
            axis.plot([targets[metric]] * 2, [top, bottom], lines, color=show.COLOURS["target"], lw=1.2, zorder=1)
    axis.set_yticks(range(len(rungs)), [RUNG_NAMES.get(r.name, r.name) for r in rungs])
    axis.set_ylim(len(rungs) - 0.45, -0.55)
    axis.set_xlim(-0.02, 1.28)
    axis.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    axis.xaxis.set_major_formatter(PercentFormatter(1))
    axis.grid(axis="x", color="#eeeeee", zorder=0)
    axis.spines[["top", "right"]].set_visible(False)
    _score_legend(axis, targets)


def _score_legend(axis: Axes, targets: Mapping[str, float]) -> None:
    """Below the axis, where it covers nothing."""
    from matplotlib.lines import Line2D

    grey = "#555555"
    handles = [
        Line2D([], [], marker="o", color=grey, mfc=grey, lw=2, label="accuracy, 95% interval"),
        Line2D([], [], marker="s", color=grey, mfc="white", lw=2, label="format compliance"),
    ]
    styles = {"accuracy": "--", "format_compliance": ":"}
    for metric, style in styles.items():
        if metric in targets:
            label = f"target {100 * targets[metric]:g}% {metric.split('_')[0]}"
            handles.append(Line2D([], [], color=show.COLOURS["target"], ls=style, lw=1.2, label=label))
    axis.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False, fontsize=9)


def sentences(rows: Sequence[Mapping[str, Any]], caption: str, columns: list[str] | None = None) -> Styler:
    """A table whose cells are whole sentences: wrapped, where a plain frame would cut them off."""
    frame = show.table(rows, caption, columns)
    left = {"text-align": "left", "white-space": "pre-wrap"}
    return frame.style.hide(axis="index").set_caption(caption).set_properties(**left)


def parts_and_targets(task: Any, examples: Sequence[Any]) -> pd.DataFrame:
    """What the verdict can rest on: verified rows per part, and what the task needs."""
    verified = [e for e in examples if e.quality == "verified"]
    rows = [{"what": f"{part} rows", "value": f"{sum(e.part == part for e in verified)}"} for part in PARTS]
    rows += [{"what": f"target: {metric}", "value": f"{target:g}"} for metric, target in task.targets.items()]
    return show.table(rows, f"{task.name}: verified rows and targets")


def screening_table(screening: Any) -> Styler:
    """The questionnaire's two columns."""
    rows = [{"speaks": "for fine-tuning", "because": reason} for reason in screening.good]
    rows += [{"speaks": "against", "because": reason} for reason in screening.poor]
    rows += [{"speaks": "note", "because": warning} for warning in screening.warnings]
    return sentences(rows, "What kind of problem is this?", ["speaks", "because"])


def verdict_table(decision: Any) -> Styler:
    """The recommendation with its reasons, what to do next, and what to keep in mind."""
    rows = [{"": "recommendation", "said": f"{decision.recommendation} ({decision.status})"}]
    rows += [{"": "because", "said": reason} for reason in decision.reasons]
    rows += [{"": "next", "said": decision.next_action}]
    rows += [{"": "keep in mind", "said": warning} for warning in decision.warnings]
    return sentences(rows, "The verdict")


def plan_table(decision: Any) -> Styler:
    """Upkeep, break-even and power: what saying yes would mean."""
    numbers, power, plan = decision.economics, decision.power, decision.plan
    needed = numbers["break_even_requests_per_month"]
    rows = [
        {
            "": "break-even against the best rung",
            "value": f"{needed:,} requests a month" if needed else "never by cost alone",
        },
        {"": "one-off work", "value": f"{numbers['one_off_usd']:,.0f} USD"},
        {"": "upkeep", "value": f"{numbers['monthly_usd']:,.0f} USD and {plan['hours_per_month']:g} hours a month"},
        {"": "prices as of", "value": numbers["prices_as_of"] or "no date given"},
        {
            "": "smallest gain that 04 can show",
            "value": f"{100 * power['detectable_difference']:.0f} points with {power['n']} test rows (80% power)",
        },
        {"": "owner", "value": plan["owner"]},
        {"": "look again", "value": f"{plan['cadence']}, decide anew on {plan['review_on']}"},
    ]
    return sentences(rows, "Cost, power and upkeep")
