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
            "USD per 1,000": 1000 * r.results.cost_per_request.value
            if r.results.cost_per_request.n
            else "unknown",
        }
        for r in rungs
    ]
    return show.table(
        rows, f"Rungs on the {rungs[0].part} part, 95% intervals" if rungs else "No rung was asked"
    )


def ladder(rungs: Sequence[Any], targets: Mapping[str, float]) -> Figure:
    """Every rung's scores with intervals against the targets (left), and what a request takes (right)."""
    import matplotlib.pyplot as plt

    figure, (scores, costs) = plt.subplots(
        1, 2, sharey=True, width_ratios=[3, 1], layout="constrained"
    )
    figure.set_size_inches(10, 1.5 + 0.75 * len(rungs))
    draw_scores(scores, rungs, targets, [show.COLOURS["other"]] * len(rungs))
    priced = all(r.results.cost_per_request.n for r in rungs)
    lengths = [
        1000 * r.results.cost_per_request.value if priced else r.tokens_per_request for r in rungs
    ]
    bars = costs.barh(range(len(rungs)), lengths, color=show.COLOURS["base"], height=0.5)
    costs.bar_label(
        bars,
        [
            f" {show.number(x)} ({r.tokens_per_request:.0f} tokens)"
            for x, r in zip(lengths, rungs, strict=True)
        ],
    )
    costs.margins(x=0.9)
    costs.set_xlabel("USD per 1,000 requests" if priced else "tokens per request")
    costs.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"What each rung scores and costs ({rungs[0].part} part, n = {rungs[0].n})",
        x=0.01,
        ha="left",
    )
    plt.close(figure)
    return figure


def cost_over_volume(decision: Any) -> Figure:
    """What a month costs by each way over its number of requests, work included; where tuning gets cheaper is marked."""
    import matplotlib.pyplot as plt
    import numpy

    numbers = decision.economics
    figure, axis = plt.subplots(figsize=(8.5, 4.2), layout="constrained")
    volumes = numpy.logspace(2, 7, 120)
    shades = [show.COLOURS[name] for name in ("base", "other", "good", "bad")] + [
        "#0072B2",
        "#F0E442",
        "#999999",
    ]
    for way, colour in zip(numbers["ways"].items(), [*shades] * 3, strict=False):
        name, cost = way
        month = cost["one_off_usd"] / 12 + cost["monthly_usd"] + volumes * cost["cost_per_request"]
        tuned = name == "fine_tuned"
        label = f"{name} (predicted)" if tuned else name
        axis.plot(
            volumes,
            month,
            color=show.COLOURS["tuned"] if tuned else colour,
            lw=3 if tuned else 1.8,
            label=label,
        )
    for needed in filter(None, numbers["break_even_against"].values()):
        if volumes[0] <= needed <= volumes[-1]:
            tuned = numbers["ways"]["fine_tuned"]
            usd = (
                tuned["one_off_usd"] / 12
                + tuned["monthly_usd"]
                + needed * tuned["cost_per_request"]
            )
            axis.plot(
                needed, usd, "o", ms=9, mfc="white", mec=show.COLOURS["tuned"], mew=2, zorder=5
            )
            axis.annotate(
                f"{needed:,}",
                (needed, usd),
                xytext=(6, -14),
                textcoords="offset points",
                fontsize=9,
            )
    if numbers["volume_per_month"]:
        axis.axvline(
            numbers["volume_per_month"],
            color=show.COLOURS["target"],
            ls="--",
            lw=1.2,
            label="the task's own volume",
        )
    axis.set(
        xscale="log", yscale="log", xlabel="requests a month", ylabel="USD a month, work included"
    )
    axis.set_ylim(bottom=1)
    axis.grid(color="#eeeeee")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9)
    axis.set_title(
        f"Cost over volume, prices of {numbers['prices_as_of'] or 'an unknown day'}",
        loc="left",
        fontsize=11,
    )
    plt.close(figure)
    return figure


def ways_table(decision: Any) -> Styler:
    """Per way: a request, the work before and after, how long it takes to have it, and tuning's break-even volume."""
    numbers, rows = decision.economics, []
    for name, way in numbers["ways"].items():
        needed = numbers["break_even_against"].get(name)
        rows.append(
            {
                "way": name,
                "USD per 1,000": 1000 * way["cost_per_request"],
                "one-off, USD": way["one_off_usd"],
                "monthly, USD": way["monthly_usd"],
                "time to have it": way["elapsed"],
                "tuning is cheaper from": f"{needed:,} requests a month"
                if needed is not None
                else "-",
            }
        )
    return show.table(
        rows, f"What each way costs (prices of {numbers['prices_as_of'] or 'an unknown day'})"
    )


