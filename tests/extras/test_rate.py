from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluate"))
from evaluate_toys import answer_row, toy_rows, toy_task

from helpers import evaluate, store
from helpers.extras.rate import rate_run
from helpers.records import WorkbookError


def blind(run, n=4):
    rows = toy_rows(n)
    ours = [answer_row(e.id, "=good") for e in rows]
    theirs = [answer_row(e.id, "poor") for e in rows]
    pairs = evaluate.blind_table(rows, ours, theirs)
    evaluate.write_ratings(run.private / "blind.csv", pairs)
    return pairs


def person(*choices):
    """Types these, one after the other."""
    waiting = iter(choices)
    return lambda question: next(waiting)


def test_a_person_rates_stops_and_goes_on_where_it_stopped(home, tmp_path):
    run = store.open_run("r")
    pairs, shown = blind(run), []
    assert rate_run(run, person("a", "?", "both", "q"), shown.append) == 2
    assert rate_run(run, person("neither", ""), shown.append) == 1
    assert "1 of 2" in shown[-3] and "=good" in "".join(shown), "texts as the model gave them"
    rights = evaluate.read_ratings(run, toy_task(tmp_path))
    first = pairs[0]
    assert rights[first["id"], first["a_sha"], first["b_sha"]] and len(rights) == 6
    kept = list(csv.DictReader((run.private / "ratings.csv").read_text().splitlines()))
    assert [row["choice"] for row in kept] == ["A", "both", "neither"]


def test_a_further_person_has_a_table_of_their_own(home):
    run = store.open_run("r")
    blind(run)
    assert rate_run(run, person("b", "q"), lambda text: None, rater="ann") == 1
    assert (run.private / "ratings-ann.csv").exists()
    assert not (run.private / "ratings.csv").exists()


def test_a_run_without_pairs_says_what_is_missing(home):
    with pytest.raises(WorkbookError, match="no run nope"):
        rate_run(store.Run("nope"))
    with pytest.raises(WorkbookError, match="accuracy_from has to be human or judge"):
        rate_run(store.open_run("r"))
