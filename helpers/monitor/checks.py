"""The checks of 06: what changed since some day, what was promised, how much, how old."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from helpers import evaluate, store
from helpers.monitor.evidence import (
    REFERENCE_DAYS,
    YEAR,
    likeliest_start,
    log_evidence,
    log_evidence_below,
)
from helpers.monitor.watched import (
    SLICE,
    SLICE_BUDGET,
    SLICE_STAKES,
    SLICED,
    WATCHED,
    Reading,
    Watched,
    question_of,
    words_of,
)
from helpers.monitor.windows import Numbers, estimate, requests_of
from helpers.records import Estimate, EvalResults, Finding, FineTunedModelVersion, LiveRow, Severity

if TYPE_CHECKING:
    from numpy import ndarray

FEW_ROWS = 5  # fewer requests in a window say that nothing is served, or nothing is logged
FEWEST = 10  # of fewer nothing is told without what was before
SURGE = 10  # times the usual requests need a look as well; a tenth of few is not few itself
MOST_SLICES = 12  # the largest ones; each more costs the others some power
SMALLEST_SLICE, LARGEST_SLICE = 0.05, 0.9  # of all rows
PROMISE_DAYS = 28  # a new version's first days are held against what was known before
PROMISE_BUDGET = 0.005  # of each of the two promises
VOLUME_BUDGET = 0.01
TOPIC_BUDGET = 0.01
TOPIC_SHARE = 0.1  # of the requests: a rarer word is no topic
MOST_TERMS = 5  # that are named
FEW_CONVERSATIONS = 30  # different ones; fewer show no topic
TODAY = 3.0
FEW = 30  # ratings, requests: fewer promise nothing, and show no fault of a log
DAY = 86400  # seconds
WATCHED_BY_NAME = {watched.name: watched for watched in WATCHED}


class Series(NamedTuple):
    """One quantity's counts, day by day without gaps."""

    first: date
    values: ndarray  # the different values, in [0, 1]
    counts: ndarray  # (days, values)

    def between(self, start: int, end: int) -> Counter[float]:
        """What came on these days."""
        sums = self.counts[start:end].sum(axis=0)
        pairs = zip(self.values.tolist(), sums.astype(int).tolist(), strict=True)
        return Counter({value: count for value, count in pairs if count})


@dataclass(frozen=True)
class Served:
    """All that a version served: its days, the last one, and the days that are shown as now.

    `restarts`: from when on a check counts anew, because an alarm of it was resolved then.
    """

    days: Mapping[date, Numbers]
    last: date
    window_days: int
    restarts: Mapping[str, date] = field(default_factory=dict)
    since: date | None = None  # the day of promotion
    delay: int = 0  # days after which ratings have come

    def series(self, name: str) -> Series | None:
        """A quantity's counts from the first day on; None where nothing was counted."""
        import numpy

        values = sorted({value for day in self.days.values() for value in day.get(name, ())})
        start = max(min(self.days, default=self.last), self.restarts.get(name, date.min))
        last = self.last
        if name == "feedback_rate":  # of newer days some users have still to say something
            last -= timedelta(days=self.delay)
        if not values or start > last:
            return None
        place = {value: i for i, value in enumerate(values)}
        counts = numpy.zeros(((last - start).days + 1, len(values)))
        for day, numbers in self.days.items():
            if start <= day <= last:
                for value, count in numbers.get(name, {}).items():
                    counts[(day - start).days, place[value]] += count
        return Series(start, numpy.array(values), counts)


def change_checks(served: Served) -> list[Finding]:
    """Every watched quantity, and the slices of those that have some."""
    days = served.window_days
    checks = [judge_series(each, each.name, served.series(each.name), days) for each in WATCHED]
    slices = slices_of(served)
    for watched in WATCHED:
        for name in slices:
            if name.startswith(f"{watched.name}{SLICE}"):
                small = slice_of(watched, len(slices))
                check = judge_series(small, name, served.series(name), days)
                if check.verdict == "fail":  # one that is well is not worth a line
                    checks.append(check)
    return checks


