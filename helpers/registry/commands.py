"""What `workbook registry …` and `workbook route` ask for, as plain data; the command line only parses and prints."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from helpers.records import FineTunedModelVersion, WorkbookError
from helpers.registry import delivery, versions
from helpers.registry.database import Registry, open_registry, tables
from helpers.registry.lifecycle import FineTuneLifecycleManager, Promotion, Target


def list_versions(task: str = "") -> list[FineTunedModelVersion]:
    """All versions (of one task, if named), newest first."""
    t, registry = tables().versions, open_registry()
    query = t.select().order_by(t.c.created_at.desc(), t.c.id)
    if task:
        query = query.where(t.c.task == resolve_task(task))
    with registry.transaction(read_only=True) as db:
        return [versions.as_record(row) for row in db.execute(query).mappings()]


def show(version_id: str) -> dict[str, Any]:
    """One version with its history and, when it serves, its route."""
    version = _version(version_id)
    manager = FineTuneLifecycleManager(version.task)
    route = manager.route()
    return {
        "version": version,
        "history": [row for row in manager.history() if row["version"] == version_id],
        "route": route if route["version"] == version_id else None,
    }


def history(task: str = "") -> list[dict[str, Any]]:
    """The audit, oldest first (of one task, if named)."""
    t, registry = tables().audit, open_registry()
    query = t.select().order_by(t.c.id)
    if task:
        query = query.where(t.c.task == resolve_task(task))
    with registry.transaction(read_only=True) as db:
        return [dict(row) for row in db.execute(query).mappings()]


def promote(version_id: str, target: Target, because: str = "", force: bool = False) -> Promotion:
    """Take a version through the gate; `verdict` and `promoted` say what happened."""
    return FineTuneLifecycleManager(_version(version_id).task).promote(version_id, target, because, force)


def rollback(version_id: str | None = None, task: str = "", because: str = "") -> Promotion:
    """Serve an earlier version again; the task may be left out when the version, or the only route, tells it."""
    if version_id is not None:
        name = _version(version_id).task
        if task and resolve_task(task) != name:
            raise WorkbookError(f"version {version_id} belongs to task {name}, not to {task}")
    else:
        name = resolve_task(task) if task else _only_task()
    return FineTuneLifecycleManager(name).rollback(version_id, because)


def routes() -> dict[str, dict[str, Any]]:
    """The production routes: the content of routes.json, repaired if it was missing or stale."""
    return delivery.publish_routes(open_registry())


def resolve_task(task: str) -> str:
    """The registered name of a task, given as demo/support_triage or as support_triage."""
    t, registry = tables().versions, open_registry()
    with registry.transaction(read_only=True) as db:
        known = sorted(db.execute(t.select().with_only_columns(t.c.task).distinct()).scalars())
    for name in (task, f"demo/{task}"):
        if name in known:
            return name
    raise WorkbookError(f"no version of task {task!r} is registered; known tasks are {', '.join(known) or 'none'}")


def _only_task() -> str:
    t, registry = tables().routes, open_registry()
    with registry.transaction(read_only=True) as db:
        known = sorted(db.execute(t.select().with_only_columns(t.c.task)).scalars())
    if len(known) != 1:
        raise WorkbookError(f"say which task: --task NAME; tasks with a route are {', '.join(known) or 'none'}")
    return known[0]


def _version(version_id: str) -> FineTunedModelVersion:
    with open_registry().transaction(read_only=True) as db:
        return versions.as_record(versions.row_of(db, version_id))


# ---------------------------------------------------------------- rehearsal


def copy_registry(source: Registry, folder: Path) -> Registry:
    """A SQLite copy of a registry's rows in `folder`, to try things out; the source is only read."""
    copy, order = open_registry(folder), tables().metadata.sorted_tables
    with source.transaction(read_only=True) as old:
        rows = {table.name: [dict(row) for row in old.execute(table.select()).mappings()] for table in order}
    with copy.transaction() as new:
        for table in order:
            if rows[table.name] and table.name != "schema_version":
                new.execute(table.insert(), rows[table.name])
    return copy


def rehearse(task: str, version_id: str) -> list[dict[str, Any]]:
    """On a scratch copy: put the version into production, roll back, and roll back again; what would serve after each.

    The gate is overruled there, since the drill is about the way back. A step that cannot be done says why.
    """
    with tempfile.TemporaryDirectory(prefix="registry-drill-") as folder:
        manager = FineTuneLifecycleManager(task, copy_registry(open_registry(), Path(folder)))
        steps = [
            ("promote", lambda: manager.promote(version_id, "production", "rehearsal", force=True)),
            ("roll back", lambda: manager.rollback(because="rehearsal")),
            ("and back again", lambda: manager.rollback(because="rehearsal")),
        ]
        seen = [{"step": "now"} | _serving(manager) | {"note": ""}]
        for name, step in steps:
            try:
                result = step()
                said = "" if result.promoted else "; ".join(result.reasons)
            except WorkbookError as error:
                said = str(error)
            seen.append({"step": name} | _serving(manager) | {"note": said})
    return seen


def _serving(manager: FineTuneLifecycleManager) -> dict[str, Any]:
    route = manager.route()
    return {
        "serves": route["version"] or "nothing",
        "previous": route["previous"] or "-",
        "generation": route["generation"],
    }
