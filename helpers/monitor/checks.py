"""The checks of 06: what changed since some day, what was promised, how much, how old."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

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
    WATCHED,
    Reading,
    Watched,
    question_of,
    words_of,
)
from helpers.monitor.windows import Days, Tally, estimate, requests_of
from helpers.records import Estimate, EvalResults, Finding, FineTunedModelVersion, LiveRow, Severity

if TYPE_CHECKING:
    from numpy import ndarray
    from pandas.core.groupby import SeriesGroupBy

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
    recent: int  # from which one on days are shown as now

    def turned(self, sign: int) -> Series:
        """As it is, or with sign -1 what is left to 1: its rise is a fall of that."""
        return self if sign > 0 else self._replace(values=1 - self.values)

    def between(self, start: int, end: int) -> Tally:
        """What came on these days."""
        sums = self.counts[start:end].sum(axis=0).astype(int).tolist()
        return +Counter(dict(zip(self.values.tolist(), sums, strict=True)))  # without zeros

    def parts(self, start: int) -> tuple[Tally, Tally]:
        """What the reference holds, of the days before `start`, and what came since."""
        since = self.between(start, len(self.counts))
        return self.between(0, min(REFERENCE_DAYS, start)), since


@dataclass(frozen=True)
class Served:
    """All that a version served: its days, the last one, and the days that are shown as now.

    `restarts`: from when on a check counts anew, since an alarm of it was resolved the day before.
    """

    days: Days
    last: date
    window_days: int
    restarts: Mapping[str, date] = field(default_factory=dict)
    since: date | None = None  # the day of promotion
    delay: int = 0  # days after which ratings have come

    @property
    def window(self) -> date:
        """The first of the last days."""
        return self.last - timedelta(days=self.window_days - 1)

    def anew(self, *checks: str) -> Served:
        """Without what was before an alarm of one of these checks was resolved: that is over."""
        start = max(self.restarts.get(name, date.min) for name in checks)
        if start == date.min:
            return self
        days = {day: numbers for day, numbers in self.days.items() if day >= start}
        return replace(self, days=days, since=max(start, self.since or start))

    def series(self, name: str, check: str = "") -> Series | None:
        """A quantity's counts from the first day on; None where nothing was counted.

        A slice begins anew with its whole, and whatever `check` looks at it with that.
        """
        import pandas

        days = self.anew(check or name, name.partition(SLICE)[0]).days
        counted = {day: numbers[name] for day, numbers in days.items() if numbers.get(name)}
        first = min(days, default=self.last)
        last = self.last
        if name == "feedback_rate":  # of newer days some users have still to say something
            last -= timedelta(days=self.delay)
        if not counted or first > last:
            return None
        frame = pandas.DataFrame.from_dict(counted, orient="index").sort_index(axis="columns")
        frame = frame.reindex(days_between(first, last)).fillna(0.0)
        values = frame.columns.to_numpy(float)
        recent = max(0, len(frame) - self.window_days)
        return Series(first, values, frame.to_numpy(float), recent)


def days_between(first: date, last: date) -> list[date]:
    """All days from the first to the last."""
    return [first + timedelta(days=i) for i in range((last - first).days + 1)]


def judged(
    name: str,
    evidence: str,
    is_bad: bool,
    severity: Severity = "warning",
    remedy: str = "",
    **numbers: Any,
) -> Finding:
    """What a check found; what its failing means, and what to do then, stands in a failed one."""
    if is_bad:
        numbers |= {"severity": severity, "remedy": remedy}
    return Finding(name=name, verdict="fail" if is_bad else "pass", evidence=evidence, **numbers)


def change_checks(served: Served) -> list[Finding]:
    """Every watched quantity, and the slices of those that have some."""
    checks = [judge_series(each, each.name, served.series(each.name)) for each in WATCHED]
    slices = slices_of(served)
    for name in slices:
        small = slice_of(WATCHED_BY_NAME[name.partition(SLICE)[0]], len(slices))
        check = judge_series(small, name, served.series(name))
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
    sizes = Counter()
    for numbers in served.days.values():
        for name, counts in numbers.items():
            sizes[name] += counts.total()
    large = []
    for name, size in sizes.most_common():
        share = size / sizes[name.partition(SLICE)[0]]
        if SMALLEST_SLICE <= share <= LARGEST_SLICE:  # a whole is no part of itself
            large.append(name)
    return large[:MOST_SLICES]


def judge_series(watched: Watched, name: str, series: Series | None) -> Finding:
    """Whether a quantity changed since some day, by evidence that may be looked at every day."""
    if series is None:
        return too_little(name, f"{watched.unit}; nothing was measured")
    start = series.recent
    needed = math.log(len(watched.signs) / watched.budget)
    capitals = [(_log_capital(series.turned(sign), watched), sign) for sign in watched.signs]
    log_capital, sign = max(capitals)
    evidence = f"{watched.unit}; {_odds(log_capital)} for a change, {_odds(needed)} are needed"
    changed = log_capital >= needed
    if changed:
        start = likeliest_start(series.turned(sign).values, series.counts, watched.stakes)
        evidence += f"; since about {series.first + timedelta(days=start)}"
    before, now = series.parts(start)
    shown = estimate(now, watched.shown)
    if shown.n >= FEWEST and shown.low > watched.shown(watched.most):
        evidence += "; so much is too much, whatever was before"
        return judged(name, evidence, True, watched.severity, estimate=shown)
    if not before:
        evidence = f"{watched.unit}; too little before the last {len(series.counts) - start} days"
        return too_little(name, evidence, shown)
    usual = estimate(before, watched.shown)
    evidence += f"; reference {usual}"
    if not now:
        evidence += f"; nothing was measured in the last {len(series.counts) - start} days"
    fallen = sign * (estimate(before).value - estimate(now).value)
    if changed and fallen < watched.matters:
        changed = False
        evidence += "; too small to matter"
    return judged(
        name,
        evidence,
        changed,
        watched.severity,
        estimate=shown if now else None,
        threshold=usual.value,
        p=p_of(log_capital),
    )


def too_little(name: str, evidence: str, now: Estimate | None = None) -> Finding:
    """Neither well nor ill: not enough was measured to say."""
    return Finding(name=name, verdict="undecided", evidence=evidence, estimate=now)


def _log_capital(series: Series, watched: Watched) -> float:
    """The evidence of the whole days; that with today, which is not over, needs TODAY times more.

    Else who looks every hour would find more false alarms than who looks at night.
    """
    evidence = log_evidence(series.values, series.counts[None], watched.stakes)[0]
    evidence[-1] -= math.log(TODAY)
    return float(evidence[-2:].max())


def p_of(log_capital: float) -> float:
    """By Ville's inequality: so often such a capital comes by chance."""
    return min(1.0, math.exp(-log_capital))


