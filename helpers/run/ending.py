"""How a notebook's end becomes the exit code of `workbook run`, with a message that says what to do."""

from __future__ import annotations

import re
import signal
import time
from dataclasses import dataclass
from typing import NamedTuple

from helpers import store
from helpers.records import NO_MEMORY, WorkbookError

OK, UNEXPECTED, USER, FAILED_GATE, INCONCLUSIVE, PROVIDER, OUT_OF_ROOM, TIME_LIMIT = (
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    124,
)
VERDICT_CODE = {"fail": FAILED_GATE, "inconclusive": INCONCLUSIVE}

_EXIT = re.compile(r"\s*\[exit (\d+)\]\s*$")
_MEMORY = re.compile("^(MemoryError|OutOfMemoryError)|" + NO_MEMORY, re.I)
_DISK = re.compile(r"\[Errno (28|122)\]|no space left on device", re.I)
_PROVIDER = re.compile(
    r"(API\w*|Authentication|BadRequest|Conflict|InternalServer|NotFound|PermissionDenied|RateLimit|UnprocessableEntity)Error"
    r"|(Connect|Read|Write|Pool)(Error|Timeout)|RemoteProtocolError"
)
_ADDRESS = re.compile(r"[\w.+-]{1,64}@[\w-]+(\.[\w-]+)+")


@dataclass
class Stop:
    """Why a notebook must end now: a signal, or its deadline."""

    signal: int = 0
    deadline: float = float("inf")
    timed_out: bool = False

    def due(self) -> bool:
        """Whether to stop; remembers that it was the deadline."""
        self.timed_out = self.timed_out or time.monotonic() > self.deadline
        return bool(self.signal) or self.timed_out


@dataclass
class Outcome:
    """How one notebook ended. `error` is "" when every cell ran; `kernel_exit` is negative for a signal."""

    error: str = ""
    message: str = ""
    cell: int | None = None
    kernel_exit: int | None = None


class Ending(NamedTuple):
    """The exit code of a run, and the one message that explains it."""

    code: int
    message: str = ""


def interrupted(stop: Stop, resume: str) -> Ending:
    """A signal: 130 for Ctrl-C, 143 for the others; nothing that was finished is lost."""
    code = 130 if stop.signal == signal.SIGINT else 143
    return Ending(
        code,
        f"interrupted by {signal.Signals(stop.signal).name}; `{resume}` goes on where it stopped",
    )


def of_outcome(
    notebook: str, outcome: Outcome, stop: Stop, minutes: float, copy: str, resume: str
) -> Ending | None:
    """What a notebook's outcome means for the run; None when it did its work."""
    if stop.signal:
        return interrupted(stop, resume)
    if stop.timed_out:
        said = f"{notebook} was ended after {minutes:g} minutes (time_limits); raise its limit, then `{resume}`"
        return Ending(TIME_LIMIT, said)
    if not outcome.error:
        return None
    name, message = outcome.error, clean(outcome.message.strip())
    if name == "WorkbookError":
        found = _EXIT.search(message)
        return Ending(int(found[1]) if found else USER, f"{notebook}: {_EXIT.sub('', message)}")
    where = f"{notebook}, cell [{outcome.cell}]" if outcome.cell else notebook
    if _DISK.search(message):
        return Ending(OUT_OF_ROOM, f"{where}: the disk is full; free some space, then `{resume}`")
    if _MEMORY.search(f"{name}: {message}") or outcome.kernel_exit == -signal.SIGKILL:
        said = (
            "out of memory"
            if outcome.cell
            else "its kernel was killed from outside, most likely out of memory"
        )
        return Ending(
            OUT_OF_ROOM,
            f"{where}: {said}; lower batch_size, max_length or max_new_tokens, then `{resume}`",
        )
    if outcome.kernel_exit is not None:
        said = f"its kernel ended by itself (exit code {outcome.kernel_exit})"
        return Ending(UNEXPECTED, f"{where}: {said}; `workbook doctor` checks the installation")
    if _PROVIDER.fullmatch(name):
        return Ending(
            PROVIDER,
            f"{where}: the provider refused or failed ({name}: {short(message)}); then `{resume}`",
        )
    return Ending(
        UNEXPECTED,
        f"{where} failed: {name}: {short(message)}; the cell and its traceback stand in {copy}",
    )


def plain(error: WorkbookError) -> str:
    """The message for a person: without the exit code, and without keys."""
    return clean(_EXIT.sub("", str(error)))


def clean(text: str) -> str:
    """Without keys and e-mail addresses. (What a notebook shows is masked already; an error may quote anything.)"""
    return _ADDRESS.sub("[e-mail]", store.redact(text))


def short(message: str, most: int = 300) -> str:
    """The first line: what follows may be long, or hold text that belongs in no log."""
    line = message.splitlines()[0] if message else "no message"
    return line if len(line) <= most else line[: most - 1] + "…"
