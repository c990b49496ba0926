"""Run All and Save leave git as it was: the filter, and the hook that has git look."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import store
from helpers.learn import clean

SCRIPT = store.PROJECT / "helpers" / "learn" / "clean.py"


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout


def notebook(source: str = "1 + 1") -> dict:
    cell = {"cell_type": "code", "id": "a", "metadata": {"tags": ["exercise"]}, "source": source}
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return {"cells": [cell], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}


def run_and_saved(document: dict) -> dict:
    """What JupyterLab makes of it."""
    cell = document["cells"][0] | {"execution_count": 3}
    cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["2" * 5000]}]
    cell["metadata"] = cell["metadata"] | {"editable": True, "slideshow": {"slide_type": ""}}
    metadata = {
        "kernelspec": {"name": "fine-tuning-workbook", "display_name": "Fine-Tuning Workbook"},
        "language_info": {"name": "python", "version": "3.11.2", "mimetype": "text/x-python"},
        "widgets": {"application/vnd.jupyter.widget-state+json": {}},
    }
    return document | {"cells": [cell], "metadata": metadata}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    git(tmp_path, "config", "user.email", "a@example.org")
    git(tmp_path, "config", "user.name", "a")
    git(tmp_path, "config", "filter.workbook.clean", f"'{sys.executable}' '{SCRIPT}'")
    attributes = (store.PROJECT / ".gitattributes").read_text()
    (tmp_path / ".gitattributes").write_text(attributes)
    for name in ("notebooks/01.ipynb", "notebooks/more/02.ipynb"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(clean.as_text(clean.cleaned(notebook())))
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def test_run_all_and_save_leave_the_status_empty(repository):
    for path in sorted(repository.rglob("*.ipynb")):
        path.write_text(json.dumps(run_and_saved(notebook()), sort_keys=True))
        clean.after_save(os_path=str(path), model={"type": "notebook"}, contents_manager=None)
        assert "2" * 5000 in path.read_text(), "the outputs are still on the disk"
    assert git(repository, "status", "--short") == ""


def test_a_changed_cell_is_a_change_and_is_not_staged(repository):
    path = repository / "notebooks" / "01.ipynb"
    path.write_text(json.dumps(run_and_saved(notebook("2 + 2"))))
    clean.after_save(os_path=str(path))
    assert git(repository, "status", "--short") == " M notebooks/01.ipynb\n"
    assert "2" * 5000 not in git(repository, "diff")


def test_files_that_git_does_not_know_are_let_alone(repository, tmp_path):
    for name in ("notebooks/mine.ipynb", "notes.txt"):
        (repository / name).write_text("{}")
        clean.after_save(os_path=str(repository / name))
    assert "?? notebooks/mine.ipynb" in git(repository, "status", "--short")
    clean.after_save(os_path=str(tmp_path.parent / "nowhere" / "x.ipynb"))


def test_what_is_no_notebook_passes_as_it_is():
    for text in (b"half a noteb", b'{"cells": 1}', b'{"cells": ["\xe9"]}', b"\xff\xfe[\x00"):
        done = subprocess.run([sys.executable, SCRIPT], input=text, capture_output=True)
        assert done.stdout == text and done.returncode == 0


def test_tags_and_grading_marks_stay():
    document = notebook()
    document["cells"][0]["metadata"] = {"nbgrader": {"grade": True}, "scrolled": True}
    assert clean.cleaned(document)["cells"][0]["metadata"] == {"nbgrader": {"grade": True}}
