"""The forms in which other systems export chats: how each is known, and how its turns are built."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from helpers import store
from helpers.records import Message, Preference, Source
from helpers.tasks.conventions import WORDS, DayOrder, Scale, is_nothing
from helpers.tasks.task import Task
from helpers.tasks.textfiles import Row, RowError
from helpers.tasks.turns import (
    EMPTY,
    SYSTEM,
    answer_in,
    as_turns,
    is_chat,
    messages_of,
    turns_in,
    with_thought,
)
from helpers.tasks.values import DecimalMark, as_text, as_typed, cell, spelled, value_at

CHATS = ("conversations", "conversation", "contents", "messages")  # columns of ShareGPT, Gemini
_BRACED = re.compile(r"\{[^{}]+\}")
# of verdicts; what an annotator passed over is nothing to learn from either
LIKES = WORDS | {"1": 5.0, "1.0": 5.0, "0": 1.0, "0.0": 1.0, "-1": 1.0, "-1.0": 1.0}
LIKES |= {"ignore": 1.0, "skip": 1.0}


@dataclass
class HowRead:
    """How the rows of one file are read: judged before, and counted while they are."""

    task: Task
    path: Path
    source: Source = "human"
    format: str = "columns"
    used: set[str] = field(default_factory=set)  # the columns that something reads
    scale: Scale = field(default_factory=lambda: Scale("no ratings", {}))
    day_order: DayOrder = ""
    decimals: dict[str, DecimalMark] = field(default_factory=dict)  # of the answers' numbers
    changes: Counter[str] = field(default_factory=Counter)  # what was reinterpreted: rows
    unused: Counter[str] = field(default_factory=Counter)  # columns that nothing reads
    groups: Counter[str] = field(default_factory=Counter)  # values of `group`
    splits: dict[str, int] = field(default_factory=dict)  # value of `split` -> first line with it

    def __post_init__(self) -> None:
        # asked once: pathlib takes a path apart each time, and a log has a million rows
        self.name = self.path.name
        # what stands for the time of a row that has none
        self.date = datetime.fromtimestamp(self.path.stat().st_mtime, UTC).replace(microsecond=0)


class Form(NamedTuple):
    """One form: how the turns of its rows are made, and of which columns."""

    turns: Callable[[HowRead, Row], Any]
    columns: str = ""
    known_by: tuple[str, ...] = ()  # columns of which a row has all, or all of the next


def format_of(task: Task, rows: Sequence[Row]) -> str:
    """The form of most of a file's rows: what task.yaml says, what it maps, or what they hold."""
    if task.format:
        return task.format
    first = columns_of(task, "input")[0]
    there = any(first in row or cell(task, row, "input") is not None for row in rows)
    if there and (task.columns.get("input") or task.columns.get("output")):
        return "columns"
    counts = Counter(_form_of_row(task, row) for row in rows)
    return counts.most_common(1)[0][0] if counts else "columns"


def columns_of(task: Task, name: str) -> list[str]:
    """The columns of a file that hold what we call `name`; none where task.yaml says null."""
    mapped = task.columns.get(name, name)
    if isinstance(mapped, dict):
        return [*mapped.values()]
    return [mapped] if isinstance(mapped, str) else mapped or []


def _form_of_row(task: Task, row: Row) -> str:
    for column in CHATS:
        value = cell(task, row, column)
        chat = spelled(value) if isinstance(value, str) else value
        if is_chat(chat):
            return "chat" if column == "messages" and "role" in chat[0] else "sharegpt"
    if isinstance(row.get("messages"), list) and "messages" not in task.columns:
        return "chat"
    for name, form in FORMS.items():
        is_known = any(row.keys() >= {*columns.split()} for columns in form.known_by)
        if is_known and (name != "kto" or str(row["label"]).casefold() in ("true", "false")):
            return name
    return "columns"


