"""What follows a commit: routes.json is brought up to date, and the outbox is delivered.

Both can fail, or be cut short by a kill, without harm: the database is the truth, and the next opening catches up.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from helpers import store
from helpers.records import WorkbookError
from helpers.registry.database import Registry, tables

if TYPE_CHECKING:
    from sqlalchemy import Connection

log = logging.getLogger(__name__)


def catch_up(registry: Registry) -> None:
    """Repair routes.json and deliver what waits in the outbox; a failure is logged, since the commit stands."""
    try:
        publish_routes(registry)
        notify_team(registry)
    except (OSError, WorkbookError) as error:
        log.warning("the registry is up to date, but its files are not: %s", store.redact(str(error)))


def routes(connection: Connection) -> dict[str, dict[str, Any]]:
    """task -> {version, model_id, provider, since, previous, generation}, of tasks that something serves."""
    t = tables()
    chosen = t.routes.join(t.versions, t.routes.c.version == t.versions.c.id)
    rows = connection.execute(
        chosen.select()
        .with_only_columns(t.routes, t.versions.c.model_id, t.versions.c.provider)
        .order_by(t.routes.c.task)
    ).mappings()
    keys = ("version", "model_id", "provider", "since", "previous", "generation")
    return {row["task"]: {key: row[key] for key in keys} for row in rows}


def publish_routes(registry: Registry) -> dict[str, dict[str, Any]]:
    """Write routes.json from the database when it is missing, torn or stale; return the routes."""
    path = registry.folder / "routes.json"
    with registry.alone():  # so that no slower writer can put an older state over a newer one
        with registry.transaction(read_only=True) as connection:
            current = routes(connection)
        try:
            written = store.read_json(path) if path.exists() else {}
        except WorkbookError:
            written = None
        if written != current:
            store.write_json(path, current)
    return current


def notify_team(registry: Registry) -> int:
    """Append every waiting event to notifications.jsonl, then mark it delivered; returns how many.

    At least once: after a kill between the two an event comes again, under the same event_id.
    """
    t = tables()
    with registry.transaction(read_only=True) as connection:
        if connection.execute(t.outbox.select().where(t.outbox.c.delivered_at.is_(None)).limit(1)).first() is None:
            return 0
    with registry.alone():
        with registry.transaction(read_only=True) as connection:
            waiting = connection.execute(
                t.outbox.select().where(t.outbox.c.delivered_at.is_(None)).order_by(t.outbox.c.id)
            ).mappings()
            events = [row["event"] | {"event_id": row["event_id"]} for row in waiting]
        _append(registry, events)
        with registry.transaction() as connection:
            sent = [event["event_id"] for event in events]
            done = t.outbox.update().where(t.outbox.c.event_id.in_(sent))
            connection.execute(done.values(delivered_at=store.now().isoformat()))
    return len(events)


def _append(registry: Registry, events: list[dict[str, Any]]) -> None:
    with open(registry.folder / "notifications.jsonl", "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # a kill tore the last line; its event is still waiting
                file.write(b"\n")
        file.write("".join(store.redact(store.dumps(event)) + "\n" for event in events).encode())
        file.flush()
        os.fsync(file.fileno())
