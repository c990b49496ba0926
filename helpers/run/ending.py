"""How a notebook's end becomes the exit code of `workbook run`, and a message with a remedy."""

from __future__ import annotations

import re
import resource
import signal
import time
from dataclasses import dataclass
from typing import NamedTuple

from helpers import store
from helpers.records import NO_MEMORY, WorkbookError

OK = 0
UNEXPECTED = 1
USER = 2
FAILED_GATE = 3
INCONCLUSIVE = 4
PROVIDER = 5
OUT_OF_ROOM = 6
NEEDS_PERSON = 7  # all went well, and an alarm about what serves is open
LOCKED = 75  # another run was at work
TIME_LIMIT = 124
INTERRUPTED = 130  # by Ctrl-C
KILLED = 137
TERMINATED = 143
VERDICT_CODE = {"fail": FAILED_GATE, "inconclusive": INCONCLUSIVE}

_EXIT = re.compile(r" ?\[exit (\d+)\]\s{0,3}$")
_MEMORY = re.compile("^(MemoryError|OutOfMemoryError)|" + NO_MEMORY, re.IGNORECASE)
_FULL = {  # what says so -> what it is, and what helps
    r"\[Errno (28|122)\]|no space left on device": "the disk is full; free some space",
    r"\[Errno 27\]|file too large": (
        "a file would have passed this machine's file size limit; raise it (ulimit -f)"
    ),
}
_PROVIDER = re.compile(
    r"(API\w*|Authentication|BadRequest|Conflict|InternalServer|NotFound|PermissionDenied"
    r"|RateLimit|UnprocessableEntity)Error"
    r"|(Connect|Read|Write|Pool)(Error|Timeout)|RemoteProtocolError"
)


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
    """How one notebook ended.

    `error` is "" when every cell ran; `kernel_exit` is negative for a signal.
    """

    error: str = ""
    message: str = ""
    cell: int | None = None
    kernel_exit: int | None = None


class Ending(NamedTuple):
    """The exit code of a run, and the one message that explains it."""

    code: int
    message: str = ""
    nothing_to_do: bool = False  # training is not advised


def interrupted(stop: Stop, resume: str) -> Ending:
    """A signal: 130 for Ctrl-C, 143 for the others; nothing that was finished is lost."""
    code = INTERRUPTED if stop.signal == signal.SIGINT else TERMINATED
    name = signal.Signals(stop.signal).name
    return Ending(code, f"interrupted by {name}; `{resume}` goes on where it stopped")


def of_outcome(notebook: str, outcome: Outcome, resume: str, copy: str) -> Ending | None:
    """What a notebook's outcome means for the run; None when all its cells ran.

    `resume` is the command that goes on, `copy` the executed notebook.
    """
    if not outcome.error:
        return None
    error = outcome.error
    message = store.without_secrets(outcome.message.strip())
    if error == "WorkbookError":
        code = _EXIT.search(message)
        return Ending(int(code[1]) if code else USER, f"{notebook}: {_EXIT.sub('', message)}")
    where = f"{notebook}, cell [{outcome.cell}]" if outcome.cell else notebook
    for pattern, reason in _FULL.items():
        if re.search(pattern, message, re.IGNORECASE):
            return Ending(OUT_OF_ROOM, f"{where}: {reason}, then `{resume}`")
    if _MEMORY.search(f"{error}: {message}") or outcome.kernel_exit == -signal.SIGKILL:
        reason = "its kernel was killed from outside, most likely out of memory"
        if outcome.cell:
            reason = "out of memory"
        remedy = f"lower batch_size, max_tokens or max_new_tokens, then `{resume}`"
        return Ending(OUT_OF_ROOM, f"{where}: {reason}; {remedy}")
    if error == "DeadKernelError":
        reason = f"its kernel did not answer ({first_line(message)})"
        if outcome.kernel_exit is not None:
            reason = f"its kernel ended by itself (exit code {outcome.kernel_exit})"
        return Ending(UNEXPECTED, f"{where}: {reason}; `workbook doctor` checks the installation")
    if _PROVIDER.fullmatch(error):
        reason = f"the provider refused or failed ({error}: {first_line(message)})"
        return Ending(PROVIDER, f"{where}: {reason}; then `{resume}`")
    reason = f"{where} failed: {error}: {first_line(message)}"
    return Ending(UNEXPECTED, f"{reason}; the cell and its traceback stand in {copy}")


def message_for_person(error: Exception, most: int = 2000) -> str:
    """The error's message without its exit code, keys and e-mail addresses, and not without end."""
    text = store.printable(store.without_secrets(_EXIT.sub("", str(error))))
    return text if len(text) <= most else text[: most - 1] + "…"


def check_address_space(least: int = 4 * 2**30) -> None:
    """WorkbookError (6) in a shell that lets no program have the memory of a kernel with torch."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if resource.RLIM_INFINITY != limit < least:
        raise WorkbookError(
            f"this shell limits a program to {limit // 2**20} MB of address space, and a notebook"
            f" needs {least // 2**20} MB; raise it (ulimit -v unlimited)",
            OUT_OF_ROOM,
        )


def first_line(message: str, most: int = 300) -> str:
    """The first line: what follows may be long, or hold text that belongs in no log."""
    line = message.splitlines()[0] if message else "no message"
    return line if len(line) <= most else line[: most - 1] + "…"
