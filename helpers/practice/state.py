"""What the practice API remembers, on disk before it is answered, so that it survives a restart."""

from __future__ import annotations

import fcntl
import secrets
import threading
import time
from pathlib import Path
from typing import Any

from helpers import store
from helpers.records import WorkbookError

ENDED = ("succeeded", "failed", "cancelled")
TRAPS = {"usage_metrics": None, "shared_with_openai": False}  # undocumented, yet sent


class Clock:
    """The time of the practice API: `speed` of its seconds pass in one of ours, so that tests need not wait."""

    def __init__(self, speed: float = 1.0) -> None:
        self.speed, self._began, self._zero = speed, time.time(), time.monotonic()

    def now(self) -> float:
        """Seconds since 1970."""
        return self._began + (time.monotonic() - self._zero) * self.speed

    def sleep(self, seconds: float) -> None:
        """Wait that long by this clock."""
        time.sleep(seconds / self.speed)


class Entry:
    """One job: its wire form, its events oldest first, and what the API itself needs to know."""

    def __init__(self, folder: Path, saved: dict[str, Any]) -> None:
        self.folder, self.lock = folder, threading.RLock()
        self.job: dict[str, Any] = saved["job"]
        self.events: list[dict[str, Any]] = saved.get("events", [])
        self.checkpoints: list[dict[str, Any]] = saved.get("checkpoints", [])
        self.scenario: str = saved["scenario"]
        self.base: str = saved["base"]
        self.ready_at: float = saved.get("ready_at", 0.0)
        self.failures = 0  # 500s that were answered so far (scenario server_error)

    @property
    def id(self) -> str:
        """The job's id."""
        return str(self.job["id"])

    def save(self, **changes: Any) -> None:
        """Change the job, and have all of it on disk."""
        with self.lock:
            self.job |= changes
            kept = ("job", "events", "checkpoints", "scenario", "base", "ready_at")
            store.write_json(self.folder / "job.json", {name: getattr(self, name) for name in kept})

    def say(
        self, now: float, message: str, kind: str = "message", data: Any = None, level: str = "info"
    ) -> None:
        """Add an event."""
        with self.lock:
            event = {
                "object": "fine_tuning.job.event",
                "id": f"ftevent-{self.id[6:14]}{len(self.events):06d}",
            }
            event |= {"created_at": int(now), "level": level, "message": message, "type": kind}
            self.events.append(event | {"data": {} if data is None else data})
            self.save()

    def shown(self, live: bool) -> dict[str, Any]:
        """The job on the wire. live: `error: {}` while healthy, undocumented fields, statuses the SDK does not know."""
        if live:
            return self.job | TRAPS | {"error": self.job["error"] or {}}
        return self.job | {
            "status": "queued" if self.job["status"] == "paused" else self.job["status"]
        }

    def shown_events(self, live: bool) -> list[dict[str, Any]]:
        """Newest first. live: null where a message has no data, and a type outside the documentation."""
        newest = [event for event in reversed(self.events) if event["type"] != "hidden"]
        if live:
            return [
                event | {"data": event["data"] or (None if n % 2 else {})}
                for n, event in enumerate(newest)
            ]
        return [
            event | ({} if event["type"] == "metrics" else {"type": "message"}) for event in newest
        ]


class State:
    """Files and jobs in one folder that belongs to one server at a time."""

    def __init__(self, folder: Path, patience: float = 15.0) -> None:
        folder.mkdir(
            parents=True, exist_ok=True, mode=0o700
        )  # it holds training files: example text
        self.folder, self.lock = folder, threading.RLock()
        self._hold(patience)
        self.files = {
            path.stem: store.read_json(path) for path in sorted((folder / "files").glob("*.json"))
        }
        saved = [
            (path.parent, store.read_json(path)) for path in (folder / "jobs").glob("*/job.json")
        ]
        entries = sorted(
            (Entry(*each) for each in saved), key=lambda entry: entry.job["created_at"]
        )
        self.jobs = {entry.id: entry for entry in entries}

    def _hold(self, patience: float) -> None:
        """Take the folder's lock; a server that is just ending gets a moment to let go of it."""
        self._held = open(self.folder / ".lock", "a+")  # noqa: SIM115 (held as long as the server lives)
        until = time.monotonic() + patience
        while True:
            try:
                return fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until:
                    self._held.close()
                    raise WorkbookError(
                        f"another practice API serves {self.folder}; end it, or give another --state"
                    ) from None
                time.sleep(0.1)

    def close(self) -> None:
        """Let go of the folder."""
        self._held.close()

    def add_file(self, name: str, purpose: str, data: bytes, now: float) -> dict[str, Any]:
        """Keep a file: its bytes first, then the entry that makes it exist."""
        file = {
            "id": f"file-{secrets.token_hex(11)}",
            "object": "file",
            "bytes": len(data),
            "created_at": int(now),
        }
        file |= {
            "filename": name,
            "purpose": purpose,
            "status": "processed",
            "status_details": None,
            "expires_at": None,
        }
        path = self.folder / "files" / file["id"]
        path.parent.mkdir(exist_ok=True)
        path.with_suffix(".bin").write_bytes(data)
        store.write_json(path.with_suffix(".json"), file)
        with self.lock:
            self.files[file["id"]] = file
        return file

    def content(self, file_id: str | None) -> bytes | None:
        """A file's bytes; None when there is no such file."""
        return (
            (self.folder / "files" / f"{file_id}.bin").read_bytes()
            if file_id in self.files
            else None
        )

    def delete_file(self, file_id: str) -> None:
        """Forget a file."""
        with self.lock:
            del self.files[file_id]
        for kind in (".json", ".bin"):
            (self.folder / "files" / f"{file_id}{kind}").unlink(missing_ok=True)

    def add_job(self, job: dict[str, Any], scenario: str, base: str) -> Entry:
        """Keep a new job."""
        entry = Entry(
            self.folder / "jobs" / job["id"], {"job": job, "scenario": scenario, "base": base}
        )
        entry.save()
        with self.lock:
            self.jobs[entry.id] = entry
        return entry

    def made_by(self, model: str) -> tuple[Entry, Path] | None:
        """The job that made a tuned model or a checkpoint, and the adapter's folder."""
        for entry in self.jobs.values():
            for checkpoint in entry.checkpoints:
                if model == checkpoint["fine_tuned_model_checkpoint"]:
                    return entry, entry.folder / f"step-{checkpoint['step_number']}"
        return None
