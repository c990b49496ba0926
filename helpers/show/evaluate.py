"""What 04 shows: the final comparison, the rows that flipped, and which labels are mixed up."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from helpers import show
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

    heights = [1.15 + 0.7 * len(evaluation.rungs), 0.75 + 0.5 * len(evaluation.comparison)]
    figure, (scores, paired) = plt.subplots(2, 1, height_ratios=heights, layout="constrained")
    figure.set_size_inches(8.5, sum(heights) + 0.9)
    roles = ({"zero_shot": "base", "fine_tuned": "tuned"}.get(r.name, "other") for r in evaluation.rungs)
    draw_scores(scores, evaluation.rungs, targets, [show.COLOURS[role] for role in roles])
    scores.set_title(f"Scores on the same {evaluation.n_test} test rows", loc="left", fontsize=11)
    _draw_differences(paired, evaluation)
    title = f"Is {evaluation.version} good enough, and better? {evaluation.verdict}"
    figure.suptitle(title, x=0.01, ha="left", color=show.VERDICT_COLOURS[evaluation.verdict], weight="bold")
    plt.close(figure)
    return figure


def _draw_differences(axis: Axes, evaluation: Any) -> None:
    reach = 30.0
    for y, (metric, c) in enumerate(evaluation.comparison.items()):
        value, low, high = (100 * x for x in (c.difference.value, c.difference.low, c.difference.high))
        reach = max(reach, 1.2 * abs(low), 1.2 * abs(high))
        colour = show.VERDICT_COLOURS[c.verdict] if metric == "accuracy" else "#555555"
        axis.plot([low, high], [y, y], color=colour, lw=2.6, solid_capstyle="butt")
        axis.plot(value, y, "D", ms=8, color=colour)
        said = f"{value:+.0f} points [{low:+.0f}, {high:+.0f}], {c.gained} gained, {c.lost} lost"
        axis.text(0, y - 0.2, said, ha="center", va="bottom", fontsize=9, bbox={"fc": "white", "ec": "none", "pad": 1})
    for threshold, line in {100 * evaluation.min_gain: "--", 0.0: "-"}.items():
        axis.axvline(threshold, color=show.COLOURS["target"], lw=1, ls=line, zorder=0)
    axis.set_yticks(range(len(evaluation.comparison)), [m.replace("_", "\n") for m in evaluation.comparison])
    axis.set(xlim=(-reach, reach), ylim=(len(evaluation.comparison) - 0.5, -0.85))
    axis.set_title(f"Paired difference: fine_tuned minus {evaluation.best_rung}, row by row", loc="left", fontsize=11)
    axis.set_xlabel("points (right of the line: the tuned model is better), 95% interval")
    axis.spines[["top", "right"]].set_visible(False)


def target_table(evaluation: Any) -> Styler:
    """Every target with the tuned model's estimate and whether the whole interval keeps it."""
    rows = [
        {"metric": metric, "target": f"{check.target:g}", "measured": check.estimate, "met": check.met}
        for metric, check in evaluation.targets.items()
    ]
    return show.table(rows, "Targets of task.yaml, decided by the bound of the interval")


def reason_table(evaluation: Any) -> Styler:
    """The verdict and every sentence it rests on."""
    return show.table([{"because": reason} for reason in evaluation.reasons], f"04's verdict: {evaluation.verdict}")


def flip_table(evaluation: Any, examples: Sequence[TrainingExample], tuned: Answers, other: Answers, show_text: bool) -> Styler:
    """Rows that changed sides, losses first: what was asked, what was wanted, what both said (masked headless)."""
    asked, rows = {e.id: e for e in examples}, []
    ours, theirs = ({row["id"]: row["answer"] for row in side} for side in (tuned, other))
    lost, gained = evaluation.flips["lost"], evaluation.flips["gained"]
    for change, i in ([("lost", i) for i in lost] + [("gained", i) for i in gained])[:MOST_FLIPS]:
        texts = {"asked": asked[i].user_text, "wanted": asked[i].answer, "tuned said": ours[i], "other said": theirs[i]}
        shown = {name: show.masked(text, show_text, 90) for name, text in texts.items()}
        rows.append({"flip": change, "id": i} | shown)
    caption = f"Flips against {evaluation.best_rung}: {len(lost)} lost, {len(gained)} gained; {len(rows)} shown"
    return show.table(rows, caption, None if rows else ["flip", "id"])


def confusion(task: Task, examples: Sequence[TrainingExample], rows: Answers) -> Figure | HTML:
    """Wanted against answered values of the task's first scored field that has fixed choices."""
    import matplotlib.pyplot as plt

    properties = (task.schema or {}).get("properties", {})
    field = next((name for name in task.scored_fields if "enum" in properties[name]), "")
    if not field:
        return show.note("No scored field has a fixed list of values, so there is nothing to mix up.")
    said = {row["id"]: row["answer"] for row in rows}
    counts = Counter((_value(e.answer, field), _value(said[e.id], field)) for e in examples if e.id in said)
    labels = list(dict.fromkeys([*map(str, properties[field]["enum"]), *(wanted for wanted, _ in counts)]))
    columns = labels + sorted({answered for _, answered in counts} - set(labels))
    figure, axis = plt.subplots(figsize=(2.4 + 0.55 * len(columns), 1.8 + 0.45 * len(labels)), layout="constrained")
    axis.imshow([[counts[wanted, got] for got in columns] for wanted in labels], cmap="Blues", vmin=0, aspect="auto")
    for (wanted, got), n in counts.items():
        colour = "white" if n > 0.6 * max(counts.values()) else "black"
        axis.text(columns.index(got), labels.index(wanted), n, ha="center", va="center", fontsize=9, color=colour)
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
