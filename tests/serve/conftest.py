"""Every test of the gateway has a home of its own, and an engine that answers at once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "registry"))  # registry_toys

from registry_toys import home  # noqa: F401
from serve_toys import ToyEngine, gateway, register, running


@pytest.fixture(autouse=True)
def no_keys(monkeypatch):
    for name in ("WORKBOOK_SERVE_KEYS", "WORKBOOK_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def engine():
    toy = ToyEngine()
    with running(toy.app) as address:
        toy.url = f"{address}/v1"
        yield toy


@pytest.fixture
def served(engine):
    """(address, gateway, engine): version v1 is in production."""
    register("v1", "production")
    with gateway(engine.url) as (address, made):
        yield address, made, engine
