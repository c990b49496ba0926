"""What 04 shows: the final comparison, the rows that flipped, and which labels are mixed up."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from helpers import show
from helpers.records import TrainingExample
from helpers.show.decide import RUNG_NAMES, draw_scores, sentences
from helpers.tasks import Task

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas.io.formats.style import Styler

NO_JSON = "no JSON"
METRIC_NAMES = {"accuracy": "accuracy", "format_compliance": "format"}


def comparison(evaluation: Any, targets: Mapping[str, float]) -> Figure:
    """Base, best cheaper rung and tuned with intervals and targets; below, the paired differences that decide."""
    import matplotlib.pyplot as plt

    rungs = evaluation.rungs
    heights = [1.15 + 0.7 * len(rungs), 0.75 + 0.5 * len(evaluation.comparison)]
    figure, (scores, paired) = plt.subplots(
        2, 1, figsize=(8.5, sum(heights) + 0.9), height_ratios=heights, layout="constrained"
    )
    figure.get_layout_engine().set(hspace=0.08)
    by_name = {"zero_shot": show.COLOURS["base"], "fine_tuned": show.COLOURS["tuned"]}
    draw_scores(scores, rungs, targets, *(by_name.get(r.name, show.COLOURS["other"]) for r in rungs))
    scores.set_title(f"Scores on the same {evaluation.n_test} test rows", loc="left", fontsize=11)
    _draw_differences(paired, evaluation)
    colour = show.VERDICT_COLOURS[evaluation.verdict]
    title = f"Is {evaluation.version} good enough, and better? {evaluation.verdict}"
    figure.suptitle(title, x=0.01, ha="left", color=colour, weight="bold")
    plt.close(figure)
    return figure


def _draw_differences(axis: Axes, evaluation: Any) -> None:
    best = RUNG_NAMES.get(evaluation.best_rung, evaluation.best_rung).split("\n")[0]
    names = list(evaluation.comparison)
    for y, metric in enumerate(names):
        c = evaluation.comparison[metric]
        d, colour = c.difference, show.VERDICT_COLOURS[c.verdict] if metric == "accuracy" else "#555555"
        axis.plot([100 * d.low, 100 * d.high], [y, y], color=colour, lw=2.6, solid_capstyle="butt")
        axis.plot(100 * d.value, y, "D", ms=8, mfc=colour, mec=colour)
        axis.text(
            100 * (d.low + d.high) / 2,
            y - 0.2,
            f"{100 * d.value:+.0f} points [{100 * d.low:+.0f}, {100 * d.high:+.0f}], {c.gained} gained, {c.lost} lost",
            ha="center",
            va="bottom",
            fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )
    axis.axvline(0, color=show.COLOURS["target"], lw=1)
    if evaluation.min_gain:
        axis.axvline(100 * evaluation.min_gain, color=show.COLOURS["target"], lw=1.2, ls="--")
    axis.set_yticks(range(len(names)), [METRIC_NAMES.get(n, n) for n in names])
    axis.set_ylim(len(names) - 0.5, -0.85)
    ends = [100 * x for c in evaluation.comparison.values() for x in (c.difference.low, c.difference.high)]
    middle, half = (min([0, *ends]) + max([0, *ends])) / 2, (max([0, *ends]) - min([0, *ends])) / 2
    axis.set_xlim(middle - max(30, 1.35 * half), middle + max(30, 1.35 * half))
    axis.set_title(f"Paired difference: tuned minus {best}, row by row", loc="left", fontsize=11)
    axis.set_xlabel("points (right of the line: the tuned model is better), 95% interval")
    axis.spines[["top", "right"]].set_visible(False)


def target_table(evaluation: Any) -> pd.DataFrame:
    """Every target with the tuned model's estimate and whether the whole interval keeps it."""
    rows = [
        {
            "metric": metric,
            "target": f"{check.target:g}",
            "measured": f"{e.value:.3g} [{e.low:.3g}, {e.high:.3g}] n={e.n}",
            "met": check.met,
        }
        for metric, check, e in ((name, check, check.estimate) for name, check in evaluation.targets.items())
    ]
    return show.table(rows, "Targets of task.yaml, decided by the bound of the interval")


