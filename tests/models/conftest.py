"""The tiny model, made once in the shared cache; every test has its own home."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.models import embedded


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path / "home"))
    for name in (
        "WORKBOOK_API_KEY",
        "OPENAI_API_KEY",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "NO_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(scope="session")
def tiny() -> Path:
    """The folder of the tiny model."""
    return embedded.ensure_tiny()