def slice_of(watched: Watched, count: int) -> Watched:
    """The same quantity in one of `count` slices: a share of their budget, a larger change."""
    return replace(
        watched, budget=SLICE_BUDGET / count, matters=2 * watched.matters, stakes=SLICE_STAKES
    )


def slices_of(served: Served) -> list[str]:
    """The slices that are large enough to be watched, the largest first; each with its quantity."""
    sizes: Counter[str] = Counter()
    wholes = {name: 0 for name in SLICED}
    for numbers in served.days.values():
        sizes.update({name: counts.total() for name, counts in numbers.items() if SLICE in name})
        for name in SLICED:
            wholes[name] += numbers.get(name, Counter()).total()
    large = []
    for name, size in sizes.most_common():
        whole = wholes[name.partition(SLICE)[0]]
        if SMALLEST_SLICE * whole <= size <= LARGEST_SLICE * whole:
            large.append(name)
    return large[:MOST_SLICES]


def judge_series(watched: Watched, name: str, series: Series | None, window_days: int) -> Finding:
    """Whether a quantity changed since some day, by evidence that may be looked at every day."""
    if series is None:
        return _too_little(name, f"{watched.unit}; nothing was measured")
    days = len(series.counts)
    start = max(0, days - window_days)
    signs = {"fall": (1,), "rise": (-1,), "shift": (1, -1)}[watched.change]
    needed = math.log(len(signs) / watched.budget)
    log_capital, sign = max((_log_capital(series, sign, watched), sign) for sign in signs)
    evidence = f"{watched.unit}; {_odds(log_capital)} for a change, {_odds(needed)} are needed"
    changed = log_capital >= needed
    if changed:
        start = likeliest_start(*_turned(series, sign), watched.stakes)
        evidence += f"; since about {series.first + timedelta(days=start)}"
    before = estimate(series.between(0, min(REFERENCE_DAYS, start)), watched.shown)
    now = estimate(series.between(start, days), watched.shown)
    if now.n >= FEWEST and now.low > watched.shown(watched.most):
        evidence = f"{evidence}; so much is too much, whatever was before"
        bad = Finding(name=name, verdict="fail", evidence=evidence, estimate=now)
        return failed(bad, watched.severity)
    if not before.n:
        evidence = f"{watched.unit}; too little before the last {window_days} days"
        return _too_little(name, evidence, now)
    evidence += f"; reference {before}"
    if not now.n:
        evidence += f"; nothing was measured in the last {window_days} days"
    finding = Finding(
        name=name,
        verdict="pass",
        evidence=evidence,
        estimate=_measured(now),
        threshold=before.value,
        p=min(1.0, math.exp(-log_capital)),
    )
    if changed and _fall(series, sign, start) < watched.matters:
        return finding.model_copy(update={"evidence": f"{evidence}; too small to matter"})
    return failed(finding, watched.severity) if changed else finding


def _fall(series: Series, sign: int, start: int) -> float:
    """By how much the mean since `start` is below the reference's (sign -1: above it)."""
    before = estimate(series.between(0, min(REFERENCE_DAYS, start)))
    now = estimate(series.between(start, len(series.counts)))
    return sign * (before.value - now.value)


def _measured(estimate: Estimate) -> Estimate | None:
    return estimate if estimate.n else None


def failed(finding: Finding, severity: Severity = "warning", remedy: str = "") -> Finding:
    """A finding that does not hold, and what that means."""
    update = {"verdict": "fail", "severity": severity, "remedy": remedy}
    return finding.model_copy(update=update)


def _too_little(name: str, evidence: str, now: Estimate | None = None) -> Finding:
    """Neither well nor ill: not enough was measured to say."""
    return Finding(name=name, verdict="undecided", evidence=evidence, estimate=now)


def _log_capital(series: Series, sign: int, watched: Watched) -> float:
    """The evidence of the whole days; that with today, which is not over, needs TODAY times more.

    Else who looks every hour would find more false alarms than who looks at night.
    """
    values, counts = _turned(series, sign)
    evidence = log_evidence(values, counts[None], watched.stakes)[0]
    return float(max([evidence[-1] - math.log(TODAY), *evidence[-2:-1]]))


