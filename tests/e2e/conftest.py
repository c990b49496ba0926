"""The real command line in a fresh home, with a guard against the network in every process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from helpers import store

GUARD = Path(__file__).parent / "network_guard"


class Place(NamedTuple):
    home: Path
    guard: Path
    workbook: Callable[..., subprocess.CompletedProcess]


def make_place(folder: Path) -> Place:
    guard = folder / "guard"
    guard.mkdir(parents=True)
    env = os.environ | {
        "WORKBOOK_HOME": str(folder / "home"),
        "NETWORK_GUARD": str(guard),
        "PYTHONPATH": os.pathsep.join([str(GUARD), str(store.PROJECT)]),
    }

    def workbook(*arguments: str) -> subprocess.CompletedProcess:
        command = [
            sys.executable,
            "-c",
            "import sys; from helpers.cli import main; sys.exit(main())",
            *arguments,
        ]
        return subprocess.run(
            command, env=env, cwd=folder, capture_output=True, text=True, timeout=580
        )

    return Place(folder / "home", guard, workbook)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return make_place(tmp_path)


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, subprocess.CompletedProcess]:
    """One run of the smoke profile, looked at by several tests."""
    made = make_place(tmp_path_factory.mktemp("smoke"))
    return made, made.workbook("run", "smoke", "--run-id", "a", "--json")
