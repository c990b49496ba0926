"""From a source file's rows to TrainingExamples; a filter keeps what nobody wants out of memory."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from helpers import store
from helpers.records import (
    PARTS,
    DatasetMetadata,
    DatasetPointer,
    FineTuningDataset,
    Issue,
    Manifest,
    Message,
    Part,
    RejectedExample,
    Rows,
    Source,
    SourceReading,
    TrainingExample,
    WorkbookError,
    beside,
)
from helpers.tasks.conventions import NOTHING, is_nothing, moment_of
from helpers.tasks.forms import HowRead, chat_of, preference_of
from helpers.tasks.parts import group_of, normalise, part_of_time
from helpers.tasks.reading import SourceRow, read_rows
from helpers.tasks.survey import SPLITS, check_columns, reading_of, survey
from helpers.tasks.task import Json, Task, check_calls, check_tools
from helpers.tasks.textfiles import Row, RowError, TwoReadings
from helpers.tasks.turns import SYSTEM
from helpers.tasks.values import NUMBER, as_json, cell, decimal_mark, pseudonymous, spelled

SAMPLE = 1000  # rows kept as evidence of those that a filter drops
# UTF-8 taken for Windows-1252; what Portuguese capitals stand before (« » … and spaces) is none
_BROKEN = re.compile("\ufffd|[ÃÂ][\x80-\x9f\xa1-\xaa\xac-\xba\xbc-\xbf\u0152-\u02dc]|â€")
# ids that other files spell otherwise: an integer among empty cells, as pandas writes it; a UUID
_OTHERWISE = re.compile(r"(-?\d+)\.0+|\{?([\da-fA-F]{8}(?:-[\da-fA-F]{4}){3}-[\da-fA-F]{12})\}?")
ONE_SYSTEM = "one system message in all rows: task.yaml's instructions replace it"
_TOTALS = re.compile("totals?|sum|gesamt|summe|insgesamt|somme|suma|totale|итого|всего|合計|总计")
# why a row is dropped, by its score, its time and whether that time is a guess; None: it stays
RowFilter = Callable[[float | None, datetime, bool], Issue | None]


class LoadedRows(NamedTuple):
    """What a source file held: every row is an example, unreadable, or counted in `dropped`."""

    examples: Rows[TrainingExample]
    unreadable: list[RejectedExample]
    dropped: Counter[str]  # rows by the code of their issue
    sample: list[tuple[TrainingExample | RejectedExample, Issue]]  # up to SAMPLE of the dropped
    reading: SourceReading | None = None  # how it was read; None: there is no such file
    rated: bool = False  # whether any row of it was rated


def load_examples(
    task: Task,
    source: Source = "human",
    make_filter: Callable[[bool], RowFilter] | None = None,
    path: Path | None = None,
) -> LoadedRows:
    """Read human.* or production.* of the task, or the file `path`, one row at a time.

    A broken human row raises WorkbookError with file and line (somebody wrote it and can mend it);
    a broken production row is kept as `unreadable` with its reason, since nobody can mend a log. A
    row that a filter drops is only counted and sampled, so a log may be larger than memory;
    `make_filter` makes the filter once it is known whether any row is rated. How columns are read
    is judged over the whole file first; WorkbookError where two readings fit.
    """
    path = path or task.data_file(source)
    if path is None:
        if source == "human":
            raise WorkbookError(
                f"{task.folder}: human.jsonl (or .csv, .parquet) is missing; README.md says how a"
                " row looks"
            )
        return LoadedRows(Rows(), [], Counter(), [])
    form, how = survey(task, path, source)
    row_filter = make_filter(how.scale.rated > 0) if make_filter else None
    examples = Rows(store.nameless_file)
    counts = Counter()  # of ids
    unreadable = []
    dropped = Counter()
    sample = []
    draw = random.Random(path.name)  # the same rows on every reading
    changes, groups = how.changes, how.groups  # of the file; a row's own count once it is read
    for row in read_rows(path, form):
        issue = _issue_of(how, row.content, row_filter)
        if issue is not None:
            dropped[issue.code] += 1
            place = draw.randrange(dropped.total())  # so that each has the same chance
            if len(sample) < SAMPLE:
                sample.append((row, issue))
            elif place < SAMPLE:
                sample[place] = (row, issue)
            continue
        how.changes, how.groups = Counter(), Counter()
        example = _read(how, row)
        if isinstance(example, RejectedExample):
            unreadable.append(example)
            continue
        examples.append(example)
        counts[example.id] += 1
        changes.update(how.changes)
        groups.update(how.groups)
        how.unused.update([*example.meta.get("fields", ())])
    how.changes, how.groups = changes, groups
    check_columns(how, len(examples))
    _check_numbers(how, examples)
    examples = _with_own_context(_with_own_ids(examples, counts, how), how)
    reading = reading_of(how, form, len(examples) + len(unreadable) + dropped.total())
    sample.sort(key=lambda entry: entry[0].line)
    # last, so that nothing of it counts
    sampled = [(_read(how, row, issue), issue) for row, issue in sample]
    return LoadedRows(examples, unreadable, dropped, sampled, reading, how.scale.rated > 0)


def _check_numbers(how: HowRead, examples: Sequence[TrainingExample]) -> None:
    """WorkbookError where task.yaml has to say how the numbers are written that are scored."""
    task = how.task
    is_numeric = task.accuracy_from == "scorer" and task.scorer.startswith("numeric")
    if not is_numeric or task.columns.get("decimal"):
        return
    numbers = (last for e in examples for last in NUMBER.findall(e.answer)[-1:])
    if decimal_mark(numbers, False, "answer", str(how.path)) == ",":
        raise TwoReadings(
            f"{how.path}: the answers' numbers have decimal commas, as models' answers may not",
            "columns.decimal",
            ('","', '"."'),
        )


def _read(
    how: HowRead, row: SourceRow, issue: Issue | None = None
) -> TrainingExample | RejectedExample:
    """A row as an example, or what is kept of one that cannot become one; `issue` dropped it."""
    try:
        return example_of(how, row)
    except (RowError, RecursionError) as error:
        reason = str(error) if isinstance(error, RowError) else "nested too deeply"
    if how.source == "human":
        raise WorkbookError(f"{how.path}, line {row.line}: {reason}; mend or delete that row")
    return RejectedExample(
        example={"id": f"{how.name}:{row.line}", "source": how.source, **_where(how, row)},
        issues=[issue or Issue(code="invalid_format", evidence=reason)],
        stage="filter" if issue else "read",
        rule_version="tasks-1",
    )


def _issue_of(how: HowRead, content: Any, row_filter: RowFilter | None) -> Issue | None:
    """Why the filter drops a row."""
    if row_filter is None or not isinstance(content, dict):
        return None
    with suppress(RowError):  # what cannot be judged is read, and fails there
        return row_filter(feedback_score(how, content), *created_at(how, content))
    return None


def example_of(how: HowRead, row: SourceRow) -> TrainingExample:
    """One row as a TrainingExample; RowError says what is wrong with it.

    It depends on the row and on `how` alone; what it reinterprets is counted there.
    """
    raw = row.content
    if isinstance(raw, RowError):
        raise raw
    messages, tools = _chat_and_tools(how, raw)
    check_calls(messages, tools or how.task.tools)
    moment, guessed = created_at(how, raw)
    said = [_meta_of(how, raw), {"conversation_id": _conversation(how, raw)}]
    known, talk = pseudonymous(said, how.task.allow.values())
    meta = _where(how, row) | {"created_at_guessed": guessed} | known
    if guessed:
        how.changes["no created_at: the file's date stands for it"] += 1
    if [known, talk] != said:
        how.changes["personal data or keys in ids, or in unused columns: signs stand for them"] += 1
    user_text = "\n".join(m.content or "" for m in messages if m.role == "user")
    _note_oddities(how, user_text, moment)
    is_human = how.source == "human"
    return TrainingExample(
        id=meta.get("user_id") or content_id(messages),
        messages=messages,
        source=how.source,
        quality="verified" if is_human else "unverified",
        created_at=moment,
        group=group_of(user_text, talk["conversation_id"]),
        part=_part(how, raw, row.line, None if guessed else moment) if is_human else None,
        feedback_score=feedback_score(how, raw),
        tools=tools,
        preference=preference_of(how, raw),
        meta=meta,
    )


def _chat_and_tools(how: HowRead, raw: Row) -> tuple[list[Message], list[Json] | None]:
    """The chat of a row, and the tools that a column, or a request in a cell, offers in it."""
    messages = chat_of(how, raw)
    offers = [message.tools for message in messages if message.tools]
    if not offers:
        return messages, _tools(cell(how.task, raw, "tools"))
    tools = _tools(cell(how.task, raw, "tools") or offers[0])
    return [message.model_copy(update={"tools": None}) for message in messages], tools


def _note_oddities(how: HowRead, user_text: str, moment: datetime) -> None:
    """Count what a row can be read with, but hardly was meant as."""
    if _BROKEN.search(user_text):
        how.changes["letters such as Ã¶ or \ufffd: read in a wrong encoding before"] += 1
    if _TOTALS.fullmatch(normalise(user_text).rstrip(":")):
        how.changes["asks only `total`: the line below a table"] += 1
    if not 2000 <= moment.year <= max(how.date, datetime.now(UTC)).year + 1:
        how.changes["created_at lies before 2000 or in the future"] += 1


def created_at(how: HowRead, raw: Row) -> tuple[datetime, bool]:
    """The row's time with a zone (UTC when it names none), and whether it is the file's."""
    value = cell(how.task, raw, "created_at")
    if is_nothing(value):
        return how.date, True
    try:
        return moment_of(value, how.day_order), False
    except (ValueError, OverflowError):
        raise RowError(
            f"{how.task.columns.get('created_at', 'created_at')} is no time:"
            f" {store.outline(value)}; where it is an ordinary column, and not the time of a row,"
            " write `columns: {created_at: null}` in task.yaml"
        ) from None


def feedback_score(how: HowRead, raw: Row) -> float | None:
    """1-5 by the scale of the whole column; None when the row was not rated."""
    value = cell(how.task, raw, "feedback_score")
    try:
        return None if value is None else how.scale.score(value)
    except (ValueError, TypeError):
        raise RowError(
            f"feedback_score is not known ({store.outline(value)}), the column reads as"
            f" {how.scale.name}; map it in task.yaml under columns.feedback"
        ) from None


def _meta_of(how: HowRead, raw: Row) -> Json:
    """What is kept beside the chat: the user's id, known columns, and those that nothing reads."""
    names = ("model_version", "articles", "conversation_id")
    meta = {name: as_json(cell(how.task, raw, name)) for name in names}
    user_id = cell(how.task, raw, "id")
    meta["user_id"] = None if user_id is None else str(as_json(user_id))
    unused = {name: as_json(raw[name]) for name in raw if name not in how.used}
    meta["fields"] = {n: value for n, value in unused.items() if value not in (None, "")} or None
    return {name: value for name, value in meta.items() if value is not None}


