"""Retention: versions whose model nobody needs any more give it up; what was measured stays."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from helpers import store
from helpers.records import FineTunedModelVersion, WorkbookError
from helpers.registry import versions
from helpers.registry.database import open_registry, table

if TYPE_CHECKING:
    from sqlalchemy import Connection


def retired_versions() -> list[FineTunedModelVersion]:
    """Versions that were retired and neither serve nor are a way back (since a restored copy)."""
    with open_registry().transaction(read_only=True) as db:
        needed = _needed(db)
        rows = db.execute(table("versions").select()).mappings().all()
    gone = [row for row in rows if row["metadata"].get("retired") and row["id"] not in needed]
    return [versions.as_record(row) for row in gone]


def retirable(days: int, version_ids: Sequence[str] = ()) -> list[FineTunedModelVersion]:
    """What may be retired: the named versions, else all that the rule finds.

    The rule: deprecated, or refused by the gate, and nothing happened to it for `days`. Never what
    serves, what a rollback goes back to, or what is tried: WorkbookError where one is named.
    """
    quiet_since = (store.now() - timedelta(days=days)).isoformat()
    with open_registry().transaction(read_only=True) as db:
        needed = _needed(db)
        for version_id in version_ids:
            versions.row_of(db, version_id)
            if version_id in needed:
                raise WorkbookError(f"version {version_id} {needed[version_id]}; it stays")
        rows = db.execute(table("versions").select()).mappings().all()
        audit = db.execute(table("audit").select().order_by(table("audit").c.id)).mappings().all()
    last = {entry["version"]: entry["at"] for entry in audit}
    refused = {entry["version"] for entry in audit if entry["action"] == "refuse"}
    chosen = []
    for row in rows:
        is_over = row["status"] == "deprecated"
        is_over = is_over or (row["status"] == "evaluating" and row["id"] in refused)
        is_due = is_over and last.get(row["id"], row["created_at"]) <= quiet_since
        is_meant = row["id"] in version_ids if version_ids else is_due
        if is_meant and row["id"] not in needed and not row["metadata"].get("retired"):
            chosen.append(versions.as_record(row))
    return chosen


def retire(version_ids: Sequence[str], because: str) -> None:
    """Write down, in one transaction, that these versions give up their models, and why."""
    if not because.strip():
        raise WorkbookError("say why, for whoever looks for it later: --because TEXT")
    with open_registry().transaction() as db:
        needed = _needed(db)
        for version_id in version_ids:
            row = versions.row_of(db, version_id)
            if version_id in needed:
                raise WorkbookError(f"version {version_id} {needed[version_id]}; look again")
            note = {"at": store.now().isoformat(), "because": because}
            versions.update(db, version_id, metadata=row["metadata"] | {"retired": note})
            evidence = {"artifact": row["artifact"], "sha256": row["artifact_sha256"]}
            if row["status"] == "deprecated":
                versions.audit(db, row, "retire", because, evidence=evidence)
            else:
                versions.change_status(db, row, "deprecated", "retire", because, evidence=evidence)


def _needed(db: Connection) -> dict[str, str]:
    """Versions that must keep their models, and what for."""
    needed = {}
    for route in db.execute(table("routes").select()).mappings():
        trial = versions.trial_of(db, route["task"])
        if trial is not None:
            needed[trial.version] = f"is tried as {trial.kind}"
        needed[route["previous"]] = "is what a rollback goes back to"
        needed[route["version"]] = "serves"
    return needed
