"""What stands behind a change: faults of the log itself, one slice, new topics, broken formats.

A cause is a finding: `fail` means that it is there, its evidence names rows, and its remedy says
what to do. A fault of the log, or of how people rate, is never a reason to train.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import date, timedelta
from operator import attrgetter
from pathlib import Path

from helpers import curate, evaluate
from helpers.monitor.checks import FEW, WATCHED_BY_NAME, Served, judged
from helpers.monitor.evidence import likeliest_start
from helpers.monitor.service import Service
from helpers.monitor.watched import SLICE, Reading, question_of, words_of
from helpers.monitor.windows import (
    LiveLog,
    Pending,
    Tally,
    day_of,
    estimate,
    join,
    requests_of,
    take,
)
from helpers.records import Finding, LateFeedback, LiveRow
from helpers.tasks import Task, read_log

FAULTY = 0.1  # of the rows, or ratings, are not what they should be: more is a fault of the log
STRANGE = 0.5  # of the requests since the promotion name other versions
MIRRORED = 0.15  # of the ratings differ at most between now and the reference, seen in a mirror
MANY = 0.5  # p of a volume: above it there are too many requests, which no missing rows explain
MOST_SHOWN = 5
EXCERPT = 90  # characters
REQUESTS = ("volume",)
FAULTS = {  # of the log, and the checks that each explains
    "logged_twice": (),
    "unreadable_lines": REQUESTS,
    "passed_over": REQUESTS,
    "wrong_clock": REQUESTS,
    "unknown_version": REQUESTS,
    "rating_scale": ("feedback_mean",),
    "unread_ratings": ("feedback_mean", "feedback_rate"),
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
) -> list[Finding]:
    """Every cause that is there; `rows` are those of the window."""
    failed = [check for check in checks if check.verdict == "fail"]
    wholes = {check.name.partition(SLICE)[0] for check in failed}
    causes = [
        *_faulty_lines(log, service, served),
        _other_versions(log, service, served),
        _rating_scale(served, failed),
        _one_slice(failed),
    ]
    if "format_compliance" in wholes:
        causes.append(_broken_formats(log.reading.task, rows))
    if "feedback_mean" in wholes:
        causes.append(_worst_rated(rows))
    if wholes & {"new_words", "topics"}:
        causes.append(_new_topics(rows, log.reading))
    return [cause for cause in causes if cause is not None]


def explain(checks: Sequence[Finding], causes: Sequence[Finding]) -> list[Finding]:
    """The checks, each failed one with its remedy; what a fault explains asks for no retrain.

    Every fault of the log is told: by the check that it explains, else as itself. A slice whose
    whole has changed as well is a cause, no check of its own.
    """
    changed = {check.name for check in checks if check.verdict == "fail"}
    of_log = [cause for cause in causes if cause.name in FAULTS]
    explained, told = [], []
    for check in checks:
        whole = check.name.partition(SLICE)[0]
        if check.verdict != "fail":
            explained.append(check)
        elif check.name == whole or whole not in changed:
            faults = _faults_behind(check, of_log)
            explained.append(_with_remedy(check, faults))
            told += faults
    return explained + [fault for fault in of_log if fault not in told]


def _faults_behind(check: Finding, faults: Sequence[Finding]) -> list[Finding]:
    """Those that explain a failed check; no missing rows explain a flood."""
    whole = check.name.partition(SLICE)[0]
    is_flood = whole == "volume" and (check.p or 0.0) > MANY
    return [fault for fault in faults if whole in FAULTS[fault.name] and not is_flood]


def _with_remedy(check: Finding, faults: Sequence[Finding]) -> Finding:
    """A failed check with what to do; what `faults` of the log explain is no reason to train."""
    if faults:
        evidence = "; ".join([check.evidence, *(fault.evidence for fault in faults)])
        remedy = "; ".join(fault.remedy for fault in faults)
        update = {"severity": "warning", "evidence": evidence, "remedy": remedy}
        return check.model_copy(update=update)
    remedy = "look at the newest conversations before anything is changed"
    if check.severity == "critical":
        remedy = "retrain on new, verified examples"
    return check.model_copy(update={"remedy": check.remedy or remedy})


def _cause(name: str, evidence: str, remedy: str) -> Finding:
    return judged(name, evidence, True, remedy=remedy)


def _faulty_lines(log: LiveLog, service: Service, served: Served) -> list[Finding]:
    """What too many lines, of those that were read now, have wrong; and what was not read."""
    counts = defaultdict(Counter, log.faults)
    fresh = [item for of_file in log.by_file.values() for item in of_file.items()]
    for version, days in fresh:
        for day, numbers in days.items():
            counts["ratings"][day] += sum(numbers.get("feedback_mean", {}).values())
            is_own = version in service.names
            is_misdated = day > served.last or (is_own and day not in served.days)
            counts["wrong_clock" if is_misdated else "requests"][day] += requests_of(numbers)
    causes = []
    for name, (what, remedy) in LINES.items():
        others = counts["ratings" if name == "unread_ratings" else "requests"]
        # of a long log that no day names, what began this week is little
        looks = [_too_many(counts[name], others, first) for first in (date.min, served.window)]
        if any(looks):
            causes.append(_cause(name, f"{looks[0] or looks[1]} {what}", remedy))
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
    if service.since is None or log.simulated:
        return None
    # on the day itself the one before it served as well
    start = max(service.since + timedelta(days=1), served.window)
    counts = {name: sum(map(requests_of, log.of([name], start).values())) for name in log.days}
    others = {name: n for name, n in counts.items() if n and name not in service.expected}
    if sum(others.values()) < max(FEW, STRANGE * sum(counts.values())):
        return None
    names = ", ".join(f"{name!r} ({n} requests)" for name, n in others.items())
    return _cause(
        "unknown_version",
        f"since {start} the log names {names}, which nobody registered or which was replaced;"
        f" {service.version.id} serves",
        f"have the logger write version {service.version.id!r}, or what answers follow the route"
        " (`workbook route`); until then nothing is judged",
    )


def _rating_scale(served: Served, failed: Sequence[Finding]) -> Finding | None:
    """Ratings that fell to their own mirror image, while nothing else did: the scale was turned."""
    names = {check.name for check in failed}
    series = served.series("feedback_mean")
    if "feedback_mean" not in names or "format_compliance" in names or series is None:
        return None
    watched = WATCHED_BY_NAME["feedback_mean"]  # few rate in a week
    before, now = series.parts(likeliest_start(series.values, series.counts, watched.stakes))
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


def _distance(some: Tally, others: Tally) -> float:
    """Which share of the ratings differs."""
    import pandas

    shares = pandas.Series(some) / some.total()
    return shares.sub(pandas.Series(others) / others.total(), fill_value=0).abs().sum() / 2


def _one_slice(failed: Sequence[Finding]) -> Finding | None:
    slices = [check for check in failed if SLICE in check.name]
    if not slices:
        return None
    wholes = {check.name for check in failed}
    is_alone = any(check.name.partition(SLICE)[0] not in wholes for check in slices)
    return _cause(
        "one_slice",
        "; ".join(f"{check.name}: {check.estimate}" for check in slices)
        + ("; the whole is as it was" if is_alone else "; it takes the whole down with it"),
        "look at what changed for these requests first (a template, a source, a form)",
    )


def rows_of_window(log: LiveLog, service: Service, served: Served) -> list[LiveRow]:
    """The rows of the last days once more, with their texts and what was said about them later."""
    window = LiveLog()
    files = [file for file in log.files if (day_of(file) or served.last) >= served.window]
    for number, entry in enumerate(read_log(log.reading.task, files, log.reader)):
        if isinstance(entry, LateFeedback):
            join(window, entry)
        elif entry is not None and entry.created_at.date() >= served.window:
            take(window, Pending(vars(entry), Path(), served.last), f"row {number}")
    rows = [LiveRow.model_validate(pending.row) for pending in window.pending.values()]
    if log.simulated or service.version is None:
        return rows
    return [row for row in rows if row.version in {"", *service.names}]


def _excerpt(text: str) -> str:
    """The beginning of a text, without personal data."""
    masked = " ".join(curate.masked_text(text).split())
    return masked if len(masked) <= EXCERPT else masked[: EXCERPT - 1] + "…"


def _asked(row: LiveRow) -> str:
    return f"{row.request_id}: {_excerpt(question_of(row.messages))}"


def _broken_formats(task: Task, rows: Sequence[LiveRow]) -> Finding | None:
    broken = defaultdict(list)
    for row in rows:
        reason = evaluate.format_reason(row.answer, task.schema)
        if row.is_ok and row.text != "none" and reason:
            broken[reason.partition(":")[0]].append(row)
    if not broken:
        return None
    kinds = sorted(broken.items(), key=lambda item: -len(item[1]))
    return _cause(
        "broken_formats",
        "; ".join(
            f"{len(each)} x {kind} ({each[-1].request_id}: {_excerpt(each[-1].answer)})"
            for kind, each in kinds[:MOST_SHOWN]
        ),
        "if one kind leads, look for a change of prompt, template or length limit before a retrain",
    )


def _worst_rated(rows: Sequence[LiveRow]) -> Finding | None:
    rated = [row for row in rows if row.feedback_score]
    if not rated:
        return None
    rated.sort(key=attrgetter("feedback_score", "request_id"))
    shown = "; ".join(f"{row.feedback_score:g}: {_asked(row)}" for row in rated[:MOST_SHOWN])
    return _cause("worst_rated", shown, "read these first; corrected, they are new examples")


def _new_topics(rows: Sequence[LiveRow], reading: Reading) -> Finding | None:
    """The words that are most frequent beyond what training knew, each with a request."""
    counts = Counter()
    example = {}
    for row in rows:
        for word in words_of(question_of(row.messages)):
            counts[word] += 1
            example.setdefault(word, row)
    more = counts.copy()
    for word in counts:
        usual = reading.vocabulary.get(word, 0) / max(1, reading.inputs)
        more[word] -= 3 * len(rows) * usual
    terms = [word for word, n in more.most_common(MOST_SHOWN) if n >= MOST_SHOWN]
    if not terms:
        return None
    names = "; ".join(
        f"{word!r} in {counts[word]} of {len(rows)} requests ({_asked(example[word])})"
        for word in terms
    )
    return _cause(
        "new_topics",
        f"words that training hardly saw: {names}",
        "verify examples of the new topic, then retrain",
    )
