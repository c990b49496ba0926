"""Rows and what changes them: a version's life and audit, the switch of production, the outbox.

Functions that take a connection work inside a transaction of the caller.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
import uuid
from typing import TYPE_CHECKING, Any

from helpers import store
from helpers.records import FineTunedModelVersion, Status, WorkbookError
from helpers.registry.database import Registry, table

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
EMAIL = re.compile(r"[\w.+-]+@[\w-]+(\.[\w-]+)+")
RECORD_FIELDS = set(FineTunedModelVersion.model_fields)
IN_METADATA = (
    "provider",
    "artifact",
    "artifact_sha256",
    "fingerprints",
    "evaluation_sha256",
    "evaluated_at",
    "reason",
)
IN_METADATA += ("train_until", "serve_until")


def as_record(row: Mapping[str, Any]) -> FineTunedModelVersion:
    """A row of `versions`; columns that the record does not have stand in its metadata."""
    fields = {name: row[name] for name in RECORD_FIELDS}
    extra = {name: row[name] for name in IN_METADATA if row[name]}
    return FineTunedModelVersion.model_validate(fields | {"metadata": row["metadata"] | extra})


def listed(registry: Registry, **where: str) -> list[FineTunedModelVersion]:
    """The versions whose columns have these values, newest first."""
    rows = registry.rows("versions", **where)
    return [as_record(row) for row in sorted(rows, key=lambda row: row["created_at"], reverse=True)]


def row_of(db: Connection, version_id: str, **where: str) -> dict[str, Any]:
    """One row, by its id and what else is known of it."""
    row = (
        db.execute(table("versions").select().filter_by(id=version_id, **where)).mappings().first()
    )
    if row is None:
        of = "".join(f" of {name} {value}" for name, value in where.items())
        raise WorkbookError(
            f"no version {version_id!r}{of} is registered; `workbook registry list` shows which are"
        )
    return dict(row)


def update(db: Connection, version_id: str, **values: Any) -> None:
    """Change columns of one version."""
    values |= {name: clean(values[name]) for name in ("reason", "metadata") if name in values}
    db.execute(
        table("versions")
        .update()
        .filter_by(id=version_id)
        .values(**values, updated_at=store.now().isoformat())
    )


def audit(db: Connection, row: Mapping[str, Any], action: str, because: str, **more: Any) -> None:
    """Append who did what to a version, when and why; `more`: from_status, to_status, evidence, generation."""
    values = {
        "at": store.now().isoformat(),
        "actor": _actor(),
        "task": row["task"],
        "version": row["id"],
    }
    more["evidence"] = clean(more.get("evidence", {}))
    db.execute(
        table("audit").insert().values(**values, action=action, because=clean(because), **more)
    )


def change_status(
    db: Connection, row: Mapping[str, Any], status: Status, action: str, because: str, **more: Any
) -> None:
    """Give a version another status, and append that to the audit; `more` as in `audit`."""
    update(db, row["id"], status=status, reason=because)
    audit(db, row, action, because, from_status=row["status"], to_status=status, **more)


def announce(db: Connection, event: dict[str, Any], event_id: str = "") -> None:
    """Put an event into the outbox: it exists exactly if the change that it tells of was committed."""
    at = store.now().isoformat()
    event = clean({"at": at} | event)
    db.execute(
        table("outbox")
        .insert()
        .values(event_id=event_id or uuid.uuid4().hex, event=event, created_at=at)
    )


def clean(value: Any) -> Any:
    """Text, or JSON, without keys, secrets and e-mail addresses."""
    if isinstance(value, str):
        return EMAIL.sub("[e-mail]", store.redact(value))
    return json.loads(clean(store.dumps(value)))


def _actor() -> str:
    """user@host, and whether a person or a scheduled run."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # containers run as numbers without names
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}" + (" (workbook run)" if store.headless() else "")


def artifact_sha256(relative: str) -> str:
    """sha256 over the names and contents of the files of an artifact's folder; "" when there are none."""
    folder = store.home() / relative
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if relative else []
    contents = [[path.relative_to(folder).as_posix(), store.sha256_file(path)] for path in files]
    return store.fingerprint(contents) if contents else ""


def route_of(db: Connection, task: str) -> dict[str, Any]:
    """{task, version, previous, generation, since}; generation 0 means that nothing was ever promoted."""
    row = db.execute(table("routes").select().filter_by(task=task)).mappings().first()
    return (
        dict(row)
        if row
        else {"task": task, "version": None, "previous": None, "generation": 0, "since": ""}
    )


def expect(route: dict[str, Any], generation: int | None) -> None:
    """Refuse when the route is not the one that the caller looked at (None: the caller does not mind)."""
    if generation not in (None, route["generation"]):
        said = f"production changed since you looked (generation {generation}, now {route['generation']})"
        raise WorkbookError(f"{said}; look again (`workbook route`), then repeat")


def switch(
    db: Connection,
    task: str,
    row: dict[str, Any] | None,
    action: str,
    because: str,
    evidence: dict[str, Any],
) -> dict[str, Any]:
    """Put `row` (None: nothing) into production: both statuses, route, generation, audit and outbox; returns the route."""
    route = route_of(db, task)
    generation, old, new = route["generation"] + 1, route["version"], row["id"] if row else None
    if old is not None:  # goes first, or the one-production index refuses the new one
        why = f"displaced by {new}: {because}".removesuffix(": ") if row else because
        change_status(
            db,
            row_of(db, old),
            "deprecated",
            "displace" if row else action,
            why,
            generation=generation,
        )
    if row is not None:
        change_status(
            db, row, "production", action, because, evidence=evidence, generation=generation
        )
    previous = old or route["previous"]
    values = {
        "version": new,
        "previous": previous if previous != new else None,
        "generation": generation,
    }
    values["since"] = store.now().isoformat()
    t = table("routes")
    first = route["generation"] == 0
    db.execute(
        t.insert().values(task=task, **values)
        if first
        else t.update().filter_by(task=task).values(**values)
    )
    announce(
        db, {"action": action, "task": task, "target": "production", "because": because} | values
    )
    return {"task": task} | values
