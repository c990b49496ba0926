"""Attempts at the test rows, counted for all machines of a team: a year has one budget of luck."""

from __future__ import annotations

from typing import Any

from helpers import store
from helpers.registry.database import open_registry, table


def record_attempt(task: str, attempt: dict[str, Any]) -> list[dict[str, Any]]:
    """Write an attempt down unless its key is known; all of the task's, in their order.

    It is one transaction: of two machines that evaluate at once, one is the first and the other the
    second. What this home kept in attempts/TASK.jsonl, as it was done before, comes first.
    """
    registry = open_registry()
    file = registry.folder / "attempts" / f"{task}.jsonl"
    attempts = table("attempts")
    query = attempts.select().filter_by(task=task).order_by(attempts.c.id)
    with registry.transaction() as db:
        known = {row.key for row in db.execute(query)}
        for line in [*(store.read_jsonl(file) if file.exists() else []), attempt]:
            if line["key"] not in known:
                known.add(line["key"])
                db.execute(attempts.insert().values(line | {"task": task}))
        return [dict(row) for row in db.execute(query).mappings()]
