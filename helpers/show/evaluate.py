"""What 04 shows: the final comparison, the rows that flipped, and which labels are mixed up."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from helpers import show, store
from helpers.records import TrainingExample
from helpers.show.decide import draw_scores
from helpers.tasks import Task

if TYPE_CHECKING:
    from IPython.display import HTML
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas.io.formats.style import Styler

Answers = Sequence[Mapping[str, Any]]  # lines of answers/<rung>.jsonl
MOST_FLIPS = 12  # in a table


def comparison(evaluation: Any, targets: Mapping[str, float]) -> Figure:
    """Base, best cheaper rung and tuned with intervals and targets; below, the paired differences that decide."""
    import matplotlib.pyplot as plt

    heights = [
        1.15 + 0.7 * len(evaluation.rungs),
        0.75 + 0.5 * sum(map(len, [evaluation.comparison, *evaluation.against.values()])),
    ]
    figure, (scores, paired) = plt.subplots(2, 1, height_ratios=heights, layout="constrained")
    figure.set_size_inches(8.5, sum(heights) + 0.9)
    roles = (
        {"zero_shot": "base", "fine_tuned": "tuned"}.get(r.name, "other") for r in evaluation.rungs
    )
    draw_scores(scores, evaluation.rungs, targets, [show.COLOURS[role] for role in roles])
    scores.set_title(f"Scores on the same {evaluation.n_test} test rows", loc="left", fontsize=11)
    _draw_differences(paired, evaluation)
    title = f"Is {evaluation.version} good enough, and better? {evaluation.verdict}"
    figure.suptitle(
        title, x=0.01, ha="left", color=show.VERDICT_COLOURS[evaluation.verdict], weight="bold"
    )
    plt.close(figure)
    return figure


def _draw_differences(axis: Axes, evaluation: Any) -> None:
    reach, rows = 30.0, list(evaluation.comparison.items())
    rows += [
        (f"{m} against {name}", c)
        for name, compared in evaluation.against.items()
        for m, c in compared.items()
    ]
    for y, (metric, c) in enumerate(rows):
        value, low, high = (
            100 * x for x in (c.difference.value, c.difference.low, c.difference.high)
        )
        reach = max(reach, 1.2 * abs(low), 1.2 * abs(high))
        colour = show.VERDICT_COLOURS[c.verdict] if metric.startswith("accuracy") else "#555555"
        axis.plot([low, high], [y, y], color=colour, lw=2.6, solid_capstyle="butt")
        axis.plot(value, y, "D", ms=8, color=colour)
        said = f"{value:+.0f} points [{low:+.0f}, {high:+.0f}], {c.gained} gained, {c.lost} lost"
        axis.text(
            0,
            y - 0.2,
            said,
            ha="center",
            va="bottom",
            fontsize=9,
            bbox={"fc": "white", "ec": "none", "pad": 1},
        )
    for threshold, line in {100 * evaluation.min_gain: "--", 0.0: "-"}.items():
        axis.axvline(threshold, color=show.COLOURS["target"], lw=1, ls=line, zorder=0)
    axis.set_yticks(
        range(len(rows)),
        [m.replace("_", "\n", 1).replace(" against ", "\nagainst ") for m, _ in rows],
    )
    axis.set(xlim=(-reach, reach), ylim=(len(rows) - 0.5, -0.85))
    axis.set_title(
        f"Paired difference: fine_tuned minus {evaluation.best_rung}, row by row",
        loc="left",
        fontsize=11,
    )
    axis.set_xlabel("points (right of the line: the tuned model is better), 95% interval")
    axis.spines[["top", "right"]].set_visible(False)


def target_table(evaluation: Any) -> Styler:
    """Every target with the tuned model's estimate and whether the whole interval keeps it."""
    rows = [
        {
            "metric": metric,
            "target": f"{check.target:g}",
            "measured": check.estimate,
            "met": check.met,
        }
        for metric, check in evaluation.targets.items()
    ]
    return show.table(rows, "Targets of task.yaml, decided by the bound of the interval")


def reason_table(evaluation: Any) -> Styler:
    """The verdict and every sentence it rests on."""
    return show.table(
        [{"because": reason} for reason in evaluation.reasons],
        f"04's verdict: {evaluation.verdict}",
    )


