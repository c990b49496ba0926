"""Is the model in production still good? Checks over the recent window, and one verdict: ok, watch or retrain.

Only quality that has surely fallen (format or feedback) asks for a retrain. Everything else, input drift and age
included, asks a person to look: drift without a loss of quality is no reason to train.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

from helpers import store
from helpers.evaluate import statistics
from helpers.monitor.windows import LiveRow, Windows, cut, read_live, well_formed
from helpers.records import Estimate, EvalResults, FineTunedModelVersion, Record
from helpers.registry import FineTuneLifecycleManager
from helpers.tasks import Task

ALPHA = 0.05  # over all checks of one look together (Holm)
FEW_ROWS = 30  # fewer requests in a window decide nothing
FORMAT_MARGIN = 0.02  # a fall that matters, where task.yaml has no margin of its own
FEEDBACK_MARGIN = 0.25  # points on the scale of 1 to 5
SHARE_SHIFT = 0.05  # a shift of a share that is worth a look
LENGTH_SHIFT = 0.2  # … of the median length of an answer

HealthVerdict = Literal["ok", "watch", "retrain"]


class Check(Record):
    """One figure of the window against its baseline, with what it means."""

    name: str
    verdict: HealthVerdict
    value: float | None
    baseline: float | None
    n: int
    simulated: bool
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
    log = read_live(task, live_path)
    windows = cut(log, window_days, serving.id if serving else "")
    checks = live_checks(task, windows, baseline_of(serving, run), log.simulated)
    checks.append(age_check(serving, max_age_days))
    verdict, reasons = judge(checks, serving is not None)
    return Health(
        verdict=verdict,
        reasons=reasons,
        checks=checks,
        version=serving.id if serving else None,
        window={"from": windows.start, "to": windows.end, "days": window_days, "files": [p.name for p in log.files]},
        simulated=log.simulated,
        unreadable=log.unreadable,
    )


def judge(checks: Sequence[Check], serving: bool) -> tuple[HealthVerdict, list[str]]:
    """The worst check decides; without a version in production there is nothing to retrain, only to watch."""
    reasons = [check.name for check in checks if check.verdict != "ok"]
    if not serving:
        return "watch", ["no_production_version", *reasons]
    verdicts = {check.verdict for check in checks}
    return ("retrain" if "retrain" in verdicts else "watch" if "watch" in verdicts else "ok"), reasons


def baseline_of(serving: FineTunedModelVersion | None, run: store.Run) -> EvalResults | None:
    """What was measured on the test part: of the version that serves, else of this run's own candidate."""
    if serving is not None:
        return serving.eval_results
    return (
        EvalResults.model_validate(run.read("evaluation.json")["fine_tuned_model"])
        if run.has("evaluation.json")
        else None
    )


def live_checks(task: Task, windows: Windows, baseline: EvalResults | None, simulated: bool) -> list[Check]:
    """Every check over live rows; the ones with a p-value are corrected together."""
    made = [
        volume_check(windows),
        format_check(task, windows, baseline),
        feedback_check(windows),
        share_check("share_rated", windows, lambda row: row.feedback is not None, "two-sided"),
        share_check("error_rate", windows, lambda row: not row.ok, "greater"),
        latency_check(task, windows, baseline),
        length_check(windows),
        vocabulary_check(windows),
    ]
    return [check.model_copy(update={"simulated": simulated}) for check in holm(made)]


def holm(checks: list[Check]) -> list[Check]:
    """Holm's correction (Scand. J. Statist. 1979, 6:65-70): a check whose p does not survive it is ok.

    A check comes in with the verdict that it deserves if its p survives.
    """
    tested = sorted((check for check in checks if check.p is not None), key=lambda check: check.p or 0.0)
    survivors = set()
    for rank, check in enumerate(tested):
        if (check.p or 0.0) > ALPHA / (len(tested) - rank):
            break
        survivors.add(check.name)
    return [c if c.p is None or c.name in survivors else c.model_copy(update={"verdict": "ok"}) for c in checks]


