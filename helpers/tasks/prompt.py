"""From an example to the chat a model sees: one place, so that training and serving agree."""

from __future__ import annotations

from helpers.records import Message, Style, TrainingExample
from helpers.tasks.task import Task


def render(
    task: Task, example: TrainingExample | str, style: Style = "full", answer: bool = False
) -> list[Message]:
    """[system: the task's instructions, the example's turns, its answer if `answer`].

    A system message of the row's own (one that differs from row to row) stands below the
    instructions, whose turn also holds the tools that may be called. `style` picks
    instructions.short or instructions.full of task.yaml; `example` may be the bare user text.
    Thoughts are shown with the answer alone, where the task's `reasoning` has them; weights only
    where the answer is.
    """
    instructions = task.instructions_short if style == "short" else task.instructions_full
    if isinstance(example, str):
        system = Message(role="system", content=instructions, tools=task.tools or None)
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
        turns.append(_answer(task, example))
    tools = example.tools or task.tools or None
    return [Message(role="system", content=instructions, tools=tools), *turns]


def _answer(task: Task, example: TrainingExample) -> Message:
    if not example.answer:
        return Message(role="assistant", content="")
    last = example.messages[-1]
    thoughts = None if task.reasoning == "strip" else last.reasoning
    return last.model_copy(update={"reasoning": thoughts, "weight": None})


def learnt_turns(task: Task, example: TrainingExample) -> list[TrainingExample]:
    """The chat up to each answer that is learnt, by the task's `train_on`; the whole is the last.

    An answer of weight 0 never is.
    """
    if not example.answer.strip():
        return []
    earlier = _earlier_answers(example) if task.train_on == "all" else []
    return [*earlier, example]


def asked_turns(task: Task, example: TrainingExample) -> list[TrainingExample]:
    """The chat up to each answer that a model is asked for, by `evaluate_on`; last the whole.

    What stands before an answer is gold. All are of the chat's group and so count as one cluster;
    the earlier ones are called ID#MESSAGES. An answer of weight 0 is not asked for.
    """
    if task.evaluate_on == "last":
        return [example]
    chats = [
        chat.model_copy(update={"id": f"{example.id}#{len(chat.messages)}"})
        for chat in _earlier_answers(example)
    ]
    return [*chats, example]


def _earlier_answers(example: TrainingExample) -> list[TrainingExample]:
    """The chat up to each answer before its last turn; those of weight 0 are left out."""
    turns = example.messages[:-1]
    ends = [n for n, turn in enumerate(turns, 1) if turn.role == "assistant" and turn.weight != 0]
    return [example.model_copy(update={"messages": turns[:end]}) for end in ends]
