"""What stands between the runs: what is overdue or waits for a person, what may be thrown away."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from helpers import store
from helpers.records import (
    DatasetPointer,
    FineTunedModelVersion,
    Health,
    RunRecord,
    TrainedModel,
    WorkbookError,
)
from helpers.run.history import past_runs
from helpers.run.schedule import SUCCESS, schedules

log = logging.getLogger(__name__)


def status() -> dict[str, Any]:
    """{overdue, schedules, open_requests, waiting_approvals}: what `workbook status` shows."""
    plans = schedules()
    versions = _versions()
    return {
        "overdue": any(plan.overdue for plan in plans),
        "schedules": plans,
        "open_requests": _open_requests(versions),
        "waiting_approvals": _waiting_approvals(versions),
    }


def _versions() -> list[FineTunedModelVersion]:
    from helpers import registry

    return registry.list_versions() if store.home().exists() else []


def _waiting_approvals(versions: list[FineTunedModelVersion]) -> list[dict[str, Any]]:
    waiting = []
    for version in versions:
        if version.status == "staging":
            waiting.append(
                {
                    "version": version.id,
                    "task": version.task,
                    "since": version.trained_at.isoformat(),
                    "next": f"workbook registry promote {version.id} --to production",
                }
            )
    return waiting


def _open_requests(versions: list[FineTunedModelVersion]) -> list[dict[str, Any]]:
    """Versions in production whose newest health.json asks for a retrain, and no newer one came."""
    requests = []
    newest = _newest_health()
    for version in versions:
        if version.status != "production" or version.id not in newest:
            continue
        run_id, health = newest[version.id]
        if health.verdict == "retrain" and not _has_successor(version, versions):
            requests.append(
                {
                    "task": version.task,
                    "version": version.id,
                    "run_id": run_id,
                    "reasons": health.reasons,
                }
            )
    return requests


def _newest_health() -> dict[str, tuple[str, Health]]:
    """By version: the run that looked at it last, and what it said."""
    paths = list((store.home() / "runs").glob(f"*/{Health.FILE}"))
    newest = {}
    for path in sorted(paths, key=lambda path: path.stat().st_mtime):
        run = store.Run(path.parent.name)
        try:
            health = run.load(Health)
        except WorkbookError as error:
            log.warning("a look at production is left out: %s", error)
            continue
        if health.version is not None:
            newest[health.version] = (run.id, health)
    return newest


def _has_successor(version: FineTunedModelVersion, versions: list[FineTunedModelVersion]) -> bool:
    return any(
        other.task == version.task
        and other.trained_at > version.trained_at
        and other.status != "deprecated"
        for other in versions
    )


def collect(keep: int, yes: bool) -> dict[str, Any]:
    """Delete the garbage under the lock, or say what would be deleted.

    Each folder goes by one rename first.
    """
    with store.lock():
        folders = garbage(keep)
        size = 0
        for folder in folders:
            size += sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        if yes:
            for folder in folders:
                doomed = folder.with_name(f".{folder.name}.deleted")
                folder.rename(doomed)
                shutil.rmtree(doomed)
    names = [str(folder) for folder in folders]
    return {"deleted" if yes else "would_delete": names, "bytes": size}


def garbage(keep: int) -> list[Path]:
    """What may go: runs but the newest `keep`, and models and datasets that no other run names.

    Nothing that the registry names goes: no version's run, adapter or dataset, so no route and no
    way back either.
    """
    runs = past_runs()
    versions = _versions()
    kept_runs = _kept_runs(runs, keep) | {version.run_id for version in versions}
    named = _named_by_registry(versions) | _named_by_runs(kept_runs)
    folders = []
    for run in runs:
        if run.run_id not in kept_runs:
            folders.append(store.home() / "runs" / run.run_id)
    for kind in ("models", "datasets"):
        for path in sorted((store.home() / kind).glob("*")):
            if path.is_dir() and path.name not in named:
                folders.append(path)
    return folders


def _kept_runs(runs: list[RunRecord], keep: int) -> set[str]:
    """The newest, what runs, work by hand, and of each profile the newest success.

    (`workbook status` counts from that success.)
    """
    kept = {"dev"}
    last_success = {}
    for place, run in enumerate(runs):  # oldest first
        if place >= len(runs) - keep or run.status == "running":
            kept.add(run.run_id)
        if run.status in SUCCESS:
            last_success[run.profile] = run.run_id
    return kept | set(last_success.values())


def _named_by_registry(versions: list[FineTunedModelVersion]) -> set[str]:
    """The folders of models and datasets that registered versions need."""
    names = set()
    for version in versions:
        names.add(version.id)
        if version.metadata.get("artifact"):
            names.add(Path(version.metadata["artifact"]).parent.name)
        if version.dataset_version:
            names.add(version.dataset_version)
    return names


def _named_by_runs(run_ids: Collection[str]) -> set[str]:
    """The models and datasets of these runs, those that were run by hand too."""
    names = set()
    for run_id in run_ids:
        run = store.Run(run_id)
        for kind in (TrainedModel, DatasetPointer):
            if run.has(kind):
                names.add(run.load(kind).version)
    return names
