"""A version's life: which status may follow which, how a row becomes a record, whether its artifact is intact."""

from __future__ import annotations

import getpass
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers import store
from helpers.records import FineTunedModelVersion, Status, WorkbookError
from helpers.registry.database import tables

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection

CHANGES: dict[Status, tuple[Status, ...]] = {
    "training": ("evaluating", "deprecated"),
    "evaluating": ("staging", "production", "deprecated"),
    "staging": ("production", "deprecated"),
    "production": ("deprecated",),
    "deprecated": (),  # back to production by rollback alone
}
RECORD_FIELDS = set(FineTunedModelVersion.model_fields)
IN_METADATA = ("provider", "artifact", "artifact_sha256", "fingerprints", "evaluation_sha256", "evaluated_at", "reason")


def may_change(old: Status, new: Status, by_rollback: bool = False) -> bool:
    """Whether a version of status `old` may become `new`."""
    return new in CHANGES[old] or (by_rollback and old == "deprecated" and new == "production")


def check_change(version_id: str, old: Status, new: Status, by_rollback: bool = False) -> None:
    """Refuse a status change that the life of a version does not have, and say which it has."""
    if not may_change(old, new, by_rollback):
        allowed = " or ".join(CHANGES[old]) or "production, by rollback"
        raise WorkbookError(
            f"version {version_id} is {old} and cannot become {new}; from {old} it can become {allowed}"
        )


def as_record(row: Mapping[str, Any]) -> FineTunedModelVersion:
    """A row of `versions`; columns that the record does not have stand in its metadata."""
    fields = {name: row[name] for name in RECORD_FIELDS}
    extra = {name: row[name] for name in IN_METADATA if row[name]}
    return FineTunedModelVersion.model_validate(fields | {"metadata": row["metadata"] | extra})


def row_of(connection: Connection, version_id: str, task: str = "") -> dict[str, Any]:
    """One row, locked until the transaction ends; an unknown id is an error that names the known ones."""
    t = tables().versions
    row = connection.execute(t.select().where(t.c.id == version_id).with_for_update()).mappings().first()
    if row is None or (task and row["task"] != task):
        query = t.select().order_by(t.c.created_at.desc()).limit(5)
        known = [r["id"] for r in connection.execute(query.where(t.c.task == task) if task else query).mappings()]
        of = f" of task {task}" if task else ""
        raise WorkbookError(f"no version {version_id!r}{of} is registered; the latest are {', '.join(known) or 'none'}")
    return dict(row)


def update(connection: Connection, version_id: str, **values: Any) -> None:
    """Change columns of one version."""
    t = tables().versions
    if "reason" in values:
        values["reason"] = store.redact(values["reason"])
    connection.execute(t.update().where(t.c.id == version_id).values(**values, updated_at=store.now().isoformat()))


def audit(connection: Connection, row: Mapping[str, Any], action: str, because: str, **more: Any) -> None:
    """Append who did what to a version, when and why; `more`: from_status, to_status, evidence, generation."""
    values = {"at": store.now().isoformat(), "actor": actor(), "task": row["task"], "version": row["id"]}
    values |= {"action": action, "because": store.redact(because), "evidence": more.pop("evidence", {})}
    connection.execute(tables().audit.insert().values(**values, **more))


def actor() -> str:
    """Who acts, for the audit: user@host, and whether a person or a scheduled run."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # containers run as numbers without names
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}" + (" (workbook run)" if store.headless() else "")


def artifact_sha256(relative: str) -> str:
    """sha256 over the names and contents of an artifact's files; "" when it is not there."""
    path = store.home() / relative
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()) if relative else []
    if not files:
        return ""
    return store.fingerprint([[_name(p, path), store.sha256_file(p)] for p in files])


def _name(file: Path, folder: Path) -> str:
    return file.name if file == folder else file.relative_to(folder).as_posix()