def _odds(log_odds: float) -> str:
    odds = math.exp(min(30.0, max(-5.0, log_odds)))
    return f"{odds:,.0f} to 1" if odds >= 10 else f"{odds:.2g} to 1"


def promise_checks(
    served: Served, before: Days, measured: EvalResults | None, margin: float
) -> list[Finding]:
    """Whether a new version is as good in its first weeks as 04 and its predecessor promise.

    The format is held against the test part, ratings against those of the version before; each less
    a margin, since other people ask other things.
    """
    checks = []
    if measured is not None:
        floor = measured.format_compliance.low - margin
        checks.append(_promise("format_compliance", "evaluation", floor, served))
    ratings = Counter()
    for numbers in before.values():
        ratings.update(numbers["feedback_mean"])
    if ratings.total() >= FEW:
        floor = estimate(ratings).low - WATCHED_BY_NAME["feedback_mean"].matters
        checks.append(_promise("feedback_mean", "predecessor", floor, served))
    return checks


def _promise(name: str, promised_by: str, floor: float, served: Served) -> Finding:
    watched = WATCHED_BY_NAME[name]
    title = f"{name}_against_{promised_by}"
    series = served.series(name, title)
    evidence = (
        f"{watched.unit}, of the first {PROMISE_DAYS} days; must not fall below"
        f" {watched.shown(floor):.3g}"
    )
    if series is None:
        return too_little(title, f"{evidence}; nothing was measured")
    days = series.counts[:PROMISE_DAYS]
    p = p_of(log_evidence_below(series.values, days, floor)[-1])
    now = series.between(0, PROMISE_DAYS)
    return judged(
        title,
        f"{evidence}; any-time p = {p:.2g}",
        p <= PROMISE_BUDGET,
        "critical",
        "roll back to the version that served before",
        estimate=estimate(now, watched.shown) if now else None,
        threshold=watched.shown(floor),
        p=p,
    )