def reason_table(evaluation: Any) -> Styler:
    """The verdict and every sentence it rests on."""
    rows = [{"verdict": evaluation.verdict, "because": reason} for reason in evaluation.reasons]
    return sentences(rows, f"04's verdict on {evaluation.version}")


def flip_table(
    evaluation: Any,
    examples: Sequence[TrainingExample],
    tuned: Sequence[Mapping[str, Any]],
    other: Sequence[Mapping[str, Any]],
    show_text: bool,
    limit: int = 12,
) -> Styler:
    """Rows that changed sides, losses first: what was asked, what was wanted, what both said (masked headless)."""
    rows, by_id = [], {e.id: e for e in examples}
    ours, theirs = ({row["id"]: row["answer"] for row in side} for side in (tuned, other))
    changes = [("lost", i) for i in evaluation.flips.lost] + [("gained", i) for i in evaluation.flips.gained]
    for change, i in changes[:limit]:
        texts = {"asked": by_id[i].user_text, "wanted": by_id[i].answer, "tuned said": ours[i], "other said": theirs[i]}
        rows.append(
            {"flip": change, "id": i} | {name: show.masked(text, show_text, 90) for name, text in texts.items()}
        )
    lost, gained = len(evaluation.flips.lost), len(evaluation.flips.gained)
    caption = f"Flips against {evaluation.best_rung}: {lost} lost, {gained} gained; {len(rows)} shown"
    return sentences(rows, caption, None if rows else ["flip", "id"])


def confusion(
    task: Task, examples: Sequence[TrainingExample], rows: Sequence[Mapping[str, Any]], field: str = ""
) -> Figure:
    """Wanted against answered values of one field with fixed choices (default: the task's first scored one)."""
    import matplotlib.pyplot as plt

    field = field or next(iter(_choices(task)), "")
    if not field:
        figure, axis = plt.subplots(figsize=(6, 0.6))
        axis.text(0, 0.5, "No scored field has a fixed list of values, so there is nothing to mix up.")
        axis.axis("off")
        plt.close(figure)
        return figure
    labels = [str(v) for v in _choices(task).get(field, [])]
    said = {row["id"]: _value(row["answer"], field) for row in rows}
    counts = Counter((_value(e.answer, field), said[e.id]) for e in examples if e.id in said)
    columns = labels + sorted({answered for _, answered in counts} - set(labels))
    figure, axis = plt.subplots(figsize=(2.4 + 0.55 * len(columns), 1.8 + 0.45 * len(labels)), layout="constrained")
    matrix = [[counts[(wanted, answered)] for answered in columns] for wanted in labels]
    axis.imshow(matrix or [[0]], cmap="Blues", vmin=0, aspect="auto")
    top = max((n for line in matrix for n in line), default=1)
    for y, line in enumerate(matrix):
        for x, n in enumerate(line):
            if n:
                axis.text(x, y, n, ha="center", va="center", fontsize=9, color="white" if n > 0.6 * top else "black")
    axis.set_xticks(range(len(columns)), [c if len(c) < 12 else c[:11] + "…" for c in columns], rotation=45, ha="right")
    axis.set_yticks(range(len(labels)), labels)
    axis.set_xlabel("answered")
    axis.set_ylabel("wanted")
    right = sum(counts[(label, label)] for label in labels)
    axis.set_title(f"{field}: {right} of {sum(counts.values())} right", loc="left", fontsize=11)
    plt.close(figure)
    return figure


def _choices(task: Task) -> dict[str, list[Any]]:
    """Scored fields whose schema names the allowed values."""
    properties = (task.schema or {}).get("properties", {})
    return {f: properties[f]["enum"] for f in task.scored_fields if "enum" in properties.get(f, {})}


def _value(answer: str, field: str) -> str:
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        return NO_JSON
    return str(value.get(field, "(missing)")) if isinstance(value, dict) else NO_JSON
