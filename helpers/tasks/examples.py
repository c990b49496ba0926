"""From a source file's rows to TrainingExamples: chat lines, prompt/completion, or columns named in task.yaml."""

from __future__ import annotations

import contextlib
import heapq
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from helpers import store
from helpers.records import (
    PARTS,
    FineTuningDataset,
    Issue,
    Message,
    RejectedExample,
    Source,
    Splits,
    TrainingExample,
    WorkbookError,
)
from helpers.tasks.parts import group_of
from helpers.tasks.reading import RowError, batches, read_rows, spelled
from helpers.tasks.task import Task

RULES = "tasks-1"
SAMPLE = 1000  # rows kept as evidence of those that a filter drops
Wanted = Callable[
    [float | None, datetime, bool], Issue | None
]  # score, time, whether the time is guessed
_NOTHING: tuple[Any, ...] = (
    None,
    [],
    {},
)  # keys that gateways log empty (refusal, annotations, audio)
TEXT_SCORES = {
    "up": 5,
    "thumbs_up": 5,
    "👍": 5,
    "good": 5,
    "true": 5,
    "down": 1,
    "thumbs_down": 1,
    "👎": 1,
    "bad": 1,
    "false": 1,
}


class LoadedRows(NamedTuple):
    """What a source file held: every row is an example, unreadable, or counted in `dropped` by the code of its issue.

    `sample` holds up to SAMPLE of the dropped rows with their issue.
    """

    examples: list[TrainingExample]
    unreadable: list[RejectedExample]
    files: list[Path]
    dropped: Counter[str]
    sample: list[tuple[TrainingExample | RejectedExample, Issue]]


def load_examples(task: Task, source: Source = "human", wanted: Wanted | None = None) -> LoadedRows:
    """Read human.* or production.* of the task, one row at a time; `wanted` (score, time) names why a row is dropped.

    A broken human row raises WorkbookError with file and line (somebody wrote it and can mend it); a broken
    production row is kept as `unreadable` with its reason, since nobody can mend a log. A row that `wanted` drops is
    only counted and sampled, so a log may be far larger than memory.
    """
    path = task.data_file(source)
    loaded = LoadedRows([], [], [path] if path else [], Counter(), [])
    if path is None:
        if source == "human":
            raise WorkbookError(
                f"{task.folder}: human.jsonl (or .csv, .parquet) is missing; README.md says how a row looks"
            )
        return loaded
    kept_of_dropped: list[
        tuple[int, int, Any, str, Issue]
    ] = []  # a heap: the SAMPLE rows of the smallest hash
    name = path.name  # asked once: pathlib takes it apart each time, and a log has a million rows
    for line, raw, digest, issue in _judged(task, path, wanted):
        if issue is not None:
            loaded.dropped[issue.code] += 1
            key = -zlib.crc32(f"{name}:{line}".encode())
            if len(kept_of_dropped) < SAMPLE:
                heapq.heappush(
                    kept_of_dropped, (key, line, raw() if callable(raw) else raw, digest, issue)
                )
            elif key > kept_of_dropped[0][0]:
                heapq.heapreplace(
                    kept_of_dropped, (key, line, raw() if callable(raw) else raw, digest, issue)
                )
            continue
        where = {"file": name, "line": line, "sha256": digest}
        try:
            if isinstance(raw, RowError):
                raise raw
            loaded.examples.append(to_example(task, raw, source, where, path))
        except RowError as error:
            if source == "human":
                raise WorkbookError(
                    f"{path}, line {line}: {error}; mend or delete that row"
                ) from None
            issue = Issue(code="invalid_format", evidence=str(error))
            loaded.unreadable.append(_torn(path, source, where, issue, "read"))
    for _, line, raw, digest, issue in sorted(kept_of_dropped, key=lambda row: row[1]):
        where = {"file": path.name, "line": line, "sha256": digest}
        try:
            loaded.sample.append((to_example(task, raw, source, where, path), issue))
        except RowError:  # dropped before it was read whole
            loaded.sample.append((_torn(path, source, where, issue, "filter"), issue))
    return loaded


def _torn(
    path: Path, source: Source, where: dict[str, Any], issue: Issue, stage: str
) -> RejectedExample:
    example = {"id": f"{path.name}:{where['line']}", "source": source, **where}
    return RejectedExample(example=example, issues=[issue], stage=stage, rule_version=RULES)


def has_feedback(task: Task, source: Source = "production") -> bool:
    """Whether any row of the source was rated; reads no further than the first that was."""
    path = task.data_file(source)
    rows = read_rows(path) if path else ()
    return any(
        isinstance(raw, dict) and cell(task, raw, "feedback_score") is not None
        for _, raw, _ in rows
    )