def _conversation(how: HowRead, raw: Row) -> str:
    group = _key_of(cell(how.task, raw, "group"), ("",))  # NA may be a region
    if group:
        how.groups[group] += 1
    return group or _key_of(cell(how.task, raw, "conversation_id"), NOTHING)  # 0 is one


def _key_of(value: Any, nothing: Collection[str]) -> str:
    """An id as it is in every file: 3.0 is 3, a UUID has no capitals, and `nothing` is none."""
    text = str(value).strip()
    if value is None or text.casefold() in nothing:
        return ""
    match = _OTHERWISE.fullmatch(text)
    return (match[1] or match[2]).lower() if match else str(value)


def _part(how: HowRead, raw: Row, line: int, moment: datetime | None) -> Part | None:
    """The part that the row says, or its time where task.yaml divides by it; None: by its group."""
    split = cell(how.task, raw, "split")
    if not is_nothing(split):
        how.splits.setdefault(str(split), line)
        return SPLITS.get(str(split).strip().casefold())
    starts = how.task.parts_by_time
    if starts and moment is None:
        raise RowError("created_at is missing, and task.yaml divides the rows by time")
    return part_of_time(moment, starts) if starts else None


def _where(how: HowRead, row: SourceRow) -> Json:
    return {"file": how.name, "line": row.line, "sha256": row.sha256}


