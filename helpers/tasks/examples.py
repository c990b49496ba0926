"""From a source file's rows to TrainingExamples; a filter keeps what nobody wants out of memory."""

from __future__ import annotations

import heapq
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
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
    Source,
    SourceReading,
    TrainingExample,
    WorkbookError,
)
from helpers.tasks.csvs import RowError
from helpers.tasks.parts import group_of
from helpers.tasks.reading import (
    FileForm,
    SourceRow,
    batches,
    contents_of,
    digest,
    integer_columns,
    read_rows,
)
from helpers.tasks.rows import (
    SPLITS,
    HowRead,
    as_json,
    cell,
    chat_of,
    created_at,
    feedback_score,
    file_date,
    preference_of,
    spelled_chat,
)
from helpers.tasks.survey import check_columns, reading_of, survey, used_columns
from helpers.tasks.task import Task
from helpers.tasks.tools import check_calls, check_tools

RULES = "tasks-1"
SAMPLE = 1000  # rows kept as evidence of those that a filter drops
KEPT_AS_META = ("model_version", "articles", "conversation_id")
SYSTEM = ("system", "developer")
# why a row is dropped, by its score, its time and whether that time is a guess; None: it stays
RowFilter = Callable[[float | None, datetime, bool], Issue | None]


class LoadedRows(NamedTuple):
    """What a source file held: every row is an example, unreadable, or counted in `dropped`."""

    examples: list[TrainingExample]
    unreadable: list[RejectedExample]
    dropped: Counter[str]  # rows by the code of their issue
    sample: list[tuple[TrainingExample | RejectedExample, Issue]]  # up to SAMPLE of the dropped
    reading: SourceReading | None = None  # how it was read; None: there is no such file
    rated: bool = False  # whether any row of it was rated


