"""`python -m helpers.train job.json`: the training program, run as a process of its own.

Exit codes: 0 trained, 2 wrong input, 6 out of memory or disk, 1 anything else.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from pathlib import Path

from helpers import processes, store
from helpers.records import NO_MEMORY, WorkbookError
from helpers.train.launch import SETTINGS

NOT_NEEDED = ("scipy", "sklearn")  # which transformers imports where they are installed
NO_ROOM = re.compile(NO_MEMORY + "|no space left|quota exceeded", re.IGNORECASE)


def main(argv: list[str]) -> int:
    """Run the job and turn what went wrong into an exit code."""
    path = Path(argv[0])
    try:
        from helpers.train.job import TrainingJob

        job = TrainingJob(**store.read_json(path))
        if not job.config.load_in_4bit:  # else peft imports it, and torch's compiler with it
            sys.modules["bitsandbytes"] = None  # type: ignore[assignment]
        from helpers.train.program import train

        train(job)
        return 0
    except Exception as error:
        code = exit_code(error)
        if code == 1:
            raise
        message = store.redact(str(error) or "out of memory")
        print(message, file=sys.stderr)
        # torchrun hides the code
        store.write_json(path.with_name("failure.json"), {"code": code, "message": message})
        return code


def exit_code(error: Exception) -> int:
    """What an error means for the caller."""
    if isinstance(error, WorkbookError):
        return error.exit_code
    if isinstance(error, ValueError) and "target modules" in str(error).lower():
        return 2  # peft: the base model lacks them
    if isinstance(error, MemoryError) or NO_ROOM.search(str(error)):
        return 6
    return 1


if __name__ == "__main__":
    os.environ |= {**SETTINGS, **os.environ}  # torch reads them when it is imported
    sys.modules.update(dict.fromkeys(NOT_NEEDED))  # type: ignore[arg-type]
    threading.Thread(target=processes.end_with_parent, daemon=True).start()
    code = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)  # all is written: to take torch down takes more than a second
