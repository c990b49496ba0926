"""Notebook 00: the map of the workbook, what this machine has, and what the tutorial will cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from helpers.records import Record
from helpers.show import COLOURS, table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

STEPS = (
    ("01 decide", "should we\nfine-tune at all?", "decision.json"),
    ("02 curate", "is this data\ngood enough?", "dataset"),
    ("03 train", "a LoRA adapter\nor a hosted job", "model.json"),
    ("04 evaluate", "is it better,\nare we sure?", "evaluation.json"),
    ("05 registry", "may it\nserve?", "promotion.json"),
    ("06 monitor", "is it\nstill good?", "health.json"),
)


def checks_table(checks: Sequence[Record]) -> pd.DataFrame:
    """What the doctor found, one check a row."""
    return table(checks, caption="This machine", columns=["name", "status", "found", "remedy"])


def budget_table(lines: Sequence[Any]) -> pd.DataFrame:
    """What the tutorial may use, and what it uses."""
    rows = [line.model_dump() | {"kept": "yes" if line.kept else "no"} for line in lines]
    return table(rows, caption="The tutorial's budget")


def workbook_map() -> Figure:
    """The six questions in order, what each hands to the next, and the one way back."""
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch

    figure = Figure(figsize=(11, 2.9), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(-0.1, 11.7), ylim=(-0.9, 2.2))
    axes.axis("off")
    for number, (name, question, artifact) in enumerate(STEPS):
        x = 2 * number
        box = FancyBboxPatch((x, 0.5), 1.4, 1.4, boxstyle="round,pad=0.06", fc="white", ec=COLOURS["tuned"], lw=1.5)
        axes.add_patch(box)
        axes.text(x + 0.7, 1.62, name, ha="center", va="center", weight="bold", fontsize=10)
        axes.text(x + 0.7, 1.03, question, ha="center", va="center", fontsize=8.5)
        axes.text(x + 0.7, 0.27, artifact, ha="center", va="center", fontsize=8, family="monospace")
        if number < len(STEPS) - 1:
            axes.annotate("", (x + 1.93, 1.2), (x + 1.47, 1.2), arrowprops={"arrowstyle": "-|>", "color": "black"})
    back = {"arrowstyle": "-|>", "color": COLOURS["other"], "connectionstyle": "arc3,rad=-0.12", "lw": 1.5}
    axes.annotate("", (2.7, 0.12), (10.7, 0.12), arrowprops=back)
    axes.text(6.7, -0.72, "health.json may ask for a retrain: a new run of 02 to 05", ha="center", fontsize=8.5)
    return figure