class _Sample:
    """The SAMPLE dropped rows of the smallest hash: the same ones on every reading."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._heap: list[tuple[int, int, SourceRow, Issue]] = []  # -hash, line, row, issue

    def offer(self, row: SourceRow, issue: Issue) -> None:
        """Keep the row if it belongs to the sample; only then is a lazy row read."""
        key = -zlib.crc32(f"{self._file}:{row.line}".encode())
        full = len(self._heap) >= SAMPLE
        if full and key <= self._heap[0][0]:
            return
        if callable(row.content):
            row = row._replace(content=row.content())
        if full:
            heapq.heapreplace(self._heap, (key, row.line, row, issue))
        else:
            heapq.heappush(self._heap, (key, row.line, row, issue))

    def rows(self) -> list[tuple[SourceRow, Issue]]:
        """The rows in the order of the file."""
        entries = sorted(self._heap, key=lambda entry: entry[1])
        return [(row, issue) for _, _, row, issue in entries]


def load_examples(
    task: Task,
    source: Source = "human",
    row_filter: RowFilter | None = None,
    make_filter: Callable[[bool], RowFilter] | None = None,
    path: Path | None = None,
) -> LoadedRows:
    """Read human.* or production.* of the task, or the file `path`, one row at a time.

    A broken human row raises WorkbookError with file and line (somebody wrote it and can mend it);
    a broken production row is kept as `unreadable` with its reason, since nobody can mend a log. A
    row that `row_filter` drops is only counted and sampled, so a log may be larger than memory;
    `make_filter` makes one once it is known whether any row is rated. How columns are read is
    judged over the whole file first; WorkbookError where two readings fit.
    """
    path = path or task.data_file(source)
    if path is None:
        if source == "human":
            raise WorkbookError(
                f"{task.folder}: human.jsonl (or .csv, .parquet) is missing; README.md says how a"
                " row looks"
            )
        return LoadedRows([], [], Counter(), [])
    form, how = survey(task, path)
    if make_filter is not None:
        row_filter = make_filter(how.scale.rated > 0)
    read = _Reading(how, form, source, row_filter)
    read.all_rows()
    return read.loaded()


class _Reading:
    """One file on its way to examples."""

    def __init__(
        self, how: HowRead, form: FileForm, source: Source, row_filter: RowFilter | None
    ) -> None:
        self._how = how
        self._form = form
        self._source: Source = source
        self._filter = row_filter
        # asked once: pathlib takes it apart each time, and a log has a million rows
        self._file = how.path.name
        self._date = file_date(how.path)
        self._used = used_columns(how)
        self._groups: Counter[str] = Counter()
        self._splits: dict[str, int] = {}  # value of `split` -> the first line with it
        self._rows = 0
        self._examples: list[TrainingExample] = []
        self._unreadable: list[RejectedExample] = []
        self._dropped: Counter[str] = Counter()
        self._sample = _Sample(self._file)

    def all_rows(self) -> None:
        """Every row is an example, unreadable or dropped."""
        for row, issue in self._filtered():
            self._rows += 1
            if issue is not None:
                self._dropped[issue.code] += 1
                self._sample.offer(row, issue)
                continue
            try:
                self._examples.append(self._example(row))
            except RowError as error:
                if self._source == "human":
                    raise WorkbookError(
                        f"{self._how.path}, line {row.line}: {error}; mend or delete that row"
                    ) from None
                issue = Issue(code="invalid_format", evidence=str(error))
                self._unreadable.append(self._rejected(row, issue, "read"))

    def loaded(self) -> LoadedRows:
        """What all the rows became."""
        sample: list[tuple[TrainingExample | RejectedExample, Issue]] = []
        changes = self._how.changes.copy()
        for row, issue in self._sample.rows():
            try:
                sample.append((self._example(row), issue))
            except RowError:  # dropped before it was read whole
                sample.append((self._rejected(row, issue, "filter"), issue))
        self._how.changes = changes
        check_columns(self._how, self._groups, self._splits, len(self._examples))
        examples = _with_own_context(_with_own_ids(self._examples, self._how), self._how)
        reading = reading_of(self._how, self._form, self._source, self._rows)
        rated = self._how.scale.rated > 0
        return LoadedRows(examples, self._unreadable, self._dropped, sample, reading, rated)

    def _filtered(self) -> Iterator[tuple[SourceRow, Issue | None]]:
        """Every row with the reason to drop it."""
        path = self._how.path
        if path.suffix == ".parquet" and self._filter is not None:
            yield from _filtered_parquet(self._how, self._issue_of)
            return
        for row in read_rows(path, self._form):
            yield row, self._issue_of(row.content)

    def _issue_of(self, content: Any) -> Issue | None:
        if self._filter is None or not isinstance(content, dict):
            return None
        try:
            score = feedback_score(self._how, content)
            return self._filter(score, *created_at(self._how, content, self._date))
        except RowError:  # what cannot be judged is read, and fails there
            return None

    def _example(self, row: SourceRow) -> TrainingExample:
        """One row as a TrainingExample; RowError says what is wrong with it."""
        if isinstance(row.content, RowError):
            raise row.content
        try:
            return self._example_of(row.content, _where(row, self._file))
        except RecursionError:
            raise RowError("nested too deeply") from None

    def _example_of(self, raw: dict[str, Any], where: dict[str, Any]) -> TrainingExample:
        how = self._how
        messages = chat_of(how, raw)
        tools = _tools(cell(how.task, raw, "tools"))
        check_calls(messages, tools or how.task.tools)
        moment, guessed = created_at(how, raw, self._date)
        meta = {**where, "created_at_guessed": guessed}
        for name in KEPT_AS_META:
            value = cell(how.task, raw, name)
            if value is not None:
                meta[name] = as_json(value)
        fields = {name: value for name, value in raw.items() if name not in self._used}
        fields = {name: as_json(value) for name, value in fields.items() if _is_there(value)}
        if fields:
            how.unused.update(fields.keys())
            meta["fields"] = fields
        user_id = cell(how.task, raw, "id")
        if user_id is not None:
            meta["user_id"] = str(user_id)
        user_text = "\n".join(m.content or "" for m in messages if m.role == "user")
        return TrainingExample(
            id=meta.get("user_id") or content_id(messages),
            messages=messages,
            source=self._source,
            quality="verified" if self._source == "human" else "unverified",
            created_at=moment,
            group=group_of(user_text, self._conversation(raw)),
            part=self._part(raw, where["line"]),
            feedback_score=feedback_score(how, raw),
            tools=tools,
            preference=preference_of(how, raw),
            meta=meta,
        )

    def _conversation(self, raw: dict[str, Any]) -> str:
        group = cell(self._how.task, raw, "group")
        if group is not None:
            self._groups[str(group)] += 1
            return str(group)
        conversation = cell(self._how.task, raw, "conversation_id")
        return "" if conversation is None else str(conversation)  # 0 is a conversation

    def _part(self, raw: dict[str, Any], line: int) -> Part | None:
        part = cell(self._how.task, raw, "split")
        if part is None or self._source != "human":
            return None
        self._splits.setdefault(str(part), line)
        return SPLITS.get(str(part).strip().casefold())

    def _rejected(self, row: SourceRow, issue: Issue, stage: str) -> RejectedExample:
        where = _where(row, self._file)
        example = {"id": f"{self._file}:{row.line}", "source": self._source, **where}
        return RejectedExample(example=example, issues=[issue], stage=stage, rule_version=RULES)


def content_id(messages: Sequence[Message]) -> str:
    """An id that says what a chat holds, so that another text never has it."""
    return store.fingerprint([m.model_dump(exclude_none=True) for m in messages])[:16]


def _is_there(value: Any) -> bool:
    return value is not None and value != "" and bool(value == value)


def _tools(value: Any) -> list[dict[str, Any]] | None:
    """The tools of a row; a table's cell holds them as text."""
    tools = spelled_chat(value) if isinstance(value, str) else value
    if value is not None and not (
        isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)
    ):
        raise RowError("`tools` is no list of tools")
    try:
        return check_tools(tools) if tools else None
    except ValueError as error:
        raise RowError(f"tools: {error}") from None


