"""papermill without `workbook run`: as strict, from any folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import store


def papermill(tmp_path: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess:
    notebook = store.PROJECT / "notebooks" / "00_start_here.ipynb"
    command = [
        sys.executable,
        "-m",
        "papermill",
        str(notebook),
        str(tmp_path / "out.ipynb"),
        "--no-progress-bar",
    ]
    env = os.environ | {"WORKBOOK_HOME": str(tmp_path / "home"), "PYTHONPATH": str(store.PROJECT)}
    return subprocess.run(
        [*command, *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=300
    )


def test_an_unknown_name_stops_at_the_first_helper_call(tmp_path):
    done = papermill(tmp_path, tmp_path, "-p", "few_shots", "3")
    assert done.returncode == 1
    assert "unknown parameter 'few_shots'" in done.stderr
    assert not (tmp_path / "home" / "runs").exists()


@pytest.mark.parametrize("folder", [".", "notebooks"])
def test_a_profile_with_the_names_of_other_notebooks_works(tmp_path, folder):
    profile = store.PROJECT / "params" / "smoke.yaml"
    done = papermill(tmp_path, store.PROJECT / folder, "-f", str(profile))
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "home" / "runs" / "dev" / "environment.json").exists()