def _turned(series: Series, sign: int) -> tuple[ndarray, ndarray]:
    """A rise is a fall of what is left to 1."""
    return (series.values if sign > 0 else 1 - series.values), series.counts


def _odds(log_odds: float) -> str:
    odds = math.exp(min(30.0, max(-5.0, log_odds)))
    return f"{odds:,.0f} to 1" if odds >= 10 else f"{odds:.2g} to 1"


def promise_checks(
    served: Served, before: Mapping[date, Numbers], measured: EvalResults | None, margin: float
) -> list[Finding]:
    """Whether a new version is as good in its first weeks as 04 and its predecessor promise.

    The format is held against the test part, ratings against those of the version before; each less
    a margin, since other people ask other things.
    """
    checks = []
    if measured is not None:
        floor = measured.format_compliance.low - margin
        checks.append(_promise("format_compliance", "evaluation", floor, served))
    ratings: Counter[float] = Counter()
    for numbers in before.values():
        ratings.update(numbers.get("feedback_mean", Counter()))
    if ratings.total() >= FEW:
        floor = estimate(ratings).low - WATCHED_BY_NAME["feedback_mean"].matters
        checks.append(_promise("feedback_mean", "predecessor", floor, served))
    return checks


def _promise(name: str, promised_by: str, floor: float, served: Served) -> Finding:
    watched = WATCHED_BY_NAME[name]
    title = f"{name}_against_{promised_by}"
    series = served.series(name)
    evidence = (
        f"{watched.unit}, of the first {PROMISE_DAYS} days; must not fall below"
        f" {watched.shown(floor):.3g}"
    )
    if series is None:
        return _too_little(title, f"{evidence}; nothing was measured")
    days = series.counts[:PROMISE_DAYS]
    p = math.exp(-float(log_evidence_below(series.values, days, floor)[-1]))
    finding = Finding(
        name=title,
        verdict="pass",
        evidence=f"{evidence}; any-time p = {p:.2g}",
        estimate=_measured(estimate(series.between(0, PROMISE_DAYS), watched.shown)),
        threshold=watched.shown(floor),
        p=p,
    )
    if p > PROMISE_BUDGET:
        return finding
    return failed(finding, "critical", "roll back to the version that served before")


def topic_check(rows: Sequence[LiveRow], reading: Reading) -> Finding:
    """Whether many conversations of the window hold a word that few training inputs held.

    Each word's share is held against the upper end of its share in training; the budget is divided
    by the words, and by the year's looks. Conversations of the same words count once: a test that
    asks one thing again and again is no topic.
    """
    from scipy.special import bdtrc

    conversations = _different_conversations(rows)
    n = len(conversations)
    if n < FEW_CONVERSATIONS or not reading.inputs:
        evidence = f"too little: {n} different conversations, {FEW_CONVERSATIONS} are needed"
        return _too_little("topics", evidence if reading.inputs else "no training inputs are known")
    counts = Counter(word for words in conversations for word in words)
    risen: list[tuple[float, str]] = []
    for word, count in counts.items():
        known = reading.vocabulary.get(word, 0)
        usual = estimate(Counter({1.0: known, 0.0: reading.inputs - known})).high
        if count > max(TOPIC_SHARE, 3 * usual) * n:
            risen.append((float(bdtrc(count - 1, n, usual)), word))
    p = min(1.0, min(risen, default=(1.0, ""))[0] * len(counts) * YEAR)
    finding = Finding(
        name="topics",
        verdict="pass",
        evidence=f"no word that was rare in training is common in {n} different conversations",
        p=p,
    )
    if p > TOPIC_BUDGET:
        return finding
    risen.sort()
    shares = {w: evaluate.proportion([w in words for words in conversations]) for _, w in risen}
    named = [f"{word!r} in {share}" for word, share in list(shares.items())[:MOST_TERMS]]
    update = {
        "evidence": f"rare in training, now common: {', '.join(named)} different conversations",
        "estimate": shares[risen[0][1]],
    }
    finding = finding.model_copy(update=update)
    return failed(finding, remedy="verify examples of the new topic, then retrain")


