"""`workbook new` writes a folder that loads at once."""

import json

import pytest

from helpers import tasks
from helpers.records import WorkbookError
from helpers.tasks.new import infer_output, new_task


def test_a_folder_made_from_a_csv_loads_and_has_the_labels_as_enumeration(tmp_path):
    rows = ["text;label"] + [f'"message, number {i}";{{"kind": "{"ab"[i % 2]}"}}' for i in range(20)]
    (tmp_path / "d.csv").write_text("\n".join(rows).replace('{"kind": "', '"{""kind"": ""').replace('"}', '""}"'))
    said = new_task(tmp_path / "My Task", tmp_path / "d.csv", "text", "label")
    task = tasks.load_task(str(tmp_path / "My Task"))
    assert task.name == "my_task" and task.schema["properties"]["kind"] == {"enum": ["a", "b"]}
    assert len(tasks.load_examples(task).examples) == 20 and len(said) == 6


def test_an_empty_folder_loads_and_is_never_overwritten(tmp_path):
    new_task(tmp_path / "t")
    assert len(tasks.load_examples(tasks.load_task(str(tmp_path / "t"))).examples) == 1
    with pytest.raises(WorkbookError, match="exists already"):
        new_task(tmp_path / "t")


def test_outputs_that_are_not_all_objects_are_a_text_task():
    assert infer_output([{"a": 1}, "plain"]) == {"text": True}


def test_optional_keys_are_not_required_and_mixed_types_are_listed():
    schema = infer_output([{"a": 1, "b": "x"}, {"a": None}])["schema"]
    assert schema["required"] == ["a"] and schema["properties"]["a"] == {"type": ["integer", "null"]}


def test_a_missing_column_names_the_ones_that_are_there(tmp_path):
    (tmp_path / "d.jsonl").write_text(json.dumps({"q": "x", "r": "y"}) + "\n")
    with pytest.raises(WorkbookError, match="no column 'text'; it has q, r"):
        new_task(tmp_path / "t", tmp_path / "d.jsonl", "text", "r")
