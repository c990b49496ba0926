"""What the command line asks for: versions, history and routes, by a version's id alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from helpers import store
from helpers.records import FineTunedModelVersion, Promotion, Target, TrainedModel, WorkbookError
from helpers.registry import versions
from helpers.registry.database import Registry, open_registry
from helpers.registry.delivery import publish_routes
from helpers.registry.identity import check_is_ours
from helpers.registry.lifecycle import FineTuneLifecycleManager


def list_versions(task: str = "") -> list[FineTunedModelVersion]:
    """All versions (of one task, if named), newest first."""
    return versions.listed(_known(), **_where(task))


def history(task: str = "") -> list[dict[str, Any]]:
    """The audit, oldest first (of one task, if named)."""
    return _known().rows("audit", **_where(task))


def _known() -> Registry:
    """The home's registry; one that lost what this home knows of is not read as an empty one."""
    registry = open_registry()
    check_is_ours(registry)
    return registry


def show(version_id: str) -> dict[str, Any]:
    """One version with its history and, when it serves, its route."""
    manager = manager_of(version_id)
    route = manager.route()
    return {
        "version": manager.get_version(version_id),
        "history": open_registry().rows("audit", version=version_id),
        "route": route if route.version == version_id else None,
    }


def promote(version_id: str, target: Target, because: str = "", force: bool = False) -> Promotion:
    """Take a version through the gate; `verdict` and `promoted` say what happened."""
    return manager_of(version_id).promote(version_id, target, because, force)


def rollback(version_id: str | None = None, task: str = "", because: str = "") -> Promotion:
    """Serve an earlier version again; its id, or there being only one task, tells the task."""
    if version_id and not task:
        manager = manager_of(version_id)
    else:
        manager = FineTuneLifecycleManager(_resolve(task))
    return manager.rollback(version_id, because)


def export(version_id: str, form: str, to: Path | None = None) -> dict[str, str]:
    """Write a version as adapter, merged model or GGUF beside its adapter, or into the folder `to`.

    What is there under the same name is not overwritten.
    """
    from helpers.train import export_model

    version = manager_of(version_id).get_version(version_id)
    path = export_model(store.Run(version.run_id).load(TrainedModel), form)
    if to is not None:
        target = to / f"{version_id}-{path.name}"
        if target.exists():
            raise WorkbookError(f"{target} is there already; name another folder, or remove it")
        to.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if path.is_dir() else shutil.copy2
        path = Path(copy(path, target))
    return {"version": version_id, "form": form, "path": str(path)}


def routes() -> dict[str, dict[str, Any]]:
    """The production routes: the content of routes.json, repaired if it was missing or stale."""
    return publish_routes(open_registry())


def manager_of(version_id: str) -> FineTuneLifecycleManager:
    """The manager of the task that a version belongs to."""
    with open_registry().transaction(read_only=True) as db:
        return FineTuneLifecycleManager(versions.row_of(db, version_id)["task"])


def _where(task: str) -> dict[str, str]:
    return {"task": _resolve(task)} if task else {}


def _resolve(task: str) -> str:
    """A task's registered name, with or without its demo/; "" is the only one there is."""
    known = sorted({version.task for version in versions.listed(open_registry())})
    if task in known:
        return task
    matches = [name for name in known if not task or name == f"demo/{task}"]
    if len(matches) != 1:
        raise WorkbookError(
            f"--task {task!r} does not name one task; known tasks are {', '.join(known) or 'none'}"
        )
    return matches[0]
