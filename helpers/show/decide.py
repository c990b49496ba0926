"""What 01 shows: the rungs against the targets, what each way costs, and why the verdict fell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any

from helpers import show
from helpers.records import PARTS, Decision, Estimate, Power, RungResult, Screening, TrainingExample
from helpers.show.whatif import what_if
from helpers.tasks import Task

# metric: symbol, line of its target, offset in its row
SCORES = {"accuracy": ("o", "--", -0.13), "format_compliance": ("s", ":", 0.13)}
Rungs = Sequence[RungResult]
VOLUMES = (2, 7)  # of requests a month, as powers of ten


def rung_table(rungs: Rungs) -> show.Table:
    """One row per rung: scores with intervals, and a request's latency, tokens and cost."""
    columns = {
        "rung": "name",
        "model": "model",
        "accuracy": "results.accuracy",
        "format": "results.format_compliance",
        "p50, ms": "results.latency_p50",
        "p95, ms": "results.latency_p95",
        "tokens": "tokens_per_request",
        "USD per 1,000": _usd_per_1000,
    }
    part = rungs[0].part if rungs else "validation"
    return show.table(rungs, f"Rungs on the {part} part, 95% intervals", columns)


def _usd_per_1000(rung: RungResult) -> float | str:
    cost = rung.results.cost_per_request
    return 1000 * cost.value if cost.n else "unknown"


def ladder(rungs: Rungs, targets: Mapping[str, float]) -> show.Figure | show.HTML:
    """Every rung's scores against the targets (left), and what a request takes (right)."""
    if not rungs:
        return show.note("None of `rungs` can be asked here: the lines above say why.", "warning")
    figure, (scores, costs) = show.subplots(1, 2, sharey=True, width_ratios=[3, 1])
    figure.set_size_inches(10, 1.5 + 0.75 * len(rungs))
    draw_scores(scores, rungs, targets, [show.OTHER] * len(rungs))
    _draw_costs(costs, rungs)
    title = f"What each rung scores and costs ({rungs[0].part} part, n = {rungs[0].n})"
    figure.suptitle(title, x=0.01, ha="left")
    return show.finished(figure)


def _draw_costs(axis: show.Axes, rungs: Rungs) -> None:
    """A bar per rung: USD per 1,000 requests, or tokens where a price is missing."""
    priced = all(rung.results.cost_per_request.n for rung in rungs)
    lengths = [_usd_per_1000(rung) if priced else rung.tokens_per_request for rung in rungs]
    axis.set_xlabel("USD per 1,000 requests" if priced else "tokens per request")
    labels = []
    for length, rung in zip(lengths, rungs, strict=True):
        labels.append(f" {show.number(length)} ({rung.tokens_per_request:.0f} tokens)")
    bars = axis.barh(range(len(rungs)), lengths, color=show.BASE, height=0.5)
    axis.bar_label(bars, labels)
    axis.margins(x=0.9)


def cost_over_volume(decision: Decision) -> show.Figure:
    """What a month costs by each way, work included; where tuning gets cheaper is marked."""
    import numpy

    numbers = decision.economics
    figure, axis = show.subplots(figsize=(8.5, 4.2))
    volumes = numpy.logspace(*VOLUMES, 120)
    colours = cycle([show.BASE, show.OTHER, show.GOOD, show.BAD, "#0072B2", "#F0E442"])
    looks = zip(colours, cycle(["-", "--", "-.", ":"]), strict=False)  # none hides another
    for (name, way), (colour, dashes) in zip(numbers.ways.items(), looks, strict=False):
        style = {"color": colour, "lw": 3, "ls": dashes, "label": name}
        if name == "fine_tuned":
            style = {"color": show.TUNED, "lw": 3, "label": f"{name} (predicted)"}
        axis.plot(volumes, way.upkeep + volumes * way.cost_per_request, **style)
    _mark_break_evens(axis, decision)
    own = numbers.volume_per_month
    if own:
        axis.axvline(own, label="the task's own volume", color=show.TARGET, ls="--", lw=1.2)
    axis.set(xscale="log", xlabel="requests a month")
    axis.set(yscale="log", ylabel="USD a month, work included", ylim=(1, None))
    axis.xaxis.set_major_formatter("{x:,.0f}")  # matplotlib's own powers are formulas, as which
    axis.yaxis.set_major_formatter("{x:,.0f}")  # show.LOOKS draws nothing
    axis.grid(color="#eeeeee")
    axis.legend()
    axis.set_title(f"Cost over volume, prices of {numbers.prices_as_of or 'an unknown day'}")
    return show.finished(figure)


