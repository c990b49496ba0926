"""`python -m helpers.train job.json`: the training program, run as a process of its own.

Exit codes: 0 trained, 2 wrong input, 6 out of memory or disk, 1 anything else.
"""

from __future__ import annotations

import os
import re
import select
import stat
import sys
import threading
import time
from pathlib import Path

from helpers import store
from helpers.records import NO_MEMORY, WorkbookError

NO_ROOM = re.compile(NO_MEMORY + "|no space left|quota exceeded", re.IGNORECASE)


def main(argv: list[str]) -> int:
    """Run the job and turn what went wrong into an exit code."""
    try:
        from helpers.train.program import train

        train(store.read_json(Path(argv[0])))
        return 0
    except Exception as error:
        code = exit_code(error)
        if code == 1:
            raise
        said = store.redact(str(error) or "out of memory")
        print(said, file=sys.stderr)
        store.write_json(
            Path(argv[0]).with_name("failure.json"), {"code": code, "said": said}
        )  # torchrun hides the code
        return code


def exit_code(error: Exception) -> int:
    """What an error means for the caller."""
    if isinstance(error, WorkbookError):
        return error.exit_code
    if (
        isinstance(error, ValueError) and "target modules" in str(error).lower()
    ):  # peft: the base model lacks them
        return 2
    return 6 if isinstance(error, MemoryError) or NO_ROOM.search(str(error)) else 1


def end_with_parent() -> None:
    """The notebook holds our stdin open; when it (or torchrun, our parent) dies, however it dies, so do we."""
    parent, piped = os.getppid(), stat.S_ISFIFO(os.fstat(0).st_mode)
    while os.getppid() == parent:
        if not piped:  # started by hand
            time.sleep(1.0)
        elif select.select([0], [], [], 1.0)[0] and not os.read(0, 4096):
            break
    os._exit(143)


if __name__ == "__main__":
    threading.Thread(target=end_with_parent, daemon=True).start()
    sys.exit(main(sys.argv[1:]))
