"""What each rung costs, when fine-tuning would pay for itself, and who keeps it alive."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from helpers import store
from helpers.evaluate import RungResult
from helpers.models import prices
from helpers.tasks import Task

# Hours of work, ours to assume and yours to replace under prices.hours in task.yaml.
HOURS = {"curation_once": 16.0, "review_once": 4.0, "labelling_monthly": 3.0, "retraining_monthly": 1.0}
SPREAD_MONTHS = 12  # months over which the one-off work is spread
REVIEW_DAYS = 90


def economics(task: Task, rungs: Sequence[RungResult]) -> dict[str, Any]:
    """Cost per request of each rung, one-off and recurring costs, and the monthly volume from which tuning is cheaper.

    break-even volume = (one-off / 12 + monthly) / (rung's cost - tuned cost), per request. The tuned model's request is
    taken to cost what the same model costs with the short prompt (zero_shot) until 04 has measured it; where it saves
    nothing per request there is no such volume (null).
    """
    costs = {r.name: r.results.cost_per_request for r in rungs if r.results.cost_per_request.n}
    hours = HOURS | {k: float(v) for k, v in (task.prices.get("hours") or {}).items() if k in HOURS}
    per_hour = float(task.prices.get("person_usd_per_hour") or 0)
    one_off = per_hour * (hours["curation_once"] + hours["review_once"])
    monthly = per_hour * (hours["labelling_monthly"] + hours["retraining_monthly"])
    upkeep = one_off / SPREAD_MONTHS + monthly
    tuned = costs.get("zero_shot")
    against = {
        name: _break_even(upkeep, cost.value - tuned.value)
        for name, cost in costs.items()
        if tuned is not None and name != "zero_shot"
    }
    best = best_rung(rungs)
    return {
        "break_even_requests_per_month": against.get(best.name) if best else None,
        "break_even_against": against,
        "cost_per_request": {name: cost.value for name, cost in costs.items()},
        "tuned_cost_per_request": tuned.value if tuned else None,
        "tuned_cost_is": "predicted from the short prompt on the same model",
        "one_off_usd": one_off,
        "monthly_usd": monthly,
        "hours": hours,
        "volume_per_month": task.volume_per_month,
        "prices_as_of": task.prices.get("as_of"),
    }


def _break_even(upkeep: float, saving: float) -> int | None:
    return int(upkeep / saving) + 1 if saving > 0 else None


def best_rung(rungs: Sequence[RungResult]) -> RungResult | None:
    """The rung that fine-tuning has to beat: the most accurate; of equals the better formed, then the earlier one."""
    return max(rungs, key=lambda r: (r.results.accuracy.value, r.results.format_compliance.value), default=None)


def economics_warnings(task: Task, numbers: dict[str, Any]) -> list[str]:
    """What a reader should know before trusting the costs."""
    warnings = list(prices.price_warnings(task))
    needed, volume = numbers["break_even_requests_per_month"], task.volume_per_month
    if needed is not None and volume and needed > volume:
        warnings.append(
            f"cost alone does not pay for tuning: it needs {needed:,} requests a month, the task has {volume:,};"
            " it must pay through better answers"
        )
    return warnings


def maintenance_plan(task: Task, changing_requirements: bool, monthly_hours: float) -> dict[str, Any]:
    """Who looks after a tuned model, how often, and when somebody asks again whether it is still needed."""
    today = store.now().date()
    return {
        "owner": str(task.screening.get("owner") or "nobody yet: name one under screening.owner in task.yaml"),
        "cadence": "weekly" if changing_requirements else "monthly",
        "review_on": (today + timedelta(days=REVIEW_DAYS)).isoformat(),
        "hours_per_month": monthly_hours,
    }


def own_model_estimate(parameters: float = 135e6) -> dict[str, float]:
    """What training a model of one's own would take at least.

    Tokens = 20 per parameter (Hoffmann et al. 2022), FLOPs = 6 x parameters x tokens (Kaplan et al. 2020), GPU-hours at
    40% of an A100's 312 TFLOP/s.
    """
    tokens = 20 * parameters
    flops = 6 * parameters * tokens
    return {"parameters": parameters, "tokens": tokens, "flops": flops, "gpu_hours": flops / (0.4 * 312e12) / 3600}