def _mark_break_evens(axis: show.Axes, decision: Decision) -> None:
    """Circles where tuning becomes the cheaper way; the legend says the volumes."""
    numbers = decision.economics
    tuned = numbers.ways.get("fine_tuned")
    least, most = (10**power for power in VOLUMES)
    points = sorted(n for n in numbers.break_even_against.values() if n and least <= n <= most)
    if tuned is None or not points:
        return
    costs = [tuned.upkeep + needed * tuned.cost_per_request for needed in points]
    edge = {"mfc": "white", "mec": show.TUNED, "mew": 2, "zorder": 5}
    label = "tuning is cheaper from " + ", ".join(f"{needed:,}" for needed in points)
    axis.plot(points, costs, "o", ms=9, label=label, **edge)


def ways_table(decision: Decision) -> show.Table:
    """Per way: a request, the work before and after, its time, and tuning's break-even volume."""
    numbers = decision.economics
    rows = []
    for name, way in numbers.ways.items():
        row = {"way": name, "USD per 1,000": 1000 * way.cost_per_request}
        row |= {"one-off, USD": way.one_off_usd, "monthly, USD": way.monthly_usd}
        row["time to have it"] = way.elapsed
        row["tuning is cheaper from, requests a month"] = numbers.break_even_against.get(name)
        rows.append(row)
    day = numbers.prices_as_of or "an unknown day"
    return show.table(rows, f"What each way costs (prices of {day})")


def questionnaire(screening: Screening, recommend: Callable[[Screening], Any]) -> Any:
    """What the verdict would be with other answers; `recommend` gives it, with its reasons.

    It shows and feeds nothing: the parameters cell stays the one place that a run reads.
    """
    answers = {name: value for name, value in screening if isinstance(value, bool)}

    def follows(*values: bool) -> str:
        other = dict(zip(answers, values, strict=True))
        advice = recommend(screening.model_copy(update=other))
        text = f"{advice.recommendation}: {advice.reasons[0]}"
        if not show.unattended():
            lines = [f"{name}: {str(value).lower()}" for name, value in other.items()]
            text = "\n".join([text, "", "as YAML, for a profile or task.yaml:", *lines])
        return text

    choices = {name.replace("_", " "): (False, True) for name in answers}
    return what_if("If your answers were others", choices, list(answers.values()), follows)


def cost_at(decision: Decision) -> Any:
    """What each way costs a month at a volume that is chosen, the cheapest first."""
    numbers = decision.economics
    volumes = sorted({10**n for n in range(2, 8)} | {numbers.volume_per_month or 100})

    def follows(volume: int) -> str:
        costs = sorted(
            (way.upkeep + volume * way.cost_per_request, name) for name, way in numbers.ways.items()
        )
        texts = [f"{name} {show.number(usd)}" for usd, name in costs]
        return ", ".join(texts) or "unknown: what a request takes was not measured"

    caption = "USD a month at another volume, work included"
    start = [numbers.volume_per_month or 100]
    return what_if(caption, {"requests a month": volumes}, start, follows)


def power_at(power: Power, chance: Callable[[int, float], float]) -> Any:
    """How likely 04 sees a true gain on so many test rows; `chance` (rows, gain) computes it."""

    def follows(rows: int, gain: int) -> str:
        return f"04 sees it in about {chance(rows, gain / 100):.0%} of cases"

    rows = sorted({30, 60, 120, 250, 500, 1000} | {power.n})
    choices = {"test rows": rows, "true gain, in points": (2, 5, 10, 15, 20, 30, 50)}
    return what_if("Would 04 see the gain?", choices, [power.n, 10], follows)


