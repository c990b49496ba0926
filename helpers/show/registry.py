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
    rows = []
    for task, route in routes.items():
        place = route["model_id"]
        if route.get("endpoint"):
            place += f" at {route['endpoint']}"
        rows.append({"task": task, "served as": place} | dict(route))
    columns = ["task", "version", "served as", "provider", "since", "previous", "generation"]
    return show.table(rows, "Production routes", columns)


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
    """A line per version: a dot for every status that it took on, in the order of all changes."""
    changes = _changes(history)
    versions = {entry["version"] for entry in changes}
    figure, axis = show.subplots(figsize=(9, 2.2 + 0.4 * len(versions)))
    for version in sorted(versions):
        steps = [x for x, entry in enumerate(changes) if entry["version"] == version]
        axis.plot(steps, [version] * len(steps), color=show.BASE, zorder=0)
    for status, colour in STATUS_COLOURS.items():
        steps = [x for x, entry in enumerate(changes) if entry["to_status"] == status]
        places = [changes[x]["version"] for x in steps]
        axis.scatter(steps, places, s=140, color=colour, edgecolor="black", label=status)
    ticks = range(0, len(changes), 1 + len(changes) // 9)
    axis.set_xticks(ticks, [f"{_moment(changes[tick]):%m-%d\n%H:%M}" for tick in ticks])
    axis.set(title="Every status change of each version", xlabel="changes in order, UTC")
    axis.margins(y=0.4)
    figure.legend(loc="outside lower center", ncols=len(COLOURS))
    return show.finished(figure)


def _changes(history: Audit) -> list[Mapping[str, Any]]:
    """The changes of status, of the newest versions alone."""
    changes = [e for e in history if e["to_status"] and e["to_status"] != e["from_status"]]
    versions = list(dict.fromkeys(entry["version"] for entry in changes))[-MOST_VERSIONS:]
    return [entry for entry in changes if entry["version"] in versions]
