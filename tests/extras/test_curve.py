from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluate"))
from evaluate_toys import scored_rows, toy_rows, toy_task

from helpers.extras.curve import part_of, read_curve
from helpers.records import DatasetMetadata, FineTuningDataset, Splits


def test_parts_of_the_train_rows_lie_within_each_other_and_leave_the_others_alone():
    meta = DatasetMetadata(
        version="d1",
        task="toy",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        fingerprint="f",
        params={},
    )
    rows = toy_rows(40, "train") + toy_rows(10, "validation", 40)
    dataset = FineTuningDataset(
        examples=rows, metadata=meta, splits=Splits(train=40, validation=10, test=0)
    )
    learnt = {row.id for row in rows[:19]} | {f"{rows[19].id}#1", f"{rows[19].id}#2"}
    quarter, half, whole = (part_of(dataset, percent, learnt) for percent in (25, 50, 100))
    ids = [{e.id for e in d.part("train")} for d in (quarter, half, whole)]
    assert [len(part) for part in ids] == [5, 10, 20] and ids[0] < ids[1] < ids[2]
    assert ids[2] == {row.id for row in rows[:20]}, "rows beyond a limit of tokens are no part"
    assert quarter.part("validation") == dataset.part("validation")
    assert len({d.metadata.fingerprint for d in (dataset, quarter, half)}) == 3


def test_a_learning_curve_is_read_by_its_interval(tmp_path):
    task = toy_task(tmp_path)
    low, high = scored_rows([1] * 20 + [0] * 80), scored_rows([1] * 60 + [0] * 40)
    assert "still help" in read_curve({25: low, 50: low, 100: high}, task)
    assert "validation rows would show" in read_curve(
        {50: low, 100: scored_rows([1] * 23 + [0] * 77)}, task
    )
    many = scored_rows([1] * 500)
    assert "flat" in read_curve({50: many, 100: many}, task)