def chat_of(how: HowRead, raw: Row) -> list[Message]:
    """The messages of a row in the form of its file; RowError says what is wrong with it."""
    for name in how.used:
        if isinstance(raw.get(name), bytes) and "\ufffd" in raw[name].decode(errors="replace"):
            raise RowError(f"{name}: bytes that are not UTF-8; export that column as text")
    turns = FORMS[how.format].turns(how, raw)
    messages = messages_of([*_system_turns(how, raw, turns), *turns], "messages", how.changes)
    if messages[-1].weight == 0:
        raise RowError("the last answer has weight 0: there is nothing to learn")
    messages = [*messages[:-1], with_thought(messages[-1], how.changes)]
    own = own_context(how.task, messages[0])
    if own != messages[0]:
        how.changes["the task's instructions stand in the row: left out there"] += 1
        return [own, *messages[1:]] if own else messages[1:]
    return messages


def own_context(task: Task, message: Message) -> Message | None:
    """A system message without the task's own instructions, which it is asked with anyway.

    So a file that was rendered for a provider reads back as what it was rendered from.
    """
    if message.role not in SYSTEM:
        return message
    text = message.content or ""
    for instructions in (task.instructions_full, task.instructions_short):
        if text.startswith(instructions):
            own = text.removeprefix(instructions).strip()
            return message.model_copy(update={"content": own}) if own else None
    return message


def preference_of(how: HowRead, raw: Row) -> Preference | None:
    """Whether the answer is liked (`label`), and the one that is worse (`rejected`)."""
    label = rejected = None
    if how.format == "kto" or "label" in how.task.columns:
        value = cell(how.task, raw, "label")
        score = LIKES.get(str(value).strip().casefold())
        if value is not None and score is None:
            shown = store.outline(value)
            raise RowError(f"label is neither good nor bad ({shown}); write true or false")
        label = None if score is None else score > 3
    if how.format == "preference" and raw.get("rejected"):
        worse = as_turns(raw["rejected"], "assistant", how.changes)
        rejected = messages_of(worse[-1:], "rejected", how.changes)
    return Preference(label=label, rejected=rejected) if (label, rejected) != (None, None) else None


# --- one builder of turns for each form -----------------------------------------------------------


def _chat_turns(columns: Sequence[str], how: HowRead, raw: Row) -> Any:
    """The chat that stands in the first filled column."""
    turns = next(filter(None, (cell(how.task, raw, column) for column in columns)), None)
    if isinstance(turns, str | bytes):  # a table's cell
        turns = spelled(turns)
    if not isinstance(turns, list):
        raise RowError(f"`{columns[-1]}` is no list of turns, nor the JSON text of one")
    return turns


def _system_turns(how: HowRead, raw: Row, turns: Sequence[Any]) -> list[Any]:
    """The system text beside the turns: of the column that task.yaml or the form names."""
    text = cell(how.task, raw, "system")
    if how.format == "sharegpt" and text is None:  # Gemini's, as it sends and as it reads one
        text = raw.get("systemInstruction", raw.get("system_instruction"))
    if isinstance(text, dict):
        text = text.get("parts", text)
    if text in EMPTY or "system" not in (*how.task.columns, *FORMS[how.format].columns.split()):
        return []
    how.changes["`system` beside the turns is their system message, unless they have one"] += 1
    roles = {str(turn.get("role", turn.get("from"))) for turn in turns if isinstance(turn, dict)}
    return [] if roles & {*SYSTEM} else [{"role": "system", "content": text}]


def _pair_turns(column: str, how: HowRead, raw: Row) -> list[Any]:
    if raw.get("prompt") is None and is_chat(raw.get(column)):  # the whole chat is the answer's
        return list(raw[column])
    return _joined(how, raw.get("prompt"), raw.get(column), "prompt")


def _alpaca_turns(how: HowRead, raw: Row) -> list[Any]:
    history = [] if is_nothing(raw.get("history")) else raw["history"]
    if isinstance(history, str):  # a table's cell
        history = spelled(history)
    turns = turns_in(history, "user", how.changes)
    pairs = history if isinstance(history, list) else [history]
    for pair in pairs if not turns else ():
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise RowError(
                "`history` is neither a chat nor pairs of a question and its answer; rename it"
                " where it is an ordinary column"
            )
        turns += _joined(how, *pair, "history")
    texts = (as_text(raw.get(name)) for name in ("instruction", "input", "context"))
    question = "\n\n".join(filter(None, texts))
    answer = raw.get("response") if raw.get("output") is None else raw["output"]  # 0 is one too
    return [*turns, *_joined(how, question or None, answer, "instruction")]


