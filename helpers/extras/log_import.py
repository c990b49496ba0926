"""Logs that exist already, as rows of the live log: gateways, tracing products, OpenTelemetry.

`workbook logs import FILE --format litellm|langfuse|langsmith|otel|openai --task TASK`. Written
against the exports that these products document; a line that says something else is counted.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from helpers import curate, serve, store, tasks
from helpers.records import (
    LiveRow,
    LogText,
    WorkbookError,
    parse_live_line,
    read_live_line,
    read_live_lines,
    with_calls,
)

FORMATS, WORDS = yaml.safe_load_all(
    Path(__file__).with_name("log_formats.yaml").read_text(encoding="utf-8")
)
MOST_FAULTS = 5  # lines that are named
EMPTY = re.compile(r'"(content|text|output|parts)":\s*(""|null|\[\])')
HINT = (
    "a live log is JSON lines with the fields of docs/serving.md; logs of other systems, and"
    " tables, come in by `workbook logs import FILE --format FORMAT --task TASK`"
)


def import_log(paths: Sequence[Path], form: str, task_name: str, text: LogText) -> dict[str, Any]:
    """Add the requests of foreign logs to a task's live log, each once, however often asked."""
    if form not in FORMATS:
        raise WorkbookError(f"--format takes {', '.join(FORMATS)}; got {form!r}")
    task = tasks.load_task(task_name.removeprefix("demo/"))
    places = FORMATS[form]
    first: dict[str, tuple[str, LiveRow]] = {}
    ratings: dict[str, tuple[Any, Any]] = {}
    not_of_users: set[str] = set()
    faults: list[tuple[str, str]] = []
    counts: Counter[str] = Counter()
    for place, raw in _placed(paths, places["messages"]):
        if not _is_request(raw, places.get("kind", ())):
            counts["others"] += 1
            continue
        try:
            row = row_of(raw, places)
            fault = _clash(row, place, first)
            counts["different" if fault else "read"] += 1
            said = _rating(raw, places.get("feedback_score", ()), not_of_users)
            if said[0] is not None:
                ratings[place if fault else row.request_id] = said
        except ValueError as error:
            fault = str(error)
            counts["unreadable"] += 1
        faults.append((f"{place}:", fault))
    if not first and not counts["others"]:
        raise WorkbookError(f"nothing can be read as {form}: {'; '.join(_named(paths, faults))}")
    stars, scale = _in_stars(ratings, task.columns.get("feedback"), paths[0].name)
    faults += [
        (f"{name}:", f"has a rating that is none ({curate.masked_text(str(said))})")
        for name, (said, _) in ratings.items()
        if stars[name] is None  # it may be a comment
    ]
    rows = [
        row.model_copy(update={"feedback_score": stars.get(row.request_id)})
        for _, row in first.values()
    ]
    moments = {name: _moment(at) for name, (_, at) in ratings.items()}
    new, rated = serve.add_rows(task.registry_name, rows, text, moments)
    return {
        "added": new,
        "ratings": f"{rated} added; {scale}",
        "scores_not_of_users": sorted(not_of_users),
        "known": counts["read"] - new,
        "others": counts["others"],
        "different": counts["different"],
        "unreadable": counts["unreadable"],
        "faults": _named(paths, faults),
    }


def _in_stars(
    ratings: dict[str, tuple[Any, Any]], setting: Any, file: str
) -> tuple[dict[str, float | None], str]:
    """Each rating as stars, None where it is none; the scale of them all, in words."""
    said = {name: tasks.token_of(rating) for name, (rating, _) in ratings.items()}
    scale = tasks.judge_scale(Counter(said.values()), setting, "feedback_score", file)
    return {name: scale.scores.get(token) for name, token in said.items()}, scale.description


def _is_request(raw: Any, paths: Sequence[str]) -> bool:
    kind = _first(raw, paths)
    return not kind or str(kind).lower().removeprefix("a") in WORDS["requests"]


def _placed(paths: Sequence[Path], chats: Sequence[str]) -> Iterator[tuple[str, Any]]:
    for path in paths:
        for source in tasks.read_rows(path):
            for raw in _records(source.content, chats):
                yield f"{path.name} line {source.line}", raw


