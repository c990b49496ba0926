"""The forms in which other systems export chats: how each is known, and how its turns are built.

Each problem of a turn is a RowError that names its place.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from helpers import store
from helpers.records import Message, Preference, Source
from helpers.tasks.conventions import WORDS, DayOrder, Scale, is_nothing
from helpers.tasks.task import Task
from helpers.tasks.textfiles import Row, RowError
from helpers.tasks.values import DecimalMark, as_text, as_typed, cell, spelled, value_at

# values of keys that gateways log empty (refusal, annotations, audio)
_EMPTY: tuple[Any, ...] = (None, "", [], {})
ROLES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "ai": "assistant",
    "model": "assistant",
}
# what other systems call our fields; where both are there, the other one is an unknown key
ALIASES = {
    "from": "role",
    "type": "role",
    "value": "content",
    "parts": "content",
    "reasoning_content": "reasoning",
    "thinking": "reasoning",
}
NO_TEXT = "a question or an answer that is no text is its JSON"
THOUGHT = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)
SYSTEM = ("system", "developer")
SPEAKERS = (*SYSTEM, "user", "assistant", "tool", *ROLES)
TURN_READ = "a message in a column is read as what it says"
# what a request or a response holds beside its messages
_BESIDE = (
    "model id object created usage system_fingerprint service_tier user metadata store n stop seed"
    " stream stream_options temperature top_p top_k min_p max_tokens max_completion_tokens"
    " frequency_penalty presence_penalty logit_bias logprobs top_logprobs response_format"
    " tool_choice parallel_tool_calls reasoning_effort stop_sequences"
)
ENVELOPE = {*_BESIDE.split(), "messages", "choices", "system", "tools"}
_SAYS = frozenset(("content", "value", "parts", "tool_calls"))
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
    first = input_columns(task)[0]
    there = any(first in row or cell(task, row, "input") is not None for row in rows)
    if there and (task.columns.get("input") or task.columns.get("output")):
        return "columns"
    counts = Counter(_form_of_row(task, row) for row in rows)
    return counts.most_common(1)[0][0] if counts else "columns"


def input_columns(task: Task) -> list[str]:
    """The columns that hold what is asked."""
    mapped = task.columns.get("input", "input")
    names = mapped if isinstance(mapped, list) else [mapped]
    return [str(name) for name in names] or ["input"]


def output_columns(task: Task) -> list[str]:
    """The columns that hold the answer."""
    mapped = task.columns.get("output", "output")
    return list(map(str, mapped.values() if isinstance(mapped, dict) else [mapped]))


def _form_of_row(task: Task, row: Row) -> str:
    for column in CHATS:
        value = cell(task, row, column)
        chat = spelled(value) if isinstance(value, str) else value
        if is_chat(chat):
            return "chat" if column == "messages" and "role" in chat[0] else "sharegpt"
    if isinstance(row.get("messages"), list) and "messages" not in task.columns:
        return "chat"
    for name, form in FORMS.items():
        if any(row.keys() >= {*columns.split()} for columns in form.known_by):
            is_other = name == "kto" and str(row["label"]).casefold() not in ("true", "false")
            if not is_other:
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
        rejected = messages_of(
            as_turns(raw["rejected"], "assistant", how.changes)[-1:], "rejected", how.changes
        )
    if label is None and rejected is None:
        return None
    return Preference(label=label, rejected=rejected)


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
    if how.format == "sharegpt" and isinstance(raw.get("systemInstruction"), dict):  # Gemini's
        text = raw["systemInstruction"].get("parts")
    if text in _EMPTY or "system" not in (*how.task.columns, *FORMS[how.format].columns.split()):
        return []
    how.changes["`system` beside the turns is their system message, unless they have one"] += 1
    roles = {str(turn.get("role", turn.get("from"))) for turn in turns if isinstance(turn, dict)}
    return [] if roles & {*SYSTEM} else [{"role": "system", "content": text}]


def _pair_turns(column: str, how: HowRead, raw: Row) -> list[Any]:
    if raw.get("prompt") is None and is_chat(raw.get(column)):  # the whole chat is the answer's
        return list(raw[column])
    return _joined(how, raw.get("prompt"), raw.get(column), "prompt")


def _alpaca_turns(how: HowRead, raw: Row) -> list[Any]:
    turns = []
    history = raw.get("history")
    for pair in history if isinstance(history, list) else []:
        if isinstance(pair, list | tuple) and len(pair) == 2:
            turns += _joined(how, pair[0], pair[1], "history")
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
            f" column ({', '.join(input_columns(how.task))}) is there"
        )
    return _joined(how, question, gold_answer(how, raw), "input")


def question_of(task: Task, raw: Row) -> Any:
    """What a row asks: one column, or several as task.yaml composes them."""
    names = input_columns(task)
    if len(names) == 1:
        return value_at(raw, names[0])
    template = task.columns.get("template") or "\n\n".join(f"{{{name}}}" for name in names)
    texts = {f"{{{name}}}": as_text(value_at(raw, name)) for name in names}
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
    shown = [(turn.get("role", turn.get("from")), turn.get("content")) for turn in turns + answers]
    is_whole = (
        len(answers) > len(turns) and shown[len(turns) :][: len(turns)] == shown[: len(turns)]
    )
    return answers if is_whole else turns + answers


FORMS = {  # the first that a row is known by
    "chat": Form(partial(_chat_turns, ("messages",)), "messages system"),
    "sharegpt": Form(
        partial(_chat_turns, CHATS),
        "conversations conversation contents messages system systemInstruction",
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


# --- turns of any system as Messages --------------------------------------------------------------


def messages_of(turns: Any, place: str, changes: Counter[str]) -> list[Message]:
    """The turns as Messages; what was reinterpreted is counted in `changes`."""
    if not isinstance(turns, list) or not turns:
        raise RowError(f"`{place}` is no list of turns")
    messages = []
    for number, turn in enumerate(turns):
        if not isinstance(turn, dict):
            raise RowError(f"{place}.{number}: not an object")
        try:
            messages.append(Message(**_fields(turn, changes)))
        except RowError as error:
            raise RowError(f"{place}.{number}: {error}") from None
        except ValidationError as error:
            raise RowError(f"{place}.{number}: {_problem(error)}") from None
    return messages


def _problem(error: ValidationError) -> str:
    """The first thing that is wrong with a turn, and the remedy."""
    problem = error.errors()[0]
    key = ".".join(map(str, problem["loc"]))
    if key == "role":
        return f"role ({store.outline(problem['input'])}) is none of {', '.join(SPEAKERS)}"
    if problem["type"] != "extra_forbidden":
        return f"{key}: {problem['msg']}"
    remedy = "write tool_calls" if key == "function_call" else "delete that key"
    return f"{key}: is nothing that a message may hold here; {remedy}"


def _fields(turn: Row, changes: Counter[str]) -> Row:
    """What a Message is made of."""
    fields = {k: v for k, v in turn.items() if v not in _EMPTY or (k == "content" and v == "")}
    for alias, name in ALIASES.items():
        if alias in fields and name not in fields:
            fields[name] = fields.pop(alias)
    role = fields.get("role")
    fields["role"] = ROLES.get(str(role), role)
    if "content" in fields:
        fields |= _content(fields["content"], changes)
    weight = fields.get("weight")
    if weight is not None:
        if fields["role"] != "assistant" or isinstance(weight, bool) or weight not in (0, 1):
            raise RowError("weight must be 0 or 1, on assistant messages only")
        fields["weight"] = int(weight)
    return fields


def _content(content: Any, changes: Counter[str]) -> dict[str, str]:
    """The text of a content, and the thoughts among its parts."""
    if isinstance(content, str):
        return {"content": content}
    if not isinstance(content, list):
        changes[NO_TEXT] += 1
        return {"content": as_text(content)}
    texts = []
    thoughts = []
    for part in content:
        part = part if isinstance(part, dict) else {"text": part}
        kind = part.get("type", "text" if "text" in part else ", ".join(part))
        if kind == "thinking" or part.get("thought") is True:  # as Anthropic and Gemini have it
            thoughts.append(str(part.get("thinking", part.get("text", ""))))
        elif kind in ("text", "input_text", "output_text") and isinstance(part.get("text"), str):
            texts.append(part["text"])
            unused = part.keys() - {"type", "text"}
            changes.update(f"`{key}` of a content part is not used" for key in unused if part[key])
        else:
            raise RowError(
                f"content: a part of type {str(kind)[:30]!r} cannot be used here: models are"
                " asked in text; leave that row out, or put its text in place of it"
            )
    thought = {"reasoning": "\n".join(thoughts)} if thoughts else {}
    return {"content": "\n".join(texts), **thought}


def with_thought(message: Message, changes: Counter[str]) -> Message:
    """An answer whose text begins with `<think> … </think>`: that is its reasoning."""
    thought = THOUGHT.match(message.content or "") if message.role == "assistant" else None
    if not thought or message.reasoning:
        return message
    changes["<think> … </think> of the answer is its reasoning"] += 1
    return message.model_copy(
        update={
            "reasoning": thought[1].strip() or None,
            "content": message.content[thought.end() :],
        }
    )


def answer_in(value: Any, changes: Counter[str]) -> Any:
    """What the last turn says where a value holds turns, else the value."""
    turns = turns_in(value, "assistant", changes)
    if not turns or not _is_turn(turns[-1]):
        return value
    return _content(turns[-1]["content"], changes)["content"]


def turns_in(value: Any, role: str, changes: Counter[str]) -> list[Any]:
    """The turns that a value, or its text, holds: a chat, a request's, a response's, one of `role`.

    [] where it is anything else, such as an object that has a field of these names.
    """
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        value = spelled(value)
    if not isinstance(value, dict):
        return list(value) if _are_turns(value) else []
    turns = _unwrapped(value, changes)
    if _is_turn(value) and ROLES.get(value["role"], value["role"]) == role:
        turns = [value]
    if turns:
        changes[TURN_READ] += 1
    return turns


def _unwrapped(value: Row, changes: Counter[str]) -> list[Any]:
    """The turns of an object that is a request or a response, and nothing else."""
    message = value_at(value, "choices.0.message")
    turns = [message] if message else value.get("messages")
    if not _are_turns(turns) or not value.keys() <= ENVELOPE:
        return []
    if value.get("system") and turns[0].get("role") not in SYSTEM:
        turns = [{"role": "system", "content": value["system"]}, *turns]
    if value.get("tools"):
        turns = [*turns[:-1], turns[-1] | {"tools": value["tools"]}]
    unused = [key for key in (*_BESIDE.split(), "choices.1") if value_at(value, key)]
    changes.update(f"`{key}` beside a request's messages is not used" for key in unused)
    return list(turns)


def _are_turns(value: Any) -> bool:
    """Whether a cell's value is a chat: all say something, and one of them as who we know.

    Another speaker among them is an error then, which messages_of names.
    """
    return (
        is_chat(value)
        and any(str(turn.get("role", turn.get("from"))) in SPEAKERS for turn in value)
        and not any(_SAYS.isdisjoint(turn) for turn in value)
    )


def _is_turn(value: Any) -> bool:
    """Whether a value is a turn, and not an object that has fields of these names."""
    return (
        isinstance(value, dict)
        and value.keys() >= {"role", "content"}
        and str(value["role"]) in SPEAKERS
    )


def is_chat(value: Any) -> bool:
    """Whether a value is a list of turns."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, dict) and ("role" in turn or "from" in turn) for turn in value)
    )


def as_turns(value: Any, role: str, changes: Counter[str]) -> list[Any]:
    """A value as turns: those that it holds, or one of this role that says it."""
    if value is None:
        return []
    turns = turns_in(value, role, changes)
    if turns:
        return turns
    if not isinstance(value, str):
        changes[NO_TEXT] += 1
    return [{"role": role, "content": as_text(value)}]
