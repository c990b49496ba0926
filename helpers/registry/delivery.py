"""What follows a commit: routes.json, notifications.jsonl, the team's channels, the mirror.

Each can fail, or be cut short by a kill, without harm: the database is the truth, and the next
opening catches up.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from helpers import store
from helpers.records import TrainedModel
from helpers.registry import versions
from helpers.registry.database import Registry, open_registry, rows_of, table
from helpers.registry.files import load_or_reason
from helpers.registry.identity import check_is_ours, remember

if TYPE_CHECKING:
    from sqlalchemy import RowMapping

FIRST_RETRY = timedelta(minutes=1)  # doubled after every failure
MAX_ATTEMPTS = 8  # about two hours; `workbook registry reconcile` shows what still waits then
WAITING = timedelta(days=14)  # how long a message waits for a channel that somebody configures
AT_ONCE = 5  # events per opening: a slow channel delays a command by seconds, not by minutes
BETWEEN_ADDRESSES = r"[\s,]+(?=[\w+-]+://)"  # an address may hold commas of its own
_log = logging.getLogger(__name__)


def catch_up(registry: Registry) -> None:
    """Repair routes.json, deliver the outbox, mirror what is new; failures are logged, no more."""
    try:
        publish_routes(registry)
        remember(registry)
        if notify_team(registry) and registry.folder == store.home():
            mirror_versions(registry)
    except Exception as error:  # whatever a channel or a driver throws: the commit stands
        _log.warning("what follows a commit has to wait: %s", store.redact(str(error)))


def mirror_versions(registry: Registry) -> list[str]:
    """Bring the optional mirror in MLflow up to date; what was changed there."""
    from helpers.extras.mlflow_mirror import mirror

    return mirror(versions.listed(registry))


def notify(text: str, event_id: str) -> None:
    """Tell the team of what changes no registry, such as a failed run; once per event_id.

    Where the registry cannot be used, which may be why the run failed, channels are told at once.
    """
    registry = open_registry()
    try:
        check_is_ours(registry)
        with registry.transaction() as db:
            if not rows_of(db, "outbox", event_id=event_id):
                versions.announce(db, {"task": "", "id": ""}, "run", text, event_id=event_id)
    except Exception as error:  # a driver's own errors too: the run's end is told all the same
        for url in channels():
            send(url, "workbook: run", f"{text}\n{error}\nevent {event_id}")
        raise
    catch_up(registry)


def publish_routes(registry: Registry) -> dict[str, dict[str, Any]]:
    """Write routes.json from the database where it is missing, torn or stale; what serves now."""
    check_is_ours(registry)  # an absent truth is no empty one
    path = registry.folder / "routes.json"
    current = {}
    with registry.transaction() as db:
        for route in rows_of(db, "routes"):
            if route["version"] is None:
                continue
            version = versions.row_of(db, route["version"])
            entry = {
                "version": route["version"],
                "model_id": version["model_id"],
                "provider": version["provider"],
                "since": route["since"],
                "previous": route["previous"],
                "generation": route["generation"],
                "base_model": version["base_model"],
                "artifact": version["artifact"],
                "sha256": version["artifact_sha256"],
            }
            model, _ = load_or_reason(store.Run(version["run_id"]), TrainedModel)
            if model is not None:  # its run is on this machine
                entry["asking"] = model.asking.model_dump(mode="json")
            if version["metadata"].get("base_url"):
                entry["endpoint"] = version["metadata"]["base_url"]
            trial = versions.trial_of(db, route["task"])
            if trial is not None:
                entry[trial.kind] = {"version": trial.version, "share": trial.share}
            current[route["task"]] = entry
        text = store.dumps(current, indent=2) + "\n"
        written = path.read_text("utf-8", "replace") if path.exists() else "{}\n"
        if text != written:
            store.write_text(path, text)
    return current


def notify_team(registry: Registry) -> int:
    """Tell notifications.jsonl, then the channels, what waits; returns how many the file got.

    At least once: what was cut short comes again, under the same event_id. Channels are told by the
    home's own registry alone, so that a rehearsal on a copy stays silent.
    """
    count = _append(registry)
    if registry.folder == store.home():
        _tell_channels(registry)
    return count


def _append(registry: Registry) -> int:
    """Append every waiting event to notifications.jsonl, then mark it delivered."""
    outbox = table("outbox")
    with registry.transaction() as db:
        waiting = rows_of(db, "outbox", delivered_at=None)
        if not waiting:
            return 0
        lines = [store.clean(row["event"] | {"event_id": row["event_id"]}) for row in waiting]
        text = "".join(f"{store.dumps(line)}\n" for line in lines)
        with open(registry.folder / "notifications.jsonl", "ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a kill tore the last line; its event is still waiting
                    file.write(b"\n")
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        now = store.now().isoformat()
        db.execute(outbox.update().filter_by(delivered_at=None).values(delivered_at=now))
    return len(waiting)


def channels() -> list[str]:
    """The addresses of WORKBOOK_NOTIFY_URLS, divided by spaces, commas or line breaks."""
    addresses = os.environ.get("WORKBOOK_NOTIFY_URLS", "").strip(", \t\r\n")
    return re.split(BETWEEN_ADDRESSES, addresses) if addresses else []


def _tell_channels(registry: Registry) -> None:
    """Send what is due, oldest first; a channel that is down ends it until the next opening.

    A process without a channel leaves everything to those that have one; what is older than
    WAITING is history, and is told to nobody.
    """
    urls = channels()
    if not urls:
        return
    outbox = table("outbox")
    now = store.now()
    due = (
        outbox.c.sent_at.is_(None)
        & (outbox.c.attempts < MAX_ATTEMPTS)
        & (outbox.c.created_at >= (now - WAITING).isoformat())
        & (outbox.c.retry_at.is_(None) | (outbox.c.retry_at <= now.isoformat()))
    )
    with registry.transaction(read_only=True) as db:
        query = outbox.select().where(due).order_by(outbox.c.id).limit(AT_ONCE)
        waiting = db.execute(query).mappings().all()
    for row in waiting:
        if _claim(registry, row) and not _send_event(registry, row, urls):
            return


def _claim(registry: Registry, row: RowMapping) -> bool:
    """Take an event, so that no other process sends it too; False where one was faster.

    It is sent outside any transaction: nobody waits for a slow channel.
    """
    attempts = row["attempts"]
    retry_at = (store.now() + FIRST_RETRY * 2**attempts).isoformat()
    unclaimed = table("outbox").update().filter_by(id=row["id"], attempts=attempts, sent_at=None)
    with registry.transaction() as db:
        claim = unclaimed.values(attempts=attempts + 1, retry_at=retry_at)
        return bool(db.execute(claim).rowcount)


def _send_event(registry: Registry, row: RowMapping, urls: Sequence[str]) -> bool:
    """Tell the channels that do not have it yet; whether all have it now."""
    event = row["event"]
    title = "workbook: {action} {task} {version}".format(**event)
    text = f"{event['because']}\n{store.dumps(event, indent=1)}\nevent {row['event_id']}"
    names = {hashlib.sha256(url.encode()).hexdigest()[:16]: url for url in urls}
    reached = set(row["sent_to"].split())
    for name, url in names.items():
        if name not in reached and send(url, title, text):
            reached.add(name)
    is_done = reached >= names.keys()
    sent_at = store.now().isoformat() if is_done else None
    progress = {"sent_to": " ".join(sorted(reached)), "sent_at": sent_at}
    with registry.transaction() as db:
        db.execute(table("outbox").update().filter_by(id=row["id"]).values(**progress))
    return is_done


def send(url: str, title: str, text: str) -> bool:
    """Send one message to one of apprise's addresses; False, and a line in the log, when it failed.

    The log never shows the address, which holds keys.
    """
    try:
        import apprise
    except ImportError:
        _log.warning('messages to WORKBOOK_NOTIFY_URLS need apprise: pip install -e ".[notify]"')
        return False
    logging.getLogger("apprise").setLevel(logging.CRITICAL)  # it names addresses
    kind = url.partition("://")[0]
    client = apprise.Apprise()
    with contextlib.suppress(Exception):  # whatever a channel throws, the others are told
        if not client.add(url):
            _log.warning("one address of WORKBOOK_NOTIFY_URLS (%s://…) is not understood", kind)
            return False
        # AppriseResult is true on complete success alone
        if client.notify(title=store.redact(title), body=store.redact(text)):
            return True
    _log.warning(
        "a %s:// channel of WORKBOOK_NOTIFY_URLS did not take a message; it is tried again", kind
    )
    return False