def _rating(raw: Any, paths: Sequence[str], others: set[str]) -> tuple[Any, Any]:
    """What a user said last about the answer, and when; judges score answers, too (`others`)."""
    scores = _unpacked(_at(raw, "scores"))
    if not isinstance(scores, list):
        return _first(raw, paths), None
    of_users = (None, None)
    for score in sorted(scores, key=lambda each: str(_first(each, WORDS["rated_at"]) or "")):
        name = str(_at(score, "name") or "")
        said = _first(score, WORDS["rating"])
        if said is None:
            continue
        if not name or any(word in name.lower() for word in WORDS["users"]):
            of_users = (said, _first(score, WORDS["rated_at"]))
        else:
            others.add(name)
    return of_users


def _moment(said: Any) -> Any:
    """When something was said; None where nobody can tell."""
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return tasks.moment_of(said) if said else None
    return None


def check_logs(paths: Sequence[Path]) -> dict[str, Any]:
    """How much of these files can be read as a live log, and why the rest cannot."""
    lines = [
        (f"{path.name} line {number}", line)
        for path in paths
        if tasks.ending_of(path)  # refuses what is compressed
        for number, line in enumerate(path.read_bytes().splitlines(), 1)
        if line.strip()
    ]
    rows, unreadable = read_live_lines(line for _, line in lines)
    ids = {row.request_id for row in rows}
    first: dict[str, tuple[str, LiveRow]] = {}
    faults = _named(paths, [(place, _fault(line, ids)) for place, line in lines])
    clashes = [(place, _clash(read_live_line(line), place, first)) for place, line in lines]
    return {
        "requests": len(rows),
        "rated": sum(row.feedback_score is not None for row in rows),
        "unreadable": unreadable,
        "versions": sorted({row.version for row in rows}),
        "replacing": _named((), clashes),
        "faults": [*faults, HINT] if faults else [],
    }


def _named(paths: Sequence[Path], reasons: Sequence[tuple[str, str]]) -> list[str]:
    """The first of the faults, each with its place, and how many more there are."""
    faults = [f"{path.name} is empty" for path in paths if not path.stat().st_size]
    faults += [f"{place} {reason}" for place, reason in reasons if reason]
    named = [store.printable(fault) for fault in faults[:MOST_FAULTS]]
    if len(faults) > MOST_FAULTS:
        named.append(f"and {len(faults) - MOST_FAULTS} more")
    return named


def _clash(row: Any, place: str, first: dict[str, tuple[str, LiveRow]]) -> str:
    """That another request stands under a row's id already; "" where none does."""
    if not isinstance(row, LiveRow):
        return ""
    where, before = first.setdefault(row.request_id or place, (place, row))
    is_same = (before.messages, before.answer) == (row.messages, row.answer)
    return "" if is_same else f"has another text under the id {row.request_id} than {where}"


def _fault(line: bytes, known: set[str]) -> str:
    """Why a live log cannot use a line; "" where it can."""
    try:
        entry = parse_live_line(line)
    except ValidationError as error:
        return _reason(error)
    except (ValueError, TypeError, RecursionError):
        looks_like_csv = b"," in line and line.lstrip()[:1] not in (b"{", b"[")
        return "is of a CSV table, not JSON" if looks_like_csv else "is not JSON"
    if isinstance(entry, LiveRow):
        reason = _below_0(entry)
        missing = {"messages", "answer"} - entry.model_fields_set
        if missing and entry.is_ok and not reason:
            reason = f"has no field {min(missing)}, unless task.yaml maps it"
        return reason
    is_known = entry.request_id in known
    return "" if is_known else f"is about request {entry.request_id}, which is not in these files"


def _below_0(row: LiveRow) -> str:
    return "has a wrong latency_ms (it is below 0)" if (row.latency_ms or 0) < 0 else ""


