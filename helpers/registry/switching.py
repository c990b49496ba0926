"""The switch: everything that changes when another version serves, inside one transaction of the caller."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from helpers import store
from helpers.records import WorkbookError
from helpers.registry import versions
from helpers.registry.database import tables

if TYPE_CHECKING:
    from sqlalchemy import Connection


def route_of(db: Connection, task: str) -> dict[str, Any]:
    """{task, version, previous, generation, since}, locked until the transaction ends; generation 0: never promoted."""
    t = tables().routes
    row = db.execute(t.select().where(t.c.task == task).with_for_update()).mappings().first()
    return dict(row) if row else {"task": task, "version": None, "previous": None, "generation": 0, "since": ""}


def expect(route: dict[str, Any], generation: int | None) -> None:
    """Refuse when the route is not the one that the caller looked at (None: the caller does not mind)."""
    if generation not in (None, route["generation"]):
        raise WorkbookError(
            f"production changed since you looked (generation {generation}, now {route['generation']}); "
            "look again (`workbook route`), then repeat"
        )


def switch(
    db: Connection, task: str, row: dict[str, Any] | None, action: str, because: str, evidence: dict[str, Any]
) -> dict[str, Any]:
    """Put `row` (None: nothing) into production: both statuses, route, generation, audit and outbox; returns the route."""
    route = route_of(db, task)
    generation, displaced, new = route["generation"] + 1, route["version"], row["id"] if row else None
    if displaced is not None:  # goes first, or the one-production index refuses the new one
        old = versions.row_of(db, displaced)
        why = because if row is None else f"displaced by {new}" + (f": {because}" if because else "")
        versions.update(db, displaced, status="deprecated", reason=why)
        change = {"from_status": "production", "to_status": "deprecated", "generation": generation}
        versions.audit(db, old, action if row is None else "displace", why, **change)
    if row is not None:
        versions.update(db, row["id"], status="production", reason=because)
        change = {"from_status": row["status"], "to_status": "production", "generation": generation}
        versions.audit(db, row, action, because, evidence=evidence, **change)
    previous = displaced or route["previous"]
    values = {"version": new, "previous": previous if previous != new else None, "generation": generation}
    values["since"] = store.now().isoformat()
    t = tables().routes
    first = route["generation"] == 0
    db.execute(t.insert().values(task=task, **values) if first else t.update().where(t.c.task == task).values(**values))
    announce(db, {"action": action, "task": task, "target": "production", "because": because} | values)
    return {"task": task} | values


def announce(db: Connection, event: dict[str, Any]) -> None:
    """Put an event into the outbox: it exists exactly if the change that it tells of was committed."""
    at = store.now().isoformat()
    event = {"at": at} | event | {"because": store.redact(event["because"])}
    row = {"event_id": uuid.uuid4().hex, "event": event, "created_at": at}
    db.execute(tables().outbox.insert().values(**row))
