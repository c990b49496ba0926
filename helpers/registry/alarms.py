"""Alarms about what serves: opened once, told once, repeated while nobody has looked, closed.

An alarm and the message about it are one transaction: whatever is killed, none is lost, and a
channel hears of it twice at most where the kill came between sending and noting that it was sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any

from helpers import store
from helpers.records import Alarm, AlarmState, Finding, WorkbookError
from helpers.registry import versions
from helpers.registry.database import open_registry, rows_of, table
from helpers.registry.delivery import catch_up

if TYPE_CHECKING:
    from sqlalchemy import Connection

REPEAT = timedelta(days=7)  # an alarm that nobody looked at is told again
BACK_AFTER = timedelta(days=28)  # one that was acknowledged, and not seen for so long, is back
AGAIN = {
    "open": "still open, and nobody has looked",
    "acknowledged": "went away after it was acknowledged, and is back",
}


def list_alarms(task: str = "", version: str | None = None, state: str = "") -> list[Alarm]:
    """The alarms of a task, of one version, in one state; oldest first."""
    where = {"task": task or None, "version": version, "state": state or None}
    given = {name: value for name, value in where.items() if value is not None}
    alarms = [Alarm(**row) for row in open_registry().rows("alarms", **given)]
    return sorted(alarms, key=attrgetter("opened_at"))


def raise_alarms(task: str, version: str, findings: Sequence[Finding]) -> list[Alarm]:
    """Open an alarm for every finding that has none, and tell the team of all new ones at once.

    A warning that has become critical is as a new one. Those that nobody looked at for REPEAT are
    told again; one that was acknowledged and went away is open again when it comes back. Returns
    what is not resolved.
    """
    registry = open_registry()
    now = store.now().isoformat()
    alarms = table("alarms")
    with registry.transaction() as db:
        known = {row["name"]: row for row in _unresolved(db, task, version)}
        found = {finding.name: finding for finding in findings}
        new = [finding for finding in findings if finding.name not in known]
        for finding in new:
            db.execute(alarms.insert().values(**_row(db, task, version, finding, now)))
        due = []
        told = {"told_at": now, "state": "open"}
        for name, row in known.items():
            finding = found.get(name)
            noted = {"finding": row["finding"] | {"verdict": "fail" if finding else "pass"}}
            if finding:
                noted["seen_at"] = now
            if _is_worse(row, finding):
                noted |= told | {"severity": "critical", "finding": _kept(finding)}
                new.append(finding)
            elif _is_due(row, finding is not None):
                noted |= told
                due.append(row)
            db.execute(alarms.update().filter_by(id=row["id"]).values(**noted))
        if new or due:
            versions.announce(db, {"task": task, "id": version}, "alarm", _message(new, due))
        rows = _unresolved(db, task, version)
    catch_up(registry)
    return [Alarm(**row) for row in rows]


def close_alarm(alarm_id: str, state: AlarmState, because: str) -> Alarm:
    """Acknowledge or resolve an alarm, with the reason; the audit keeps who did it."""
    if not because.strip():
        raise WorkbookError("say why, for whoever looks next: --because TEXT")
    registry = open_registry()
    with registry.transaction() as db:
        row = next(iter(rows_of(db, "alarms", id=alarm_id)), None)
        if row is None:
            raise WorkbookError(
                f"there is no alarm {alarm_id!r}; `workbook registry alarms` shows which there are"
            )
        if row["state"] == "resolved":
            raise WorkbookError(f"alarm {alarm_id} was resolved already: {row['because']}")
        subject = {"task": row["task"], "id": row["version"]}
        evidence = {"alarm": alarm_id, "name": row["name"]}
        action = state.removesuffix("d")  # acknowledge, resolve
        versions.audit(db, subject, action, because, evidence=evidence)
        versions.change_alarms(db, {"id": alarm_id}, state, because)
        [row] = rows_of(db, "alarms", id=alarm_id)
    catch_up(registry)
    return Alarm(**row)


def _unresolved(db: Connection, task: str, version: str) -> list[dict[str, Any]]:
    rows = rows_of(db, "alarms", task=task, version=version)
    unresolved = [row for row in rows if row["state"] != "resolved"]
    return sorted(unresolved, key=itemgetter("opened_at", "name"))


def _row(db: Connection, task: str, version: str, finding: Finding, now: str) -> dict[str, Any]:
    """A new alarm; its id says which one of its check it is."""
    number = len(rows_of(db, "alarms", task=task, version=version, name=finding.name))
    row = dict.fromkeys(("opened_at", "seen_at", "told_at", "changed_at"), now)
    return row | {
        "id": store.fingerprint([task, version, finding.name, number])[:10],
        "task": task,
        "version": version,
        "name": finding.name,
        "severity": finding.severity or "warning",
        "state": "open",
        "finding": _kept(finding),
        "actor": "",
        "because": "",
    }


def _kept(finding: Finding) -> dict[str, Any]:
    return versions.clean(finding.model_dump(mode="json"))


def _is_worse(row: dict[str, Any], finding: Finding | None) -> bool:
    return finding is not None and finding.severity == "critical" != row["severity"]


def _is_due(row: dict[str, Any], is_seen: bool) -> bool:
    if row["state"] == "open":
        return store.now() - datetime.fromisoformat(row["told_at"]) >= REPEAT
    # weeks may lie between two looks: it went away only if one of them did not see it
    is_back = is_seen and row["finding"]["verdict"] == "pass"
    return is_back and store.now() - datetime.fromisoformat(row["seen_at"]) >= BACK_AFTER


def _message(new: Sequence[Finding], due: Sequence[dict[str, Any]]) -> str:
    lines = []
    for finding in new:
        ask = "asks for a retrain" if finding.severity == "critical" else "needs a look"
        lines.append(f"{finding.name} {ask}: {finding.evidence}")
        if finding.remedy:
            lines.append(f"what to do: {finding.remedy}")
    for state, words in AGAIN.items():
        names = [row["name"] for row in due if row["state"] == state]
        if names:
            lines.append(f"{words}: {', '.join(names)}")
    lines.append("next: workbook registry alarms")
    return "\n".join(lines)