def content_id(messages: Sequence[Message]) -> str:
    """An id that says what a chat holds, so that another text never has it."""
    return store.fingerprint([m.model_dump(exclude_none=True) for m in messages])[:16]


def _tools(value: Any) -> list[Json] | None:
    """The tools of a row; a table's cell holds them as text."""
    tools = spelled(value) if isinstance(value, str) else value
    if value is None:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise RowError(
            "`tools` is no list of tools; an ordinary column of that name is none of ours with"
            " `columns: {tools: null}` in task.yaml"
        )
    try:
        return check_tools(tools) or None
    except ValueError as error:
        raise RowError(f"tools: {error}") from None


def _with_own_ids(
    examples: Rows[TrainingExample], counts: Counter[str], how: HowRead
) -> Rows[TrainingExample]:
    """A user's ids where each names one row, else ids by content; no two rows share one."""
    merged = sum(n for n in counts.values() if n > 1)
    if not merged:
        return examples
    copies = Counter()
    named = beside(examples)
    for example in examples:
        row_id = example.id if counts[example.id] == 1 else content_id(example.messages)
        copies[row_id] += 1
        if copies[row_id] > 1:
            row_id = f"{row_id}-{copies[row_id]}"
        named.append(example.model_copy(update={"id": row_id}))
    if any("user_id" in example.meta for example in examples):
        how.changes["rows whose id other rows have too: an id by content is used"] = merged
    return named


