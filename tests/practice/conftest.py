"""A practice API in this process, asked by the real SDK over HTTP; waiting takes no time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.practice.endpoints import Settings
from helpers.practice.server import serve
from helpers.practice.storage import Clock

FAST = 500.0  # seconds of the API in one of ours


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """start(mode, scenario, folder) -> the running server."""
    running = []

    def begin(
        mode: str = "spec",
        scenario: str = "ok",
        folder: Path = tmp_path / "state",
        speed: float = FAST,
    ) -> Any:
        server = serve(folder, 0, Settings(mode, "tiny", scenario), Clock(speed))
        running.append(server.__enter__())
        return server

    yield begin
    for server in running:
        server.__exit__()