# ---------------------------------------------------------------- tests


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
    log_capital = np.cumsum(np.log1p(stakes * (m - np.asarray(values, dtype=float)[None, :])), axis=1)
    highest = float(np.max(np.logaddexp.reduce(log_capital, axis=0))) - np.log(len(stakes))
    return float(min(1.0, np.exp(-highest)))


def _fall_check(
    name: str, values: list[float], now: Estimate, before: Estimate, scale: tuple[float, float], margin: float
) -> Check:
    """retrain when the mean has surely fallen by more than the margin below the baseline's lower bound."""
    low, high = scale
    floor = before.low - margin
    p = any_time_p([(v - low) / (high - low) for v in values], (floor - low) / (high - low)) if before.n else 1.0
    said = f"must not fall below {floor:.3g} (baseline {before}, margin {margin:g}); any-time p = {p:.2g}"
    interval = {"low": now.low, "high": now.high} if now.n else {}
    return Check(
        name=name,
        verdict="retrain",
        value=now.value if now.n else None,
        baseline=before.value if before.n else None,
        n=now.n,
        simulated=False,
        p=p,
        evidence=said if before.n and now.n else "nothing to compare with" if now.n else "nothing was measured",
        **interval,
    )


# ---------------------------------------------------------------- checks


def volume_check(windows: Windows) -> Check:
    """Enough requests to say anything, and no collapse against the time before."""
    n, days = len(windows.recent), (windows.end - windows.start).total_seconds() / 86400
    usual = len(windows.earlier) / windows.earlier_days * days if windows.earlier_days >= 1 else None
    few, collapsed = n < FEW_ROWS, usual is not None and n < usual / 2
    said = f"{n} requests" + (f", usually {usual:.0f}" if usual is not None else "")
    said += f"; fewer than {FEW_ROWS} decide nothing" if few else ""
    return Check(
        name="volume",
        verdict="watch" if few or collapsed else "ok",
        value=n,
        baseline=usual,
        n=n,
        simulated=False,
        evidence=said,
    )


def format_check(task: Task, windows: Windows, baseline: EvalResults | None) -> Check:
    """Share of answers in the task's format, against the test part (else against the time before)."""
    values = well_formed(task, windows.recent)
    before = baseline.format_compliance if baseline else statistics.proportion(well_formed(task, windows.earlier))
    margin = task.margins.get("format_compliance", FORMAT_MARGIN)
    return _fall_check("format_compliance", values, statistics.proportion(values), before, (0.0, 1.0), margin)


def feedback_check(windows: Windows) -> Check:
    """Mean rating, 1 to 5, against the time before; no rating at all is a supported case."""
    now, before = _ratings(windows.recent), _ratings(windows.earlier)
    estimates = statistics.mean(now), statistics.mean(before)
    return _fall_check("feedback_mean", now, *estimates, (1.0, 5.0), FEEDBACK_MARGIN)


def share_check(
    name: str, windows: Windows, counted: Callable[[LiveRow], bool], side: Literal["two-sided", "greater"]
) -> Check:
    """Share of rows for which `counted` holds, against the time before (Fisher's exact test)."""
    from scipy.stats import fisher_exact

    now = statistics.proportion([float(counted(row)) for row in windows.recent])
    before = statistics.proportion([float(counted(row)) for row in windows.earlier])
    hits = [round(e.value * e.n) for e in (now, before)]
    both = now.n > 0 and before.n > 0
    p = float(fisher_exact([[hits[0], now.n - hits[0]], [hits[1], before.n - hits[1]]], side).pvalue) if both else 1.0
    shift = now.value - before.value
    matters = both and (abs(shift) if side == "two-sided" else shift) >= SHARE_SHIFT
    return Check(
        name=name,
        verdict="watch" if matters else "ok",
        value=now.value if now.n else None,
        baseline=before.value if before.n else None,
        n=now.n,
        simulated=False,
        low=now.low if now.n else None,
        high=now.high if now.n else None,
        p=p,
        evidence=f"{hits[0]} of {now.n}, before {hits[1]} of {before.n}; p = {p:.2g}",
    )


