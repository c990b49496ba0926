"""What 01 warns of reaches the command line, and what people rate makes 01 and 04 run again."""

from __future__ import annotations

import record_toys

from helpers import store
from helpers.cli import main
from helpers.parameters import PROJECT_NOTEBOOKS
from helpers.run import resume
from helpers.run.summary import summary


def test_the_warnings_of_a_decision_stand_in_the_last_lines(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path))
    warnings = ["this is against an unsearched baseline"] + [f"warning {i}" for i in range(9)]
    store.open_run("r").save(record_toys.decision(warnings=warnings))
    lines = summary(record_toys.run_record("r", "01_decide")).splitlines()
    assert any(line.strip() == "! this is against an unsearched baseline" for line in lines)
    assert sum(line.strip().startswith("! ") for line in lines) == 6


def test_ratings_are_an_input_of_the_notebooks_that_count_them(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path))
    run = store.open_run("r")

    def keys():
        names = ("01_decide", "03a_train_lora", "04_evaluate")
        folder = tmp_path / "task"
        return [
            resume.key_of(PROJECT_NOTEBOOKS / f"{name}.ipynb", {}, run, folder) for name in names
        ]

    before = keys()
    assert not run.path("private").exists(), "looking leaves no trace"
    for name in ("ratings.csv", "ratings-ann.csv"):
        (run.private / name).write_text("id,a_sha,b_sha,choice\n")
        after = keys()
        changed = [old != new for old, new in zip(before, after, strict=True)]
        assert changed == [True, False, True], name
        before = after


def test_a_model_s_folder_and_a_log_elsewhere_are_inputs_too(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path / "home"))
    run = store.open_run("r")
    log = tmp_path / "live.jsonl"
    weights = tmp_path / "model" / "weights"
    for path in (log, weights):
        store.write_text(path, "1")
    named = {"rung_models": ["some/model", str(weights.parent)], "live_path": str(log)}

    def key() -> str:
        notebook = PROJECT_NOTEBOOKS / "06_monitor.ipynb"
        return resume.key_of(notebook, named, run, tmp_path / "task")

    keys = [key(), key()]
    for path in (log, weights):
        store.write_text(path, "1 more")
        keys.append(key())
    assert keys[0] == keys[1] and len(set(keys)) == 3


def test_rating_a_run_that_is_not_there_leaves_no_folder(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path))
    assert main(["rate", "mistyped"]) == 2
    assert "no run mistyped" in capsys.readouterr().err
    assert not (tmp_path / "runs" / "mistyped").exists()
