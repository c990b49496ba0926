"""Rows and what changes them: a version's life and audit, the switch of production, the outbox.

Functions that take a connection work inside a transaction of the caller.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import uuid
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from helpers import store
from helpers.records import AlarmState, FineTunedModelVersion, Route, Status, Trial, WorkbookError
from helpers.registry.database import Registry, open_registry, rows_of, table

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
TRIAL_BEGINS = ("shadow", "canary")  # actions of the audit, with the Trial as their evidence
TRIAL_ENDED = "trial_ended"
IN_METADATA = (
    "provider",
    "artifact",
    "artifact_sha256",
    "fingerprints",
    "evaluation_sha256",
    "evaluated_at",
    "reason",
    "train_until",
    "serve_until",
)


def as_record(row: Mapping[str, Any]) -> FineTunedModelVersion:
    """A row of `versions`; columns that the record does not have stand in its metadata."""
    fields = {name: row[name] for name in FineTunedModelVersion.model_fields}
    extra = {name: row[name] for name in IN_METADATA if row[name]}
    return FineTunedModelVersion.model_validate(fields | {"metadata": row["metadata"] | extra})


def listed(registry: Registry, **where: str) -> list[FineTunedModelVersion]:
    """The versions whose columns have these values, newest first."""
    rows = registry.rows("versions", **where)
    return [as_record(row) for row in sorted(rows, key=itemgetter("created_at"), reverse=True)]


def version_of(version_id: str) -> FineTunedModelVersion:
    """One version of any task."""
    with open_registry().transaction(read_only=True) as db:
        return as_record(row_of(db, version_id))


def new_row(version_id: str, task: str, run_id: str, **columns: Any) -> dict[str, Any]:
    """A row of `versions` for a model whose training begins now; `columns`: what else is known."""
    row = {"id": version_id, "task": task, "run_id": run_id, "status": "training"}
    row |= {"model_id": version_id, "fingerprints": {}, "metadata": {}}
    now = dict.fromkeys(("trained_at", "created_at", "updated_at"), store.now().isoformat())
    unknown = ("provider", "artifact", "artifact_sha256", "evaluation_sha256", "reason")
    return row | now | dict.fromkeys(unknown, "") | columns


def row_of(db: Connection, version_id: str, **where: str) -> dict[str, Any]:
    """One row, by its id and what else is known of it."""
    rows = rows_of(db, "versions", id=version_id, **where)
    if not rows:
        of = "".join(f" of {name} {value}" for name, value in where.items())
        raise WorkbookError(
            f"no version {version_id!r}{of} is registered; `workbook registry list` shows which are"
        )
    return rows[0]


def update(db: Connection, version_id: str, **values: Any) -> None:
    """Change columns of one version."""
    values |= {name: clean(values[name]) for name in ("reason", "metadata") if name in values}
    values["updated_at"] = store.now().isoformat()
    db.execute(table("versions").update().filter_by(id=version_id).values(**values))


def audit(db: Connection, row: Mapping[str, Any], action: str, because: str, **more: Any) -> None:
    """Append who did what to a version, when and why.

    `more`: from_status, to_status, evidence, generation.
    """
    entry = {
        "at": store.now().isoformat(),
        "actor": _actor(),
        "task": row["task"],
        "version": row["id"],
        "action": action,
        "because": clean(because),
    }
    more["evidence"] = clean(more.get("evidence", {}))
    db.execute(table("audit").insert().values(**entry, **more))


def change_status(
    db: Connection, row: Mapping[str, Any], status: Status, action: str, because: str, **more: Any
) -> None:
    """Give a version another status, and append that to the audit; `more` as in `audit`."""
    update(db, row["id"], status=status, reason=because)
    audit(db, row, action, because, from_status=row["status"], to_status=status, **more)


def announce(
    db: Connection, row: Mapping[str, Any], action: str, because: str, **more: Any
) -> None:
    """Put an event into the outbox: it exists exactly if the change it tells of was committed.

    `more`: target, event_id, and what else is to be known of it.
    """
    at = store.now().isoformat()
    event = {"at": at, "by": _actor(), "action": action, "target": "", "because": because}
    event |= {"task": row["task"], "version": row["id"], **more}
    event_id = more.get("event_id") or uuid.uuid4().hex
    insert = table("outbox").insert()
    db.execute(insert.values(event_id=event_id, created_at=at, event=clean(event)))


def change_alarms(db: Connection, where: dict[str, str], state: AlarmState, because: str) -> None:
    """Give every alarm that is not resolved, and is meant by `where`, another state."""
    alarms = table("alarms")
    changes = {"state": state, "because": clean(because), "actor": _actor()}
    query = alarms.update().filter_by(**where).where(alarms.c.state != "resolved")
    db.execute(query.values(**changes, changed_at=store.now().isoformat()))


def clean(value: Any) -> Any:
    """Text, or JSON, without keys, secrets and e-mail addresses."""
    return store.clean(json.loads(store.dumps(value)))


def _actor() -> str:
    """user@host, and whether a person or a scheduled run."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # containers run as numbers without names
        user = str(os.getuid())
    by_schedule = " (workbook run)" if store.headless() else ""
    return f"{user}@{socket.gethostname()}{by_schedule}"


