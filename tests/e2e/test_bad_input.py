"""What a user gets wrong: exit 2, one message with file, line and remedy, and nothing left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from run_toys import TASK

from helpers import store

ROW = '{"prompt": "how are you?", "completion": "well"}\n'


def refused(place, *arguments: str) -> str:
    done = place.workbook("run", "smoke", *arguments)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not (place.home / "runs").exists() and not (place.home / "datasets").exists()
    return done.stderr


@pytest.fixture
def task(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "task.yaml").write_text(TASK)
    (folder / "human.jsonl").write_text(ROW)
    return folder


def test_a_missing_profile(place):
    done = place.workbook("run", "nightly")
    assert done.returncode == 2 and "nightly.yaml" in done.stderr and "profiles are" in done.stderr


def test_a_missing_task_folder_and_a_missing_data_file(place, task):
    assert "task.yaml is missing" in refused(place, "-p", "task=elsewhere")
    (task / "human.jsonl").unlink()
    assert "human.jsonl" in refused(place, "-p", "task=mine")


def test_a_broken_line_is_named_with_its_number(place, task):
    (task / "human.jsonl").write_text(ROW * 2 + '{"prompt": "half a li\n' + ROW)
    said = refused(place, "-p", f"task={task}")
    assert "human.jsonl" in said and "3" in said


def test_a_task_without_targets(place, task):
    (task / "task.yaml").write_text(TASK.replace("targets: {accuracy: 0.5}\n", ""))
    said = refused(place, "-p", f"task={task}")
    assert "targets" in said and "task.yaml" in said


def test_an_unknown_parameter_and_a_wrong_type(place, tmp_path):
    assert "unknown parameter 'lerning_rate'" in refused(place, "-p", "lerning_rate=1e-4")
    assert "epochs should be float" in refused(place, "-p", "epochs=abc")
    (tmp_path / "mine.yaml").write_text("base_model: tiny\nepochs: abc\n")
    done = place.workbook("run", "mine.yaml")
    assert done.returncode == 2 and "mine.yaml, line 2" in done.stderr


def test_a_missing_upstream_artifact_says_which_notebook_to_run_first(place):
    done = place.workbook("run", "smoke", "--run-id", "b", "--only", "04", "--json")
    assert done.returncode == 2
    record = json.loads(done.stdout)
    assert (
        record["status"] == "failed" and "run 0" in record["reason"] and "first" in record["reason"]
    )
    assert "Traceback" not in done.stderr
    assert not (place.home / "runs/b/evaluation.json").exists()


def test_a_held_lock_is_75(place, monkeypatch):
    monkeypatch.setenv("WORKBOOK_HOME", str(place.home))
    with store.lock():
        done = place.workbook("run", "smoke")
    assert (
        done.returncode == 75
        and "another run holds" in done.stderr
        and not (place.home / "runs").exists()
    )
