"""The statistics behind every score and gate: proportions, paired differences, quantiles, power.

All intervals are 95% and two-sided, so a gate that looks at one bound is wrong in at most 2.5% of
the cases. Later attempts at the same task within a year get less (`attempt_alpha`), so that a year
of attempts stays within 5%.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import NormalDist, fmean

from helpers.records import Estimate, FindingVerdict, Verdict

Numbers = Sequence[float]
Bounds = tuple[float, float]
Groups = Sequence[str] | None  # rows of one group stand or fall together
LEVEL = 0.95
TAIL = 0.025  # what one bound of such an interval may miss
Z = NormalDist().inv_cdf(1 - TAIL)  # 1.96
LATER_ALPHA = 0.0225  # shared by all attempts of a year after the first: 0.025 + 0.0225 < 5%
STAKES = 19  # bets of the any-time test, from small to large
WEEKS = 52  # attempts that are planned for
ASSUMED_FLIPS = 0.20  # share of rows that change between two models, until it has been measured
METHOD = "paired difference, Bonett-Price 2012"
METHOD_MEAN = "paired mean difference, t interval, cluster-robust"
FEW_TIMED = 6  # measurements: of fewer, no bound of a quantile is known
MANY_TIMED = 72  # measurements, which bound a p95 whatever its tail
AT_LEAST = ("accuracy", "format_compliance")  # targets of all other metrics are upper limits


def wilson(successes: float, n: float, z: float = Z) -> Bounds:
    """Interval of a proportion (Wilson, JASA 1927, 22:209-212); (0, 1) without rows.

    low, high = (p + z²/2n ± z·sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)
    """
    if n <= 0:
        return 0.0, 1.0
    p, zz = successes / n, z * z
    middle = p + zz / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + zz / (4 * n * n))
    # rounded, since at the ends the formula gives 0 and 1 exactly, and floating point does not
    low = round((middle - half) / (1 + zz / n), 12)
    high = round((middle + half) / (1 + zz / n), 12)
    return max(0.0, low), min(1.0, high)


def proportion(hits: Numbers, groups: Groups = None) -> Estimate:
    """Share of hits with its Wilson interval; rows of one group are worth less than one each."""
    value = fmean(hits) if hits else 0.0
    effective = effective_rows(hits, groups)
    return in_interval(value, *wilson(value * effective, effective), len(hits))


def in_interval(value: float, low: float, high: float, n: int) -> Estimate:
    """A value in its interval."""
    return Estimate(value=value, low=min(low, value), high=max(high, value), n=n)


def effective_rows(values: Numbers, groups: Groups, alpha: float = TAIL) -> float:
    """How many independent rows `values` are worth: n / design effect, never more than n.

    Design effect = variance of the mean over clusters / variance over independent rows (Kish 1965);
    dividing n by it is Korn & Graubard's way (Survey Methodology 1998, 24:193-201), which holds for
    rare events where a clustered standard error does not. Few groups say little about their own
    spread, so n also shrinks by (z / t)², as they do, at the `alpha` that a bound may miss. Where
    nothing varies, a group counts as one row.
    """
    n = len(values)
    if groups is None or len(set(groups)) == n:
        return float(n)
    middle = fmean(values)
    spread = sum((value - middle) ** 2 for value in values)
    count, freedom, clustered = _cluster_variance(values, groups)
    if spread == 0 or count < 2:
        return float(count)
    design_effect = max(1.0, clustered / (spread * n / (n - 1)))
    return n / design_effect * (upper_normal(alpha) / _t(alpha, freedom)) ** 2


def _cluster_variance(values: Numbers, groups: Groups) -> tuple[int, float, float]:
    """(groups G, degrees of freedom, variance of the sum over groups: G/(G - 1)·Σ residual²).

    Without `groups` each value is one of its own. Of n rows in groups of nᵢ, n²/Σnᵢ² groups count
    (Carter, Schnepel & Steigerwald, Rev. Econ. Stat. 2017, 99:698-709): one that holds most of the
    rows tells little of the others; with groups of one size that is G.
    """
    middle = fmean(values)
    names = groups or range(len(values))
    residuals = defaultdict(float)
    for value, name in zip(values, names, strict=True):
        residuals[name] += value - middle
    count = len(residuals)
    if count < 2:
        return count, 0.0, 0.0
    squares = sum(size**2 for size in Counter(names).values())
    variance = count / (count - 1) * sum(residual**2 for residual in residuals.values())
    return count, max(1.0, len(values) ** 2 / squares - 1), variance


def _t(alpha: float, df: float) -> float:
    from scipy.special import stdtrit  # what scipy.stats calls, which takes half a second to import

    return -float(stdtrit(df, alpha))


def upper_normal(alpha: float) -> float:
    """The normal quantile that is exceeded with probability alpha (1.96 for 0.025)."""
    if alpha <= 0:
        return math.inf
    return NormalDist().inv_cdf(1 - alpha)


def paired_difference(
    ours: Numbers, theirs: Numbers, groups: Groups = None, alpha: float = TAIL
) -> tuple[Estimate, int, int]:
    """Ours minus theirs on the same rows, with (gained, lost): rows better with ours, with theirs.

    Numbers of 0 and 1: `from_counts`. Other scores: the mean change with its cluster-robust t
    interval (`mean`). Each bound may be wrong in `alpha` of the cases.
    """
    changes = [a - b for a, b in zip(ours, theirs, strict=True)]
    gained = sum(change > 0 for change in changes)
    lost = sum(change < 0 for change in changes)
    if {*ours, *theirs} <= {0, 1} or gained + lost == 0:
        effective = effective_rows(changes, groups, alpha)
        difference = from_counts(gained, lost, len(changes), effective, alpha)
    else:
        difference = mean(changes, groups, alpha)
    return difference, gained, lost


def from_counts(gained: int, lost: int, n: int, effective: float, alpha: float = TAIL) -> Estimate:
    """The paired difference of right and wrong answers; the n rows are worth `effective` ones."""
    if n == 0:
        return in_interval(0.0, -1.0, 1.0, n)
    bounds = bonett_price(gained * effective / n, lost * effective / n, effective, alpha)
    return in_interval((gained - lost) / n, *bounds, n)


def bonett_price(gained: float, lost: float, n: float, alpha: float = TAIL) -> Bounds:
    """Interval of a paired difference (Bonett & Price, J. Educ. Behav. Stat. 2012, 37:479-488).

    With p = (gained + 1)/(n + 2) and q = (lost + 1)/(n + 2): p - q ± z·sqrt((p + q - (p - q)²)/(n +
    2)). Exact enumeration for n = 20 … 400 gives a lower bound that is too high in at most 2.5% of
    the cases when the true difference is 0 or more; Wald and the percentile bootstrap fail there
    (docs/statistics.md has the table).
    """
    middle, error = _bonett_price(gained, lost, n)
    half = upper_normal(alpha) * error
    return max(-1.0, middle - half), min(1.0, middle + half)


def _bonett_price(gained: float, lost: float, n: float) -> Bounds:
    p = (gained + 1) / (n + 2)
    q = (lost + 1) / (n + 2)
    return p - q, math.sqrt((p + q - (p - q) ** 2) / (n + 2))


def paired_p(ours: Numbers, theirs: Numbers, groups: Groups = None) -> float:
    """Two-sided p of "no difference": the level at which `paired_difference` just leaves 0 out.

    Never below 1e-300, where a computer's numbers end.
    """
    from scipy.special import stdtr

    difference, gained, lost = paired_difference(ours, theirs, groups)
    changes = [a - b for a, b in zip(ours, theirs, strict=True)]
    if {*ours, *theirs} <= {0, 1} or gained + lost == 0:
        n = effective_rows(changes, groups)
        rate = n / difference.n
        middle, error = _bonett_price(gained * rate, lost * rate, n)
        return max(1e-300, math.erfc(abs(middle) / error / math.sqrt(2)))
    count, freedom, variance = _cluster_variance(changes, groups)
    if count < 2:
        return 1.0
    t = abs(sum(changes)) / max(1e-300, math.sqrt(variance))
    return max(1e-300, 2 * float(stdtr(freedom, -t)))


def holm(p_values: Numbers) -> list[float]:
    """p values adjusted for looking at all of them (Holm, Scand. J. Statist. 1979, 6:65-70)."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def any_time_p(values: Numbers, at_least: float) -> float:
    """p of "the mean is at least `at_least`" for values in [0, 1], valid however often one looks.

    Betting e-process (Waudby-Smith & Ramdas, JRSS-B 2024, 86:1-27): capital Π(1 + λ(m - x)),
    averaged over 19 stakes λ in (0, 1/(1 - m)). When the mean is m or more it rarely grows, and
    p = 1 / the highest capital ever held.
    """
    import numpy

    if not values or at_least <= 0:
        return 1.0
    m = min(at_least, 1 - 1e-9)
    stakes = numpy.linspace(0.05, 0.95, STAKES)[:, None] / (1 - m)  # (stakes, 1)
    shortfalls = m - numpy.asarray(values, dtype=float)[None, :]  # (1, rows)
    log_capital = numpy.cumsum(numpy.log1p(stakes * shortfalls), axis=1)  # (stakes, rows)
    log_average = numpy.logaddexp.reduce(log_capital, axis=0) - numpy.log(STAKES)  # (rows,)
    return float(min(1.0, numpy.exp(-numpy.max(log_average))))


