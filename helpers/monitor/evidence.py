"""Evidence that a mean has fallen since some day, against a reference that stands still.

Everything is judged from counts per day of values in [0, 1], from the day of promotion on. The
first weeks are the reference; after REFERENCE_DAYS it never changes again, so a slow drift cannot
take it along. From every later day on an e-process bets that the mean is now lower than the
reference's lower bound; a year's starts share one capital (docs/statistics.md says why that may be
looked at as often as one likes, and what it costs).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from numpy import ndarray

YEAR = 365  # starts that share one capital
REFERENCE_DAYS = 84  # the reference is complete then, and stays
BLOCK = 7  # days by which it grows until then
EARLY_DAYS = 35  # how long a start that had only part of the reference is followed
FIXED_STAKES = 19  # bets against a known mean, from careful to bold
MOST = 0.8  # of the capital is at risk in one bet
CAUTION = 1.25  # standard errors between the reference's mean and the mean that is bet against
SMALL = 30  # rows; a reference of few rows is trusted less, in this proportion
EARLY_CAUTION = 2.0  # standard errors while the reference is not complete


class Block(NamedTuple):
    """The starts that share one reference: the steps they are followed over, and their bets."""

    first: int  # step
    end: int
    starts: ndarray  # log capital of every start's day: (series, starts, stakes)
    capital: ndarray  # log capital at every step: (series, 1 + steps, stakes)


def log_evidence(
    values: ndarray, counts: ndarray, stakes: Sequence[float], looks: int = 1
) -> ndarray:
    """Log capital against "the mean is as in the reference", by look: (series, days * looks).

    `values` are the different values, in [0, 1]; `counts` how often each came: (series, days *
    looks, values), where a day is cut into `looks` parts. `stakes` are for shifts of so many
    standard deviations, times two. A capital of 1 / a or more comes in at most a share a of quiet
    years.
    """
    import numpy

    total = numpy.full(counts.shape[:2], -numpy.inf)
    for block in _blocks(values, counts, stakes, looks):
        steps = block.end - block.first
        opened = numpy.logaddexp.accumulate(-numpy.log(YEAR) - block.starts, axis=1)
        newest = numpy.minimum(numpy.arange(steps) // looks, block.starts.shape[1] - 1)
        evidence = _log_mean(block.capital[:, 1:] + opened[:, newest])
        place = numpy.s_[:, block.first : block.end]
        total[place] = numpy.logaddexp(total[place], evidence)
    return total


def log_evidence_below(values: ndarray, counts: ndarray, floor: float) -> ndarray:
    """The highest log capital ever held against "the mean is at least `floor`", by day: (days,).

    `counts` are (days, values). Within a day nobody knows the order, so bets are settled at night.
    """
    import numpy

    capital = _log_mean(_daily_gains(values, counts, floor).cumsum(axis=0))
    return numpy.maximum.accumulate(numpy.maximum(capital, 0.0))


def log_evidence_of_any_start(values: ndarray, counts: ndarray, floor: float) -> tuple[float, int]:
    """The last day's log capital against "the mean is at least `floor`", from any day on.

    A year's starts share one capital; the start that has gained most is told as well. `counts` are
    (days, values).
    """
    import numpy

    daily = _daily_gains(values, counts, floor)
    gains = _log_mean(daily[::-1].cumsum(axis=0)[::-1])
    return float(numpy.logaddexp.reduce(gains) - numpy.log(YEAR)), int(gains.argmax())


def _daily_gains(values: ndarray, counts: ndarray, floor: float) -> ndarray:
    """What a day adds to the log capital against a known mean: (days, FIXED_STAKES)."""
    import numpy

    floor = min(max(floor, 0.0), 1 - 1e-9)
    stakes = numpy.linspace(0.05, 0.95, FIXED_STAKES) / (1 - floor)
    return counts @ numpy.log1p(stakes * (floor - values[:, None]))


def likeliest_start(values: ndarray, counts: ndarray, stakes: Sequence[float]) -> int:
    """The day since which the last day's evidence is largest; one series, one look a day."""
    found = []
    for block in _blocks(values, counts[None], stakes, looks=1):
        if block.end == len(counts):
            gains = _log_mean(block.capital[:, -1:] - block.starts)[0]
            found.append((float(gains.max()), block.first + int(gains.argmax())))
    return max(found, key=itemgetter(0), default=(0.0, 0))[1]


def _blocks(
    values: ndarray, counts: ndarray, stakes: Sequence[float], looks: int
) -> Iterator[Block]:
    import numpy

    steps = counts.shape[1]
    features = features_of(values)
    before = numpy.concatenate([numpy.zeros_like(counts[:, :1]), counts.cumsum(axis=1)], axis=1)
    for day in range(BLOCK, REFERENCE_DAYS + 1, BLOCK):
        first = day * looks
        if first >= steps:
            return
        complete = day == REFERENCE_DAYS
        end = steps if complete else min(steps, (day + EARLY_DAYS) * looks)
        floor, deviation = reference_of(features, before[:, first], complete)
        capital = before[:, first : end + 1] @ bets(features, floor, deviation, stakes)
        starts = capital[:, :-1:looks]
        yield Block(first, end, starts if complete else starts[:, :BLOCK], capital)


def features_of(values: ndarray) -> ndarray:
    """What is bet on: the mean, and where values are not only 0 and 1 also the share above half."""
    import numpy

    if set(numpy.unique(values)) <= {0.0, 1.0}:
        return values[None].astype(float)
    return numpy.stack([values, (values >= 0.5).astype(float)])


def reference_of(features: ndarray, counts: ndarray, complete: bool) -> tuple[ndarray, ndarray]:
    """Of each feature, (series, features): the mean's lower bound (Wilson's), and the deviation.

    One row of each end is added, so that a reference without a single bad row does not promise that
    there will never be one.
    """
    import numpy

    n = counts.sum(axis=-1, keepdims=True) + 2
    mean = (counts @ features.T + 1) / n
    variance = (counts @ (features**2).T + 1) / n - mean**2
    worth = n * mean * (1 - mean) / variance  # rows with values of 0 and 1 that say as much
    caution = EARLY_CAUTION
    if complete:
        caution = CAUTION * (1 + SMALL / worth)
    zz = caution**2 / worth
    middle = mean + zz / 2
    half = numpy.sqrt(zz * mean * (1 - mean) + zz * zz / 4)
    return (middle - half) / (1 + zz), numpy.sqrt(variance)


def bets(features: ndarray, floor: ndarray, deviation: ndarray, stakes: Sequence[float]) -> ndarray:
    """log(1 + stake * (floor - x)) of every value: (series, values, features * stakes)."""
    import numpy

    floor = floor[..., None]
    shares = numpy.asarray(stakes) / deviation[..., None]
    shares = numpy.minimum(shares, MOST / (1 - floor))
    below = floor - features  # (series, features, values)
    gains = numpy.log1p(shares[..., None] * below[:, :, None])
    series, _, _, values = gains.shape
    return gains.reshape(series, -1, values).transpose(0, 2, 1)


def _log_mean(logs: ndarray) -> ndarray:
    """Log of the mean over the last axis."""
    import numpy

    return numpy.logaddexp.reduce(logs, axis=-1) - numpy.log(logs.shape[-1])
