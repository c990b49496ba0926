"""Is the model in production still good? Checks over the recent window, and one verdict.

Only quality that has surely fallen asks for a retrain. Everything else, age included, asks a person
to look: without a loss of quality there is no reason to train.
"""

from __future__ import annotations

from collections.abc import Sequence

from helpers import evaluate, store
from helpers.monitor.windows import (
    LiveRow,
    Windows,
    answer_lengths,
    cut,
    new_words,
    ratings,
    read_live,
    well_formed,
)
from helpers.records import (
    Estimate,
    EvalResults,
    Evaluation,
    Finding,
    FineTunedModelVersion,
    Health,
    HealthVerdict,
    Severity,
    Window,
)
from helpers.registry import FineTuneLifecycleManager
from helpers.tasks import Task

QUALITY = ("format_compliance", "feedback_mean")  # critical when they fall; the others warn
ALPHA = 0.05  # over all checks of one look together (Holm)
FEW_ROWS = 30  # fewer requests in a window decide nothing
FORMAT_MARGIN = 0.02  # a fall that matters, where task.yaml has no margin of its own
FEEDBACK_MARGIN = 0.25  # points on the scale of 1 to 5
SHARE_SHIFT = 0.15  # a shift of a share that is worth a look
LENGTH_SHIFT = 0.3  # a shift of the answers' length that is worth a look, of the usual length
ERROR_RISE = 0.05  # a rise of the share of failed requests that is worth a look
STAKES = 19  # bets of the any-time test, from careful to bold
DAY = 86400  # seconds


def check_health(
    task: Task, run: store.Run, window_days: int = 7, max_age_days: int = 90, live_path: str = ""
) -> Health:
    """Judge the last days by what was measured before promotion, and by the weeks before."""
    serving = FineTuneLifecycleManager(task.registry_name).get_production_version()
    version = serving.id if serving else None
    log = read_live(task, live_path)
    windows = cut(log, window_days, version or "")
    checks = correct(live_checks(task, windows, _baseline(serving, run)))
    checks.append(age_check(serving, max_age_days))
    verdict, reasons = judge(checks, serving is not None)
    return Health(
        verdict=verdict,
        reasons=reasons,
        checks=checks,
        version=version,
        window=Window(
            start=windows.start,
            end=windows.end,
            days=window_days,
            files=[path.name for path in log.files],
        ),
        simulated=log.simulated,
        unreadable=log.unreadable,
    )


def judge(checks: Sequence[Finding], serving: bool) -> tuple[HealthVerdict, list[str]]:
    """A failed critical check asks for a retrain, any other failed one for a look.

    Without a version in production there is nothing to retrain, only to watch.
    """
    failed = [check for check in checks if check.verdict == "fail"]
    reasons = [check.name for check in failed]
    if not serving:
        return "watch", ["no_production_version", *reasons]
    if any(check.severity == "critical" for check in failed):
        return "retrain", reasons
    return ("watch" if failed else "ok"), reasons


def _baseline(serving: FineTunedModelVersion | None, run: store.Run) -> EvalResults | None:
    """What was measured on the test part: of the version that serves, else of this run's own."""
    if serving is not None:
        return serving.eval_results
    if run.has(Evaluation):
        return run.load(Evaluation).fine_tuned_model
    return None


def correct(checks: Sequence[Finding]) -> list[Finding]:
    """Holm's correction for looking at many: a check whose p does not survive it passes.

    A check comes in with the verdict that it deserves if its p survives.
    """
    adjusted = iter(evaluate.holm([check.p for check in checks if check.p is not None]))
    corrected = []
    for check in checks:
        if check.p is not None:
            p = next(adjusted)
            outcome = {} if p <= ALPHA else {"verdict": "pass", "severity": None}
            check = check.model_copy(update={"p": p, **outcome})
        corrected.append(check)
    return corrected


def any_time_p(values: Sequence[float], at_least: float) -> float:
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


def live_checks(task: Task, windows: Windows, baseline: EvalResults | None) -> list[Finding]:
    """Every check over live rows, not yet corrected for being many."""
    recent, earlier = windows.recent, windows.earlier
    answers_now, answers_before = answer_lengths(recent), answer_lengths(earlier)
    new_now, new_before = new_words(windows)
    longer = max(1.0, LENGTH_SHIFT * evaluate.mean(answers_before).value)
    return [
        volume_check(windows),
        format_check(task, windows, baseline),
        fall_check(
            "feedback_mean",
            ratings(recent),
            evaluate.mean(ratings(recent)),
            evaluate.mean(ratings(earlier)),
            FEEDBACK_MARGIN,
            scale=(1.0, 5.0),
        ),
        shift_check(
            "error_rate",
            [float(not row.ok) for row in recent],
            [float(not row.ok) for row in earlier],
            ERROR_RISE,
            "share of failed requests",
            rise=True,
        ),
        shift_check(  # who rates decides what ratings say
            "feedback_rate",
            [float(row.feedback is not None) for row in recent],
            [float(row.feedback is not None) for row in earlier],
            SHARE_SHIFT,
            "share of rated requests",
        ),
        shift_check(  # the first to show a broken template
            "answer_length", answers_now, answers_before, longer, "characters"
        ),
        shift_check(
            "new_words",
            new_now,
            new_before,
            SHARE_SHIFT,
            "share of words never asked before",
            rise=True,
        ),
        latency_check(task, recent, baseline),
    ]


