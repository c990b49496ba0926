"""Is the model in production still good? Checks over the recent window, and one verdict: ok, watch or retrain.

Only quality that has surely fallen (format or feedback) asks for a retrain. Everything else, age included, asks a
person to look: without a loss of quality there is no reason to train.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from helpers import store
from helpers.evaluate import statistics
from helpers.monitor.windows import LiveRow, Windows, cut, ratings, read_live, well_formed
from helpers.records import Estimate, EvalResults, FineTunedModelVersion, Record
from helpers.registry import FineTuneLifecycleManager
from helpers.tasks import Task

ALPHA = 0.05  # over all checks of one look together (Holm)
FEW_ROWS = 30  # fewer requests in a window decide nothing
FORMAT_MARGIN = 0.02  # a fall that matters, where task.yaml has no margin of its own
FEEDBACK_MARGIN = 0.25  # points on the scale of 1 to 5
SHARE_SHIFT = 0.15  # a shift of a share that is worth a look, and of a length, below
LENGTH_SHIFT = 0.3
ERROR_RISE = 0.05  # a rise of the share of failed requests that is worth a look

HealthVerdict = Literal["ok", "watch", "retrain"]


class Check(Record):
    """One figure of the window against its baseline, with what it means; `p` is there if it must survive Holm."""

    name: str
    verdict: HealthVerdict
    value: float | None
    baseline: float | None
    n: int
    simulated: bool = False
    low: float | None = None
    high: float | None = None
    p: float | None = None
    evidence: str = ""


class Health(Record):
    """health.json."""

    verdict: HealthVerdict
    reasons: list[str]
    checks: list[Check]
    version: str | None
    window: dict[str, Any]
    simulated: bool
    unreadable: int


def check_health(
    task: Task, run: store.Run, window_days: int = 7, max_age_days: int = 90, live_path: str = ""
) -> Health:
    """Judge the last `window_days` of live traffic against what was measured before promotion and the weeks before."""
    serving = FineTuneLifecycleManager(task.registry_name).get_production_version()
    version = serving.id if serving else None
    log = read_live(task, live_path)
    windows = cut(log, window_days, version or "")
    made = holm(live_checks(task, windows, _baseline(serving, run)))
    checks = [check.model_copy(update={"simulated": log.simulated}) for check in made]
    checks.append(age_check(serving, max_age_days))
    verdict, reasons = judge(checks, serving is not None)
    window = {
        "from": windows.start,
        "to": windows.end,
        "days": window_days,
        "files": [p.name for p in log.files],
    }
    told: dict[str, Any] = {"version": version, "window": window, "unreadable": log.unreadable}
    return Health(verdict=verdict, reasons=reasons, checks=checks, simulated=log.simulated, **told)


def judge(checks: Sequence[Check], serving: bool) -> tuple[HealthVerdict, list[str]]:
    """The worst check decides; without a version in production there is nothing to retrain, only to watch."""
    reasons = [check.name for check in checks if check.verdict != "ok"]
    if not serving:
        return "watch", ["no_production_version", *reasons]
    verdicts = {check.verdict for check in checks}
    return (
        "retrain" if "retrain" in verdicts else "watch" if "watch" in verdicts else "ok"
    ), reasons


def _baseline(serving: FineTunedModelVersion | None, run: store.Run) -> EvalResults | None:
    """What was measured on the test part: of the version that serves, else of this run's own candidate."""
    if serving is not None:
        return serving.eval_results
    found = run.read("evaluation.json")["fine_tuned_model"] if run.has("evaluation.json") else None
    return EvalResults.model_validate(found) if found else None


def holm(checks: list[Check]) -> list[Check]:
    """Holm's correction (Scand. J. Statist. 1979, 6:65-70): a check whose p does not survive it is ok.

    A check comes in with the verdict that it deserves if its p survives.
    """
    tested = sorted((check.p, check.name) for check in checks if check.p is not None)
    survivors = set()
    for rank, (p, name) in enumerate(tested):
        if p > ALPHA / (len(tested) - rank):
            break
        survivors.add(name)
    return [
        c if c.p is None or c.name in survivors else c.model_copy(update={"verdict": "ok"})
        for c in checks
    ]


def any_time_p(values: Sequence[float], at_least: float) -> float:
    """p-value of "the mean is at least `at_least`" for values in [0, 1]; valid however often somebody looks.

    Betting e-process (Waudby-Smith & Ramdas, JRSS-B 2024, 86:1-27): capital Π(1 + λ(m - x)) averaged over 19 stakes λ
    in (0, 1/(1 - m)); when the mean is m or more it rarely grows, and p = 1 / the highest capital ever held.
    """
    import numpy as np

    if not values or at_least <= 0:
        return 1.0
    m = min(at_least, 1 - 1e-9)
    stakes = np.linspace(0.05, 0.95, 19)[:, None] / (1 - m)
    log_capital = np.cumsum(
        np.log1p(stakes * (m - np.asarray(values, dtype=float)[None, :])), axis=1
    )
    highest = float(np.max(np.logaddexp.reduce(log_capital, axis=0))) - np.log(len(stakes))
    return float(min(1.0, np.exp(-highest)))