def _with_own_context(examples: Rows[TrainingExample], how: HowRead) -> Rows[TrainingExample]:
    """Rows without the system message that all of them share: task.yaml's instructions replace it.

    One that differs from row to row is part of the question.
    """
    firsts = (example.messages[0] for example in examples)
    systems = (first.content if first.role in SYSTEM else None for first in firsts)
    shared = next(systems, None)
    if shared is None or any(system != shared for system in systems):
        return examples
    how.changes[ONE_SYSTEM] = len(examples)
    without = beside(examples)
    for example in examples:
        without.append(example.model_copy(update={"messages": example.messages[1:]}))
    return without


def read_dataset(run: store.Run) -> FineTuningDataset:
    """The dataset version that 02 published for this run."""
    pointer = run.load(DatasetPointer)
    folder = store.home() / "datasets" / pointer.version
    path = folder / Manifest.FILE
    raw = store.read_json(path, f"run 02_curate with run_id={run.id!r} again")
    manifest = Manifest.parse(raw, str(path))
    if manifest.fingerprint != pointer.fingerprint:
        raise WorkbookError(
            f"{path} does not belong to {run.path(DatasetPointer.FILE)}; run 02_curate again"
        )
    examples = [
        TrainingExample(**row)
        for part in PARTS
        for row in store.read_jsonl(folder / f"{part}.jsonl")
    ]
    return FineTuningDataset(
        examples=examples,
        metadata=manifest.model_dump(include=set(DatasetMetadata.model_fields)),
        splits=manifest.splits,
    )
