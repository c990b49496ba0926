"""Run `workbook run PROFILE` whenever five cron fields say so: a scheduler for one container.

    python deploy/every.py "0 3 * * 0" retrain

The times are UTC unless TZ says otherwise. A run's exit code is printed and stops nothing. Who ends
this program (SIGTERM) ends the run, which is waited for.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from datetime import datetime

from croniter import croniter


def main() -> None:
    """Wait, run, and begin again."""
    cron, *arguments = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    while True:
        due = croniter(cron, datetime.now()).get_next(datetime).astimezone()  # by the wall's clock
        sys.stdout.write(f"next run: {due.isoformat()}\n")
        while datetime.now().astimezone() < due:
            time.sleep(min(30.0, max(0.1, (due - datetime.now().astimezone()).total_seconds())))
        with subprocess.Popen(["workbook", "run", *arguments]) as run:
            try:
                code = run.wait()
            finally:
                run.terminate()  # where it still runs
        sys.stdout.write(f"workbook run {' '.join(arguments)} ended with exit {code}\n")


if __name__ == "__main__":
    main()