def latency_check(task: Task, windows: Windows, baseline: EvalResults | None) -> Check:
    """95th percentile of the latency against the task's ceiling; above it only when the whole interval is."""
    values = [row.latency_ms for row in windows.recent if row.ok and row.latency_ms is not None]
    target, now = task.targets.get("latency_p95"), statistics.quantile(values, 0.95)
    slow = target is not None and now.n > 0 and now.low > target
    return Check(
        name="latency_p95",
        verdict="watch" if slow else "ok",
        value=now.value if now.n else None,
        baseline=baseline.latency_p95.value if baseline else None,
        n=now.n,
        simulated=False,
        low=now.low if now.n else None,
        high=now.high if now.n else None,
        evidence=f"ms; at most {target:g}" if target is not None else "ms; task.yaml has no ceiling",
    )


def length_check(windows: Windows) -> Check:
    """Length of answers in characters: a sudden change is often the first sign of a broken template."""
    now, before = ([float(len(r.answer)) for r in rows if r.ok] for rows in (windows.recent, windows.earlier))
    return _shift_check(
        "answer_length", now, before, lambda a, b: abs(a - b) >= LENGTH_SHIFT * max(b, 1.0), "characters"
    )


def vocabulary_check(windows: Windows) -> Check:
    """Share of a request's words that were not seen before: input drift, without knowing any label.

    The first half of the time before is the vocabulary; its second half says how many new words are usual.
    """
    half = len(windows.earlier) // 2
    known = {word for row in windows.earlier[:half] for word in _words(row.asked)}
    now, before = (
        [sum(w not in known for w in words) / len(words) for r in rows if (words := _words(r.asked))]
        for rows in (windows.recent, windows.earlier[half:])
    )
    if not known:
        before = []
    return _shift_check(
        "new_vocabulary", now, before, lambda a, b: a - b >= SHARE_SHIFT, "share of words never seen before"
    )


def _shift_check(
    name: str, now: list[float], before: list[float], matters: Callable[[float, float], bool], unit: str
) -> Check:
    """watch when the distribution has shifted (Mann-Whitney) by an amount that matters."""
    from scipy.stats import mannwhitneyu

    a, b = statistics.mean(now), statistics.mean(before)
    both = a.n > 0 and b.n > 0
    p = float(mannwhitneyu(now, before).pvalue) if both and len(set(now + before)) > 1 else 1.0
    return Check(
        name=name,
        verdict="watch" if both and matters(a.value, b.value) else "ok",
        value=a.value if a.n else None,
        baseline=b.value if b.n else None,
        n=a.n,
        simulated=False,
        low=a.low if a.n else None,
        high=a.high if a.n else None,
        p=p,
        evidence=f"{unit}; p = {p:.2g}",
    )


def age_check(serving: FineTunedModelVersion | None, max_age_days: int) -> Check:
    """Days since the version in production was trained."""
    if serving is None:
        return Check(
            name="model_age",
            verdict="ok",
            value=None,
            baseline=None,
            n=0,
            simulated=False,
            evidence="nothing is in production",
        )
    days = max(0.0, (store.now() - serving.trained_at).total_seconds() / 86400)
    said = f"days since training; look again after {max_age_days}"
    old: HealthVerdict = "watch" if days > max_age_days else "ok"
    return Check(
        name="model_age", verdict=old, value=round(days, 2), baseline=max_age_days, n=1, simulated=False, evidence=said
    )


def _ratings(rows: list[LiveRow]) -> list[float]:
    return [row.feedback for row in rows if row.feedback is not None]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
