"""The statistics behind every score and gate: proportions, paired differences, quantiles, power.

All intervals are 95% and two-sided, so a gate that looks at one bound is wrong in at most 2.5% of the cases.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean, stdev

from helpers.records import Estimate, Verdict

LEVEL = 0.95
Z = 1.959963984540054  # the normal quantile of (1 + LEVEL) / 2
ASSUMED_FLIPS = 0.20  # share of rows that change between two models, until it has been measured
METHOD = "paired difference, Bonett-Price 2012"
AT_LEAST = ("accuracy", "format_compliance")  # targets of these are lower limits, of all others upper ones


def wilson(successes: float, n: float) -> tuple[float, float]:
    """Interval of a proportion (Wilson, JASA 1927, 22:209-212); (0, 1) without rows.

    low, high = (p + z²/2n ± z·sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)
    """
    if n <= 0:
        return 0.0, 1.0
    p, zz = successes / n, Z * Z
    middle = p + zz / (2 * n)
    half = Z * math.sqrt(p * (1 - p) / n + zz / (4 * n * n))
    low, high = (middle - half) / (1 + zz / n), (middle + half) / (1 + zz / n)
    # At the ends the formula gives 0 and 1 exactly; floating point does not.
    return (0.0 if successes == 0 else max(0.0, low)), (1.0 if successes == n else min(1.0, high))


def proportion(hits: Sequence[float], groups: Sequence[str] | None = None) -> Estimate:
    """Share of hits with its Wilson interval; rows of one group count as less than one independent row each."""
    value = fmean(hits) if hits else 0.0
    effective = effective_rows(hits, groups)
    low, high = wilson(value * effective, effective)
    return Estimate(value=value, low=low, high=high, n=len(hits))


def effective_rows(values: Sequence[float], groups: Sequence[str] | None) -> float:
    """How many independent rows `values` are worth: n / design effect, never more than n.

    Design effect = variance of the mean over clusters / variance over independent rows (Kish 1965); dividing n by it
    is Korn & Graubard's way (Survey Methodology 1998, 24:193-201), which holds for rare events where a clustered
    standard error does not. Where nothing varies, a group counts as one row.
    """
    n = len(values)
    if groups is None or len(set(groups)) == n:
        return float(n)
    middle = fmean(values)
    residual: dict[str, float] = defaultdict(float)
    for value, group in zip(values, groups, strict=True):
        residual[group] += value - middle
    count, spread = len(residual), sum((v - middle) ** 2 for v in values)
    if spread == 0 or count < 2:
        return float(count)
    clustered = sum(r * r for r in residual.values()) * count / (count - 1)
    return n / max(1.0, clustered / (spread * n / (n - 1)))


def paired_difference(
    ours: Sequence[float], theirs: Sequence[float], groups: Sequence[str] | None = None
) -> tuple[Estimate, int, int]:
    """Ours minus theirs on the same rows, with (gained, lost): rows right only with ours, and only with theirs.

    Bonett & Price (J. Educ. Behav. Stat. 2012, 37:479-488): with p = (gained + 1)/(n + 2) and q = (lost + 1)/(n + 2),
    p - q ± z·sqrt((p + q - (p - q)²)/(n + 2)). Exact enumeration for n = 20 … 400 gives a lower bound that is too high
    in at most 2.5% of the cases when the true difference is 0 or more; Wald and the percentile bootstrap fail there.
    """
    changes = [float(a > b) - float(a < b) for a, b in zip(ours, theirs, strict=True)]
    n, gained, lost = len(changes), changes.count(1.0), changes.count(-1.0)
    if n == 0:
        return Estimate(value=0.0, low=-1.0, high=1.0, n=0), 0, 0
    effective = effective_rows(changes, groups)
    low, high = bonett_price(gained * effective / n, lost * effective / n, effective)
    return Estimate(value=(gained - lost) / n, low=low, high=high, n=n), gained, lost


def bonett_price(gained: float, lost: float, n: float) -> tuple[float, float]:
    """The interval of `paired_difference` from its counts."""
    p, q = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = Z * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    return max(-1.0, p - q - half), min(1.0, p - q + half)


def detectable_difference(n: int, flips: float = ASSUMED_FLIPS, power: float = 0.8) -> float:
    """Smallest true difference that n paired rows show in `power` of the cases.

    Solves n·d² = (z·sqrt(f) + z_power·sqrt(f - d²))² (Connor, Biometrics 1987, 43:207-211) for d, where f is the share
    of rows that flip (at least d: a difference needs flips).
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    z_power = float(norm.ppf(power))

    def surplus(d: float) -> float:
        share = max(flips, d)
        return n * d * d - (Z * math.sqrt(share) + z_power * math.sqrt(max(0.0, share - d * d))) ** 2

    return 1.0 if surplus(1.0) < 0 else float(brentq(surplus, 1e-9, 1.0))


