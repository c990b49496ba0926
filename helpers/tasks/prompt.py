"""From an example to the chat a model sees: one place, so that training and serving agree."""

from __future__ import annotations

from helpers.records import Message, Style, TrainingExample
from helpers.tasks.task import Task


def render(
    task: Task, example: TrainingExample | str, style: Style = "full", answer: bool = False
) -> list[Message]:
    """[system: the task's instructions, the example's turns, its answer if `answer`].

    A system message of the row's own (one that differs from row to row) stands below the
    instructions. `style` picks instructions.short or instructions.full of task.yaml; `example` may
    be the bare user text. Thoughts are never shown, weights only where the answer is.
    """
    instructions = task.instructions_short if style == "short" else task.instructions_full
    if isinstance(example, str):
        system = Message(role="system", content=instructions)
        return [system, Message(role="user", content=example)]
    turns = []
    for message in example.prompt:
        if message.role in ("system", "developer"):
            instructions = f"{instructions}\n\n{message.content or ''}".rstrip()
            continue
        if message.reasoning or message.weight is not None:
            weight = message.weight if answer else None
            message = message.model_copy(update={"reasoning": None, "weight": weight})
        turns.append(message)
    if answer:
        turns.append(Message(role="assistant", content=example.answer))
    return [Message(role="system", content=instructions), *turns]