def _finding(
    name: str,
    failed: bool,
    now: Estimate,
    threshold: float | None,
    evidence: str,
    p: float | None = None,
) -> Finding:
    """A check of an estimate; one without rows is no estimate."""
    severity: Severity = "critical" if name in QUALITY else "warning"
    return Finding(
        name=name,
        verdict="fail" if failed else "pass",
        severity=severity if failed else None,
        evidence=evidence,
        estimate=now if now.n else None,
        threshold=threshold,
        p=p,
    )


def volume_check(windows: Windows) -> Finding:
    """Enough requests to say anything, and no collapse against the time before."""
    n = len(windows.recent)
    usual = None
    if windows.earlier:
        days = (windows.start - windows.earlier[0].created_at).total_seconds() / DAY
        if days >= 1:
            usual = len(windows.earlier) / days * (windows.end - windows.start).days
    low = n < FEW_ROWS or (usual is not None and n < usual / 2)
    known = "unknown" if usual is None else f"{usual:.0f}"
    evidence = f"{n} requests, usually {known}; under {FEW_ROWS} decide nothing"
    finding = _finding("volume", low, _exactly(n, n), usual, evidence)
    return finding.model_copy(update={"estimate": _exactly(n, n)})  # also where n is 0


def format_check(task: Task, windows: Windows, baseline: EvalResults | None) -> Finding:
    """Whether answers keep the format as on the test part, or where that is unknown, as before."""
    values = well_formed(task, windows.recent)
    earlier = evaluate.proportion(well_formed(task, windows.earlier))
    before = baseline.format_compliance if baseline else earlier
    margin = task.margins.get("format_compliance", FORMAT_MARGIN)
    return fall_check("format_compliance", values, evaluate.proportion(values), before, margin)


def fall_check(
    name: str,
    values: Sequence[float],
    now: Estimate,
    before: Estimate,
    margin: float,
    scale: tuple[float, float] = (0.0, 1.0),
) -> Finding:
    """Whether the mean surely fell by more than the margin below the baseline's lower bound."""
    if not (now.n and before.n):
        evidence = "nothing to compare with" if now.n else "nothing was measured"
        return _finding(name, False, now, _value(before), evidence)
    low, high = scale
    floor = before.low - margin
    shares = [(value - low) / (high - low) for value in values]
    p = any_time_p(shares, (floor - low) / (high - low))
    evidence = (
        f"must not fall below {floor:.3g} (baseline {before}, margin {margin:g});"
        f" any-time p = {p:.2g}"
    )
    return _finding(name, True, now, before.value, evidence, p)


def shift_check(
    name: str,
    recent: Sequence[float],
    earlier: Sequence[float],
    matters: float,
    unit: str,
    rise: bool = False,
) -> Finding:
    """Whether the mean shifted by `matters` or more (with `rise`: rose), by Mann-Whitney's p."""
    from scipy.stats import mannwhitneyu

    now = evaluate.mean(recent)
    before = evaluate.mean(earlier)
    shift = 0.0
    p = 1.0
    if now.n and before.n:
        shift = now.value - before.value
        if len({*recent, *earlier}) > 1:
            p = float(mannwhitneyu(recent, earlier).pvalue)
    far = shift >= matters or (not rise and -shift >= matters)
    evidence = f"{unit}, against {before.n} rows before; p = {p:.2g}"
    return _finding(name, far, now, _value(before), evidence, p)


def latency_check(task: Task, rows: Sequence[LiveRow], baseline: EvalResults | None) -> Finding:
    """Whether the whole interval of the 95th percentile lies above the task's ceiling."""
    latencies = [row.latency_ms for row in rows if row.ok and row.latency_ms is not None]
    now = evaluate.quantile(latencies, 0.95)
    measured = baseline.latency_p95.value if baseline else None
    ceiling = task.targets.get("latency_p95")
    if ceiling is None:
        return _finding("latency_p95", False, now, measured, "ms; task.yaml has no ceiling")
    slow = now.n > 0 and now.low > ceiling
    return _finding("latency_p95", slow, now, measured, f"ms; at most {ceiling:g}")


def age_check(serving: FineTunedModelVersion | None, max_age_days: int) -> Finding:
    """Days since the version in production was trained."""
    if serving is None:
        nothing = _exactly(0.0, 0)
        return _finding("model_age", False, nothing, max_age_days, "nothing is in production")
    days = round((store.now() - serving.trained_at).total_seconds() / DAY, 2)
    old = days > max_age_days
    return _finding("model_age", old, _exactly(days, 1), max_age_days, "days since training")


def _exactly(value: float, n: int) -> Estimate:
    """A number that was counted."""
    return Estimate(value=value, low=value, high=value, n=n)


def _value(estimate: Estimate) -> float | None:
    return estimate.value if estimate.n else None