def attempt_alpha(number: int) -> float:
    """How often the bound of a year's attempt 1, 2, … may be wrong: 5% for the whole year.

    The first gets the usual 2.5%. The later ones share LATER_ALPHA: in proportion to 1/k while they
    come weekly, and to 52/k² beyond, whose sum is finite, so that trying more often never buys
    more. Union bound: any dependence between attempts is allowed. Since it falls with k, every
    window of a year keeps the bound, not only calendar years.
    """
    if number <= 1:
        return TAIL
    weekly = sum(1 / k for k in range(2, WEEKS + 1))
    beyond = WEEKS / (WEEKS + 0.5)  # the tail's sum, by the midpoint rule
    share = 1 / number if number <= WEEKS else WEEKS / number**2
    return LATER_ALPHA / (weekly + beyond) * share


def detectable_difference(
    n: float, flips: float = ASSUMED_FLIPS, power: float = 0.8, alpha: float = TAIL
) -> float:
    """Smallest true difference that n paired rows show in `power` of the cases.

    Solves n·d² = (z·sqrt(f) + z_power·sqrt(f - d²))² (Connor, Biometrics 1987, 43:207-211) for d,
    where f is the share of rows that flip (at least d: a difference needs flips); with d above the
    f that is given, n·d = (z + z_power·sqrt(1 - d))². Both are quadratic.
    """
    z = upper_normal(alpha)
    z_power = upper_normal(1 - power)
    left = n + z_power**2 - z**2
    if left <= 0:
        return 1.0
    total = n + z_power**2
    d = math.sqrt(flips) * (z * math.sqrt(n) + z_power * math.sqrt(left)) / total
    if d > flips:
        root = (math.sqrt(n * left) - z * z_power) / total
        d = 1 - max(0.0, root) ** 2
    return d