def rows_to_decide(target: float) -> int:
    """Rows needed so that n right of n put the lower bound, Wilson's n / (n + z²), above `target` (0 < target < 1)."""
    return math.floor(Z * Z * target / (1 - target)) + 1


def quantile(values: Sequence[float], share: float) -> Estimate:
    """A quantile of independent measurements, with an interval that needs no distribution where n allows one.

    Order statistics with binomial ranks (David & Nagaraja, Order Statistics, 7.1); where there are too few (p95: < 72),
    the log-normal tolerance bound (Hahn & Meeker, Statistical Intervals, 4.4), never below the largest value seen.
    """
    n = len(values)
    if n == 0:
        return Estimate(value=0.0, low=0.0, high=0.0, n=0)
    import numpy
    from scipy.stats import binom

    ordered, tail = sorted(values), (1 - LEVEL) / 2
    value = float(numpy.quantile(ordered, share))
    low_rank = int(binom.ppf(tail, n, share))  # the largest rank with P(rank too high) <= tail; 0 = none
    high_rank = int(binom.ppf(1 - tail, n, share)) + 1
    low = ordered[low_rank - 1] if low_rank >= 1 else _tolerance_bound(ordered, share, tail)
    high = ordered[high_rank - 1] if high_rank <= n else max(ordered[-1], _tolerance_bound(ordered, share, 1 - tail))
    return Estimate(value=value, low=min(low, value), high=max(high, value), n=n)


def _tolerance_bound(ordered: Sequence[float], share: float, confidence: float) -> float:
    """One-sided bound of a log-normal's quantile, from the noncentral t distribution; equal values bound themselves."""
    from scipy.stats import nct, norm

    n, logs = len(ordered), [math.log(max(v, 1e-9)) for v in ordered]
    if logs[0] == logs[-1]:
        return ordered[0]
    factor = float(nct.ppf(confidence, n - 1, math.sqrt(n) * float(norm.ppf(share)))) / math.sqrt(n)
    return math.exp(fmean(logs) + factor * stdev(logs))


def mean(values: Sequence[float]) -> Estimate:
    """Mean with its t interval (a single value, or equal ones, have no width)."""
    n = len(values)
    if n == 0 or min(values) == max(values):
        value = values[0] if n else 0.0
        return Estimate(value=value, low=value, high=value, n=n)
    from scipy.stats import t

    middle = fmean(values)
    half = float(t.ppf((1 + LEVEL) / 2, n - 1)) * stdev(values) / math.sqrt(n)
    return Estimate(value=middle, low=middle - half, high=middle + half, n=n)


def verdict(estimate: Estimate, threshold: float) -> Verdict:
    """pass when the whole interval lies above the threshold, fail when it lies below or on it, else inconclusive."""
    if estimate.n and estimate.low > threshold:
        return "pass"
    return "fail" if estimate.n and estimate.high <= threshold else "inconclusive"


def target_met(metric: str, estimate: Estimate, target: float) -> str:
    """yes / no / undecided: the whole interval must keep the target, AT_LEAST or at most."""
    if estimate.n == 0:
        return "undecided"
    if metric in AT_LEAST:
        return "yes" if estimate.low >= target else "no" if estimate.high < target else "undecided"
    return "yes" if estimate.high <= target else "no" if estimate.low > target else "undecided"
