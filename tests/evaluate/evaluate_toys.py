"""Toys for the evaluate and decide tests: a model with scripted answers, a small task, rows by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from helpers import store
from helpers.models import Answer
from helpers.records import Message, TrainingExample
from helpers.tasks import Task

SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["colour", "size"],
    "properties": {"colour": {"enum": ["red", "blue"]}, "size": {"type": "integer"}},
}
RIGHT = '{"colour":"red","size":1}'
WRONG = '{"colour":"blue","size":1}'
BROKEN = "Sure! " + RIGHT


class ScriptedModel:
    """Answers by a function of the chat and writes down what it was asked."""

    provider = "local"
    is_loopback = True

    def __init__(self, reply: Callable[[list[Message]], str], name: str = "scripted") -> None:
        self.reply, self.name = reply, name
        self.fingerprint = store.fingerprint(name)
        self.asked: list[list[Message]] = []
        self.fail_after: int | None = None

    def answer(
        self,
        chats: Sequence[list[Message]],
        max_new_tokens: int,
        schema: Any = None,
        progress: Any = None,
    ) -> list[Answer]:
        answers = []
        for chat in chats:
            if self.fail_after is not None and len(self.asked) >= self.fail_after:
                raise KeyboardInterrupt
            self.asked.append(chat)
            answers.append(
                Answer(
                    text=self.reply(chat),
                    tokens_in=self.count_tokens(chat),
                    tokens_out=5,
                    latency_ms=10,
                    finish="stop",
                )
            )
        return answers

    def count_tokens(self, chat: list[Message]) -> int:
        return sum(len((m.content or "").split()) for m in chat)

    def latency_probe(self, chats: Sequence[list[Message]], max_new_tokens: int) -> list[float]:
        return [100.0 + i for i in range(len(chats))]


def constant(text: str, name: str = "scripted") -> ScriptedModel:
    return ScriptedModel(lambda chat: text, name)


def right_where(condition: Callable[[int], bool], name: str, wrong: str = WRONG) -> ScriptedModel:
    """Right for the rows whose number (the last word of the question) fulfils the condition."""
    return ScriptedModel(
        lambda chat: RIGHT if condition(int((chat[-1].content or "").split()[-1])) else wrong, name
    )


def toy_task(folder: Path, **changes: Any) -> Task:
    values: dict[str, Any] = {
        "name": "toy",
        "folder": folder,
        "shipped": False,
        "instructions_full": "Say the colour and the size as JSON.",
        "instructions_short": "As JSON.",
        "schema": SCHEMA,
        "scored_fields": ["colour", "size"],
        "targets": {"accuracy": 0.5, "format_compliance": 0.8},
        "prices": {"as_of": "2026-11-22", "hardware_usd_per_hour": 0.36, "person_usd_per_hour": 10},
    }
    return Task(**(values | changes))


def toy_rows(
    n: int,
    part: str = "test",
    first: int = 0,
    group: Callable[[int], str] = "g{}".format,
    **meta: Any,
) -> list[TrainingExample]:
    return [
        TrainingExample(
            id=f"r{i:04d}",
            messages=[
                Message(role="user", content=f"thing number {i}"),
                Message(role="assistant", content=RIGHT),
            ],
            source="human",
            quality="verified",
            created_at=datetime(2026, 11, 1, tzinfo=UTC),
            group=group(i),
            part=part,  # type: ignore[arg-type]
            meta=meta,
        )
        for i in range(first, first + n)
    ]


def scored_rows(hits: Sequence[int], formats: Sequence[int] | None = None) -> list[dict[str, Any]]:
    formats = formats or [1] * len(hits)
    return [
        {
            "id": f"r{i}",
            "group": f"g{i}",
            "answer": json.dumps(i),
            "scores": {"accuracy": float(h), "format_compliance": float(f)},
        }
        for i, (h, f) in enumerate(zip(hits, formats, strict=True))
    ]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("WORKBOOK_LOCK_HELD", raising=False)
    return (tmp_path / "home").resolve()


@pytest.fixture
def task(tmp_path):
    return toy_task(tmp_path)


@pytest.fixture
def run():
    return store.open_run("t1")
