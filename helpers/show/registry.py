"""What 05 shows: the versions, the gate's rules, the routes, and the history as a time line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, get_args

from helpers import show
from helpers.records import Evaluation, Finding, FineTunedModelVersion, Status

Audit = Sequence[Mapping[str, Any]]  # registry.history
COLOURS = (show.BASE, show.OTHER, show.UNSURE, show.GOOD, show.BAD)  # in the order of a life
STATUS_COLOURS = dict(zip(get_args(Status), COLOURS, strict=True))
WORST_FIRST = ("fail", "undecided", "pass")
MOST_VERSIONS = 12  # on one time line


def versions_table(versions: Sequence[FineTunedModelVersion]) -> show.Table:
    """One line per version: status, accuracy with its interval, dataset, when it was trained."""
    columns = {
        "version": "id",
        "status": "status",
        "dataset": "dataset_version",
        "accuracy": "eval_results.accuracy",
        "trained": "trained_at",
    }
    return show.table(versions, f"{len(versions)} versions, newest first", columns)


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
    rows = []
    for finding in sorted(findings, key=lambda finding: WORST_FIRST.index(finding.verdict)):
        rule = f"{prefix}{show.name_of(finding)}"
        rows.append({"verdict": finding.verdict, "rule": rule, "evidence": finding.evidence})
    return rows


def routes_table(routes: Mapping[str, Mapping[str, Any]]) -> show.Table:
    """What serves each task now, under which name and where, and what a rollback would serve.

    How it is asked, and its files, stand in routes.json alone: they are longer than all the rest.
    """
    columns = {
        "task": "task",
        "version": "version",
        "served as": lambda row: " at ".join(filter(None, map(row.get, ("model_id", "endpoint")))),
        "provider": "provider",
        "since": "since",
        "previous": "previous",
        "generation": "generation",
    }
    rows = [{"task": task} | dict(route) for task, route in routes.items()]
    return show.table(rows, "Production routes" if rows else "Production routes: none yet", columns)


def history_table(history: Audit, last: int = 12) -> show.Table:
    """The last entries of the audit: who did what, when and why."""
    columns = {
        "when": _moment,
        "who": "actor",
        "version": "version",
        "what": "action",
        "becomes": "to_status",
        "because": "because",
    }
    rows = history[-last:]
    return show.table(rows, f"The last {len(rows)} of {len(history)} audit entries", columns)


def _moment(entry: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(entry["at"])


def history_timeline(history: Audit) -> show.Figure:
    """One line per version, coloured by its status over time.

    Steps are of equal width, since minutes and months share a picture.
    """
    changes = [e for e in history if e["to_status"] and e["to_status"] != e["from_status"]]
    versions = list(dict.fromkeys(entry["version"] for entry in changes))[-MOST_VERSIONS:]
    changes = [entry for entry in changes if entry["version"] in versions]
    height = 1.9 + 0.45 * max(1, len(versions))
    figure, axis = show.subplots(figsize=(9, height))
    for row, version in enumerate(versions):
        _draw_life(axis, row, version, changes)
    _label(figure, axis, versions, changes)
    return show.finished(figure)


def _draw_life(axis: show.Axes, row: int, version: str, changes: Audit) -> None:
    """One bar per status that a version had, each up to the next change of it."""
    steps = [x for x, entry in enumerate(changes) if entry["version"] == version]
    ends = [*steps[1:], len(changes)]
    for start, end in zip(steps, ends, strict=True):
        status = changes[start]["to_status"]
        looks = {"color": STATUS_COLOURS[status], "edgecolor": "white"}
        axis.barh(row, end - start, left=start, height=0.55, **looks)


def _label(figure: show.Figure, axis: show.Axes, versions: Sequence[str], changes: Audit) -> None:
    """Versions down, moments along, and a legend of the statuses that occur."""
    from matplotlib.patches import Patch

    axis.set_yticks(range(len(versions)), versions)
    axis.invert_yaxis()
    stride = max(1, -(-len(changes) // 9))  # at most nine ticks
    ticks = list(range(0, len(changes), stride))
    labels = [f"{_moment(changes[tick]):%m-%d\n%H:%M}" for tick in ticks]
    axis.set_xticks(ticks, labels)
    axis.set_xlabel("status changes in order, each as wide as the next (UTC)")
    axis.set_title("Every status change of each version")
    axis.spines["left"].set_visible(False)
    handles = [Patch(color=colour, label=status) for status, colour in STATUS_COLOURS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(COLOURS))