def _reason(error: ValidationError) -> str:
    detail = error.errors()[0]
    field = ".".join(map(str, detail["loc"])) or "form"
    if detail["type"] == "missing":
        return f"has no field {field} (it has {', '.join(detail['input'])[:80]})"
    return f"has a wrong {field} ({detail['msg']})"


def _records(content: Any, chats: Sequence[str]) -> Iterator[Any]:
    """The records of one line: itself, the runs of an envelope, or the spans that OTLP nests."""
    if not isinstance(content, dict):
        yield content if isinstance(content, ValueError) else ValueError("no JSON object")
        return
    if _first(content, chats):  # a request itself, whatever else it holds
        yield content
        return
    nested = [
        part
        for key in WORDS["lists"]
        if isinstance(content.get(key), list)
        for part in content[key]
    ]
    if nested:
        for part in nested:
            yield from _records(part, chats)
    elif isinstance(content.get("attributes"), list):  # of OTLP: {key, value: {stringValue: …}}
        with contextlib.suppress(AttributeError, KeyError, TypeError):  # else none can be told
            values = {"values": content["attributes"]}
            content = content | {"attributes": _of_otlp({"kvlistValue": values})}
        yield content
    else:
        inner = _unpacked(_first(content, WORDS["envelopes"]))  # of a collector, a queue
        yield content | inner if isinstance(inner, dict) else content


def _of_otlp(value: Any) -> Any:
    """A value of OTLP as JSON has it; there what is empty is left out."""
    kind, inner = next(iter(value.items()), ("", None))
    if kind == "kvlistValue":
        return {pair["key"]: _of_otlp(pair.get("value", {})) for pair in inner.get("values", ())}
    if kind == "arrayValue":
        return [_of_otlp(each) for each in inner.get("values", ())]
    return inner


def row_of(raw: Any, places: dict[str, Sequence[str]]) -> LiveRow:
    """One request; ValueError where its id, time, chat or answer cannot be told."""
    if isinstance(raw, ValueError):
        raise raw
    found = {field: _first(raw, paths) for field, paths in places.items()}
    found["status"] = _status(raw, places.get("status", ()))
    fields = {field: value for field, value in found.items() if value is not None}
    for field in ("request_id", "created_at", "messages"):
        if not fields.get(field):
            raise ValueError("has no field " + " or ".join(places[field]))
    try:
        row = LiveRow.model_validate(fields | _as_ours(fields))
    except ValidationError as error:
        raise ValueError(_reason(error)) from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ValueError("has a time or a chat that cannot be told") from None
    texts = {turn["content"] for turn in row.messages}
    is_unanswered = "answer" not in fields or _first(raw, ("response.choices", "choices")) == []
    faults = {
        _below_0(row): bool(_below_0(row)),
        "has no answer in " + " or ".join(places["answer"]): row.is_ok and is_unanswered,
        "has an answer whose text cannot be told": _is_unread(row, fields.get("answer")),
        "has no chat": texts <= {""},
        "was logged without its texts": bool({*texts, row.answer} & {*WORDS["left_out"]}),
    }
    for reason, is_so in faults.items():
        if is_so:
            raise ValueError(reason)
    return row


def _status(raw: Any, paths: Sequence[str]) -> str | None:
    """How a request ended; what is neither a text nor a number tells nothing."""
    for path in paths:
        said = _at(raw, path)
        if isinstance(said, str | int | float) and said != "":
            return f"{said:g}" if isinstance(said, float) else str(said)
    return None


def _as_ours(fields: dict[str, Any]) -> dict[str, Any]:
    """The time, chat, answer and end of a request as a row of the live log has them."""
    created = tasks.moment_of(fields["created_at"])
    ended = tasks.moment_of(fields.get("ended_at", created))
    said = {str(fields.get("status")).lower(), str(fields.get("level"))}
    is_failure = not said.isdisjoint(WORDS["failures"])
    return {
        "created_at": created,
        "feedback_score": None,  # it is judged over all rows
        "messages": _chat(fields["messages"]),
        "answer": _text(fields.get("answer")),
        "latency_ms": fields.get("latency_ms", 1000 * (ended - created).total_seconds() or None),
        "status": "error" if is_failure or fields.get("error_text") else fields.get("status", "ok"),
    }