def _judged(
    task: Task, path: Path, wanted: Wanted | None
) -> Iterator[tuple[int, Any, str, Issue | None]]:
    """(line, row, sha256, why it is not wanted); the row of a big Parquet file that is not wanted is a function."""

    def judge(raw: Any) -> Issue | None:
        with contextlib.suppress(RowError):  # what cannot be judged is read, and fails there
            if wanted is not None and isinstance(raw, dict):
                mapping = task.columns.get("feedback")
                score = _feedback(cell(task, raw, "feedback_score"), mapping)
                return wanted(score, *_created_at(cell(task, raw, "created_at"), path))
        return None

    if path.suffix != ".parquet" or wanted is None:
        yield from ((line, raw, digest, judge(raw)) for line, raw, digest in read_rows(path))
        return
    import pyarrow

    names = [str(task.columns.get(n, n)).split(".")[0] for n in ("feedback_score", "created_at")]
    line = 0
    for batch in batches(
        path
    ):  # the two columns first: only wanted rows are made into Python objects
        few = batch.select([n for n in dict.fromkeys(names) if n in batch.schema.names]).to_pylist()
        few = few or [{} for _ in range(batch.num_rows)]
        issues = [judge(row) for row in few]
        whole = iter(
            batch.filter(
                pyarrow.array([issue is None for issue in issues], pyarrow.bool_())
            ).to_pylist()
        )
        for i, issue in enumerate(issues):
            line += 1
            if issue is not None:
                yield line, partial(lambda b, i: b.slice(i, 1).to_pylist()[0], batch, i), "", issue
            else:
                row = next(whole)
                yield line, row, store.fingerprint(spelled(row)), None


def cell(task: Task, raw: dict[str, Any], name: str) -> Any:
    """A row's value of one of our columns (None where it is empty), by the name or path that task.yaml gives it.

    A path such as `response.choices.0.message.content` reaches into nested logs; a column of that very name goes first.
    """
    key = task.columns.get(name, name)
    value: Any = raw.get(key) if isinstance(key, str) else None
    if value is None and isinstance(key, str) and "." in key:
        value = raw
        for step in key.split("."):
            if isinstance(value, list):
                value = value[int(step)] if step.isdecimal() and int(step) < len(value) else None
            else:
                value = value.get(step) if isinstance(value, dict) else None
    return None if value is None or value == "" or value != value else value


def to_example(
    task: Task, raw: dict[str, Any], source: Source, where: dict[str, Any], path: Path
) -> TrainingExample:
    """One row as a TrainingExample; raises ValueError that says what is wrong with the row."""
    messages = _messages(
        raw, cell(task, raw, "messages"), cell(task, raw, "input"), _output(task, raw)
    )
    user_text = "\n".join(m.content or "" for m in messages if m.role == "user")
    created_at, guessed = _created_at(cell(task, raw, "created_at"), path)
    conversation = str(cell(task, raw, "group") or cell(task, raw, "conversation_id") or "")
    part = cell(task, raw, "split")
    if part is not None and part not in PARTS:
        raise RowError(f"split is {part!r}; it must be one of {', '.join(PARTS)}")
    extra = {
        name: cell(task, raw, name)
        for name in ("model_version", "articles", "conversation_id")
        if cell(task, raw, name) is not None
    }
    content = store.fingerprint([m.model_dump(exclude_none=True) for m in messages])
    return TrainingExample(
        id=str(cell(task, raw, "id") or content[:16]),
        messages=messages,
        source=source,
        quality="verified" if source == "human" else "unverified",
        created_at=created_at,
        group=group_of(user_text, conversation),
        part=part if source == "human" else None,
        feedback_score=_feedback(cell(task, raw, "feedback_score"), task.columns.get("feedback")),
        meta={**where, "created_at_guessed": guessed, **extra},
    )


def _output(task: Task, raw: dict[str, Any]) -> Any:
    """The wanted answer: one column, or an object made of several (`output: {property: column}`)."""
    columns = task.columns.get("output")
    if not isinstance(columns, dict):
        return cell(task, raw, "output")
    return {
        name: raw[column] for name, column in columns.items() if raw.get(column) not in (None, "")
    } or None


