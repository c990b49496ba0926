"""What follows a commit: routes.json, notifications.jsonl, the team's channels, the mirror in MLflow.

Each can fail, or be cut short by a kill, without harm: the database is the truth, and the next opening catches up.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from datetime import timedelta
from typing import Any

from helpers import store
from helpers.registry.database import Registry, open_registry, table
from helpers.extras.mlflow_mirror import mirror
from helpers.registry.versions import announce

FIRST_RETRY = timedelta(minutes=1)  # doubled after every failure
MAX_ATTEMPTS = (
    8  # about two hours; what is still waiting then is shown by `workbook registry reconcile`
)
AT_ONCE = 5  # events per opening: a slow channel delays a command by seconds, not by minutes
_log = logging.getLogger(__name__)


def catch_up(registry: Registry) -> None:
    """Repair routes.json, deliver the outbox, mirror what is new; a failure is logged, since the commit stands."""
    try:
        publish_routes(registry)
        if notify_team(registry) and registry.folder == store.home():
            mirror(registry)
    except Exception as error:  # whatever a channel or a driver throws: the commit stands
        _log.warning("what follows a commit has to wait: %s", store.redact(str(error)))


def notify(text: str, event_id: str) -> None:
    """Tell the team something that is no change of the registry, such as a failed run; each event_id is told once."""
    registry = open_registry()
    with registry.transaction() as db:
        known = db.execute(table("outbox").select().filter_by(event_id=event_id)).first()
        if known is None:
            announce(db, {"action": "run", "task": "", "version": "", "because": text}, event_id)
    catch_up(registry)


def publish_routes(registry: Registry) -> dict[str, dict[str, Any]]:
    """Write routes.json from the database when it is missing, torn or stale; return the routes of what serves."""
    path, r, v = registry.folder / "routes.json", table("routes").c, table("versions").c
    shown = r.version, v.model_id, v.provider, r.since, r.previous, r.generation
    query = table("versions").join(table("routes"), r.version == v.id).select().order_by(r.task)
    with registry.transaction() as db:
        rows = db.execute(query.with_only_columns(r.task, *shown)).mappings()
        current = {row["task"]: {column.name: row[column.name] for column in shown} for row in rows}
        text = store.dumps(current, indent=2) + "\n"
        if text != (
            path.read_text(encoding="utf-8", errors="replace") if path.exists() else "{}\n"
        ):
            store.write_text(path, text)
    return current


def notify_team(registry: Registry) -> int:
    """Tell notifications.jsonl, then the channels of WORKBOOK_NOTIFY_URLS, what waits; returns how many the file got.

    At least once: what was cut short comes again, under the same event_id. Channels are told by the home's own
    registry alone, so that a rehearsal on a copy stays silent.
    """
    told = _append(registry)
    if registry.folder == store.home():
        _tell_channels(registry)
    return told


def _append(registry: Registry) -> int:
    """Append every waiting event to notifications.jsonl, then mark it delivered."""
    t = table("outbox")
    with registry.transaction() as db:
        waiting = (
            db.execute(t.select().filter_by(delivered_at=None).order_by(t.c.id)).mappings().all()
        )
        if not waiting:
            return 0
        with open(registry.folder / "notifications.jsonl", "ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a kill tore the last line; its event is still waiting
                    file.write(b"\n")
            for row in waiting:
                file.write(
                    store.redact(
                        store.dumps(row["event"] | {"event_id": row["event_id"]}) + "\n"
                    ).encode()
                )
            file.flush()
            os.fsync(file.fileno())
        db.execute(
            t.update().filter_by(delivered_at=None).values(delivered_at=store.now().isoformat())
        )
    return len(waiting)


def channels() -> list[str]:
    """The addresses of WORKBOOK_NOTIFY_URLS, divided by spaces, commas or line breaks."""
    return [
        url
        for url in re.split(
            r"[\s,]+(?=[\w+-]+://)", os.environ.get("WORKBOOK_NOTIFY_URLS", "").strip(" ,\n")
        )
        if url
    ]


def _tell_channels(registry: Registry) -> None:
    """Send what is due. An event is claimed before it is sent, outside any transaction: nobody waits for a slow channel."""
    t, urls, now = table("outbox"), channels(), store.now()
    due = (
        t.c.sent_at.is_(None)
        & (t.c.attempts < MAX_ATTEMPTS)
        & (t.c.retry_at.is_(None) | (t.c.retry_at <= now.isoformat()))
    )
    with registry.transaction(read_only=True) as db:
        waiting = (
            db.execute(t.select().where(due).order_by(t.c.id).limit(AT_ONCE if urls else None))
            .mappings()
            .all()
        )
    if (
        waiting and not urls
    ):  # nobody asked to be told; an address that is set later is told of what happens from then on
        with registry.transaction() as db:
            db.execute(t.update().filter_by(sent_at=None).values(sent_at=now.isoformat()))
    for row in waiting if urls else ():
        tries = row["attempts"] + 1
        claim = {"attempts": tries, "retry_at": (now + FIRST_RETRY * 2 ** (tries - 1)).isoformat()}
        with registry.transaction() as db:
            if not db.execute(
                t.update().where(due & (t.c.id == row["id"])).values(**claim)
            ).rowcount:
                continue  # another process has it
        reached, names = (
            set(row["sent_to"].split()),
            {hashlib.sha256(url.encode()).hexdigest()[:16]: url for url in urls},
        )
        text = f"{row['event']['because']}\n{store.dumps(row['event'], indent=1)}\nevent {row['event_id']}"
        title = "workbook: {action} {task} {version}".format(**row["event"])
        reached |= {
            name for name, url in names.items() if name not in reached and send(url, title, text)
        }
        done = {"sent_to": " ".join(sorted(reached))} | (
            {"sent_at": now.isoformat()} if reached >= set(names) else {}
        )
        with registry.transaction() as db:
            db.execute(t.update().filter_by(id=row["id"]).values(**done))
        if "sent_at" not in done:
            return  # a channel is down: the rest waits for the next opening


def send(url: str, title: str, text: str) -> bool:
    """Send one message to one of apprise's addresses; False, and a line in the log without the address, when it failed."""
    try:
        import apprise
    except ImportError:
        _log.warning('messages to WORKBOOK_NOTIFY_URLS need apprise: pip install -e ".[notify]"')
        return False
    logging.getLogger("apprise").setLevel(logging.CRITICAL)  # it names addresses
    client = apprise.Apprise()
    if not client.add(url):
        _log.warning(
            "one address of WORKBOOK_NOTIFY_URLS (%s://…) is not understood",
            url.partition("://")[0],
        )
        return False
    # AppriseResult is true on complete success alone
    if sent := bool(client.notify(title=store.redact(title), body=store.redact(text))):
        return sent
    _log.warning(
        "a %s:// channel of WORKBOOK_NOTIFY_URLS did not take a message; it is tried again",
        url.partition("://")[0],
    )
    return False