def _column_turns(how: HowRead, raw: Row) -> list[Any]:
    """The chat of an input and an answer, each a text or itself a chat."""
    question = question_of(how.task, raw)
    if question in (None, ""):
        raise RowError(
            "neither `messages` with a list of turns, nor prompt/completion, nor a filled input"
            f" column ({', '.join(columns_of(how.task, 'input'))}) is there"
        )
    return _joined(how, question, gold_answer(how, raw), "input")


def question_of(task: Task, raw: Row) -> Any:
    """What a row asks: one column, or one text as task.yaml composes it (None where all lack)."""
    values = {f"{{{name}}}": value_at(raw, name) for name in columns_of(task, "input")}
    if not any(value is not None for value in values.values()):
        return None
    if len(values) == 1 and "template" not in task.columns:
        return values.popitem()[1]
    template = task.columns.get("template", "\n\n".join(values))
    texts = {name: as_text(value) for name, value in values.items()}
    return _BRACED.sub(lambda match: texts.get(match[0], match[0]), template).strip()


def gold_answer(how: HowRead, raw: Row) -> Any:
    """The answer of a row: one column, or an object of several (`output: {property: column}`)."""
    columns = how.task.columns.get("output")
    if not isinstance(columns, dict):
        answer = cell(how.task, raw, "output")
        _note_nothing(how, answer)
        if isinstance(answer, str) and answer.startswith("{'") and how.task.schema:
            return spelled(answer) or answer  # as Python prints an object
        return answer
    types = (how.task.schema or {}).get("properties", {})
    answer = {}
    for name, column in columns.items():
        value = answer_in(value_at(raw, column), how.changes)
        _note_nothing(how, value)
        if value is not None:
            answer[name] = as_typed(value, types.get(name), how.decimals.get(name, ""))
    return as_text(answer) if answer else None


def _note_nothing(how: HowRead, value: Any) -> None:
    """Count an answer that looks like what programs write into empty cells."""
    if isinstance(value, str) and is_nothing(value):
        how.changes[f"the answer {value.strip()!r}, as programs write into empty cells"] += 1


def _joined(how: HowRead, question: Any, answer: Any, place: str) -> list[Any]:
    """Question and answer as one chat; an answer that repeats the question's turns is the chat."""
    if question is None:
        raise RowError(f"{place}: the question is empty")
    turns = as_turns(question, "user", how.changes)
    own = {"role", "messages"} & (how.task.schema or {}).get("properties", {}).keys()
    if own and isinstance(answer, str | dict):  # an object with such fields, and no turn
        answer = [{"role": "assistant", "content": as_text(answer)}]
    answers = as_turns(answer, "assistant", how.changes)
    n = len(turns)
    firsts = turns + answers[:n]
    shown = [(turn.get("role", turn.get("from")), turn.get("content")) for turn in firsts]
    is_whole = len(answers) > n and shown[:n] == shown[n:]
    return answers if is_whole else turns + answers


FORMS = {  # the first that a row is known by
    "chat": Form(partial(_chat_turns, ("messages",)), "messages system"),
    "sharegpt": Form(
        partial(_chat_turns, CHATS),
        "conversations conversation contents messages system systemInstruction system_instruction",
    ),
    "preference": Form(
        partial(_pair_turns, "chosen"), "prompt chosen rejected", ("chosen rejected",)
    ),
    "kto": Form(
        partial(_pair_turns, "completion"), "prompt completion label", ("prompt completion label",)
    ),
    "prompt_completion": Form(
        partial(_pair_turns, "completion"), "prompt completion", ("prompt completion",)
    ),
    "alpaca": Form(
        _alpaca_turns,
        "instruction input context output response system history",
        ("instruction output", "instruction response"),
    ),
    "columns": Form(_column_turns),
}