def _messages(raw: dict[str, Any], turns: Any, given: Any, wanted: Any) -> list[Message]:
    """The chat of a row in any of the accepted forms; an input that is itself a chat is followed by the output."""
    if turns is None and "prompt" in raw and "completion" in raw:
        given, wanted = raw["prompt"], raw["completion"]
    if isinstance(turns, str | bytes):  # a table's cell with the chat as JSON
        try:
            turns = json.loads(turns)
        except (ValueError, RecursionError):
            raise RowError("`messages` is neither a list nor the JSON text of one") from None
    if turns is None:
        if given is None:
            raise RowError(
                "neither `messages`, nor prompt/completion, nor the input column of task.yaml is there"
            )
        turns = (
            list(given) if isinstance(given, list) else [{"role": "user", "content": str(given)}]
        )
        if isinstance(wanted, list):  # prompt/completion as chats
            turns += wanted
        elif wanted is not None:
            text = wanted if isinstance(wanted, str) else _compact(wanted)
            turns.append({"role": "assistant", "content": text})
    if not isinstance(turns, list) or not turns:
        raise RowError("`messages` must be a non-empty list")
    try:
        weights = [turn.get("weight") for turn in turns]
        messages = [
            Message(
                **{k: _text(k, v) for k, v in turn.items() if k != "weight" and v not in _NOTHING}
            )
            for turn in turns
        ]
    except (ValidationError, AttributeError, TypeError) as error:
        first = (
            error.errors()[0]
            if isinstance(error, ValidationError)
            else {"loc": ("?",), "msg": "not an object"}
        )
        raise RowError(f"messages: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    for message, weight in zip(messages, weights, strict=True):
        if weight is not None and (
            message.role != "assistant" or isinstance(weight, bool) or weight not in (0, 1)
        ):
            raise RowError("weight must be 0 or 1, on assistant messages only")
    if weights[-1] == 0:
        raise RowError("the last answer has weight 0: there is nothing to learn")
    return messages


def _text(key: str, value: Any) -> Any:
    """A message's value; a content given as text parts is their text."""
    parts = value if key == "content" and isinstance(value, list) else []
    return (
        "\n".join(p["text"] for p in parts)
        if parts and all(isinstance(p, dict) and set(p) == {"type", "text"} for p in parts)
        else value
    )


def _compact(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):
        return str(value)


def _created_at(value: Any, path: Path) -> tuple[datetime, bool]:
    """The row's time with a zone (UTC when it names none); the file's own date, flagged, when it is missing."""
    if value is None:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC).replace(microsecond=0), True
    try:
        if isinstance(value, int | float):
            return datetime.fromtimestamp(
                value / 1000 if value > 1e11 else value, UTC
            ), False  # 1e11 s: the year 5138
        moment = datetime.fromisoformat(str(value))
    except (ValueError, OverflowError, OSError):
        raise RowError(f"created_at {str(value)[:40]!r} is not an ISO 8601 time") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)), False


def _feedback(value: Any, mapping: dict[str, Any] | None) -> float | None:
    """1-5 from stars, thumbs, booleans, shares 0-1 or words; None when the row was not rated."""
    if value is None:
        return None
    text = str(value).strip().casefold()
    if mapping:
        scores = {str(k).casefold(): float(v) for k, v in mapping.items()}
        if text in scores:
            return scores[text]
    if text in TEXT_SCORES:
        return float(TEXT_SCORES[text])
    try:
        score = float(text)
    except ValueError:
        raise RowError(
            f"feedback_score {text[:20]!r} is not known; map it in task.yaml under columns.feedback"
        ) from None
    if isinstance(value, float) and 0 <= score < 1:
        score = 1 + 4 * score
    if not 1 <= score <= 5:
        raise RowError(
            f"feedback_score {score:g} is outside 1-5; map it in task.yaml under columns.feedback"
        )
    return score


def read_dataset(run: store.Run) -> FineTuningDataset:
    """The dataset version that 02 published for this run."""
    pointer = run.read("dataset.json")
    folder = store.home() / "datasets" / pointer["version"]
    manifest = store.read_json(
        folder / "manifest.json", f"run 02_curate with run_id={run.id!r} again"
    )
    if manifest["fingerprint"] != pointer["fingerprint"]:
        raise WorkbookError(
            f"{folder}/manifest.json does not belong to {run.path('dataset.json')}; run 02_curate again"
        )
    examples = [
        TrainingExample(**row)
        for part in PARTS
        for row in store.read_jsonl(folder / f"{part}.jsonl")
    ]
    metadata = {
        key: manifest[key] for key in ("version", "task", "created_at", "fingerprint", "params")
    }
    return FineTuningDataset(
        examples=examples, metadata=metadata, splits=Splits(**manifest["splits"])
    )