def _with_own_ids(examples: list[TrainingExample], how: HowRead) -> list[TrainingExample]:
    """A user's ids where each names one row, else ids by content; no two rows share one."""
    counts = Counter(example.meta.get("user_id") for example in examples)
    twice = sum(n for user_id, n in counts.items() if user_id is not None and n > 1)
    if twice:
        how.changes["rows whose id other rows have too: an id by content is used"] = twice
    copies: Counter[str] = Counter()
    named = []
    for example in examples:
        user_id = example.meta.get("user_id")
        row_id = example.id
        if user_id is not None and counts[user_id] > 1:
            row_id = content_id(example.messages)
        copies[row_id] += 1
        if copies[row_id] > 1:
            row_id = f"{row_id}-{copies[row_id]}"
        named.append(example.model_copy(update={"id": row_id}))
    return named


def _with_own_context(examples: list[TrainingExample], how: HowRead) -> list[TrainingExample]:
    """Rows without the system message that all of them share: task.yaml's instructions replace it.

    One that differs from row to row is part of the question.
    """
    firsts = {
        example.messages[0].content if example.messages[0].role in SYSTEM else None
        for example in examples
    }
    if len(firsts) != 1 or None in firsts:
        return examples
    change = "one system message in all rows: task.yaml's instructions replace it"
    how.changes[change] = len(examples)
    return [example.model_copy(update={"messages": example.messages[1:]}) for example in examples]


def _where(row: SourceRow, file: str) -> dict[str, Any]:
    return {"file": file, "line": row.line, "sha256": row.sha256}


def _filtered_parquet(
    how: HowRead, judge: Callable[[Any], Issue | None]
) -> Iterator[tuple[SourceRow, Issue | None]]:
    """The rows of a big table: the judged columns first, and whole only the rows that stay.

    The content of a row that is dropped is a function that reads it.
    """
    import pyarrow

    columns = how.task.columns
    names = [str(columns.get(n, n)).split(".")[0] for n in ("feedback_score", "created_at")]
    whole = integer_columns(how.path)
    line = 0
    for batch in batches(how.path):
        there = [name for name in dict.fromkeys(names) if name in batch.schema.names]
        judged = batch.select(there).to_pylist() or [{}] * batch.num_rows
        issues = [judge(row) for row in judged]
        stays = pyarrow.array([issue is None for issue in issues], pyarrow.bool_())
        kept = iter(contents_of(batch.filter(stays), whole))
        for place, issue in enumerate(issues):
            line += 1
            if issue is None:
                content = next(kept)
                yield SourceRow(line, content, digest(content)), None
            else:
                yield SourceRow(line, partial(_row_at, batch, place, whole), ""), issue


def _row_at(batch: Any, place: int, whole: frozenset[str]) -> dict[str, Any]:
    return contents_of(batch.slice(place, 1), whole)[0]


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
    examples = []
    for part in PARTS:
        rows = store.read_jsonl(folder / f"{part}.jsonl")
        examples += [TrainingExample(**row) for row in rows]
    metadata = DatasetMetadata(
        **{name: getattr(manifest, name) for name in DatasetMetadata.model_fields}
    )
    return FineTuningDataset(examples=examples, metadata=metadata, splits=manifest.splits)