def draw_scores(
    axis: show.Axes, rungs: Rungs, targets: Mapping[str, float], colours: Sequence[str]
) -> None:
    """Accuracy (round) and format compliance (square) of each rung, and the targets as lines."""
    from matplotlib.ticker import PercentFormatter

    for metric, (symbol, target_line, offset) in SCORES.items():
        name = metric.replace("_", " ")
        for row, rung in enumerate(rungs):
            score = getattr(rung.results, metric)
            if score.n:
                _draw_score(axis, score, row + offset, symbol, colours[row])
        axis.plot([], [], symbol, color="#555555", label=f"{name}, 95% interval")
        if metric in targets:
            label = f"target {100 * targets[metric]:g}% {name}"
            axis.axvline(targets[metric], label=label, color=show.TARGET, ls=target_line, lw=1.2)
    axis.set(xlim=(-0.02, 1.28), ylim=(len(rungs) - 0.45, -0.55), xticks=[0, 0.2, 0.4, 0.6, 0.8, 1])
    axis.set_yticks(range(len(rungs)), [rung.name for rung in rungs])
    axis.xaxis.set_major_formatter(PercentFormatter(1))
    axis.grid(axis="x", color="#eeeeee")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)


def _draw_score(axis: show.Axes, score: Estimate, y: float, symbol: str, colour: str) -> None:
    """A mark in its interval, and at the right what it says."""
    axis.plot([score.low, score.high], [y, y], lw=2.2, color=colour)
    axis.plot(score.value, y, symbol, ms=8, color=colour)
    text = f"{score.value:.0%} [{100 * score.low:.0f}, {100 * score.high:.0f}]"
    axis.text(1.04, y, text, va="center", color="#333333")


def parts_and_targets(task: Task, examples: Sequence[TrainingExample]) -> show.Table:
    """What the verdict can rest on: verified rows per part, and what the task needs."""
    parts = [example.part for example in examples if example.quality == "verified"]
    values = {f"{part} rows": parts.count(part) for part in PARTS}
    for metric, target in task.targets.items():
        values[f"target: {metric}"] = target
    return show.pairs("what", "value", values, f"{task.name}: verified rows and targets")


def screening_table(screening: Screening) -> show.Table:
    """The questionnaire's two columns."""
    rows = [("for fine-tuning", str(weight), reason) for reason, weight in screening.weighed]
    rows += [("against", "decides", reason) for reason, _ in screening.poor]
    rows += [("note", "", warning) for warning in screening.warnings]
    columns = ["speaks", "weight", "because"]
    named = [dict(zip(columns, row, strict=True)) for row in rows]
    return show.table(named, "What kind of problem is this?", columns)


def verdict_table(decision: Decision) -> show.Table:
    """The recommendation with its reasons, what to do next, and what to keep in mind."""
    rows = [{"": "recommendation", "said": f"{decision.recommendation} ({decision.status})"}]
    for reason in decision.reasons:
        rows.append({"": "because", "said": reason})
    rows.append({"": "next", "said": decision.next_action})
    for warning in decision.warnings:
        rows.append({"": "keep in mind", "said": warning})
    return show.table(rows, "The verdict")


def plan_table(decision: Decision) -> show.Table:
    """Upkeep, break-even and power: what saying yes would mean."""
    numbers, power, plan = decision.economics, decision.power, decision.plan
    needed = numbers.break_even_requests_per_month
    break_even = "never by cost alone"
    if needed is not None:
        break_even = f"from {needed:,} requests a month on"
    elif numbers.predicted_tuned_cost_per_request is None:
        break_even = "unknown: no price, or zero_shot was not asked"
    training = show.number(numbers.training_usd)
    values = {
        "break-even against the best rung": break_even,
        "the task's own volume": f"{numbers.volume_per_month:,} requests a month",
        "one-off work of tuning": f"{numbers.one_off_usd:,.0f} USD, {training} of it for training",
        "upkeep of tuning": f"{numbers.monthly_usd:,.0f} USD a month",
        "upkeep of what is advised": (
            f"{plan.hours_per_month:g} hours a month; to have it takes {plan.time_to_build}"
        ),
        "smallest gain that 04 can show": (
            f"{100 * power.detectable_difference:.0f} points, {power.n} test rows"
        ),
        "who looks after it": f"{plan.owner}, {plan.cadence}; decide anew on {plan.review_on}",
    }
    return show.pairs("", "value", values, "Cost, power and upkeep")
