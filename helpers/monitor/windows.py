"""The live log as counts per day and version: all that the evidence needs, a year in little room.

A day that is older than LATE_DAYS is counted once and kept (artifacts/monitor/<task>.jsonl); its
file is not read again, and may be deleted. Without that file everything is counted anew.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Annotated, NamedTuple, TypeVar

from pydantic import BeforeValidator, PlainSerializer

from helpers import evaluate, store
from helpers.monitor.watched import Reading, numbers_of, stars, told_by
from helpers.records import Day, Estimate, LateFeedback, Record, WorkbookError, few_collections
from helpers.tasks import Fields, LogReader, Task

LATE_DAYS = 14  # what is said about an answer later than this does not count
NEARLY = 0.98  # of the ratings
SERVED = ("production", "canary")  # answers that somebody got without asking for that version
NO_LOG = (".md", ".html", ".yaml", ".yml")  # what people lay beside one
DATED = re.compile(r"\d{4}-\d\d-\d\d")
R = TypeVar("R", bound=Record)
# how often each value came; JSON has no numbers as keys: there it is a list of pairs
Tally = Annotated[Counter[float], BeforeValidator(dict), PlainSerializer(lambda c: [*c.items()])]
Numbers = dict[str, Tally]  # by quantity
Days = dict[date, Numbers]
Counts = dict[str, Days]  # by version


def _numbers() -> Numbers:
    return defaultdict(Counter)


def _counts() -> Counts:
    return defaultdict(lambda: defaultdict(_numbers))


class Kept(Record):
    """A line of artifacts/monitor/<task>.jsonl: what was counted in a file whose days are over."""

    file: str  # its name without the ending
    settings: str  # of the reading that counted it
    counts: Counts


class Pending(NamedTuple):
    """A request that late feedback may still change."""

    row: Fields
    file: Path
    day: date  # of the file; date.max: it is named by none


@dataclass
class LiveLog:
    """What was served, by version and day; "" is a version that the log does not name."""

    days: Counts = field(default_factory=_counts)
    requests: int = 0
    # what cannot be used: lines nobody can read, rows of a request that was there already, ratings
    # that are none on the log's scale; by day, where no name tells it that of the line before
    faults: dict[str, Counter[date]] = field(default_factory=lambda: defaultdict(Counter))
    simulated: bool = False
    newest: datetime | None = None
    files: list[Path] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)  # files beside them of another form
    # what was read, and not kept before
    by_file: dict[Path, Counts] = field(default_factory=lambda: defaultdict(_counts))
    delays: Counter[int] = field(default_factory=Counter)  # days between an answer and its rating
    reading: Reading | None = None
    reader: LogReader | None = None
    pending: dict[str, Pending] = field(default_factory=dict)
    twins: set[int] = field(default_factory=set)  # what tells two lines of one request
    # what was said about requests before their line came, as it does across files and writers
    early: dict[str, list[LateFeedback]] = field(default_factory=dict)

    @property
    def delay(self) -> int:
        """Days after which nearly all ratings that come later have come."""
        days = sorted(self.delays.elements())
        return min(LATE_DAYS, days[int(NEARLY * len(days))]) if days else 0

    def of(self, versions: Iterable[str], since: date = date.min) -> Days:
        """The days of some versions together, in order."""
        merged = defaultdict(_numbers)
        for version in versions:
            for day, numbers in self.days.get(version, {}).items():
                if day >= since:
                    _merge(merged[day], numbers)
        return dict(sorted(merged.items()))


def read_log(
    task: Task, live_path: str, reading: Reading, is_judged: Callable[[date | None], bool]
) -> LiveLog:
    """Count the live log: `live_path`, else artifacts/live/<task>/, else the task's simulation.

    Of files that are named by a day only the judged ones are read, and of those only the ones that
    were not kept. A line that cannot be read is counted; a request that was logged twice counts
    once.
    """
    log = LiveLog(files=live_files(task, live_path), reading=reading)
    judged = [file for file in log.files if is_judged(day_of(file))]
    kept = {} if live_path else _kept_counts(task, reading.settings, judged)
    needed = [file for file in judged if file.stem not in kept]
    known = set(log.files)
    for path in _files_in(_place_of(task, live_path)):  # 2026-01-31.jsonl.gz, app.log.1
        is_known = path in known or path.name.partition(".jsonl")[0] in kept
        if not is_known and path.suffix not in NO_LOG and is_judged(day_of(path)):
            log.passed_over.append(path.name)
    log.reader = LogReader(task, needed)
    with few_collections():
        # those without a day first: what they say of requests is there when a day is closed
        for file in sorted(needed, key=lambda file: day_of(file) is not None):
            _read_file(log, file)
        _count(log, until=date.max)
    for counts in (*kept.values(), *log.by_file.values()):
        add(log, counts)
    return log


def _read_file(log: LiveLog, file: Path) -> None:
    at = first = day = day_of(file) or date.max
    if day < date.max:  # what is said of the days long before it counts no more
        _count(log, until=day - timedelta(days=LATE_DAYS + 1))
    faults = defaultdict(Counter)
    unread = log.reader.problems.total()
    with open(file, "rb") as lines:
        for number, line in enumerate(lines):
            entry = log.reader.fields(line)
            if isinstance(entry, dict):
                at = entry["created_at"].date()
                first = min(first, at)
                take(log, Pending(entry, file, day), f"{file.name}:{number}")
            elif entry is not None:
                join(log, entry)
            elif line.strip():
                faults["unreadable_lines"][at] += 1
            problems = log.reader.problems.total()
            if problems > unread:
                faults["unread_ratings"][at] += problems - unread
                unread = problems
    for name, counts in faults.items():
        head = counts.pop(date.max, 0)  # before the first line that tells its day
        counts[first] += head
        log.faults[name].update(counts)


def add(log: LiveLog, counts: Counts) -> None:
    """Add the counts of a file."""
    for version, days in counts.items():
        for day, numbers in days.items():
            _merge(log.days[version][day], numbers)
            log.requests += requests_of(numbers)


def take(log: LiveLog, entry: Pending, name: str) -> None:
    """Note a request, once, under its id, else `name`.

    What nobody got, or somebody tried by hand, says nothing.
    """
    row = entry.row
    if row.get("arm", "production") not in SERVED:
        return
    messages = row["messages"]
    asked = messages[-1].get("content") if messages else ""
    moment = row["created_at"]
    told = (moment, row.get("answer", ""), str(asked))
    if not moment.microsecond:  # a clock of seconds, or of days: two requests may be alike
        told += (row.get("conversation_id") or row.get("latency_ms"),)
    twin = hash(told)
    if twin in log.twins:
        log.faults["logged_twice"][moment.date()] += 1
        return
    log.twins.add(twin)
    name = row.get("request_id") or name
    known = log.pending.get(name)
    if known is not None and known.row["messages"] != messages:  # another request, another answer
        log.pending[f"{name} of {len(log.twins)}"] = known
    log.pending[name] = entry
    for late in log.early.pop(name, ()):
        join(log, late)


def join(log: LiveLog, late: LateFeedback) -> None:
    """Add what was said about a request that is here, or will be."""
    known = log.pending.get(late.request_id)
    if known is None:  # its day is closed, or its line comes later
        log.early.setdefault(late.request_id, []).append(late)
        return
    waited = late.at - known.row["created_at"]
    if late.score is not None and waited > timedelta():  # else nobody knows when
        log.delays[waited.days] += 1
    row = dict(known.row)
    if late.score is not None:
        row["feedback_score"] = late.score
    if late.correction is not None:
        row["correction"] = late.correction
    log.pending[late.request_id] = known._replace(row=row)


def _count(log: LiveLog, until: date) -> None:
    """Count the requests of the files up to a day (date.max: of all), and forget their rows.

    Those of files without a day stand before the others, and stay.
    """
    rows = itertools.dropwhile(lambda item: item[1].day > until, log.pending.items())
    closed = dict(itertools.takewhile(lambda item: item[1].day <= until, rows))
    told = defaultdict(Counter)  # by file, version and day: most requests tell what others told
    for name, (row, file, _) in closed.items():
        moment = row["created_at"]
        log.newest = max(moment, log.newest or moment)
        log.simulated = log.simulated or row.get("simulated", False)
        version = row.get("version", "")
        day = moment.date()
        its, share = told_by(row, log.reading)
        told[file, version, day][its] += 1
        if share is not None:
            log.by_file[file][version][day]["new_words"][share] += 1
        del log.pending[name]
    for (file, version, day), requests in told.items():
        numbers = log.by_file[file][version][day]
        for its, n in requests.items():
            for name, value in numbers_of(its).items():
                numbers[name][value] += n


def _merge(into: Numbers, numbers: Numbers) -> None:
    for name, counts in numbers.items():
        into[name].update(counts)


def requests_of(numbers: Numbers) -> int:
    """How many requests a day had: each tells whether it failed."""
    return sum(numbers.get("error_rate", {}).values())


def live_files(task: Task, live_path: str = "") -> list[Path]:
    """The files of the live log; WorkbookError for a `live_path` that is not there."""
    place = _place_of(task, live_path)
    if live_path and not place.exists():
        raise WorkbookError(
            f"live_path: {place} does not exist; give a .jsonl file or a folder of them"
        )
    if place.is_file():
        return [place]
    found = _files_in(place)
    parquet = [path for path in found if path.suffix == ".parquet"]
    if parquet:  # a part of the log that would be passed over
        raise WorkbookError(
            f"{parquet[0]}: 06 reads a live log as JSON Lines, a file a day, and no Parquet; write"
            " each day as one: pandas.read_parquet(FILE).to_json('YYYY-MM-DD.jsonl',"
            " orient='records', lines=True, date_format='iso', date_unit='us')"
        )
    logged = [path for path in found if path.parent == place and path.suffix == ".jsonl"]
    return logged if logged or live_path else sorted(task.folder.glob("live.jsonl"))


def _place_of(task: Task, live_path: str) -> Path:
    if live_path:
        return store.PROJECT / Path(live_path).expanduser()  # an absolute path stays itself
    return store.home() / "live" / task.registry_name


def _files_in(place: Path) -> list[Path]:
    """The files in a folder and below; what is hidden, or in a hidden folder, is nobody's log."""
    paths = sorted(path for path in place.rglob("*") if path.is_file())
    return [path for path in paths if "/." not in f"/{path.relative_to(place).as_posix()}"]


