"""What stands between the runs: what is overdue or waits for a person, what may be thrown away."""

from __future__ import annotations

import contextlib
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
    return [
        {
            "version": version.id,
            "task": version.task,
            "since": version.trained_at.isoformat(),
            "next": f"workbook registry promote {version.id} --to production",
        }
        for version in versions
        if version.status == "staging"
    ]


def _open_requests(versions: list[FineTunedModelVersion]) -> list[dict[str, Any]]:
    """Versions in production whose newest health.json asks for a retrain that did not come yet."""
    requests = []
    newest = _newest_health()
    for version in versions:
        if version.status != "production" or version.id not in newest:
            continue
        run_id, health = newest[version.id]
        if health.verdict == "retrain" and not _has_successor(version, versions):
            request = {"task": version.task, "version": version.id, "run_id": run_id}
            requests.append(request | {"reasons": health.reasons})
    return requests


def _newest_health() -> dict[str, tuple[str, Health]]:
    """By version: the run that looked at it last, and what it said."""
    newest: dict[str, tuple[str, Health]] = {}
    paths = (store.home() / "runs").glob(f"*/{Health.FILE}")
    for path in sorted(paths, key=lambda path: path.stat().st_mtime):
        run_id = path.parent.name
        try:
            health = store.Run(run_id).load(Health)
        except WorkbookError as error:
            log.warning("a look at production is left out: %s", error)
            continue
        if health.version is not None:
            newest[health.version] = (run_id, health)
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
        files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        for folder in folders if yes else []:
            doomed = folder.with_name(f".{folder.name}.deleted")
            folder.rename(doomed)
            shutil.rmtree(doomed)
    return {"deleted" if yes else "would_delete": list(map(str, folders)), "bytes": size}


def garbage(keep: int) -> list[Path]:
    """What may go: runs but the newest `keep`, and models and datasets that no other run names.

    Nothing that the registry names goes: no version's run, adapter or dataset, so no route and no
    way back either.
    """
    runs = past_runs()
    versions = _versions()
    kept = _kept_runs(runs, keep) | {version.run_id for version in versions}
    named = _named_by_registry(versions) | _named_by_runs(kept)
    home = store.home()
    made = sorted(home.glob("models/*")) + sorted(home.glob("datasets/*"))
    folders = [home / "runs" / run.run_id for run in runs if run.run_id not in kept]
    return folders + [path for path in made if path.is_dir() and path.name not in named]


def _kept_runs(runs: list[RunRecord], keep: int) -> set[str]:
    """The newest, what runs, work by hand, and of each profile the newest success.

    (`workbook status` counts from that success.)
    """
    newest = runs[max(0, len(runs) - keep) :]
    running = [run for run in runs if run.status == "running"]
    last_success = {run.profile: run for run in runs if run.status in SUCCESS}  # oldest first
    return {"dev"} | {run.run_id for run in (*newest, *running, *last_success.values())}


def _named_by_registry(versions: list[FineTunedModelVersion]) -> set[str]:
    """The folders of models and datasets that registered versions need."""
    names = {version.id for version in versions} | {v.dataset_version or "" for v in versions}
    artifacts = [version.metadata.get("artifact") for version in versions]
    return names | {Path(artifact).parent.name for artifact in artifacts if artifact}


def _named_by_runs(run_ids: Collection[str]) -> set[str]:
    """The models and datasets of these runs; what cannot be read names none."""
    names = set()
    for run in map(store.Run, run_ids):
        for kind in (TrainedModel, DatasetPointer):
            with contextlib.suppress(WorkbookError):
                names.add(run.load(kind).version)
    return names