def chance_to_see(n: float, gain: float, flips: float = ASSUMED_FLIPS) -> float:
    """How likely n paired rows show a true gain: the inverse of `detectable_difference`."""
    share = max(flips, gain)
    spread = math.sqrt(max(1e-12, share - gain * gain))
    surplus = math.sqrt(n) * gain - upper_normal(TAIL) * math.sqrt(share)
    return NormalDist().cdf(surplus / spread)


def rows_to_separate(
    gained: int, lost: int, n: int, threshold: float = 0.0, alpha: float = TAIL
) -> int:
    """Rows that show in 80% of the cases on which side of the threshold the difference lies.

    n = (z + z_power)²·(f - d²) / (d - threshold)², the same planning formula as
    `detectable_difference` with the variance of the rates seen (one flip added to each side); 0
    when the difference is the threshold itself.
    """
    gap = abs((gained - lost) / max(n, 1) - threshold)
    if n == 0 or gap <= 1e-9:
        return 0
    error = _bonett_price(gained, lost, n)[1]
    z = upper_normal(alpha) + upper_normal(0.2)
    return math.ceil(z * z * error * error * (n + 2) / gap**2)


def rows_to_decide(target: float, alpha: float = TAIL) -> int:
    """Rows n that put the lower bound of n right of n, n / (n + z²), above `target` < 1."""
    return math.floor(upper_normal(alpha) ** 2 * target / (1 - target)) + 1


def rows_that_decide(estimate: Estimate, target: float) -> int:
    """Rows that take a share's bound past its target if the share stays as it is; 0 for a tie.

    Wilson's bound is the target where (p - t)² = z²·t(1 - t)/n. Rows in groups count for less, so
    where n rows should have been enough and were not, twice as many.
    """
    gap = abs(estimate.value - target)
    if gap < 1e-9:
        return 0
    needed = math.ceil(Z * Z * target * (1 - target) / gap**2 - 1e-9)
    return needed if needed > estimate.n else 2 * estimate.n


