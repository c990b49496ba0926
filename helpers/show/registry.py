"""What 05 shows: the versions, the gate's rules, the routes, and the history as a time line."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, get_args

from helpers import show
from helpers.records import FineTunedModelVersion, Status

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas.io.formats.style import Styler

COLOURS = (
    "#999999",
    "#56B4E9",
    "#E69F00",
    "#009E73",
    "#CC79A7",
)  # Okabe-Ito, in the order of a version's life
STATUS_COLOURS = dict(zip(get_args(Status), COLOURS, strict=True))
MOST_VERSIONS = 12  # on one time line


def versions_table(versions: Sequence[FineTunedModelVersion]) -> Styler:
    """One line per version: status, accuracy with its interval, dataset, when it was trained."""
    rows = []
    for v in versions:
        row = {"version": v.id, "status": v.status, "dataset": v.dataset_version or "-"}
        row["accuracy"] = str(v.eval_results.accuracy) if v.eval_results else "not measured"
        rows.append(row | {"trained": f"{v.trained_at:%Y-%m-%d %H:%M}"})
    return show.table(rows, f"{len(rows)} versions, newest first")


def rules_table(rules: Sequence[Any], caption: str = "The gate, rule by rule") -> Styler:
    """Every rule with its verdict and evidence, what stands in the way first."""
    order = {"fail": 0, "inconclusive": 1, "pass": 2}
    rows = [
        {"verdict": r.verdict, "rule": r.name.replace("_", " "), "evidence": r.evidence}
        for r in rules
    ]
    return show.table(sorted(rows, key=lambda row: order[row["verdict"]]), caption)


def routes_table(routes: Mapping[str, Mapping[str, Any]]) -> Styler:
    """What serves each task now, and what would serve after a rollback."""
    rows = [{"task": task} | dict(route) for task, route in routes.items()]
    return show.table(
        rows,
        "Production routes" if rows else "Production routes: none yet",
        None if rows else ["task"],
    )


def history_table(history: Sequence[Mapping[str, Any]], last: int = 12) -> Styler:
    """The last entries of the audit: who did what, when and why."""
    rows = [
        {
            "when": h["at"][:16].replace("T", " "),
            "who": h["actor"],
            "version": h["version"],
            "what": h["action"],
        }
        | {
            "becomes": h["to_status"] or "",
            "because": textwrap.shorten(h["because"], 100, placeholder=" …"),
        }
        for h in history[-last:]
    ]
    return show.table(rows, f"The last {len(rows)} of {len(history)} audit entries")


def history_timeline(history: Sequence[Mapping[str, Any]]) -> Figure:
    """One line per version, coloured by its status over time; equal steps, since minutes and months share a picture."""
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    changes = [h for h in history if h["to_status"] and h["to_status"] != h["from_status"]]
    names = list(dict.fromkeys(h["version"] for h in changes))[-MOST_VERSIONS:]
    changes = [h for h in changes if h["version"] in names]
    figure, axis = plt.subplots(figsize=(9, 1.9 + 0.45 * max(1, len(names))), layout="constrained")
    for y, name in enumerate(names):
        steps = [(x, h["to_status"]) for x, h in enumerate(changes) if h["version"] == name]
        ends = [x for x, _ in steps[1:]] + [len(changes)]
        for (x, status), end in zip(steps, ends, strict=True):
            axis.barh(
                y, end - x, left=x, height=0.55, color=STATUS_COLOURS[status], edgecolor="white"
            )
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    shown = range(0, len(changes), max(1, -(-len(changes) // 9)))
    axis.set_xticks(
        list(shown), [f"{datetime.fromisoformat(changes[x]['at']):%m-%d\n%H:%M}" for x in shown]
    )
    axis.set_xlabel("status changes in order, each as wide as the next (UTC)")
    axis.set_title(
        f"Every status change of {len(names)} version{'s' * (len(names) != 1)}", loc="left"
    )
    axis.spines[["top", "right", "left"]].set_visible(False)
    seen = {h["to_status"] for h in changes}
    handles = [
        Patch(color=colour, label=status)
        for status, colour in STATUS_COLOURS.items()
        if status in seen
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(STATUS_COLOURS), frameon=False
    )
    plt.close(figure)
    return figure
