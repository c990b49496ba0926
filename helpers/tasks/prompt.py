"""From an example to the chat a model sees: one place, so that training and serving agree."""

from __future__ import annotations

from helpers.records import Message, Style, TrainingExample
from helpers.tasks.task import Task


def render(
    task: Task, example: TrainingExample | str, style: Style = "full", answer: bool = False
) -> list[Message]:
    """[system: the task's instructions, the example's turns, its answer if `answer`].

    The example's own system prompt is left out. `style` picks instructions.short or
    instructions.full of task.yaml; `example` may be the bare user text.
    """
    instructions = task.instructions_short if style == "short" else task.instructions_full
    chat = [Message(role="system", content=instructions)]
    if isinstance(example, str):
        return [*chat, Message(role="user", content=example)]
    chat += [m for m in example.prompt if m.role not in ("system", "developer")]
    if answer:
        chat.append(Message(role="assistant", content=example.answer))
    return chat