def _different_conversations(rows: Sequence[LiveRow]) -> list[frozenset[str]]:
    """The words of every conversation; of those that say the same only one."""
    texts: dict[str, str] = {}
    for number, row in enumerate(rows):
        name = row.conversation_id or f"request {number}"
        texts[name] = f"{texts.get(name, '')} {question_of(row.messages).casefold()}"
    conversations = [words_of(text) for text in set(texts.values())]
    return [words for words in conversations if words]


def volume_check(served: Served) -> Finding:
    """Enough requests to say anything, no collapse and no flood against the weekdays before.

    A version that serves since today may not have been asked yet. One that came back by rollback is
    held to its whole days since then: in those before, another one served.
    """
    from scipy.special import pdtr

    counts = {day: requests_of(numbers) for day, numbers in served.days.items()}
    whole = max(1, served.window_days - 1)  # today is not over, and there may be nothing yet
    since = served.since or min(counts, default=served.last)  # nothing that serves falls silent
    start = max(served.last - timedelta(days=whole), min(served.last, since + timedelta(days=1)))
    days = (served.last - start).days + 1
    n = sum(count for day, count in counts.items() if day >= start)
    by_weekday = _by_weekday(counts, start)
    usual = None
    p = None
    few = FEW_ROWS * (days - 1) / whole
    is_odd = False
    if len(by_weekday) == 7:
        usual = _usual(by_weekday, start, days)
        variance = _overdispersion(by_weekday)  # counts are divided by it, to vary as Poisson's do
        so_far = _usual(by_weekday, start, days - 1)
        came = n - counts.get(served.last, 0)
        p = float(pdtr(math.floor(came / variance), so_far / variance))
        has_collapsed = came < so_far / 2 and p <= VOLUME_BUDGET / YEAR
        quiet = max(max(counts), since) + timedelta(days=1)  # the whole days without any
        missing = _usual(by_weekday, quiet, (served.last - quiet).days) / variance
        is_silent = missing > math.log(YEAR / VOLUME_BUDGET)
        is_odd = has_collapsed or is_silent or n > SURGE * max(usual, FEW_ROWS)
        few = min(few, so_far // SURGE)  # five requests a week may be one or none
    is_odd = is_odd or n < few
    expected = "unknown" if usual is None else f"{usual:.0f}"
    finding = Finding(
        name="volume",
        verdict="pass",
        evidence=f"{n} requests in {days} days, usually {expected}",
        estimate=Estimate(value=n, low=n, high=n, n=n),
        threshold=usual,
        p=p,
    )
    return failed(finding) if is_odd else finding


def _by_weekday(counts: Mapping[date, int], end: date) -> dict[int, list[int]]:
    """The requests of every day before `end`, by its day of the week."""
    by_weekday: dict[int, list[int]] = {}
    day = min(counts, default=end)
    while day < end:
        by_weekday.setdefault(day.weekday(), []).append(counts.get(day, 0))
        day += timedelta(days=1)
    return by_weekday


def _usual(by_weekday: Mapping[int, Sequence[int]], first: date, days: int) -> float:
    """The requests that so many days from `first` on usually have."""
    return sum(fmean(by_weekday[(first.weekday() + i) % 7]) for i in range(days))


def _overdispersion(by_weekday: Mapping[int, Sequence[int]]) -> float:
    """How much more the days of a weekday differ than Poisson's would; at least 1."""
    squares = 0.0
    expected = 0.0
    for values in by_weekday.values():
        if len(values) > 1:
            mean = fmean(values)
            squares += (
                sum((value - mean) ** 2 for value in values) * len(values) / (len(values) - 1)
            )
            expected += mean * len(values)
    return max(1.0, squares / expected) if expected else 1.0


def age_check(serving: FineTunedModelVersion | None, max_age_days: int) -> Finding:
    """Days since the version in production was trained."""
    if serving is None:
        return Finding(name="model_age", verdict="pass", evidence="nothing is in production")
    days = round((store.now() - serving.trained_at).total_seconds() / DAY, 2)
    finding = Finding(
        name="model_age",
        verdict="pass",
        evidence="days since training",
        estimate=Estimate(value=days, low=days, high=days, n=1),
        threshold=max_age_days,
    )
    return failed(finding) if days > max_age_days else finding