def flip_table(
    evaluation: Any,
    examples: Sequence[TrainingExample],
    tuned: Answers,
    other: Answers,
    show_text: bool,
) -> HTML:
    """Rows to open one by one, side by side: losses, then gains, then rows that both got wrong (masked headless)."""
    from IPython.display import HTML

    asked = {e.id: e for e in examples}
    ours, theirs = ({row["id"]: row for row in side} for side in (tuned, other))
    lost, gained = evaluation.flips["lost"], evaluation.flips["gained"]
    wrong = [
        i
        for i, row in ours.items()
        if not (row["scores"].get("accuracy") or theirs[i]["scores"].get("accuracy"))
    ]
    rows = [
        (kind, i)
        for kind, ids in (("lost", lost), ("gained", gained), ("both wrong", wrong))
        for i in ids[:MOST_FLIPS]
    ]
    parts = [
        f"<p>Against {escape(evaluation.best_rung)}: {len(lost)} lost, {len(gained)} gained, {len(wrong)} wrong in both</p>"
    ]
    for kind, i in rows:
        texts = {"asked": asked[i].user_text, "wanted": asked[i].answer}
        texts |= {
            "tuned said": ours[i]["answer"],
            f"{evaluation.best_rung} said": theirs[i]["answer"],
        }
        shown = {name: escape(show.masked(text, show_text, 2000)) for name, text in texts.items()}
        why = escape(ours[i].get("format_reason", "") if show_text and not store.headless() else "")
        cells = "".join(
            f'<td style="{show.CELL};width:25%"><b>{escape(n)}</b><br>{text}</td>'
            for n, text in shown.items()
        )
        colour = {"lost": show.COLOURS["bad"], "gained": show.COLOURS["good"]}.get(
            kind, show.COLOURS["base"]
        )
        head = f'<summary><span style="color:{colour}">■</span> {kind} · {escape(i)} · {shown["asked"][:90]}</summary>'
        parts.append(
            f'<details>{head}<table style="width:100%"><tr>{cells}</tr></table>{why}</details>'
        )
    return HTML("\n".join(parts))


def slice_table(evaluation: Any) -> Styler:
    """Slices of the test rows, the worst first; p is corrected for looking at all of them (Holm)."""
    rows = [
        {
            "slice": s.slice,
            "difference": s.difference,
            "gained": s.gained,
            "lost": s.lost,
            "p, corrected": s.p_holm,
        }
        | {"verdict": s.verdict}
        for s in evaluation.slices
    ]
    caption = f"Tuned minus {evaluation.best_rung} by slice; intervals are of one slice alone, the verdict goes by p"
    return show.table(rows, caption, None if rows else ["slice", "difference"])


