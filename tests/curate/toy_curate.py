"""A toy task: one message in, {"label": yes|no} out."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

from helpers import store, tasks
from helpers.records import Message, TrainingExample


def shared(name):
    """A folder of real data beside the project (or in WORKBOOK_DATA); it may be missing, then its tests skip."""
    places = [
        Path(os.environ.get("WORKBOOK_DATA", "/none")),
        *(p / "shared" / "data" for p in store.PROJECT.parents),
    ]
    return next((p / name for p in places if (p / name).is_dir()), places[0] / name)


RATIOS = {"train": 0.5, "validation": 0.2, "test": 0.3}
TASK = """
name: toy
instructions: {full: "Answer with JSON.", short: "JSON."}
output: {schema: {type: object, required: [label], additionalProperties: false, properties: {label: {enum: ["yes", "no"]}}}}
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