def live_checks(task: Task, windows: Windows, baseline: EvalResults | None) -> list[Check]:
    """Every check over live rows, not yet corrected for being many."""
    both = windows.recent, windows.earlier
    formed, rated = [well_formed(task, rows) for rows in both], [ratings(rows) for rows in both]
    format_now, format_before = map(statistics.proportion, formed)
    format_before = baseline.format_compliance if baseline else format_before
    margin = task.margins.get("format_compliance", FORMAT_MARGIN)
    failed = [[float(not row.ok) for row in rows] for rows in both]
    rates = [[float(row.feedback is not None) for row in rows] for rows in both]
    lengths = [[float(len(row.answer)) for row in rows if row.ok] for rows in both]
    long = LENGTH_SHIFT * statistics.mean(lengths[1]).value
    return [
        volume_check(windows),
        fall_check("format_compliance", formed[0], format_now, format_before, margin),
        fall_check(
            "feedback_mean",
            rated[0],
            *map(statistics.mean, rated),
            FEEDBACK_MARGIN,
            scale=(1.0, 5.0),
        ),
        shift_check("error_rate", *failed, ERROR_RISE, "share of failed requests", rise=True),
        shift_check(
            "feedback_rate", *rates, SHARE_SHIFT, "share of rated requests"
        ),  # who rates decides what ratings say
        shift_check(
            "answer_length", *lengths, max(long, 1.0), "characters"
        ),  # first to show a broken template
        shift_check(
            "new_words",
            *new_words(windows),
            SHARE_SHIFT,
            "share of words never asked before",
            rise=True,
        ),
        latency_check(task, windows.recent, baseline),
    ]


def _check(
    name: str,
    verdict: HealthVerdict,
    now: Estimate,
    baseline: float | None,
    evidence: str,
    p: float | None = None,
) -> Check:
    """A check of an estimate; without rows it has no value."""
    seen = {"value": now.value, "low": now.low, "high": now.high} if now.n else {"value": None}
    return Check(
        name=name, verdict=verdict, baseline=baseline, n=now.n, p=p, evidence=evidence, **seen
    )


def volume_check(windows: Windows) -> Check:
    """Enough requests to say anything, and no collapse against the time before."""
    n, before = len(windows.recent), windows.earlier
    days = (windows.start - before[0].created_at).total_seconds() / 86400 if before else 0.0
    usual = len(before) / days * (windows.end - windows.start).days if days >= 1 else None
    low = n < FEW_ROWS or (usual is not None and n < usual / 2)
    said = f"{n} requests, usually {'unknown' if usual is None else f'{usual:.0f}'}; under {FEW_ROWS} decide nothing"
    return Check(
        name="volume", verdict="watch" if low else "ok", value=n, baseline=usual, n=n, evidence=said
    )


def fall_check(
    name: str,
    values: list[float],
    now: Estimate,
    before: Estimate,
    margin: float,
    scale: Sequence[float] = (0.0, 1.0),
) -> Check:
    """retrain when the mean has surely fallen by more than the margin below the baseline's lower bound."""
    if not (now.n and before.n):
        said = "nothing to compare with" if now.n else "nothing was measured"
        return _check(name, "ok", now, before.value if before.n else None, said)
    floor, (low, high) = before.low - margin, scale
    p = any_time_p([(v - low) / (high - low) for v in values], (floor - low) / (high - low))
    said = f"must not fall below {floor:.3g} (baseline {before}, margin {margin:g}); any-time p = {p:.2g}"
    return _check(name, "retrain", now, before.value, said, p)


def shift_check(
    name: str,
    recent: list[float],
    earlier: list[float],
    matters: float,
    unit: str,
    rise: bool = False,
) -> Check:
    """watch when the mean has shifted (with `rise`: risen) by `matters` or more, and Mann-Whitney's p survives Holm."""
    from scipy.stats import mannwhitneyu

    now, before = statistics.mean(recent), statistics.mean(earlier)
    p = (
        float(mannwhitneyu(recent, earlier).pvalue)
        if now.n and before.n and len({*recent, *earlier}) > 1
        else 1.0
    )
    shift = now.value - before.value if now.n and before.n else 0.0
    verdict: HealthVerdict = "watch" if (shift if rise else abs(shift)) >= matters else "ok"
    said = f"{unit}, against {before.n} rows before; p = {p:.2g}"
    return _check(name, verdict, now, before.value if before.n else None, said, p)


def new_words(windows: Windows) -> tuple[list[float], list[float]]:
    """Share of each request's words that were never seen before, now and in the time before.

    The older half of the time before is the vocabulary; its younger half says how many new words are usual.
    """
    half = len(windows.earlier) // 2
    known = frozenset().union(*(row.asked for row in windows.earlier[:half]))
    both = windows.recent, windows.earlier[half:] if known else []
    now, before = (
        [len(row.asked - known) / len(row.asked) for row in rows if row.asked] for rows in both
    )
    return now, before


def latency_check(task: Task, rows: list[LiveRow], baseline: EvalResults | None) -> Check:
    """95th percentile of the latency against the task's ceiling; above it only when the whole interval is."""
    target = task.targets.get("latency_p95")
    now = statistics.quantile(
        [row.latency_ms for row in rows if row.ok and row.latency_ms is not None], 0.95
    )
    slow = target is not None and now.n > 0 and now.low > target
    said = f"ms; at most {target:g}" if target is not None else "ms; task.yaml has no ceiling"
    measured = baseline.latency_p95.value if baseline else None
    return _check("latency_p95", "watch" if slow else "ok", now, measured, said)


def age_check(serving: FineTunedModelVersion | None, max_age_days: int) -> Check:
    """Days since the version in production was trained."""
    days = round((store.now() - serving.trained_at).total_seconds() / 86400, 2) if serving else None
    old: HealthVerdict = "watch" if days is not None and days > max_age_days else "ok"
    said = "days since training" if serving else "nothing is in production"
    return Check(
        name="model_age",
        verdict=old,
        value=days,
        baseline=max_age_days,
        n=bool(serving),
        evidence=said,
    )
