"""`workbook rate RUN`: the blind table of a run, one question after the other, in the terminal."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from pathlib import Path

from helpers import evaluate, store
from helpers.records import WorkbookError

CHOICES = {"a": "A", "b": "B", "both": "both", "neither": "neither", "2": "both", "0": "neither"}
QUESTION = "A, B, both, neither, Enter to leave it open, q to stop: "


def rate_run(
    run: store.Run,
    ask: Callable[[str], str] = input,
    say: Callable[[str], object] = sys.stdout.write,
    rater: str = "",
) -> int:
    """Ask a person about each open pair; the number of answers that were given.

    Every choice is written to private/ratings.csv at once (ratings-RATER.csv for a further person),
    so that stopping loses nothing. The next run of 01 or 04 with this run id counts them.
    """
    if not run.folder.exists():
        raise WorkbookError(f"no run {run.id}; `workbook runs` lists them")
    table = _read(run.path("private/blind.csv"))
    if not table:
        raise WorkbookError(
            f"run {run.id} has nothing to rate: its task's accuracy_from has to be human or judge,"
            " and 01_decide or 04_evaluate has to have asked the models"
        )
    path = run.private / (f"ratings-{rater}.csv" if rater else "ratings.csv")
    rated = _read(path)
    known = {(row["id"], row["a_sha"], row["b_sha"]) for row in rated if row["choice"]}
    open_rows = [row for row in table if (row["id"], row["a_sha"], row["b_sha"]) not in known]
    before = len(rated)
    for number, row in enumerate(open_rows, 1):
        say(f"\n{number} of {len(open_rows)}\n{row['asked']}\n\nA: {row['A']}\n\nB: {row['B']}\n\n")
        choice = "?"
        while choice not in (*CHOICES, "", "q"):
            choice = ask(QUESTION).strip().lower()
        if choice == "q":
            break
        if choice:
            rated.append(row | {"choice": CHOICES[choice]})
            evaluate.write_ratings(path, rated)
    given = len(rated) - before
    say(f"{given} rated now, {len(rated)} in {path}; run again with --run-id {run.id} to count\n")
    return given


def _read(path: Path) -> list[dict[str, str]]:
    """The rows of a table of pairs, its texts as they were before a spreadsheet was feared."""
    if not path.exists():
        return []
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        for name in ("asked", "A", "B"):
            row[name] = store.from_csv_cell(row[name])
    return rows
