"""The one place that turns an example into the chat a model sees, so training, evaluation and serving agree."""

from __future__ import annotations

from typing import Literal

from helpers.records import Message, TrainingExample
from helpers.tasks.task import Task

Style = Literal["short", "full"]


def render(
    task: Task, example: TrainingExample | str, style: Style = "full", answer: bool = False
) -> list[Message]:
    """[system: the task's instructions, the example's turns (its own system prompt left out), answer if asked for].

    `style` picks instructions.short or instructions.full of task.yaml; `example` may be the bare user text.
    """
    system = Message(
        role="system",
        content=task.instructions_short if style == "short" else task.instructions_full,
    )
    if isinstance(example, str):
        return [system, Message(role="user", content=example)]
    turns = [m for m in example.prompt if m.role not in ("system", "developer")]
    return [
        system,
        *turns,
        *([Message(role="assistant", content=example.answer)] if answer else []),
    ]