def learning_curve(rungs: Mapping[int, Any], targets: Mapping[str, float]) -> Figure:
    """Validation accuracy, with its interval, over the percent of the train rows that the model saw."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
    found = {percent: rung.results.accuracy for percent, rung in sorted(rungs.items())}
    bars = [[e.value - e.low for e in found.values()], [e.high - e.value for e in found.values()]]
    values = [e.value for e in found.values()]
    axis.errorbar(list(found), values, yerr=bars, fmt="o-", capsize=4, color=show.COLOURS["tuned"])
    for percent, e in found.items():
        axis.annotate(
            f"{100 * e.value:.0f}%",
            (percent, e.value),
            (6, 6),
            textcoords="offset points",
            fontsize=9,
        )
    if "accuracy" in targets:
        axis.axhline(targets["accuracy"], color=show.COLOURS["target"], ls="--", lw=1.2)
        axis.text(
            1, targets["accuracy"] + 0.02, f"target {100 * targets['accuracy']:g}%", fontsize=9
        )
    axis.set(
        xlim=(0, 108),
        ylim=(-0.03, 1.03),
        xticks=list(found),
        xlabel="percent of the train rows",
        ylabel="accuracy",
    )
    n = next(iter(found.values())).n
    axis.set_title(f"Learning curve on {n} validation rows, 95% intervals", loc="left", fontsize=11)
    axis.spines[["top", "right"]].set_visible(False)
    plt.close(figure)
    return figure


def diagnosis_table(found: Sequence[Any]) -> Styler:
    """Every usual cause, whether the evidence speaks for it, and what to do if it does."""
    said = {True: "YES", False: "no", None: "unknown"}
    rows = [
        {"cause": d.cause.replace("_", " "), "found": said[d.found], "evidence": d.evidence}
        | {"next": d.next_action if d.found else "-"}
        for d in sorted(found, key=lambda d: d.found is not True)
    ]
    caption = (
        "What the evidence speaks for" if rows else "Nothing to diagnose yet: run 04_evaluate first"
    )
    return show.table(rows, caption, None if rows else ["cause", "found", "evidence"])


def rating_table(
    evaluation: Any,
    table: Sequence[Mapping[str, str]],
    run: store.Run,
    show_text: bool,
    write: Callable[..., Any],
) -> Any:
    """By hand, for tasks judged by people or by a model: a blind A/B table whose clicks `write` keeps in ratings.csv.

    It feeds no later cell: the next run of the notebook reads the file. Headless, and for other tasks, one sentence.
    """
    if evaluation.ratings is None:
        return show.note("A scorer decides this task, so there is nothing to rate.")
    rated = f"{evaluation.ratings.rated} answers are rated by {evaluation.ratings.by}"
    if store.headless() or not show_text:
        return show.note(f"{rated}; to rate the others by hand, fill `choice` in {run.path('private/blind.csv')}"
                         f" and save it as {run.path('private/ratings.csv')}")  # fmt: skip
    import ipywidgets

    rows = [dict(row) for row in table]
    lines = []
    for row in rows:
        texts = "".join(
            f'<td style="{show.CELL};width:33%"><b>{n}</b><br>{escape(row[n])}</td>'
            for n in ("asked", "A", "B")
        )
        buttons = ipywidgets.ToggleButtons(
            options=["", "A", "B", "both", "neither"],
            value=row["choice"],
            style={"button_width": "70px"},
        )

        def keep(change: Mapping[str, Any], row: dict[str, str] = row) -> None:
            row["choice"] = change["new"]
            write(run.private / "ratings.csv", rows)

        buttons.observe(keep, names="value")
        lines += [ipywidgets.HTML(f'<table style="width:100%"><tr>{texts}</tr></table>'), buttons]
    return ipywidgets.VBox(
        [ipywidgets.HTML(f"<b>Which would you send as it is?</b> {rated}"), *lines]
    )


def confusion(task: Task, examples: Sequence[TrainingExample], rows: Answers) -> Figure | HTML:
    """Wanted against answered values of the task's first scored field that has fixed choices."""
    import matplotlib.pyplot as plt

    properties = (task.schema or {}).get("properties", {})
    field = next((name for name in task.scored_fields if "enum" in properties[name]), "")
    if not field:
        return show.note(
            "No scored field has a fixed list of values, so there is nothing to mix up."
        )
    said = {row["id"]: row["answer"] for row in rows}
    counts = Counter(
        (_value(e.answer, field), _value(said[e.id], field)) for e in examples if e.id in said
    )
    labels = list(
        dict.fromkeys([*map(str, properties[field]["enum"]), *(wanted for wanted, _ in counts)])
    )
    columns = labels + sorted({answered for _, answered in counts} - set(labels))
    figure, axis = plt.subplots(
        figsize=(2.4 + 0.55 * len(columns), 1.8 + 0.45 * len(labels)), layout="constrained"
    )
    axis.imshow(
        [[counts[wanted, got] for got in columns] for wanted in labels],
        cmap="Blues",
        vmin=0,
        aspect="auto",
    )
    for (wanted, got), n in counts.items():
        colour = "white" if n > 0.6 * max(counts.values()) else "black"
        axis.text(
            columns.index(got),
            labels.index(wanted),
            n,
            ha="center",
            va="center",
            fontsize=9,
            color=colour,
        )
    axis.set_xticks(range(len(columns)), [c[:12] for c in columns], rotation=45, ha="right")
    axis.set_yticks(range(len(labels)), labels)
    axis.set(xlabel="answered", ylabel="wanted")
    right = sum(counts[label, label] for label in labels)
    axis.set_title(f"{field}: {right} of {sum(counts.values())} right", loc="left", fontsize=11)
    plt.close(figure)
    return figure


def _value(answer: str, field: str) -> str:
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        return "no JSON"
    return str(value.get(field, "(missing)")) if isinstance(value, dict) else "no JSON"
