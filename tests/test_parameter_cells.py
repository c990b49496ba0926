"""A parameters cell that somebody edited: what holds, what is refused, and what never leaks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers import parameters, store
from helpers.records import WorkbookError

FILES = sorted(
    path
    for path in parameters.PROJECT_NOTEBOOKS.rglob("[0-9]*.ipynb")
    if ".ipynb_checkpoints" not in path.parts
)
CELL = "".join(
    next(
        cell["source"]
        for cell in json.loads((store.NOTEBOOKS / "03a_train_lora.ipynb").read_text())["cells"]
        if "parameters" in cell["metadata"].get("tags", [])
    )
)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path))
    monkeypatch.delenv("WORKBOOK_HEADLESS", raising=False)


def begin(*cells: str) -> dict[str, Any]:
    """What a kernel knows after these cells were run and the first helper call was made."""
    space: dict[str, Any] = {"In": ["", *cells]}
    for cell in cells:
        exec(cell, space)
    parameters.begin("03a_train_lora", space)
    return space


def test_declared_defaults_are_what_the_cells_say():
    declared = json.loads(parameters.DECLARED.read_text())
    for path in FILES:
        assert declared.get(path.stem) == parameters.written_parameters(path), (
            f"{path.name}: if its cell was changed on purpose, `python -m helpers.parameters`"
        )
    assert len(declared) == len(FILES)


def test_a_typo_is_refused_in_a_fresh_and_in_a_warm_kernel():
    typo = CELL.replace("seed: int", "seeed: int")
    for history in ([typo], [CELL, typo]):
        with pytest.raises(WorkbookError, match="'seeed'; did you mean 'seed'"):
            begin(*history)


def test_a_parameter_that_vanished_is_named_even_where_the_kernel_remembers_it():
    line = next(line for line in CELL.splitlines() if line.startswith("lora_r:"))
    with pytest.raises(WorkbookError, match="'lora_r' is not set"):
        begin(CELL, CELL.replace(line, ""))
    with pytest.raises(WorkbookError, match="is not set; run the cell at the top"):
        begin("something = 1")


def test_by_hand_the_profile_holds_where_the_cell_has_the_default(capsys):
    tutorial = parameters.resolve(parameters.load_profile("tutorial"))
    space = begin(CELL)
    assert space["learning_rate"] == tutorial["learning_rate"] != 2.0e-4
    assert space["target_modules"] == tutorial["target_modules"]
    assert "profile tutorial sets" in capsys.readouterr().out
    edited = begin(CELL.replace("epochs: float = 3.0", "epochs: float = 1.5"))
    assert edited["epochs"] == 1.5 and edited["learning_rate"] == tutorial["learning_rate"]
    alone = begin(CELL.replace('profile: str = "tutorial"', 'profile: str = ""'))
    assert alone["learning_rate"] == 2.0e-4


def test_what_papermill_passes_goes_before_any_profile_and_an_edited_cell_is_refused():
    assert begin(CELL, "# Parameters\nepochs = 1.0\n")["learning_rate"] == 2.0e-4
    edited = CELL.replace("seed: int = 7", "seed: int = 8")
    with pytest.raises(WorkbookError, match=r"edited by hand \(seed = 8, declared is 7\)"):
        begin(edited, "# Parameters\nepochs = 1.0\n")
    assert begin(edited, "# Parameters\nseed = 9\n")["seed"] == 9


def test_a_run_that_passes_every_value_is_not_touched_by_what_was_saved_in_the_cell():
    declared = parameters.declared_parameters(store.NOTEBOOKS / "03a_train_lora.ipynb")
    injected = "# Parameters\n" + "\n".join(f"{name} = {v!r}" for name, v in declared.items())
    space = begin(CELL.replace("seed: int = 7", "seeed: int = 8"), injected)
    assert space["seed"] == 7


def test_edits_are_named_and_defaults_stay_those_that_were_declared(monkeypatch, tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    text = (store.NOTEBOOKS / "03a_train_lora.ipynb").read_text()
    path = folder / "03a_train_lora.ipynb"
    path.write_text(text.replace("seed: int = 7", "seed: int = 8"))
    monkeypatch.setattr(parameters, "PROJECT_NOTEBOOKS", folder)
    assert parameters.declared_parameters(path)["seed"] == 7
    assert parameters.edits(path) == "seed = 8"
    assert parameters.edits(Path(folder / path.name)) and not parameters.edits(
        store.NOTEBOOKS / "04_evaluate.ipynb"
    )


def test_a_profile_cannot_name_a_profile(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("profile: smoke\n")
    with pytest.raises(WorkbookError, match="line 1: `profile` is for notebooks run by hand"):
        parameters.resolve(parameters.load_profile(str(path)))


def test_a_notebook_of_ones_own_and_jupyter_s_copies_disturb_nobody(monkeypatch, tmp_path):
    folder = tmp_path / "notebooks"
    (folder / ".ipynb_checkpoints").mkdir(parents=True)
    text = (store.NOTEBOOKS / "03a_train_lora.ipynb").read_text()
    (folder / "03a_train_lora.ipynb").write_text(text)
    for name in ("scratch.ipynb", ".ipynb_checkpoints/03a_train_lora-checkpoint.ipynb"):
        (folder / name).write_text('{"cells": []}')
    monkeypatch.setattr(store, "NOTEBOOKS", folder)
    space = begin(CELL, "# Parameters\nepochs = 1.0\nfew_shot_k = 2\n")
    assert space["epochs"] == 1.0, "few_shot_k is another notebook's, and is let through"