def _first(raw: Any, paths: Iterable[str]) -> Any:
    return next((v for v in (_at(raw, path) for path in paths) if v not in (None, "")), None)


def _at(value: Any, path: str) -> Any:
    """The value behind a dotted path; a key may itself hold dots, as OpenTelemetry's do."""
    if not path:
        return value
    value = _unpacked(value)  # a column may hold JSON
    if isinstance(value, list):
        step, _, rest = path.partition(".")
        return _at(value[int(step)], rest) if step.isdecimal() and int(step) < len(value) else None
    if not isinstance(value, dict):
        return None
    steps = path.split(".")
    for end in range(len(steps), 0, -1):
        key = ".".join(steps[:end])
        if key in value:
            return _at(value[key], ".".join(steps[end:]))
    return None


def _chat(value: Any) -> list[dict[str, Any]]:
    """A chat of any of these products as OpenAI's messages."""
    value = _unpacked(value)
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if isinstance(value, dict):
        value = value.get("messages", [value])
    turns = []
    for turn in value:
        inner = turn.get("kwargs", turn)  # LangChain's serialised messages
        kind = inner.get("role") or inner.get("type") or (turn.get("id") or [""])[-1]
        turns.append({"role": WORDS["roles"].get(kind, kind), "content": _text(inner)})
    return turns


def _text(value: Any) -> str:
    """The text of an answer or of a turn, however deep it stands."""
    if isinstance(value, str):
        message = _spelled_message(value)
        return _text(message) if message else value
    if isinstance(value, list):
        return _of_parts(value) if _are_parts(value) else _text(value[0] if value else "")
    if not isinstance(value, dict):
        return ""
    message = _first(value, WORDS["message"])
    if not isinstance(message, dict):
        message = value
    if isinstance(message.get("parts"), list):
        return _of_parts(message["parts"])
    calls = map(_call, [*(_first(message, WORDS["calls"]) or ()), message])
    return with_calls(_text(_first(message, WORDS["answer"])), [call for call in calls if call])


def _are_parts(values: Sequence[Any]) -> bool:
    """Whether a list holds the parts of one answer, not several answers."""
    first = values[0] if values else None
    return isinstance(first, dict) and bool({"text", "type"} & first.keys() or _call(first))


def _of_parts(parts: Sequence[Any]) -> str:
    """What the parts of an answer say, and its calls; others are thoughts, or files."""
    texts, calls = [], []
    for part in parts:
        call = _call(part)
        if call:
            calls.append(call)
        elif isinstance(part, str):
            texts.append(part)
        elif ("text" in part or part.get("type", "") in WORDS["texts"]) and not part.get("thought"):
            texts.append(_text(part))
    return with_calls("\n".join(texts), calls)


def _call(part: Any) -> dict[str, Any]:
    """A call as {name, arguments}, whoever wrote it; {} for what is none."""
    if not isinstance(part, dict):
        return {}
    inner = _first(part, WORDS["called"]) or part
    is_typed = part.get("type") in WORDS["call_types"] or {"name", "args"} <= part.keys()
    if not isinstance(inner, dict) or (inner is part and not is_typed):
        return {}
    return {"name": inner.get("name"), "arguments": _first(inner, WORDS["arguments"]) or {}}


def _is_unread(row: LiveRow, answer: Any) -> bool:
    """Whether something was answered, and none of it was understood; "" and null are answers."""
    spelt = answer if isinstance(answer, str) else json.dumps(answer or {"text": ""})
    return row.is_ok and not row.answer and not EMPTY.search(spelt)


def _spelled_message(text: str) -> Any:
    """The message, or messages, that a text spells as JSON; an answer may be JSON of its own."""
    value = _unpacked(text)
    first = value[0] if isinstance(value, list) and value else value
    return value if isinstance(first, dict) and first.keys() & {"role", "parts"} else None


def _unpacked(value: Any) -> Any:
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(value) if isinstance(value, str) and value[:1] in ("{", "[") else value
    return value
