"""What 05 shows: the versions, the gate's rules, the routes, and the history as a time line."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, get_args

from helpers import show
from helpers.records import Evaluation, Finding, FineTunedModelVersion, Status

# Okabe-Ito, in the order of a version's life
COLOURS = ("#999999", "#56B4E9", "#E69F00", "#009E73", "#CC79A7")
STATUS_COLOURS = dict(zip(get_args(Status), COLOURS, strict=True))
WORST_FIRST = ("fail", "undecided", "pass")
MOST_VERSIONS = 12  # on one time line


def versions_table(versions: Sequence[FineTunedModelVersion]) -> show.Table:
    """One line per version: status, accuracy with its interval, dataset, when it was trained."""
    rows = [
        {
            "version": version.id,
            "status": version.status,
            "dataset": version.dataset_version or "-",
            "accuracy": str(getattr(version.eval_results, "accuracy", "not measured")),
            "trained": f"{version.trained_at:%Y-%m-%d %H:%M}",
        }
        for version in versions
    ]
    return show.table(rows, f"{len(rows)} versions, newest first")


def rules_table(
    rules: Sequence[Finding],
    caption: str = "The gate, rule by rule",
    evaluation: Evaluation | None = None,
) -> show.Table:
    """Every rule with its verdict and evidence, what stands in the way first.

    Below them the findings of `evaluation`, which are behind the rule `evaluation_verdict`.
    """
    rows = _finding_rows(rules)
    if evaluation is not None:
        caption += "; below it what 04 found"
        rows += _finding_rows(evaluation.findings, "04: ")
        rows += _finding_rows(list(evaluation.targets.values()), "04: target ")
    return show.table(rows, caption)


def _finding_rows(findings: Sequence[Finding], prefix: str = "") -> list[dict[str, str]]:
    return [
        {
            "verdict": finding.verdict,
            "rule": prefix + finding.name.replace("_", " "),
            "evidence": finding.evidence,
        }
        for finding in sorted(findings, key=lambda finding: WORST_FIRST.index(finding.verdict))
    ]


def routes_table(routes: Mapping[str, Mapping[str, Any]]) -> show.Table:
    """What serves each task now, and what would serve after a rollback.

    How it is asked, and its files, stand in routes.json alone: they are longer than all the rest.
    """
    columns = ["task", "version", "provider", "since", "previous", "generation"]
    rows = [{"task": task} | dict(route) for task, route in routes.items()]
    return show.table(rows, "Production routes" if rows else "Production routes: none yet", columns)


def history_table(history: Sequence[Mapping[str, Any]], last: int = 12) -> show.Table:
    """The last entries of the audit: who did what, when and why."""
    rows = [
        {
            "when": entry["at"][:16].replace("T", " "),
            "who": entry["actor"],
            "version": entry["version"],
            "what": entry["action"],
            "becomes": entry["to_status"] or "",
            "because": textwrap.shorten(entry["because"], 100, placeholder=" …"),
        }
        for entry in history[-last:]
    ]
    return show.table(rows, f"The last {len(rows)} of {len(history)} audit entries")


def history_timeline(history: Sequence[Mapping[str, Any]]) -> show.Figure:
    """One line per version, coloured by its status over time.

    Steps are of equal width, since minutes and months share a picture.
    """
    plt = show.pyplot()

    changes = [e for e in history if e["to_status"] and e["to_status"] != e["from_status"]]
    versions = list(dict.fromkeys(entry["version"] for entry in changes))[-MOST_VERSIONS:]
    changes = [entry for entry in changes if entry["version"] in versions]
    height = 1.9 + 0.45 * max(1, len(versions))
    figure, axis = plt.subplots(figsize=(9, height))
    for row, version in enumerate(versions):
        _draw_life(axis, row, version, changes)
    _label(figure, axis, versions, changes)
    return show.finished(figure)


def _draw_life(
    axis: show.Axes, row: int, version: str, changes: Sequence[Mapping[str, Any]]
) -> None:
    """One bar per status that a version had, each up to the next change of it."""
    steps = [x for x, entry in enumerate(changes) if entry["version"] == version]
    for start, end in zip(steps, [*steps[1:], len(changes)], strict=True):
        colour = STATUS_COLOURS[changes[start]["to_status"]]
        axis.barh(row, end - start, left=start, height=0.55, color=colour, edgecolor="white")


def _label(
    figure: show.Figure,
    axis: show.Axes,
    versions: Sequence[str],
    changes: Sequence[Mapping[str, Any]],
) -> None:
    """Versions down, moments along, and a legend of the statuses that occur."""
    from matplotlib.patches import Patch

    axis.set_yticks(range(len(versions)), versions)
    axis.invert_yaxis()
    stride = max(1, -(-len(changes) // 9))  # at most nine ticks
    ticks = list(range(0, len(changes), stride))
    moments = [datetime.fromisoformat(changes[tick]["at"]) for tick in ticks]
    axis.set_xticks(ticks, [f"{moment:%m-%d\n%H:%M}" for moment in moments])
    axis.set_xlabel("status changes in order, each as wide as the next (UTC)")
    plural = "" if len(versions) == 1 else "s"
    axis.set_title(f"Every status change of {len(versions)} version{plural}")
    axis.spines["left"].set_visible(False)
    occurring = {entry["to_status"] for entry in changes}
    handles = [
        Patch(color=colour, label=status)
        for status, colour in STATUS_COLOURS.items()
        if status in occurring
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(COLOURS))
