"""Fixtures of the curate tests."""

import json
import random
from pathlib import Path

import pytest
from toy_curate import RATIOS, TASK, WORDS

from helpers import curate


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def make_task(tmp_path):
    """A function (human rows, production rows or lines) -> task folder."""

    def make(human, production=()) -> Path:
        folder = tmp_path / "toy"
        folder.mkdir(exist_ok=True)
        (folder / "task.yaml").write_text(TASK)
        for name, rows in (("human", human), ("production", production)):
            lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
            (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        return folder

    return make


@pytest.fixture
def config():
    """A function (folder, **changes) -> configuration that counts with the small tokenizer."""

    def make(folder, **changes):
        given = {"base_model": "tiny", "split_ratios": RATIOS, "wipeout_share": 1.0} | changes
        return curate.DataCollectionConfig(task=str(folder), **given)

    return make


@pytest.fixture
def sentences():
    """A function n -> n different sentences, none near another."""

    def make(n, seed=1):
        rng = random.Random(seed)
        return [" ".join(rng.sample(WORDS, 7)) + f" {rng.choice('abcdefgh') * 4}" for _ in range(n)]

    return make