def route_of(db: Connection, task: str) -> Route:
    """A task's route; one that nothing was ever promoted to is new."""
    rows = rows_of(db, "routes", task=task)
    return Route(**rows[0]) if rows else Route(task=task)


def trial_of(db: Connection, task: str) -> Trial | None:
    """The trial that runs; None where none was begun since the last one ended."""
    audit = table("audit")
    query = (
        audit.select().filter_by(task=task).where(audit.c.action.in_([*TRIAL_BEGINS, TRIAL_ENDED]))
    )
    last = db.execute(query.order_by(audit.c.id.desc()).limit(1)).mappings().first()
    if last is None or last["action"] == TRIAL_ENDED:
        return None
    return Trial.model_validate(last["evidence"])


def expect(route: Route, generation: int | None) -> None:
    """Refuse when the route is not the one that the caller looked at (None: any will do)."""
    if generation not in (None, route.generation):
        raise WorkbookError(
            f"production changed since you looked (generation {generation}, now"
            f" {route.generation}); look again (`workbook route`), then repeat"
        )


def switch(
    db: Connection,
    task: str,
    row: dict[str, Any] | None,
    action: str,
    because: str,
    evidence: dict[str, Any],
) -> Route:
    """Put `row` (None: nothing) into production: statuses, route, generation, audit and outbox."""
    old = route_of(db, task)
    version_id = row["id"] if row else None
    previous = old.version or old.previous
    new = Route(
        task=task,
        version=version_id,
        previous=None if previous == version_id else previous,
        generation=old.generation + 1,
        since=store.now().isoformat(),
    )
    why = f"displaced by {version_id}: {because}".removesuffix(": ") if row else because
    change_alarms(db, {"task": task, "version": old.version or ""}, "resolved", why or action)
    if old.version is not None:  # goes first, or the one-production index refuses the new one
        left = row_of(db, old.version)
        told = "displace" if row else action
        change_status(db, left, "deprecated", told, why, generation=new.generation)
    if row is not None:
        # one whose model was put back, and that serves, is retired no more
        kept = {name: value for name, value in row["metadata"].items() if name != "retired"}
        update(db, row["id"], metadata=kept)
        told = {"evidence": evidence, "generation": new.generation}
        change_status(db, row, "production", action, because, **told)
    routes = table("routes")
    if old.generation == 0:
        db.execute(routes.insert().values(**dict(new)))
    else:
        db.execute(routes.update().filter_by(task=task).values(**dict(new)))
    announce(
        db, {"task": task, "id": version_id}, action, because, target="production", **dict(new)
    )
    return new
