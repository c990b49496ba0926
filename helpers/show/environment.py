"""Notebook 00: the map of the workbook, what this machine has, and what the tutorial will cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from helpers.records import Allowance, Finding
from helpers.show import OTHER, TUNED, Table, finished, subplots, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS = (
    "01 decide\n\nshould we\nfine-tune at all?\n\ndecision.json",
    "02 curate\n\nis this data\ngood enough?\n\ndataset",
    "03 train\n\na LoRA adapter\nor a hosted job\n\nmodel.json",
    "04 evaluate\n\nis it better,\nare we sure?\n\nevaluation.json",
    "05 registry\n\nmay it\nserve?\n\npromotion.json",
    "06 monitor\n\nis it\nstill good?\n\nhealth.json",
)


def checks_table(checks: Sequence[Finding]) -> Table:
    """What the doctor found, one check a row."""
    columns = ["name", "verdict", "severity", "evidence", "remedy"]
    return table(checks, "This machine", columns)


def budget_table(allowances: Sequence[Allowance]) -> Table:
    """What the tutorial may use, and what it uses."""
    columns = ["what", "unit", "largest", "limit", "kept"]
    return table(allowances, "The tutorial's budget", columns)


def workbook_map() -> Figure:
    """The six questions in order, what each hands to the next, and the one way back."""
    figure, axes = subplots(figsize=(11, 2.4))
    axes.set(xlim=(-0.9, 10.9), ylim=(-0.6, 2.1))
    axes.axis("off")
    box = {"boxstyle": "round,pad=0.6", "fc": "white", "ec": TUNED, "lw": 1.5}
    forth = {"arrowstyle": "-|>"}
    for place, step in enumerate(STEPS):
        x = 2 * place
        axes.text(x, 1.2, step, ha="center", va="center", bbox=box)
        if place:
            axes.annotate("", (x - 0.8, 1.2), (x - 1.2, 1.2), arrowprops=forth)
    back = forth | {"color": OTHER, "connectionstyle": "arc3,rad=-0.12", "lw": 1.5}
    axes.annotate("", (2, 0.25), (10, 0.25), arrowprops=back)
    text = "health.json may ask for a retrain: a new run of 02 to 05"
    axes.text(6, -0.5, text, ha="center", fontsize=8.5)
    return finished(figure)
