"""What stands behind a change: faults of the log itself, one slice, new topics, broken formats.

A cause is a finding: `fail` means that it is there, its evidence names rows, and its remedy says
what to do. A fault of the log, or of how people rate, is never a reason to train.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import date, timedelta

from helpers import curate, evaluate
from helpers.monitor.checks import FEW, WATCHED_BY_NAME, Served
from helpers.monitor.evidence import REFERENCE_DAYS, likeliest_start
from helpers.monitor.service import Service
from helpers.monitor.watched import SLICE, Reading, question_of, words_of
from helpers.monitor.windows import SERVED, LiveLog, add, day_of, estimate, requests_of
from helpers.records import Finding, LateFeedback, LiveRow, with_feedback
from helpers.tasks import Task, read_log

FAULTY = 0.1  # of the rows, or ratings, are not what they should be: more is a fault of the log
STRANGE = 0.5  # of the requests since the promotion name other versions
MIRRORED = 0.15  # of the ratings differ at most between now and the reference, seen in a mirror
MANY = 0.5  # p of a volume: above it there are too many requests, which no missing rows explain
MOST_SHOWN = 5
EXCERPT = 90  # characters
FAULTS: dict[str, tuple[str, ...]] = {  # of the log, and the checks that each explains
    "logged_twice": (),
    "unreadable_lines": ("volume",),
    "passed_over": ("volume",),
    "wrong_clock": ("volume",),
    "rating_scale": ("feedback_mean",),
    "unread_ratings": ("feedback_mean", "feedback_rate"),
    "unknown_version": ("volume",),
}
LINES = {  # what is wrong with so many of them, and what to do
    "logged_twice": (
        "rows repeat another one's moment, question and answer; each counts once",
        "find out which two writers log the same requests",
    ),
    "unreadable_lines": (
        "lines of the log are no requests that can be read; they count nowhere",
        "`workbook logs check FILE` says of each line why; mend what writes them",
    ),
    "unread_ratings": (
        "ratings are none on the scale of the others",
        "say in task.yaml (columns: feedback) what the ratings of this log mean",
    ),
    "wrong_clock": (
        "requests say that they came before their version was made (or registered here), or will"
        " come; they count nowhere",
        "set the clock, or the time zone, of what writes the log (created_at without one is UTC)",
    ),
}


def find_causes(
    log: LiveLog,
    service: Service,
    served: Served,
    checks: Sequence[Finding],
    rows: Sequence[LiveRow],
    reading: Reading,
) -> list[Finding]:
    """Every cause that is there; `rows` are those of the window."""
    causes = [
        *_faulty_lines(log, service, served),
        _other_versions(log, service, served),
        _rating_scale(served, checks),
        _one_slice(checks),
    ]
    failed = {check.name.partition(SLICE)[0] for check in checks if check.verdict == "fail"}
    if "format_compliance" in failed:
        causes.append(_broken_formats(reading.task, rows))
    if "feedback_mean" in failed:
        causes.append(_worst_rated(rows))
    if failed & {"new_words", "topics"}:
        causes.append(_new_topics(rows, reading))
    return [cause for cause in causes if cause is not None]


def explain(checks: Sequence[Finding], causes: Sequence[Finding]) -> list[Finding]:
    """The checks, each failed one with its remedy; what a fault explains asks for no retrain.

    Every fault of the log is told: by the check that it explains, else as itself. A slice whose
    whole has changed as well is a cause, no check of its own.
    """
    changed = {check.name for check in checks if check.verdict == "fail"}
    explained, told = [], []
    for check in checks:
        whole = check.name.partition(SLICE)[0]
        if check.name == whole or whole not in changed:
            faults = _faults_behind(check, causes)
            explained.append(_with_remedy(check, faults))
            told += faults
    return explained + [cause for cause in causes if cause.name in FAULTS and cause not in told]


def _faults_behind(check: Finding, causes: Sequence[Finding]) -> list[Finding]:
    """The faults of the log that explain a failed check."""
    whole = check.name.partition(SLICE)[0]
    is_flood = whole == "volume" and (check.p or 0.0) > MANY
    if is_flood or check.verdict != "fail":
        return []
    return [cause for cause in causes if whole in FAULTS.get(cause.name, ())]


def _with_remedy(check: Finding, faults: Sequence[Finding]) -> Finding:
    """A failed check with what to do; what `faults` of the log explain is no reason to train."""
    if check.verdict != "fail" or (check.remedy and not faults):
        return check
    if faults:
        evidence = "; ".join([check.evidence, *(fault.evidence for fault in faults)])
        remedy = "; ".join(fault.remedy for fault in faults)
        update = {"severity": "warning", "evidence": evidence, "remedy": remedy}
        return check.model_copy(update=update)
    remedy = "look at the newest conversations before anything is changed"
    if check.severity == "critical":
        remedy = "retrain on new, verified examples"
    return check.model_copy(update={"remedy": remedy})


def _cause(name: str, evidence: str, remedy: str) -> Finding:
    return Finding(name=name, verdict="fail", severity="warning", evidence=evidence, remedy=remedy)


def _faulty_lines(log: LiveLog, service: Service, served: Served) -> list[Finding]:
    """What too many lines, of those that were read now, have wrong; and what was not read."""
    fresh = LiveLog()
    for each in log.by_file.values():
        add(fresh, each)
    counts: dict[str, Counter[date]] = defaultdict(Counter, log.faults)
    for version, days in fresh.days.items():
        for day, numbers in days.items():
            counts["ratings"][day] += numbers.get("feedback_mean", Counter()).total()
            is_own = version in service.names
            is_misdated = day > served.last or (is_own and day not in served.days)
            counts["wrong_clock" if is_misdated else "requests"][day] += requests_of(numbers)
    window = served.last - timedelta(days=served.window_days - 1)
    causes = []
    for name, (what, remedy) in LINES.items():
        faults = counts[name]
        others = counts["ratings" if name == "unread_ratings" else "requests"]
        # of a long log that no day names, what began this week is little
        n = _too_many(faults, others, date.min) or _too_many(faults, others, window)
        if n:
            causes.append(_cause(name, f"{n} {what}", remedy))
    if log.passed_over:
        shown = ", ".join(log.passed_over[:MOST_SHOWN])
        evidence = f"{len(log.passed_over)} files beside the log are not read: {shown}"
        remedy = "unpack them as YYYY-MM-DD.jsonl, or move them out of the log's folder"
        causes.append(_cause("passed_over", evidence, remedy))
    return causes


def _too_many(faults: Counter[date], others: Counter[date], first: date) -> int:
    """How many faults there were from a day on, where they are too many; else 0."""
    n = sum(count for day, count in faults.items() if day >= first)
    rest = sum(count for day, count in others.items() if day >= first)
    is_all = first == date.min and not rest  # one fault in a quiet week is little
    is_much = n >= FAULTY * (n + rest) and (n >= FEW or is_all)
    return n * is_much


def _other_versions(log: LiveLog, service: Service, served: Served) -> Finding | None:
    """Most requests since the day after the promotion name versions that nobody expects there."""
    if service.version is None or service.since is None or log.simulated:
        return None
    start = service.since + timedelta(days=1)  # on its day the one before it served as well
    start = max(start, served.last - timedelta(days=served.window_days - 1))
    counts: Counter[str] = Counter()
    for version, days in log.days.items():
        counts[version] += sum(requests_of(n) for day, n in days.items() if day >= start)
    others = {v: n for v, n in counts.items() if v and n and v not in service.expected}
    if sum(others.values()) < max(FEW, STRANGE * counts.total()):
        return None
    names = ", ".join(f"{name!r} ({n} requests)" for name, n in others.items())
    return _cause(
        "unknown_version",
        f"since {start} the log names {names}, which nobody registered or which was replaced;"
        f" {service.version.id} serves",
        f"have the logger write version {service.version.id!r}, or what answers follow the route"
        " (`workbook route`); until then nothing is judged",
    )


def _rating_scale(served: Served, checks: Sequence[Finding]) -> Finding | None:
    """Ratings that fell to their own mirror image, while nothing else did: the scale was turned."""
    failed = {check.name for check in checks if check.verdict == "fail"}
    series = served.series("feedback_mean")
    if "feedback_mean" not in failed or "format_compliance" in failed or series is None:
        return None
    days = len(series.counts)
    watched = WATCHED_BY_NAME["feedback_mean"]
    start = likeliest_start(series.values, series.counts, watched.stakes)  # few rate in a week
    before = series.between(0, min(REFERENCE_DAYS, start))
    now = series.between(start, days)
    if min(before.total(), now.total()) < FEW:
        return None
    mirrored = Counter({1 - value: count for value, count in before.items()})
    # what is near its own mirror image seems turned wherever it falls
    if _distance(mirrored, now) > MIRRORED or _distance(mirrored, before) < 2 * MIRRORED:
        return None
    return _cause(
        "rating_scale",
        f"ratings are what they were, turned round ({estimate(now)} of full marks,"
        f" {estimate(before)} before), and the format is as it was",
        "turn the scale back where ratings are written, then resolve the alarm",
    )


def _distance(some: Counter[float], others: Counter[float]) -> float:
    """Which share of the ratings differs."""
    shares = (
        some[value] / some.total() - others[value] / others.total() for value in some | others
    )
    return sum(map(abs, shares)) / 2


def _one_slice(checks: Sequence[Finding]) -> Finding | None:
    slices = [check for check in checks if check.verdict == "fail" and SLICE in check.name]
    wholes = {check.name for check in checks if check.verdict == "fail"}
    alone = [check for check in slices if check.name.partition(SLICE)[0] not in wholes]
    if not slices:
        return None
    names = "; ".join(f"{check.name}: {check.estimate}" for check in slices)
    others = "the whole is as it was" if alone else "it takes the whole down with it"
    return _cause(
        "one_slice",
        f"{names}; {others}",
        "look at what changed for these requests first (a template, a source, a form)",
    )


def rows_of_window(task: Task, log: LiveLog, service: Service, served: Served) -> list[LiveRow]:
    """The rows of the last days once more, with their texts and what was said about them later."""
    start = served.last - timedelta(days=served.window_days - 1)
    names = None if log.simulated or not service.names else {"", *service.names}
    files = [file for file in log.files if (day_of(file) or start) >= start]
    rows: dict[str, LiveRow] = {}
    later = []
    for entry in read_log(task, files, log.reader):
        if isinstance(entry, LateFeedback):
            later.append(entry)
        elif entry is not None and _is_of(entry, names, start):
            rows[entry.request_id or f"row {len(rows)}"] = entry
    for feedback in later:
        if feedback.request_id in rows:
            rows[feedback.request_id] = with_feedback(rows[feedback.request_id], feedback)
    return list(rows.values())


def _is_of(row: LiveRow, names: set[str] | None, start: date) -> bool:
    is_recent = row.created_at.date() >= start
    return is_recent and row.arm in SERVED and (names is None or row.version in names)


def _excerpt(text: str) -> str:
    """The beginning of a text, without personal data."""
    masked = " ".join(curate.masked_text(text).split())
    return masked if len(masked) <= EXCERPT else masked[: EXCERPT - 1] + "…"


def _broken_formats(task: Task, rows: Sequence[LiveRow]) -> Finding | None:
    kinds: Counter[str] = Counter()
    example: dict[str, str] = {}
    for row in rows:
        reason = evaluate.format_reason(row.answer, task.schema)
        if row.is_ok and row.text != "none" and reason:
            kind = reason.partition(":")[0]
            kinds[kind] += 1
            example[kind] = f"{row.request_id}: {_excerpt(row.answer)}"
    if not kinds:
        return None
    parts = [f"{n} x {kind} ({example[kind]})" for kind, n in kinds.most_common(MOST_SHOWN)]
    return _cause(
        "broken_formats",
        "; ".join(parts),
        "if one kind leads, look for a change of prompt, template or length limit before a retrain",
    )


def _worst_rated(rows: Sequence[LiveRow]) -> Finding | None:
    worst = sorted(
        (row.feedback_score, row.request_id, _excerpt(question_of(row.messages)))
        for row in rows
        if row.feedback_score
    )
    if not worst:
        return None
    shown = "; ".join(f"{score:g}: {name} {text}" for score, name, text in worst[:MOST_SHOWN])
    return _cause("worst_rated", shown, "read these first; corrected, they are new examples")


def _new_topics(rows: Sequence[LiveRow], reading: Reading) -> Finding | None:
    """The words that are most frequent beyond what training knew, each with a request."""
    counts: Counter[str] = Counter()
    example: dict[str, LiveRow] = {}
    for row in rows:
        for word in words_of(question_of(row.messages)):
            counts[word] += 1
            example.setdefault(word, row)
    more = {
        word: n - 3 * len(rows) * reading.vocabulary.get(word, 0) / max(1, reading.inputs)
        for word, n in counts.items()
    }
    terms = [word for word, n in Counter(more).most_common(MOST_SHOWN) if n >= MOST_SHOWN]
    if not terms:
        return None
    names = "; ".join(
        f"{word!r} in {counts[word]} of {len(rows)} requests"
        f" ({example[word].request_id}: {_excerpt(question_of(example[word].messages))})"
        for word in terms
    )
    return _cause(
        "new_topics",
        f"words that training hardly saw: {names}",
        "verify examples of the new topic, then retrain",
    )
