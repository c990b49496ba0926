"""Answers that users corrected in the live log: a person decides, only then they are learnt."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from helpers import store, tasks
from helpers.curate.stages import Question
from helpers.records import (
    LateFeedback,
    LiveRow,
    Message,
    TrainingExample,
    read_live_line,
    read_live_lines,
)

_CORRECTED = re.compile(rb'"correction"\s*:\s*"(?!")')


def live_corrections(task: tasks.Task) -> list[Question]:
    """The served chats with the answer that a user would have given, in the order of time."""
    paths = sorted((store.home() / "live" / task.registry_name).glob("*.jsonl"))
    said = [read_live_line(line) for line in _lines(paths) if _CORRECTED.search(line)]
    ids = {entry.request_id for entry in said if isinstance(entry, LiveRow | LateFeedback)}
    if not ids - {""}:
        return []
    about = re.compile(b"|".join(re.escape(store.dumps(row_id).encode()) for row_id in ids))
    rows = read_live_lines(line for line in _lines(paths) if about.search(line)).rows
    return [
        Question(_example_of(task, row), "corrected by a user", row.correction)
        for row in rows
        if row.correction and row.messages
    ]


def _lines(paths: Sequence[Path]) -> Iterator[bytes]:
    for path in paths:
        with open(path, "rb") as lines:
            yield from lines


def _example_of(task: tasks.Task, row: LiveRow) -> TrainingExample:
    """The chat as it was served, without the task's own instructions."""
    turns = [*row.messages, {"role": "assistant", "content": row.answer}]
    chat = [Message(role=turn["role"], content=str(turn.get("content") or "")) for turn in turns]
    own = tasks.own_context(task, chat[0])
    messages = [own, *chat[1:]] if own else chat[1:]
    user_text = "\n".join(m.content or "" for m in messages if m.role == "user")
    return TrainingExample(
        id=row.request_id,
        messages=messages,
        source="production",
        quality="unverified",
        created_at=row.created_at,
        group=tasks.group_of(user_text, row.conversation_id),
        feedback_score=row.feedback_score,
        meta={"model_version": row.version, "file": f"{row.created_at:%Y-%m-%d}.jsonl"},
    )
