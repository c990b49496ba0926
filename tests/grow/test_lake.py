"""A folder of Parquet files is read by date and score, and every row is accounted for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow
import pytest
from pyarrow import dataset, parquet

from helpers import curate, store, tasks
from helpers.records import WorkbookError

TASK = """name: lake
instructions: {full: "Which team?", short: "Which team?"}
output: {text: true}
targets: {accuracy: 0.8}
"""
RATIOS = {"train": 0.6, "validation": 0.2, "test": 0.2}
FIRST = datetime(2026, 11, 1, tzinfo=UTC)


def rows():
    for number in range(140):
        yield {
            "id": f"r{number}",
            "input": f"Question {number} about a parcel that is {number} days late",
            "output": "north",
            "feedback_score": None if number % 7 == 0 else 1.0 + number % 5,
            "created_at": FIRST + timedelta(hours=6 * number),
            "date": (FIRST + timedelta(hours=6 * number)).date().isoformat(),
        }


@pytest.fixture
def task(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path / "home"))
    folder = tmp_path / "task"
    store.write_text(folder / "task.yaml", TASK)
    messages = [{"role": "user", "content": "Hi there"}, {"role": "assistant", "content": "south"}]
    store.write_jsonl(folder / "human.jsonl", [{"messages": messages}])
    table = pyarrow.Table.from_pylist(list(rows()))
    dataset.write_dataset(
        table, folder / "production", format="parquet", partitioning=["date"],
        partitioning_flavor="hive",
    )  # fmt: skip
    return tasks.load_task(str(folder))


def config_of(task, **settings):
    return curate.DataCollectionConfig(task=str(task.folder), split_ratios=RATIOS, **settings)


@pytest.mark.parametrize("dates", [{}, {"date_from": "2026-11-08", "date_to": "2026-11-14"}])
def test_the_folder_gives_what_one_file_of_the_same_rows_gives(task, dates):
    config = config_of(task, **dates)
    ours, _ = curate.load_production(task, config)
    (task.folder / "production").rename(task.folder / "away")
    plain = [{k: v for k, v in row.items() if k != "date"} for row in rows()]
    parquet.write_table(pyarrow.Table.from_pylist(plain), task.folder / "production.parquet")
    theirs, _ = curate.load_production(task, config)
    both = [
        {e.id: (e.feedback_score, e.created_at) for e in logs.examples} for logs in (ours, theirs)
    ]
    assert both[0] == both[1] and both[0] and ours.dropped == theirs.dropped


def test_two_sources_and_columns_that_cannot_be_compared_are_refused(task):
    store.write_text(task.folder / "production.jsonl", "")
    with pytest.raises(WorkbookError, match="keep one"):
        curate.load_production(task, config_of(task))
    (task.folder / "production.jsonl").unlink()
    text = pyarrow.Table.from_pylist([{"feedback_score": "good", "created_at": "monday"}])
    (other := task.folder / "production" / "date=2027-01-01").mkdir()
    parquet.write_table(text, other / "a.parquet")
    with pytest.raises(WorkbookError, match="production"):
        curate.load_production(task, config_of(task))
