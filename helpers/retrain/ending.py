"""How a notebook's end becomes the exit code of `workbook run`, with a message that says what to do."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass

from helpers import store
from helpers.records import WorkbookError
from helpers.retrain.engine import Outcome, Stop

OK, UNEXPECTED, USER, FAILED_GATE, INCONCLUSIVE, PROVIDER, OUT_OF_ROOM = 0, 1, 2, 3, 4, 5, 6
LOCKED, TIME_LIMIT = 75, 124
VERDICT_CODE = {"fail": FAILED_GATE, "inconclusive": INCONCLUSIVE}

_EXIT = re.compile(r"\s*\[exit (\d+)\]\s*$")
_MEMORY = re.compile(r"out of memory|can't allocate memory|cannot allocate memory", re.I)
_DISK = re.compile(r"\[Errno (28|122)\]|no space left on device", re.I)
_PROVIDER_ERRORS = {
    "APIConnectionError",
    "APIError",
    "APIStatusError",
    "APITimeoutError",
    "AuthenticationError",
    "InternalServerError",
    "PermissionDeniedError",
    "RateLimitError",
}


@dataclass(frozen=True)
class Ending:
    """The exit code of a run, and the one message that explains it."""

    code: int
    message: str

    @property
    def status(self) -> str:
        """The status that run.json shows."""
        if self.code in (130, 143):
            return "interrupted"
        return "finished" if self.code in (OK, FAILED_GATE, INCONCLUSIVE) else "failed"


def interrupted(stop: Stop, resume: str) -> Ending:
    """A signal: 130 for Ctrl-C, 143 for the others; nothing that was finished is lost."""
    code = 130 if stop.signal == signal.SIGINT else 143
    return Ending(code, f"interrupted by {signal.Signals(stop.signal).name}; `{resume}` goes on where it stopped")


def of_outcome(notebook: str, outcome: Outcome, stop: Stop, minutes: float, copy: str, resume: str) -> Ending | None:
    """What a notebook's outcome means for the run; None when it did its work."""
    if stop.signal:
        return interrupted(stop, resume)
    if stop.timed_out:
        return Ending(
            TIME_LIMIT,
            f"{notebook} was ended after {minutes:g} minutes (time_limits); raise its limit, then `{resume}`",
        )
    if not outcome.error:
        return None
    name, message = outcome.error, store.redact(outcome.message.strip())
    if name == "WorkbookError":
        found = _EXIT.search(message)
        return Ending(int(found[1]) if found else USER, f"{notebook}: {_EXIT.sub('', message)}")
    where = f"{notebook}, cell [{outcome.cell}]" if outcome.cell else notebook
    if name in ("MemoryError", "OutOfMemoryError") or _MEMORY.search(message):
        return Ending(
            OUT_OF_ROOM, f"{where}: out of memory; lower batch_size, max_length or max_new_tokens, then `{resume}`"
        )
    if _DISK.search(message):
        return Ending(OUT_OF_ROOM, f"{where}: the disk is full; free some space, then `{resume}`")
    if name == "DeadKernelError":
        return _dead(notebook, outcome, resume)
    if name in _PROVIDER_ERRORS:
        return Ending(PROVIDER, f"{where}: the provider refused or failed ({name}: {short(message)}); then `{resume}`")
    return Ending(UNEXPECTED, f"{where} failed: {name}: {short(message)}; the cell and its traceback stand in {copy}")


def plain(error: WorkbookError) -> str:
    """The message for a person: without the exit code, and without keys."""
    return store.redact(_EXIT.sub("", str(error)))


def _dead(notebook: str, outcome: Outcome, resume: str) -> Ending:
    if outcome.kernel_exit == -signal.SIGKILL:
        reason = "was killed from outside, most likely because memory ran out; lower batch_size or max_length"
        return Ending(OUT_OF_ROOM, f"{notebook}: its kernel {reason}, then `{resume}`")
    found = f"exit code {outcome.kernel_exit}" if outcome.kernel_exit is not None else short(outcome.message)
    return Ending(
        UNEXPECTED, f"{notebook}: its kernel ended by itself ({found}); `workbook doctor` checks the installation"
    )


def short(message: str, most: int = 300) -> str:
    """The first line: what follows may be long, or hold text that belongs in no log."""
    line = message.splitlines()[0] if message else "no message"
    return line if len(line) <= most else line[: most - 1] + "…"
