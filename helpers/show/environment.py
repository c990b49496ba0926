"""Notebook 00: the map of the workbook, what this machine has, and what the tutorial will cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from helpers.records import Allowance, Finding
from helpers.show import COLOURS, Table, finished, pyplot, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS = {
    "01 decide": ("should we\nfine-tune at all?", "decision.json"),
    "02 curate": ("is this data\ngood enough?", "dataset"),
    "03 train": ("a LoRA adapter\nor a hosted job", "model.json"),
    "04 evaluate": ("is it better,\nare we sure?", "evaluation.json"),
    "05 registry": ("may it\nserve?", "promotion.json"),
    "06 monitor": ("is it\nstill good?", "health.json"),
}


def checks_table(checks: Sequence[Finding]) -> Table:
    """What the doctor found, one check a row."""
    columns = ["name", "verdict", "severity", "evidence", "remedy"]
    return table(checks, "This machine", columns)


def budget_table(allowances: Sequence[Allowance]) -> Table:
    """What the tutorial may use, and what it uses."""
    words = {True: "yes", False: "no"}
    rows = [dict(allowance) | {"kept": words[allowance.kept]} for allowance in allowances]
    return table(rows, "The tutorial's budget")


def workbook_map() -> Figure:
    """The six questions in order, what each hands to the next, and the one way back."""
    plt = pyplot()

    figure, axes = plt.subplots(figsize=(11, 2.4))
    axes.set(xlim=(-0.9, 10.9), ylim=(-0.6, 2.1))
    axes.axis("off")
    box = {"boxstyle": "round,pad=0.6", "fc": "white", "ec": COLOURS["tuned"], "lw": 1.5}
    for x, (name, (question, artifact)) in zip(range(0, 12, 2), STEPS.items(), strict=True):
        axes.text(x, 1.2, f"{name}\n\n{question}\n\n{artifact}", ha="center", va="center", bbox=box)
        if x:
            axes.annotate("", (x - 0.8, 1.2), (x - 1.2, 1.2), arrowprops={"arrowstyle": "-|>"})
    back = {
        "arrowstyle": "-|>",
        "color": COLOURS["other"],
        "connectionstyle": "arc3,rad=-0.12",
        "lw": 1.5,
    }
    axes.annotate("", (2, 0.25), (10, 0.25), arrowprops=back)
    axes.text(
        6,
        -0.5,
        "health.json may ask for a retrain: a new run of 02 to 05",
        ha="center",
        fontsize=8.5,
    )
    return finished(figure)
