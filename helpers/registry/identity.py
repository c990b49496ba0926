"""Is the registry in sight the one that this home knows? Asked before anything relies on it.

The audit is only ever appended to, so the row that this home saw last proves it: it stands in the
registry still, unchanged. One that is empty, cut short, restored or another home's is never taken
for "nothing is registered".
"""

from __future__ import annotations

import contextlib
from typing import Any

from helpers import store
from helpers.records import Record, WorkbookError
from helpers.registry.database import Registry, table

FILE = "registry-seen.json"
PROOF = ("id", "at", "version", "action", "to_status")  # of an audit row; the same in every release


class Seen(Record):
    """registry-seen.json: the audit row that was the last one when this home looked."""

    audit_id: int
    at: str
    proof: str
    where: str  # the registry's address, without user and password
    restored_from: str = ""  # the backup that this registry was filled from


def remember(registry: Registry, restored_from: str = "") -> None:
    """Write down how far the audit goes; what is not ours is not remembered."""
    row = _last_row(registry)
    if row is None:
        return
    known = _seen(registry)
    if not restored_from:
        check_is_ours(registry)
        restored_from = known.restored_from if known else ""
    seen = Seen(
        audit_id=row["id"],
        at=row["at"],
        proof=_proof(row),
        where=registry.url.rpartition("@")[2],
        restored_from=restored_from,
    )
    if seen != known:
        store.write_json(registry.folder / FILE, seen)


def check_is_ours(registry: Registry, complete: bool = False) -> None:
    """WorkbookError for a registry that does not hold what this home knows of it.

    `complete`: nor for one that was filled from a backup, which what came after is not part of.
    """
    known = _seen(registry)
    trained = set() if known else _trained_here(registry)
    if trained and not trained & {row["id"] for row in registry.rows("versions")}:
        raise WorkbookError(
            f"none of the {len(trained)} models in {registry.folder} is registered here"
            f" ({registry.url.rpartition('@')[2]}): this is another registry, or an empty one. Set"
            " WORKBOOK_DATABASE_URL as it was, or restore a backup (`workbook registry restore"
            " FILE`)"
        )
    if known is None:
        return
    rows = registry.rows("audit", id=known.audit_id)
    if not rows or _proof(rows[0]) != known.proof:
        last = _last_row(registry)
        there = f"ends with change {last['id']} of {last['at']}" if last else "is empty"
        raise WorkbookError(
            f"this is not the registry that this home knows: the one at {known.where} had"
            f" change {known.audit_id} of {known.at}; this one {there}. Set"
            " WORKBOOK_DATABASE_URL as it was, or restore a backup (`workbook registry restore"
            f" FILE`); if the other history is truly gone, delete {registry.folder / FILE}"
        )
    if complete and known.restored_from:
        raise WorkbookError(
            f"this registry was filled from {known.restored_from}, which may be older than what"
            f" lies here; nothing is deleted. Compare `workbook registry list` with"
            f" {registry.folder / 'models'}; then delete {registry.folder / FILE} to confirm"
        )


def _last_row(registry: Registry) -> Any:
    """The last row of the audit; None where it has none."""
    audit = table("audit")
    query = audit.select().order_by(audit.c.id.desc()).limit(1)
    with registry.transaction(read_only=True) as db:
        return db.execute(query).mappings().first()


def _proof(row: Any) -> str:
    return store.fingerprint([row[name] for name in PROOF])


def _seen(registry: Registry) -> Seen | None:
    path = registry.folder / FILE
    if not path.exists():
        return None
    try:
        return Seen.model_validate(store.read_json(path))
    except ValueError:
        raise WorkbookError(
            f"{path} is not as this workbook wrote it; it says which registry this home knows:"
            " restore it, or delete it after looking at `workbook registry list`"
        ) from None


def _trained_here(registry: Registry) -> set[str]:
    """The versions that this home's files speak of."""
    folders = registry.folder.glob("models/*")
    names = {path.name for path in folders if path.is_dir() and not path.is_symlink()}
    for path in (*registry.folder.glob("runs/*/model.json"), registry.folder / "routes.json"):
        with contextlib.suppress(WorkbookError):
            content = store.read_json(path)
            for entry in content.values() if path.name == "routes.json" else [content]:
                if isinstance(entry, dict) and isinstance(entry.get("version"), str):
                    names.add(entry["version"])
    return names
