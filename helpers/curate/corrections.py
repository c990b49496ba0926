"""Answers that users corrected in the live log: a person decides, only then they are learnt."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from itertools import chain
from pathlib import Path

from helpers import store, tasks
from helpers.curate.stages import Question
from helpers.records import LiveRow, TrainingExample, read_live_lines

_CORRECTED = re.compile(rb'"correction"\s*:\s*"(?!")')
_REQUEST = re.compile(rb'"request_id"\s*:\s*"?([^",}\s]+)')  # or what it begins with


def live_corrections(
    task: tasks.Task, human_ids: Container[str]
) -> tuple[list[Question], list[str]]:
    """The served chats with the answer that a user would have given, in the order of time.

    With a warning about those that are no chats.
    """
    questions = []
    faults = []
    for row in _corrected_rows(task):
        try:
            example = _example_of(task, row, human_ids)
        except ValueError as error:
            faults.append(f"{row.request_id}, {error}")
            continue
        correction = store.without_secrets(row.correction)
        questions.append(Question(example, "corrected by a user", correction))
    said = f"{len(faults)} corrected answers of the live log are not asked about: they are no chats"
    return questions, [f"{said} (first: {faults[0]})"] if faults else []


def _corrected_rows(task: tasks.Task) -> list[LiveRow]:
    paths = sorted((store.home() / "live" / task.registry_name).glob("*.jsonl"))
    corrected = [line for line in _lines(paths) if _CORRECTED.search(line)]
    ids = {*chain.from_iterable(map(_REQUEST.findall, corrected))}
    if not ids:
        return []
    read = tasks.LogReader(task, paths)  # as 06 reads the log
    about = corrected  # all that can be known of a trace, whose requests share an id
    if read.repeats != "trace":
        about = (line for line in _lines(paths) if not ids.isdisjoint(_REQUEST.findall(line)))
    rows = read_live_lines(about, read).rows
    return [row for row in rows if row.correction and row.messages and row.request_id]


def _lines(paths: Sequence[Path]) -> Iterator[bytes]:
    for path in paths:
        with open(path, "rb") as lines:
            yield from lines


def _example_of(task: tasks.Task, row: LiveRow, human_ids: Container[str]) -> TrainingExample:
    """The chat as it was served, without the task's own instructions; ValueError: it is none."""
    turns = [*row.messages, {"role": "assistant", "content": row.answer}]
    chat = tasks.messages_of(turns, "messages", Counter())
    own = tasks.own_context(task, chat[0])
    messages = [own, *chat[1:]] if own else chat[1:]
    user_text = "\n".join(m.content or "" for m in messages if m.role == "user")
    talk = tasks.pseudonymous(row.conversation_id, task.allow.values())
    request = tasks.pseudonymous(row.request_id, task.allow.values(), "user_id")
    return TrainingExample(
        id=f"live-{request}" if request in human_ids else request,
        messages=messages,
        source="production",
        quality="unverified",
        created_at=row.created_at,
        group=tasks.group_of(user_text, talk),
        feedback_score=row.feedback_score,
        meta={"model_version": row.version, "file": f"{row.created_at:%Y-%m-%d}.jsonl"},
    )
