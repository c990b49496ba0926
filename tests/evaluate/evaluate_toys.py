"""Toys for the evaluate and decide tests: scripted models, a small task, rows by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import record_toys

from helpers import evaluate, store
from helpers.models import Answer, Model
from helpers.records import (
    AnswerRow,
    Asking,
    Budget,
    DatasetMetadata,
    Evaluation,
    FineTuningDataset,
    Manifest,
    Message,
    RungResult,
    Splits,
    TrainedModel,
    TrainingExample,
)
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
        self.reply, self.name, self.spec = reply, name, name
        self.fingerprint = store.fingerprint(name)
        self.asked: list[list[Message]] = []
        self.limits: set[int] = set()  # the longest answers that it was asked for
        self.fail_after: int | None = None

    def answer(self, chats: Sequence[list[Message]], max_new_tokens: int) -> list[Answer]:
        answers = []
        self.limits.add(max_new_tokens)
        for chat in chats:
            if self.fail_after is not None and len(self.asked) >= self.fail_after:
                raise KeyboardInterrupt
            self.asked.append(chat)
            answers.append(
                Answer(
                    text=self.reply(chat),
                    tokens_in=self.count_tokens(chat),
                    tokens_out=5,
                    latency_ms=10 if len(chats) > 1 else 100,
                    finish="stop",
                )
            )
        return answers

    def count_tokens(self, chat: list[Message]) -> int:
        return sum(len((m.content or "").split()) for m in chat)


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


def answer_row(id: str, answer: str = "", group: str = "", **scores: float) -> AnswerRow:
    return AnswerRow(
        id=id,
        group=group or f"g{id}",
        answer=answer,
        scores=scores,
        latency_ms=10.0,
        tokens_in=5,
        tokens_out=3,
    )


def scored_rows(hits: Sequence[int], formats: Sequence[int] | None = None) -> list[AnswerRow]:
    rows = []
    for i, (hit, form) in enumerate(zip(hits, formats or [1] * len(hits), strict=True)):
        scores = {"accuracy": float(hit), "format_compliance": float(form)}
        rows.append(answer_row(f"r{i}", json.dumps(i), **scores))
    return rows


def asking(rung: str, model: Model, **changes: Any) -> Asking:
    """How a rung asks this model, with a record's own defaults."""
    return Asking().for_rung(rung, model.spec).model_copy(update=changes)


def session(
    task: Task, run: store.Run, *models: Model, limit_usd: float = 0.0, **changes: Any
) -> evaluate.Session:
    """A session that knows these models."""
    known = {model.spec: model for model in models}
    changes = {"attempts": in_file} | changes
    return evaluate.Session(task, run, Budget(run, limit_usd), models=known, **changes)


def in_file(task: str, attempt: dict[str, Any]) -> list[dict[str, Any]]:
    """A ledger of attempts that is quicker to open than a registry."""
    path = store.home() / "attempts" / f"{task}.jsonl"
    lines = store.read_jsonl(path) if path.exists() else []
    if all(known["key"] != attempt["key"] for known in lines):
        lines.append(attempt)
        store.write_jsonl(path, lines)
    return lines


def ask_rung(
    model: Model,
    rung: str,
    rows: Sequence[TrainingExample],
    task: Task,
    run: store.Run,
    **changes: Any,
) -> RungResult:
    """One rung asked of one model; `changes` are of the Session or of the Asking."""
    fields = ("train", "latency_rows", "say", "limit_usd", "at_once")
    of_session = {name: changes.pop(name) for name in fields if name in changes}
    return evaluate.ask_rung(
        asking(rung, model, **changes), rows, session(task, run, model, **of_session)
    )


def trained_toy(**changes: Any) -> TrainedModel:
    """model.json of a toy whose base is called base and whose dataset is d1."""
    name = "t1-00000000"
    values: dict[str, Any] = {
        "model_id": name,
        "version": name,
        "base_model": "base",
        "dataset_version": "d1",
        "asking": Asking().for_rung("fine_tuned", name),
        "fingerprints": {"template": "a", "tokenizer": "b", "system_prompt": "c"},
    }
    return record_toys.trained_model(**(values | changes))


def publish_dataset(version: str = "d1") -> None:
    """The manifest of a dataset whose funnel adds up."""
    manifest = record_toys.manifest(version)
    store.write_json(store.home() / "datasets" / version / Manifest.FILE, manifest)


def toy_dataset(rows: Sequence[TrainingExample], version: str = "d1") -> FineTuningDataset:
    """A dataset that holds these rows alone."""
    metadata = DatasetMetadata(
        version=version, task="toy", created_at=record_toys.WHEN, fingerprint="f", params={}
    )
    splits = Splits(train=0, validation=0, test=len(rows))
    return FineTuningDataset(examples=rows, metadata=metadata, splits=splits)


def measure(
    task: Task,
    run: store.Run,
    tuned: Model,
    base: Model,
    rows: Sequence[TrainingExample],
    *others: Model,
    **changes: Any,
) -> Evaluation:
    """04 with these two models, and others that it may meet; `card` takes another model.json."""
    publish_dataset()
    card = changes.pop("card", trained_toy())
    fields = ("train", "limit_usd", "judge", "say")
    of_session = {name: changes.pop(name) for name in fields if name in changes}
    where = session(task, run, *others, **of_session)
    where.models.update({"base": base, card.asking.model: tuned})
    version = changes.pop("dataset_version", "d1")
    given = {"min_gain": 0.0, "dataset": toy_dataset(rows, version)} | changes
    return evaluate.evaluate_fine_tuned_model(rows, where, card, **given)


@pytest.fixture
def prints(monkeypatch):
    """The fingerprints that are found when 04 looks; `trained_toy` was trained with the same."""
    found = dict(trained_toy().fingerprints)
    monkeypatch.setattr("helpers.models.template_fingerprints", lambda base, task, style: found)
    return found


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
