"""The live log as counts per day and version: all that the evidence needs, a year in little room.

A day that is older than LATE_DAYS is counted once and kept (artifacts/monitor/<task>.jsonl); its
file is not read again, and may be deleted. Without that file everything is counted anew.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import operator
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from helpers import evaluate, store
from helpers.monitor.watched import Reading, Told, numbers_of, stars, told_by
from helpers.records import Day, Estimate, LateFeedback, WorkbookError, few_collections
from helpers.tasks import Fields, LogReader, Task

LATE_DAYS = 14  # what is said about an answer later than this does not count
NEARLY = 0.98  # of the ratings
SERVED = ("production", "canary")  # answers that somebody got without asking for that version
NO_LOG = (".md", ".html", ".yaml", ".yml")  # what people lay beside one
DATED = re.compile(r"\d{4}-\d\d-\d\d")
Numbers = dict[str, Counter[float]]  # by quantity: how often each value came
Counts = dict[str, dict[date, Numbers]]  # by version and day


@dataclass
class LiveLog:
    """What was served, by version and day; "" is a version that the log does not name."""

    days: Counts = field(default_factory=dict)
    requests: int = 0
    # what cannot be used: lines nobody can read, rows of a request that was there already, ratings
    # that are none on the log's scale; by day, where no name tells it that of the line before
    faults: dict[str, Counter[date]] = field(default_factory=lambda: defaultdict(Counter))
    simulated: bool = False
    newest: datetime | None = None
    files: list[Path] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)  # files beside them of another form
    by_file: dict[Path, Counts] = field(default_factory=dict)  # what was read, not kept before
    # what was said about requests before their line came, as it does across files and writers
    early: dict[str, list[LateFeedback]] = field(default_factory=lambda: defaultdict(list))
    delays: Counter[int] = field(default_factory=Counter)  # days between an answer and its rating
    settings: str = ""
    reader: LogReader | None = None

    @property
    def delay(self) -> int:
        """Days after which nearly all ratings that come later have come."""
        days = sorted(self.delays.elements())
        return min(LATE_DAYS, days[int(NEARLY * len(days))]) if days else 0

    def of(self, versions: Iterable[str]) -> dict[date, Numbers]:
        """The days of some versions together, in order."""
        merged: dict[date, Numbers] = {}
        for version in versions:
            for day, numbers in self.days.get(version, {}).items():
                _merge(merged.setdefault(day, {}), numbers)
        return dict(sorted(merged.items()))


class Pending(NamedTuple):
    """A request that late feedback may still change."""

    row: Fields
    file: Path
    day: date  # of the file; date.max: it is named by none


def read_log(
    task: Task, live_path: str, reading: Reading, is_judged: Callable[[date], bool]
) -> LiveLog:
    """Count the live log: `live_path`, else artifacts/live/<task>/, else the task's simulation.

    Of files that are named by a day only the judged ones are read, and of those only the ones that
    were not kept. A line that cannot be read is counted; a request that was logged twice counts
    once.
    """
    log = LiveLog(files=live_files(task, live_path), settings=reading.settings)
    judged = [file for file in log.files if is_judged(day_of(file) or date.max)]
    kept = {} if live_path else _kept_counts(task, log.settings, judged)
    pending: dict[str, Pending] = {}
    twins: set[int] = set()
    needed = [file for file in judged if file.stem not in kept]
    for path in _others_beside(_place_of(task, live_path), log.files):
        if path.name.partition(".jsonl")[0] not in kept and is_judged(day_of(path) or date.max):
            log.passed_over.append(path.name)
    log.reader = LogReader(task, needed)
    with few_collections():
        # those without a day first: what they say of requests is there when a day is closed
        for file in sorted(needed, key=lambda file: day_of(file) is not None):
            day = day_of(file)
            if day is not None:
                _count(log, pending, reading, until=day - timedelta(days=LATE_DAYS + 1))
            _read_file(file, log, pending, twins)
        _count(log, pending, reading, until=date.max)
    for counts in (*kept.values(), *log.by_file.values()):
        add(log, counts)
    return log


def _read_file(file: Path, log: LiveLog, pending: dict[str, Pending], twins: set[int]) -> None:
    at = first = day = day_of(file) or date.max
    faults: dict[str, Counter[date]] = defaultdict(Counter)
    unread = log.reader.problems.total()
    with open(file, "rb") as lines:
        for number, line in enumerate(lines):
            entry = log.reader.fields(line)
            if isinstance(entry, dict):
                at = entry["created_at"].date()
                first = min(first, at)
                name = entry.get("request_id") or f"{file.name}:{number}"
                _take(log, pending, twins, Pending(entry, file, day), name)
            elif entry is not None:
                _join(log, pending, entry)
            elif line.strip():
                faults["unreadable_lines"][at] += 1
            if unread != log.reader.problems.total():
                faults["unread_ratings"][at] += log.reader.problems.total() - unread
                unread = log.reader.problems.total()
    for name, counts in faults.items():
        head = counts.pop(date.max, 0)  # before the first line that tells its day
        counts[first] += head
        log.faults[name].update(counts)


def add(log: LiveLog, counts: Counts) -> None:
    """Add the counts of a file."""
    for version, days in counts.items():
        for day, numbers in days.items():
            _merge(log.days.setdefault(version, {}).setdefault(day, {}), numbers)
            log.requests += requests_of(numbers)


def _take(
    log: LiveLog, pending: dict[str, Pending], twins: set[int], entry: Pending, name: str
) -> None:
    """Note a request, once; what nobody got, or somebody tried by hand, says nothing."""
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
    if twin in twins:
        log.faults["logged_twice"][moment.date()] += 1
        return
    twins.add(twin)
    known = pending.get(name)
    if known is not None and known.row["messages"] != messages:  # another request, another answer
        pending[f"{name} of {len(twins)}"] = known
    pending[name] = entry
    for late in log.early.pop(name, ()):
        _join(log, pending, late)


def _join(log: LiveLog, pending: dict[str, Pending], late: LateFeedback) -> None:
    known = pending.get(late.request_id)
    if known is None:  # its day is closed, or its line comes later
        log.early[late.request_id].append(late)
        return
    if late.score is not None and late.at > known.row["created_at"]:  # else nobody knows when
        log.delays[(late.at - known.row["created_at"]).days] += 1
    said = {"feedback_score": late.score, "correction": late.correction}
    changes = {name: value for name, value in said.items() if value is not None}
    pending[late.request_id] = known._replace(row=known.row | changes)


def _count(log: LiveLog, pending: dict[str, Pending], reading: Reading, until: date) -> None:
    """Count the requests of the files up to a day (date.max: of all), and forget their rows.

    Those of files without a day stand before the others, and stay.
    """
    rows = itertools.dropwhile(lambda item: item[1].day > until, pending.items())
    closed = dict(itertools.takewhile(lambda item: item[1].day <= until, rows))
    for file, entries in itertools.groupby(closed.values(), operator.attrgetter("file")):
        told: dict[tuple[str, date], list[Told]] = defaultdict(list)
        new_words: dict[tuple[str, date], list[float]] = defaultdict(list)
        moments = []
        for row, _, _ in entries:
            moments.append(row["created_at"])
            log.simulated = log.simulated or row.get("simulated", False)
            place = (row.get("version", ""), row["created_at"].date())
            its, share = told_by(row, reading)
            told[place].append(its)
            if share is not None:
                new_words[place].append(share)
        log.newest = max(max(moments), log.newest or moments[0])
        for (version, day), each in told.items():
            numbers = _sums(each, new_words.get((version, day), ()))
            days = log.by_file.setdefault(file, {}).setdefault(version, {})
            _merge(days.setdefault(day, {}), numbers)
    for request_id in closed:
        del pending[request_id]


def _sums(told: Sequence[Told], new_words: Sequence[float]) -> Numbers:
    """How often each value came; what many requests tell alike is looked at once."""
    numbers: Numbers = defaultdict(Counter)
    for one, n in Counter(told).items():
        for name, value in numbers_of(one).items():
            numbers[name][value] += n
    if new_words:
        numbers["new_words"].update(new_words)
    return numbers


def _merge(into: Numbers, numbers: Numbers) -> None:
    for name, counts in numbers.items():
        into.setdefault(name, Counter()).update(counts)


def requests_of(numbers: Numbers) -> int:
    """How many requests a day had: each tells whether it failed."""
    return sum(numbers.get("error_rate", Counter()).values())


def live_files(task: Task, live_path: str = "") -> list[Path]:
    """The files of the live log; WorkbookError for a `live_path` that is not there."""
    place = _place_of(task, live_path)
    if live_path and not place.exists():
        raise WorkbookError(
            f"live_path: {place} does not exist; give a .jsonl file or a folder of them"
        )
    if place.is_file():
        return [place]
    for parquet in place.rglob("*.parquet"):  # a part of the log that would be passed over
        raise WorkbookError(
            f"{parquet}: 06 reads a live log as JSON Lines, a file a day, and no Parquet; write"
            " each day as one: pandas.read_parquet(FILE).to_json('YYYY-MM-DD.jsonl',"
            " orient='records', lines=True, date_format='iso', date_unit='us')"
        )
    logged = sorted(place.glob("*.jsonl"))
    return logged if logged or live_path else sorted(task.folder.glob("live.jsonl"))


def _place_of(task: Task, live_path: str) -> Path:
    if live_path:
        return store.PROJECT / Path(live_path).expanduser()  # an absolute path stays itself
    return store.home() / "live" / task.registry_name


def _others_beside(place: Path, files: Sequence[Path]) -> list[Path]:
    """What lies in the log's folder and is no file of it: 2026-01-31.jsonl.gz, app.log.1.

    (Hidden files, and what lies in hidden folders, are nobody's log.)
    """
    known = set(files)
    paths = [path for path in sorted(place.rglob("*")) if path not in known and path.is_file()]
    others = [path for path in paths if path.suffix not in NO_LOG]
    return [path for path in others if "/." not in f"/{path.relative_to(place).as_posix()}"]


def day_of(file: Path) -> date | None:
    """The day that a file is named by, whatever stands behind it; None: by none."""
    day = file.name.partition(".")[0]
    with contextlib.suppress(ValueError):
        return date.fromisoformat(day) if DATED.fullmatch(day) else None
    return None


def kept_path(task: Task, ending: str = "jsonl") -> Path:
    """A file about a task that nights add to."""
    return store.home() / "monitor" / f"{task.registry_name.replace('/', '.')}.{ending}"


def append(path: Path, values: Sequence[Any]) -> None:
    """Add a line each; one that a kill tears is ended by the next, and is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write("".join(f"\n{store.dumps(value)}\n" for value in values))


def lines_of(path: Path) -> list[str]:
    """What `append` wrote, empty and torn lines too."""
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def keep(task: Task, log: LiveLog) -> None:
    """Keep the counts of files whose days are over, so that nobody reads them again."""
    last = store.now().date() - timedelta(days=LATE_DAYS)
    lines = []
    for file, counts in log.by_file.items():
        day = day_of(file)
        if day is not None and day < last and not log.simulated:
            spelt = {
                version: {
                    str(at): {name: list(c.items()) for name, c in numbers.items()}
                    for at, numbers in days.items()
                }
                for version, days in counts.items()
            }
            lines.append({"file": file.stem, "settings": log.settings, "counts": spelt})
    if lines:
        append(kept_path(task), lines)


def _kept_counts(task: Task, settings: str, files: Sequence[Path]) -> dict[str, Counts]:
    """By file: what was counted by the same settings, or is not to be read again."""
    there = {file.stem for file in files}
    kept: dict[str, Counts] = {}
    for line in lines_of(kept_path(task)):
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # empty, or torn
        if entry["settings"] == settings or entry["file"] not in there:
            kept[entry["file"]] = {
                version: {
                    date.fromisoformat(at): {name: Counter(dict(c)) for name, c in numbers.items()}
                    for at, numbers in days.items()
                }
                for version, days in entry["counts"].items()
            }
    return kept


def daily(log: LiveLog) -> list[Day]:
    """Format and feedback per day with intervals; a day without ratings has n = 0 there."""
    days = []
    for day, numbers in log.of(log.days).items():
        compliance = estimate(numbers.get("format_compliance", Counter()))
        feedback = estimate(numbers.get("feedback_mean", Counter()), stars)
        n = requests_of(numbers)
        days.append(Day(day=str(day), n=n, format_compliance=compliance, feedback=feedback))
    return days


def estimate(counts: Counter[float], shown: Callable[[float], float] = float) -> Estimate:
    """The mean of what was counted, as people read it, with its interval."""
    values = list(counts.elements())
    judge = evaluate.proportion if set(counts) <= {0.0, 1.0} else evaluate.mean
    found = judge(values)
    if not values:
        return found.model_copy(update={"low": 0.0, "high": 0.0})
    low, high = max(0.0, found.low), min(1.0, found.high)
    return Estimate(value=shown(found.value), low=shown(low), high=shown(high), n=found.n)