def topic_check(rows: Sequence[LiveRow], reading: Reading) -> Finding:
    """Whether many conversations of the window hold a word that few training inputs held.

    Each word's share is held against the upper end of its share in training; the budget is divided
    by the words, and by the year's looks. Conversations of the same words count once: a test that
    asks one thing again and again is no topic.
    """
    from scipy.special import bdtrc

    if not reading.inputs:
        return too_little("topics", "no training inputs are known")
    conversations = _different_conversations(rows)
    n = len(conversations)
    if n < FEW_CONVERSATIONS:
        evidence = f"too little: {n} different conversations, {FEW_CONVERSATIONS} are needed"
        return too_little("topics", evidence)
    counts = Counter(word for words in conversations for word in words)
    risen = []
    for word, count in counts.items():
        if count > TOPIC_SHARE * n:
            known = reading.vocabulary.get(word, 0)
            usual = estimate(Counter({1.0: known, 0.0: reading.inputs - known})).high
            if count > 3 * usual * n:
                risen.append((float(bdtrc(count - 1, n, usual)), word))
    risen.sort()
    least, newest = risen[0] if risen else (1.0, "")
    p = min(1.0, least * len(counts) * YEAR)
    if p > TOPIC_BUDGET:
        evidence = f"no word that was rare in training is common in {n} different conversations"
        return judged("topics", evidence, False, p=p)
    shares = {}
    for _, word in risen[:MOST_TERMS]:
        shares[word] = evaluate.proportion([word in words for words in conversations])
    named = ", ".join(f"{word!r} in {share}" for word, share in shares.items())
    return judged(
        "topics",
        f"rare in training, now common: {named} different conversations",
        True,
        remedy="verify examples of the new topic, then retrain",
        estimate=shares[newest],
        p=p,
    )


def _different_conversations(rows: Sequence[LiveRow]) -> list[frozenset[str]]:
    """The words of every conversation; of those that say the same only one."""
    texts = defaultdict(str)
    for number, row in enumerate(rows):
        name = row.conversation_id or f"request {number}"
        texts[name] += f" {question_of(row.messages).casefold()}"
    return list(filter(None, map(words_of, set(texts.values()))))


def volume_check(served: Served) -> Finding:
    """Enough requests to say anything, no collapse and no flood against the weekdays before.

    A version that serves since today may not have been asked yet. One that came back by rollback is
    held to its whole days since then: in those before, another one served.
    """
    import pandas
    from scipy.special import pdtr

    served = served.anew("volume")
    counts = {day: requests_of(numbers) for day, numbers in served.days.items()}
    whole = max(1, served.window_days - 1)  # today is not over, and there may be nothing yet
    since = served.since or min(counts, default=served.last)  # nothing that serves falls silent
    after = since + timedelta(days=1)  # on the day itself another one may have served
    start = max(served.last - timedelta(days=whole), min(served.last, after))
    days = (served.last - start).days + 1
    n = sum(count for day, count in counts.items() if day >= start)
    few = FEW_ROWS * (days - 1) / whole
    before = days_between(min(counts, default=start), start - timedelta(days=1))
    daily = pandas.Series([counts.get(day, 0) for day in before], dtype=float)
    weekdays = daily.groupby([day.weekday() for day in before])
    usual = p = None
    is_odd = False
    if weekdays.ngroups == 7:
        usual = _usual(weekdays, start, served.last)
        spread = _overdispersion(weekdays)  # counts are divided by it, to vary as Poisson's do
        yesterday = served.last - timedelta(days=1)
        so_far = _usual(weekdays, start, yesterday)
        came = n - counts.get(served.last, 0)
        p = float(pdtr(math.floor(came / spread), so_far / spread))
        has_collapsed = came < so_far / 2 and p <= VOLUME_BUDGET / YEAR
        quiet = max(max(counts), since) + timedelta(days=1)  # the whole days without any
        is_silent = _usual(weekdays, quiet, yesterday) / spread > math.log(YEAR / VOLUME_BUDGET)
        is_odd = has_collapsed or is_silent or n > SURGE * max(usual, FEW_ROWS)
        few = min(few, so_far // SURGE)  # five requests a week may be one or none
    expected = "unknown" if usual is None else f"{usual:.0f}"
    return judged(
        "volume",
        f"{n} requests in {days} days, usually {expected}",
        is_odd or n < few,
        estimate=_exactly(n, n),
        threshold=usual,
        p=p,
    )


def _usual(weekdays: SeriesGroupBy, first: date, last: date) -> float:
    """The requests that the days from the first to the last usually have."""
    means = weekdays.mean()
    return sum(means[day.weekday()] for day in days_between(first, last))


def _overdispersion(weekdays: SeriesGroupBy) -> float:
    """How much more the days of a weekday differ than Poisson's would; at least 1."""
    counts = weekdays.count()
    several = counts > 1
    squares = (weekdays.var() * counts)[several].sum()
    expected = weekdays.sum()[several].sum()
    return max(1.0, squares / expected) if expected else 1.0


def _exactly(value: float, n: int) -> Estimate:
    return Estimate(value=value, low=value, high=value, n=n)


def age_check(serving: FineTunedModelVersion | None, max_age_days: int) -> Finding:
    """Days since the version in production was trained."""
    if serving is None:
        return judged("model_age", "nothing is in production", False)
    days = round((store.now() - serving.trained_at).total_seconds() / DAY, 2)
    return judged(
        "model_age",
        "days since training",
        days > max_age_days,
        estimate=_exactly(days, 1),
        threshold=max_age_days,
    )