def day_of(file: Path) -> date | None:
    """The day that a file is named by, whatever stands behind it; None: by none."""
    day = file.name.partition(".")[0]
    with contextlib.suppress(ValueError):
        return date.fromisoformat(day) if DATED.fullmatch(day) else None
    return None


def kept_path(task: Task, ending: str = "jsonl") -> Path:
    """A file about a task that nights add to."""
    return store.home() / "monitor" / f"{task.registry_name.replace('/', '.')}.{ending}"


def append(path: Path, records: Sequence[Record]) -> None:
    """Add a line each; one that a kill tears is ended by the next, and is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write("".join(f"\n{store.dumps(record)}\n" for record in records))


def appended(path: Path, kind: type[R]) -> list[R]:
    """What `append` wrote; empty and torn lines are none."""
    records = []
    for line in path.read_bytes().split(b"\n") if path.exists() else ():
        with contextlib.suppress(ValueError):
            records.append(kind.model_validate_json(line))
    return records


def keep(task: Task, log: LiveLog) -> None:
    """Keep the counts of files whose days are over, so that nobody reads them again."""
    if log.simulated:
        return
    last = store.now().date() - timedelta(days=LATE_DAYS)
    over = []
    for file, counts in log.by_file.items():
        if (day_of(file) or last) < last:
            over.append(Kept(file=file.stem, settings=log.reading.settings, counts=counts))
    if over:
        append(kept_path(task), over)


def _kept_counts(task: Task, settings: str, files: Sequence[Path]) -> dict[str, Counts]:
    """By file: what was counted by the same settings, or is not to be read again."""
    there = {file.stem for file in files}
    kept = {}
    for entry in appended(kept_path(task), Kept):
        if entry.settings == settings or entry.file not in there:
            kept[entry.file] = entry.counts
    return kept


def daily(log: LiveLog) -> list[Day]:
    """Format and feedback per day with intervals; a day without ratings has n = 0 there."""
    days = []
    for day, numbers in log.of(log.days).items():
        compliance = estimate(numbers["format_compliance"])
        feedback = estimate(numbers["feedback_mean"], stars)
        n = requests_of(numbers)
        days.append(Day(day=str(day), n=n, format_compliance=compliance, feedback=feedback))
    return days


def estimate(counts: Tally, shown: Callable[[float], float] = float) -> Estimate:
    """The mean of what was counted, as people read it, with its interval."""
    if not counts:
        return evaluate.mean(())
    judge = evaluate.proportion if counts.keys() <= {0.0, 1.0} else evaluate.mean
    found = judge(list(counts.elements()))
    low = shown(max(0.0, found.low))
    high = shown(min(1.0, found.high))
    return Estimate(value=shown(found.value), low=low, high=high, n=found.n)
