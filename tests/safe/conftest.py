"""Every test has a home of its own, and no key of whoever runs it."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    for name in os.environ:
        if name.endswith(("_KEY", "_TOKEN", "_SECRET", "_PASSWORD", "DATABASE_URL", "NOTIFY_URLS")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path / "home"))
    return tmp_path / "home"