def questionnaire(screening: Any) -> Any:
    """The questions as check boxes, and the answers as YAML to copy into a profile; headless, the YAML alone.

    It shows and feeds nothing: the parameters cell stays the one place that the next cell reads.
    """
    from IPython.display import Code

    from helpers import store

    answers = {name: value for name, value in dict(screening).items() if isinstance(value, bool)}
    if store.headless():
        return Code(_as_yaml(answers), language="yaml")
    import ipywidgets

    boxes = {
        n: ipywidgets.Checkbox(v, description=n.replace("_", " "), indent=False)
        for n, v in answers.items()
    }
    copied = ipywidgets.Textarea(_as_yaml(answers), rows=len(boxes) + 1, description="as YAML")

    def write(_: Any) -> None:
        copied.value = _as_yaml({name: box.value for name, box in boxes.items()})

    for box in boxes.values():
        box.observe(write, "value")
    return ipywidgets.HBox([ipywidgets.VBox(list(boxes.values())), copied])


def _as_yaml(answers: Mapping[str, bool]) -> str:
    return "\n".join(f"{name}: {str(value).lower()}" for name, value in answers.items())


def draw_scores(
    axis: Axes, rungs: Sequence[Any], targets: Mapping[str, float], colours: Sequence[str]
) -> None:
    """Accuracy (filled) and format compliance (open) of each rung with intervals, and the targets as dashed lines."""
    from matplotlib.ticker import PercentFormatter

    for metric, (marker, filled, line, offset) in SCORES.items():
        name = metric.replace("_", " ")
        for y, (rung, colour) in enumerate(zip(rungs, colours, strict=True)):
            e: Estimate = getattr(rung.results, metric)
            if e.n:
                at, face = y + offset, colour if filled else "white"
                axis.plot(
                    [e.low, e.high], [at, at], color=colour, lw=2.2, solid_capstyle="butt", zorder=2
                )
                axis.plot(e.value, at, marker, ms=8, mfc=face, mec=colour, mew=1.8, zorder=3)
                said = f"{100 * e.value:.0f}% [{100 * e.low:.0f}, {100 * e.high:.0f}]"
                axis.text(1.04, at, said, va="center", fontsize=9, color="#333333")
        axis.plot(
            [],
            [],
            marker,
            color="#555555",
            mfc="#555555" if filled else "white",
            label=f"{name}, 95% interval",
        )
        if metric in targets:
            label = f"target {100 * targets[metric]:g}% {name}"
            axis.axvline(
                targets[metric],
                color=show.COLOURS["target"],
                ls=line,
                lw=1.2,
                zorder=1,
                label=label,
            )
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
    rows += [
        {"what": f"target: {metric}", "value": target} for metric, target in task.targets.items()
    ]
    return show.table(rows, f"{task.name}: verified rows and targets")


def screening_table(screening: Any) -> Styler:
    """The questionnaire's two columns."""
    rows = [
        {"speaks": "for fine-tuning", "weight": f"{weight}", "because": reason}
        for reason, weight in screening.weighed
    ]
    rows += [
        {"speaks": "against", "weight": "decides", "because": reason}
        for reason, _ in screening.poor
    ]
    rows += [{"speaks": "note", "weight": "", "because": warning} for warning in screening.warnings]
    return show.table(rows, "What kind of problem is this?", ["speaks", "weight", "because"])


def verdict_table(decision: Any) -> Styler:
    """The recommendation with its reasons, what to do next, and what to keep in mind."""
    rows = [("recommendation", f"{decision.recommendation} ({decision.status})")]
    rows += [("because", reason) for reason in decision.reasons]
    rows += [
        ("next", decision.next_action),
        *(("keep in mind", warning) for warning in decision.warnings),
    ]
    return show.table([{"": what, "said": said} for what, said in rows], "The verdict")


def plan_table(decision: Any) -> Styler:
    """Upkeep, break-even and power: what saying yes would mean."""
    numbers, power, plan = decision.economics, decision.power, decision.plan
    needed = numbers["break_even_requests_per_month"]
    rows = {
        "break-even against the best rung": f"{needed:,} requests a month"
        if needed
        else "never by cost alone",
        "the task's own volume": f"{numbers['volume_per_month']:,} requests a month",
        "one-off work of tuning": f"{numbers['one_off_usd']:,.0f} USD, {show.number(numbers['training_usd'])} of it for training",
        "upkeep of tuning": f"{numbers['monthly_usd']:,.0f} USD a month",
        "upkeep of what is advised": f"{plan['hours_per_month']:g} hours a month; to have it takes {plan['time_to_build']}",
        "smallest gain that 04 can show": f"{100 * power['detectable_difference']:.0f} points, {power['n']} test rows",
        "who looks after it": f"{plan['owner']}, {plan['cadence']}; decide anew on {plan['review_on']}",
    }
    return show.table(
        [{"": what, "value": value} for what, value in rows.items()], "Cost, power and upkeep"
    )
