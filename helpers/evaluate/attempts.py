"""How often this task's test was taken within a year: every look costs some of the year's budget of false promotions.

Fifty-two candidates that are no better than what serves would, each held to a 95% bound, promote one in up to three years
out of four. So each attempt is written down (artifacts/attempts/<task>.jsonl) before its result is seen, and each further one
has to be surer (`statistics.attempt_alpha`). The same model on the same rows is the same attempt: it says the same again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from helpers import store
from helpers.evaluate import statistics
from helpers.models import Model
from helpers.records import Record, TrainingExample
from helpers.tasks import Task

YEAR = timedelta(days=365)
DULLED = 1.5  # fresh rows are due when the smallest gain that can be shown has grown by this factor


class Attempt(Record):
    """Which attempt of the past year this is, how sure it has to be, and what that leaves to be seen."""

    number: int
    alpha: float  # the gain's lower bound may be wrong this often
    looks_at_these_rows: (
        int  # attempts of the past year on exactly these test rows, this one included
    )
    detectable_difference: float  # smallest gain shown in 80% of the cases, at 20% flips
    fresh_rows_needed: int  # rows to add to the test part; 0 = not yet


def record_attempt(
    task: Task, run: store.Run, model: Model, rows: Sequence[TrainingExample], version: str
) -> Attempt:
    """Write this attempt down, once, and say which of the past year it is."""
    path = store.home() / "attempts" / f"{task.registry_name}.jsonl"
    asked = store.fingerprint(sorted(e.id for e in rows))
    line = {"key": store.fingerprint([model.fingerprint, asked]), "rows": asked, "n": len(rows)}
    line |= {"run_id": run.id, "version": version, "at": store.now().isoformat()}
    with store.lock():
        lines = store.read_jsonl(path) if path.exists() else []
        if all(known["key"] != line["key"] for known in lines):
            store.write_jsonl(path, [*lines, line])
    return count_attempts([*lines, line], line["key"])


def count_attempts(lines: Sequence[dict], key: str) -> Attempt:
    """The attempt `key` among all recorded ones, which are in the order of time; pure, so that it can be simulated."""
    place = next(i for i, line in enumerate(lines) if line["key"] == key)
    this, since = lines[place], datetime.fromisoformat(lines[place]["at"]) - YEAR
    year = [line for line in lines[:place] if datetime.fromisoformat(line["at"]) > since]
    alpha, n = statistics.attempt_alpha(len(year) + 1), this["n"]
    found = statistics.detectable_difference(n, alpha=alpha)
    first = statistics.detectable_difference(n)
    z_power, z = statistics.upper_normal(0.2), statistics.upper_normal(alpha)
    as_sharp = (
        n * ((z + z_power) / (statistics.Z + z_power)) ** 2
    )  # rows that show what n showed at the first attempt
    return Attempt(
        number=len(year) + 1,
        alpha=alpha,
        looks_at_these_rows=1 + sum(line["rows"] == this["rows"] for line in year),
        detectable_difference=round(found, 4),
        fresh_rows_needed=round(as_sharp - n) if found > DULLED * first else 0,
    )
