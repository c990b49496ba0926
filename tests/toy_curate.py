"""A toy task: one message in, {"label": yes|no} out; and the fixtures that curate it."""

import json
import os
import random
from datetime import UTC, datetime
from pathlib import Path

import pytest

from helpers import curate, store, tasks
from helpers.records import Message, TrainingExample


def shared(name):
    """A folder of real data beside the project (or in WORKBOOK_DATA); without it its tests skip."""
    places = [
        Path(os.environ.get("WORKBOOK_DATA", "/none")),
        *(p / "shared" / "data" for p in store.PROJECT.parents),
    ]
    return next((p / name for p in places if (p / name).is_dir()), places[0] / name)


RATIOS = {"train": 0.5, "validation": 0.2, "test": 0.3}
TASK = """
name: toy
instructions: {full: "Answer with JSON.", short: "JSON."}
output:
  schema:
    type: object
    required: [label]
    additionalProperties: false
    properties: {label: {enum: ["yes", "no"]}}
targets: {accuracy: 0.8}
"""


def chat(text, label="yes", **extra):
    """One source row."""
    answer = json.dumps({"label": label})
    return {
        "messages": [{"role": "user", "content": text}, {"role": "assistant", "content": answer}],
        **extra,
    }


def example(text, label="yes", part="train", quality="verified", day=1, **extra):
    """One example, as the loader makes it."""
    messages = [
        Message(role="user", content=text),
        Message(role="assistant", content=json.dumps({"label": label})),
    ]
    fields = {
        "id": f"{part}-{day}-{text[:40]}",
        "source": "human" if quality == "verified" else "production",
        "group": tasks.group_of(text),
        "created_at": datetime(2026, 1, day, tzinfo=UTC),
    }
    return TrainingExample(messages=messages, part=part, quality=quality, **(fields | extra))


WORDS = [
    "amber",
    "brick",
    "cedar",
    "delta",
    "ember",
    "flint",
    "grove",
    "heron",
    "ivory",
    "joker",
    "kayak",
    "lemon",
    "mango",
    "noble",
    "ocean",
    "pearl",
    "quilt",
    "raven",
]


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
