"""What a gateway follows: which version serves each task, and what is tried beside it.

Read-only and cheap, since it is asked twice a second. Trials are rows of the audit; the last one of
a task counts, so that every gateway of every machine sees the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from helpers.records import Finding, FineTunedModelVersion, Record, Route, Trial, WorkbookError
from helpers.registry import sharing, versions
from helpers.registry.database import open_registry, rows_of
from helpers.registry.delivery import catch_up
from helpers.registry.gate import artifact_is_intact


class Serving(Record):
    """One task: its route, the version that it names, and the trial that runs beside it."""

    route: Route
    version: FineTunedModelVersion | None = None
    trial: Trial | None = None


def serving(tasks: Sequence[str] = ()) -> dict[str, Serving]:
    """Every routed task (or these) at one moment."""
    states = {}
    with open_registry().transaction(read_only=True) as db:
        for row in rows_of(db, "routes"):
            route = Route(**row)
            if tasks and route.task not in tasks:
                continue
            version = None
            if route.version:
                version = versions.as_record(versions.row_of(db, route.version))
            states[route.task] = Serving(
                route=route, version=version, trial=versions.trial_of(db, route.task)
            )
    return states


def check_files(version: FineTunedModelVersion) -> None:
    """Refuse a version whose files are not the ones that training wrote."""
    sharing.bring(version)
    verdict, evidence = artifact_is_intact(version)
    if verdict != "pass":
        raise WorkbookError(f"version {version.id} may not serve: {evidence}; restore its files")


def begin_trial(trial: Trial, because: str = "") -> None:
    """Write a trial and the rule of its end down; gateways take it up within a second."""
    with open_registry().transaction() as db:
        row = versions.row_of(db, trial.version, task=trial.task)
        route = versions.route_of(db, trial.task)
        if row["status"] != "staging":
            raise WorkbookError(
                f"version {trial.version} is {row['status']}; only one in staging is tried:"
                f" workbook registry promote {trial.version} --to staging"
            )
        if route.version is None or route.version != trial.against:
            raise WorkbookError(
                f"{trial.against or 'nothing'} is not in production for {trial.task} (any more);"
                " look again (`workbook route`), then repeat"
            )
        running = versions.trial_of(db, trial.task)
        if running is not None:
            raise WorkbookError(
                f"{running.version} is tried as {running.kind} already; end that first:"
                f" workbook route {trial.task} --end"
            )
        more = {"evidence": trial.model_dump(mode="json"), "generation": route.generation}
        versions.audit(db, row, trial.kind, because, **more)
        versions.announce(db, row, trial.kind, because, target=trial.kind)
    catch_up(open_registry())


def end_trial(trial: Trial, because: str, findings: Sequence[Finding] = ()) -> bool:
    """End a trial, once: False when it is not the one that runs (any more)."""
    judged = [finding.model_dump(mode="json", exclude_defaults=True) for finding in findings]
    with open_registry().transaction() as db:
        if versions.trial_of(db, trial.task) != trial:
            return False
        row = versions.row_of(db, trial.version, task=trial.task)
        versions.audit(db, row, versions.TRIAL_ENDED, because, evidence={"findings": judged})
        versions.announce(db, row, versions.TRIAL_ENDED, because, target=trial.kind)
    catch_up(open_registry())
    return True