def surer(share: Estimate, alpha: float) -> Bounds:
    """The bounds of a share, each of which may be wrong in `alpha` of the cases.

    Its effective rows follow from the width of the interval that it has: with c = z²/n, h half of
    the width, p the share, h²(1 + c)² = p(1 - p)c + c²/4 is Wilson's formula.
    """
    p = share.value
    squared = ((share.high - share.low) / 2) ** 2
    if alpha == TAIL or squared in (0, 0.25):  # nothing varies, or nothing is known
        return share.low, share.high
    a = squared - 0.25
    b = 2 * squared - p * (1 - p)
    c = (b + math.sqrt(b * b - 4 * a * squared)) / (-2 * a)
    n = Z * Z / c
    return wilson(p * n, n, upper_normal(alpha))


def quantile(values: Numbers, share: float) -> Estimate:
    """A quantile of independent measurements, with an interval without a distribution if n allows.

    Order statistics with binomial ranks (David & Nagaraja, Order Statistics, 7.1); where there are
    too few for an upper one (p95: < 72), that of an exponential tail above the least value seen,
    x + 2·Σ(xᵢ - x)·ln(1/(1 - share)) / χ²(2n - 2), for that sum is χ² (Epstein & Sobel, Ann. Math.
    Stat. 1954, 25:373-381), never below the largest value seen. Fewer than FEW_TIMED say nothing of
    a tail: their interval is what was seen, and no target is decided by it (`target_met`).
    """
    n = len(values)
    if n == 0:
        return in_interval(0.0, 0.0, 0.0, n)
    import numpy
    from scipy.special import chdtri
    from scipy.stats import quantile_test

    ordered = sorted(values)
    value = float(numpy.quantile(ordered, share))
    if n < FEW_TIMED:
        return in_interval(value, ordered[0], ordered[-1], n)
    low, high = quantile_test(ordered, p=share).confidence_interval(LEVEL)
    if math.isnan(high):
        excess = sum(each - ordered[0] for each in ordered)
        scale = 2 * excess / float(chdtri(2 * n - 2, 1 - TAIL))
        high = max(ordered[-1], ordered[0] - scale * math.log(1 - share))
    return in_interval(value, low, high, n)


def mean(values: Numbers, groups: Groups = None, alpha: float = TAIL) -> Estimate:
    """Mean with its t interval (equal values have no width); rows of one group count together.

    Cluster-robust variance G/(G - 1)·Σ (sum of a group's residuals)² / n² with the degrees of
    freedom of its groups (Liang & Zeger, Biometrika 1986, 73:13-22); with one row a group it is the
    usual s²/n.
    """
    n = len(values)
    if n == 0:
        return in_interval(0.0, 0.0, 0.0, n)
    low = min(values)
    high = max(values)
    middle = min(high, max(low, fmean(values)))  # which floating point may leave
    count, freedom, variance = _cluster_variance(values, groups)
    if count < 2 or low == high:
        return in_interval(middle, low, high, n)
    half = _t(alpha, freedom) * math.sqrt(variance) / n
    return in_interval(middle, middle - half, middle + half, n)


def score(values: Numbers, groups: Groups = None) -> Estimate:
    """The estimate of a score: a share where all are 0 or 1, else a mean between 0 and 1."""
    if {*values} <= {0, 1} or min(values) == max(values):
        return proportion(values, groups)
    share = mean(values, groups)
    return in_interval(share.value, max(0.0, share.low), min(1.0, share.high), share.n)


def verdict_against(estimate: Estimate, threshold: float) -> Verdict:
    """pass when the interval lies above the threshold, fail when below or on it."""
    if estimate.n and estimate.low > threshold:
        return "pass"
    if estimate.n and estimate.high <= threshold:
        return "fail"
    return "inconclusive"


def target_met(
    metric: str, estimate: Estimate, target: float, alpha: float = TAIL
) -> FindingVerdict:
    """Whether the whole interval keeps the target: at least (AT_LEAST), or at most.

    `alpha` is what each bound of a share may miss; with 0 it can be missed, and not met.
    """
    fewest = {"latency_p95": FEW_TIMED, "cost_per_request": 2}.get(metric, 1)
    if estimate.n < fewest:
        return "undecided"
    if metric in AT_LEAST:
        low, high = surer(estimate, alpha or TAIL)
        surely_met = low >= target and alpha > 0
        surely_missed = high < target
    else:
        surely_met = estimate.high <= target
        surely_missed = estimate.low > target
    if surely_met:
        return "pass"
    return "fail" if surely_missed else "undecided"
