"""What the practice API remembers, on disk before it is answered, so that it survives a restart."""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from helpers import store
from helpers.records import WorkbookError

ENDED = ("succeeded", "failed", "cancelled")
TRAPS = {"usage_metrics": None, "shared_with_openai": False}  # undocumented, yet sent
SAVED = ("job", "events", "checkpoints", "scenario", "base", "ready_at")  # of a TuningJob


class Clock:
    """The time of the practice API: `speed` of its seconds pass in one of ours, for quick tests."""

    def __init__(self, speed: float = 1.0) -> None:
        self.speed = speed
        self._began = time.time()
        self._zero = time.monotonic()

    def now(self) -> float:
        """Seconds since 1970."""
        return self._began + (time.monotonic() - self._zero) * self.speed

    def sleep(self, seconds: float) -> None:
        """Wait that long by this clock."""
        time.sleep(seconds / self.speed)


@dataclass
class TuningJob:
    """A fine-tuning job: its wire form, its events oldest first, what the API itself must know."""

    folder: Path
    job: dict[str, Any]  # as it goes over the wire
    scenario: str
    base: str
    events: list[dict[str, Any]] = field(default_factory=list)
    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    ready_at: float = 0.0
    failures: int = 0  # 500s that were answered so far (scenario server_error)
    lock: Any = field(default_factory=threading.RLock)

    @property
    def id(self) -> str:
        """The job's id."""
        return str(self.job["id"])

    @property
    def status(self) -> str:
        """The job's status, `paused` included."""
        return str(self.job["status"])

    def save(self, **changes: Any) -> None:
        """Change the job, and have all of it on disk."""
        with self.lock:
            self.job |= changes
            content = {name: getattr(self, name) for name in SAVED}
            store.write_json(self.folder / "job.json", content)

    def say(
        self, now: float, message: str, kind: str = "message", data: Any = None, level: str = "info"
    ) -> None:
        """Add an event."""
        with self.lock:
            event = {
                "object": "fine_tuning.job.event",
                "id": f"ftevent-{self.id[6:14]}{len(self.events):06d}",
                "created_at": int(now),
                "level": level,
                "message": message,
                "type": kind,
                "data": {} if data is None else data,
            }
            self.events.append(event)
            self.save()

    def shown(self, live: bool) -> dict[str, Any]:
        """The job on the wire.

        live: `error: {}` while healthy, undocumented fields, statuses the SDK does not know.
        """
        if live:
            return self.job | TRAPS | {"error": self.job["error"] or {}}
        return self.job | {"status": "queued" if self.status == "paused" else self.status}

    def shown_events(self, live: bool) -> list[dict[str, Any]]:
        """Newest first.

        live: null where a message has no data, and a type outside the documentation.
        """
        newest = [event for event in reversed(self.events) if event["type"] != "hidden"]
        if not live:
            documented = {"metrics": "metrics"}
            return [e | {"type": documented.get(e["type"], "message")} for e in newest]
        shown = []
        for number, event in enumerate(newest):
            empty = None if number % 2 else {}
            shown.append(event | {"data": event["data"] or empty})
        return shown


class Storage:
    """Files and jobs in one folder that belongs to one server at a time."""

    def __init__(self, folder: Path, patience: float = 15.0) -> None:
        # it holds training files: example text
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder = folder
        # a server that is just ending gets a moment to let go of it
        self._held = FileLock(folder / ".lock", timeout=patience, thread_local=False)
        try:
            self._held.acquire()
        except Timeout:
            raise WorkbookError(
                f"another practice API serves {folder}; end it, or give another --state"
            ) from None
        self.files: dict[str, dict[str, Any]] = {}
        for path in sorted((folder / "files").glob("*.json")):
            self.files[path.stem] = store.read_json(path)
        saved = [TuningJob(p.parent, **store.read_json(p)) for p in folder.glob("jobs/*/job.json")]
        saved.sort(key=lambda tuning: tuning.job["created_at"])
        self.jobs = {tuning.id: tuning for tuning in saved}

    def close(self) -> None:
        """Let go of the folder."""
        self._held.release()

    def add_file(self, name: str, purpose: str, data: bytes, now: float) -> dict[str, Any]:
        """Keep a file: its bytes first, then the entry that makes it exist."""
        file = {
            "id": f"file-{secrets.token_hex(11)}",
            "object": "file",
            "bytes": len(data),
            "created_at": int(now),
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
        self.files[file["id"]] = file
        return file

    def content(self, file_id: str | None) -> bytes | None:
        """A file's bytes; None when there is no such file."""
        if file_id not in self.files:
            return None
        return (self.folder / "files" / f"{file_id}.bin").read_bytes()

    def delete_file(self, file_id: str) -> None:
        """Forget a file."""
        del self.files[file_id]
        for ending in (".json", ".bin"):
            (self.folder / "files" / f"{file_id}{ending}").unlink(missing_ok=True)

    def add_job(self, job: dict[str, Any], scenario: str, base: str) -> TuningJob:
        """Keep a new job."""
        tuning = TuningJob(self.folder / "jobs" / job["id"], job, scenario, base)
        tuning.save()
        self.jobs[tuning.id] = tuning
        return tuning

    def maker_of(self, model: str) -> tuple[str, Path] | None:
        """The base and the adapter's folder of a tuned model or a checkpoint."""
        for tuning in [*self.jobs.values()]:  # others may be created meanwhile
            for checkpoint in tuning.checkpoints:
                if model == checkpoint["fine_tuned_model_checkpoint"]:
                    return tuning.base, tuning.folder / f"step-{checkpoint['step_number']}"
        return None
