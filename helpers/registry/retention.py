"""Retention: versions whose model nobody needs any more give it up; what was measured stays."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from helpers import store
from helpers.records import FineTunedModelVersion, WorkbookError
from helpers.registry import versions
from helpers.registry.database import open_registry, rows_of

if TYPE_CHECKING:
    from sqlalchemy import Connection


def retire(
    version_ids: Sequence[str], days: int, because: str, yes: bool
) -> list[FineTunedModelVersion]:
    """The named versions, else all that the rule finds; with `yes` they are marked, and why.

    The rule: deprecated, or refused by the gate, and nothing happened to it for `days`. Never what
    serves, what a rollback goes back to, or what is tried: WorkbookError where one is named.
    """
    if yes and not because.strip():
        raise WorkbookError("say why, for whoever looks for it later: --because TEXT")
    quiet_since = (store.now() - timedelta(days=days)).isoformat()
    with open_registry().transaction(read_only=not yes) as db:
        needed = _needed(db)
        for version_id in version_ids:
            versions.row_of(db, version_id)
            if version_id in needed:
                raise WorkbookError(f"version {version_id} {needed[version_id]}; it stays")
        names = set(version_ids) or _over_since(db, quiet_since)
        rows = [row for row in rows_of(db, "versions") if row["id"] in names - needed.keys()]
        chosen = [row for row in rows if not row["metadata"].get("retired")]
        for row in chosen if yes else ():
            _mark(db, row, because)
    return [versions.as_record(row) for row in chosen]


def _over_since(db: Connection, moment: str) -> set[str]:
    """Versions that are deprecated, or were refused last, and whose last entry is no later."""
    last = {entry["version"]: entry for entry in rows_of(db, "audit")}
    over = set()
    for row in rows_of(db, "versions"):
        entry = last[row["id"]]
        is_refused = row["status"] == "evaluating" and entry["action"] == "refuse"
        if (row["status"] == "deprecated" or is_refused) and entry["at"] <= moment:
            over.add(row["id"])
    return over


def _mark(db: Connection, row: dict[str, Any], because: str) -> None:
    retired = {"retired": {"at": store.now().isoformat(), "because": because}}
    versions.update(db, row["id"], metadata=row["metadata"] | retired)
    evidence = {"artifact": row["artifact"], "sha256": row["artifact_sha256"]}
    if row["status"] == "deprecated":
        versions.audit(db, row, "retire", because, evidence=evidence)
    else:
        versions.change_status(db, row, "deprecated", "retire", because, evidence=evidence)


def _needed(db: Connection) -> dict[str, str]:
    """Versions that must keep their models, and what for."""
    needed = {}
    for route in rows_of(db, "routes"):
        trial = versions.trial_of(db, route["task"])
        if trial is not None:
            needed[trial.version] = f"is tried as {trial.kind}"
        needed[route["previous"]] = "is what a rollback goes back to"
        needed[route["version"]] = "serves"
    return needed
