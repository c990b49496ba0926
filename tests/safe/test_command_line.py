"""Line 19: the command line with a closed or full stdout or stderr, and homes of odd names."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from papermill.parameterize import parameterize_path

from helpers import registry, store
from helpers.run import engine

CASES = {
    "runs >&-": 0,
    "runs > /dev/full": 6,
    "runs --json > /dev/full": 6,
    "gc --keep -1 2>&-": 2,
    "gc --keep -1 2> /dev/full": 2,
    "gc --keep -1 > /dev/full": 2,
}


@pytest.mark.parametrize("arguments", CASES)
def test_line_19_closed_and_full_outputs_have_their_exit_codes(home, arguments):
    command = f"exec {sys.executable} -m helpers.cli {arguments}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=store.PROJECT,
        env=os.environ | {"WORKBOOK_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (CASES[arguments], False), done.stderr


def test_line_19_no_control_character_reaches_a_terminal():
    assert store.printable("a\x1b[2Jb\x07\u202ec\r\x9b\n\td") == "a�[2Jb��c��\n\td"


@pytest.mark.parametrize("name", ["what?", "a?b=c", "{a}", "a b", "50% #1"])
def test_line_19_homes_of_odd_names_have_their_registry_and_their_copies(
    tmp_path, monkeypatch, name
):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path / name))
    assert registry.list_versions() == [] and (tmp_path / name / "registry.db").exists()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    place = str(tmp_path / name / "notebooks/x.ipynb")
    assert parameterize_path(engine._as_it_stands(place), {"a": "elsewhere"}) == place
