"""How often a task's test was taken within a year: every look costs some of the year's budget.

Fifty-two candidates that are no better than what serves would, each held to a 95% bound, promote
one in up to three years out of four. So each attempt is written down (in the registry, which a team
shares) before its result is seen, and each further one has to be surer
(`statistics.attempt_alpha`). The same model on the same rows is the same attempt: it says the same
again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from helpers import store
from helpers.evaluate import statistics
from helpers.models import Model
from helpers.records import Attempt, TrainingExample, WorkbookError
from helpers.tasks import Task

YEAR = timedelta(days=365)
DULLED = 1.5  # fresh rows are due when the smallest gain that can be shown has grown by this factor


Line = dict[str, Any]
Ledger = Callable[[str, Line], list[Line]]  # writes one of a task down, once; all of them, in order


def in_no_ledger(task: str, attempt: Line) -> list[Line]:
    """WorkbookError: an attempt at the test rows that nobody writes down is not to be made."""
    raise WorkbookError(f"{task}: attempts are counted; give Session(attempts=record_attempt)")


def record_attempt(
    task: Task,
    run: store.Run,
    model: Model,
    rows: Sequence[TrainingExample],
    version: str,
    ledger: Ledger,
) -> Attempt:
    """Write this attempt down, once, and say which of the past year it is."""
    about = store.fingerprint(sorted(example.id for example in rows))
    line = {
        "key": store.fingerprint([model.fingerprint, about]),
        "rows": about,
        "n": len({example.group for example in rows}),
        "run_id": run.id,
        "version": version,
        "at": store.now().isoformat(),
    }
    return count_attempts(ledger(task.registry_name, line), line["key"])


def count_attempts(lines: Sequence[Line], key: str) -> Attempt:
    """The attempt `key` among all recorded ones, oldest first; pure, so it can be simulated."""
    place = next(i for i, line in enumerate(lines) if line["key"] == key)
    this = lines[place]
    since = datetime.fromisoformat(this["at"]) - YEAR
    earlier = [line for line in lines[:place] if datetime.fromisoformat(line["at"]) > since]
    number = len(earlier) + 1
    alpha = statistics.attempt_alpha(number)
    n = this["n"]
    detectable = statistics.detectable_difference(n, alpha=alpha)
    fresh_rows = 0
    if detectable > DULLED * statistics.detectable_difference(n):
        z_power = statistics.upper_normal(0.2)
        z = statistics.upper_normal(alpha)
        # rows that show what n showed at the first attempt
        as_sharp = n * ((z + z_power) / (statistics.Z + z_power)) ** 2
        fresh_rows = round(as_sharp - n)
    return Attempt(
        number=number,
        alpha=alpha,
        looks_at_these_rows=1 + sum(line["rows"] == this["rows"] for line in earlier),
        detectable_difference=round(detectable, 4),
        fresh_rows_needed=fresh_rows,
    )
