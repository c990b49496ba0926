"""What each way costs, the volume from which tuning pays, and which trainer is left to choose."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from helpers import store
from helpers.models import PROVIDERS, STALE_DAYS, is_loopback, provider_of
from helpers.records import Economics, RungResult, Trainer, Way, WorkbookError
from helpers.tasks import Task

# Hours of work, ours to assume and yours to replace under prices.hours in task.yaml.
HOURS = {
    "prompt_once": 4.0,
    "prompt_monthly": 0.5,
    "rag_once": 24.0,
    "rag_monthly": 2.0,
    "curation_once": 16.0,
    "review_once": 4.0,
    "labelling_monthly": 3.0,
    "retraining_monthly": 1.0,
}
ELAPSED = {  # as the strategy says
    "classical": "hours",
    "prompting": "hours",
    "rag": "days",
    "fine_tuning": "weeks",
    "custom_model": "months",
}
# USD per million training tokens; the list price of about September 2026 (mirror of the provider's
# pricing page).
TRAINING_PRICES = {"gpt-4.1-mini": 5.0, "gpt-4.1": 25.0, "gpt-4o-mini": 3.0, "gpt-4o": 25.0}
OWN_TOKENS_PER_SECOND = 200.0  # of training on two CPU cores, 135M parameters
# "Compute-optimal": 20 tokens a parameter (Hoffmann et al. 2022, arXiv 2203.15556) at 6 FLOPs for
# each of both (Kaplan et al. 2020, arXiv 2001.08361), on A100s: 312e12 FLOPs a second at their peak
# in bf16, of which good code reaches 0.40 (PaLM: 46%, arXiv 2204.02311), rented at 2 USD an hour.
OWN_MODEL = (
    "1e9 parameters take 2e10 tokens, 1.2e20 FLOPs, 267 GPU-hours, 534 USD: months, and a team"
)


def training_cost(task: Task, trainer: Trainer, api_model: str, tokens: int) -> float:
    """USD of one training run: by the token at an API, by the hour on hardware of one's own.

    0 where no price is known.
    """
    if trainer == "lora":
        hours = tokens / OWN_TOKENS_PER_SECOND / 3600
        return hours * _stated(task.prices, "hardware_usd_per_hour")
    prices = TRAINING_PRICES | _section(task, "training")
    # the longest name that begins the model's, since snapshots carry a date
    name = max((name for name in prices if api_model.startswith(name)), key=len, default="")
    return tokens / 1e6 * _stated(prices, name)


def economics(
    task: Task, rungs: Sequence[RungResult], best: str = "", training_usd: float = 0.0
) -> Economics:
    """What every rung and tuning cost, and from which monthly volume tuning is the cheaper one.

    A month of v requests costs upkeep + v x cost per request. Break-even: v = (upkeep of tuning -
    upkeep of the rung) / (rung's cost - tuned cost), None where tuning saves nothing per request.
    A tuned request is predicted to cost what the same model costs with the short prompt
    (zero_shot), until 04 has measured it.
    """
    stated = _section(task, "hours")
    if stated.keys() - HOURS.keys():
        raise WorkbookError(
            f"task.yaml: prices.hours is {stated!r}; give hours by these names: {', '.join(HOURS)}"
        )
    hours = {name: _stated(stated, name, usual) for name, usual in HOURS.items()}
    per_hour = _stated(task.prices, "person_usd_per_hour")
    ways = {}
    for rung in rungs:
        cost = rung.results.cost_per_request
        if cost.n:
            ways[rung.name] = _way(rung.asking.rung_kind, cost.value, per_hour, hours)
    tuned_cost = ways["zero_shot"].cost_per_request if "zero_shot" in ways else None
    hosting = _stated(task.prices, "hosting_usd_per_month")
    upkeep_hours = hours["labelling_monthly"] + hours["retraining_monthly"]
    tuned = Way(
        cost_per_request=tuned_cost or 0.0,
        one_off_usd=per_hour * (hours["curation_once"] + hours["review_once"]) + training_usd,
        monthly_usd=per_hour * upkeep_hours + training_usd + hosting,
        elapsed=ELAPSED["fine_tuning"],
    )
    against = {}
    if tuned_cost is not None:
        against = {name: _break_even(tuned, ways[name]) for name in ways if name != "zero_shot"}
        ways["fine_tuned"] = tuned
    return Economics(
        break_even_requests_per_month=against.get(best),
        break_even_against=against,
        ways=ways,
        predicted_tuned_cost_per_request=tuned_cost,
        one_off_usd=tuned.one_off_usd,
        monthly_usd=tuned.monthly_usd,
        training_usd=training_usd,
        hours=hours,
        volume_per_month=task.volume_per_month,
        prices_as_of=str(task.prices.get("as_of") or "") or None,
    )


def _section(task: Task, name: str) -> dict[str, Any]:
    """Numbers by name that task.yaml states under prices."""
    stated = task.prices.get(name) or {}
    if not isinstance(stated, dict):
        raise WorkbookError(f"task.yaml: prices.{name} is {stated!r}; give numbers by name")
    return stated


def _stated(prices: Mapping[str, Any], name: str, usual: float = 0.0) -> float:
    """A price or hours of task.yaml; WorkbookError where they are no number of 0 or more."""
    value = prices.get(name)
    if value is None:
        return usual
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise WorkbookError(f"task.yaml: prices: {name} is {value!r}; give a number, 0 or more")
    return float(value)


def _way(kind: str, cost: float, per_hour: float, hours: Mapping[str, float]) -> Way:
    """A rung's work: none worth counting for zero_shot, else a prompt's, and rag's articles too."""
    work = {"zero_shot": (), "classical": (), "rag": ("prompt", "rag")}.get(kind, ("prompt",))
    return Way(
        cost_per_request=cost,
        one_off_usd=per_hour * sum(hours[f"{name}_once"] for name in work),
        monthly_usd=per_hour * sum(hours[f"{name}_monthly"] for name in work),
        elapsed=ELAPSED["rag" if kind == "rag" else "prompting"],
    )


def _break_even(tuned: Way, other: Way) -> int | None:
    """Requests a month from which tuning is the cheaper one; None where it never is."""
    saving = other.cost_per_request - tuned.cost_per_request
    if saving <= 0:
        return None
    return max(0, int((tuned.upkeep - other.upkeep) / saving) + 1)


# --- the trainer ----------------------------------------------------------------------------------


def provider_warnings(base_url: str, today: date | None = None) -> list[str]:
    """What can still be trained there, until when it is served, and how old that knowledge is."""
    today = today or store.now().date()
    provider = provider_of(base_url)
    if provider is None:
        return []
    name = provider.name
    warnings = [f"{name}: {provider.note} (as of {provider.as_of})"]
    if provider.train_until:
        warnings.append(f"{name}: no new training jobs after {provider.train_until}")
    if provider.serve_until:
        days_left = max(0, (provider.serve_until - today).days)
        until = f"{provider.serve_until}, {days_left} days from now"
        warnings.append(f"{name}: tuned models are served until {until}")
    if not provider.newcomers:
        others = ", ".join(other.name for other in PROVIDERS if other.newcomers)
        warnings.append(f"else: {others}, or LoRA on hardware of your own")
    age = (today - provider.as_of).days
    if age > STALE_DAYS:
        warnings.append(f"what is known of {name} is {age} days old; look it up again")
    return warnings


def choose_trainer(
    asked: str, base_url: str, api_model: str, task: Task, today: date | None = None
) -> tuple[Trainer, list[str]]:
    """(trainer, warnings): auto is lora, unless an API may have the data and will serve on.

    An API is chosen when the data may go there, a key is set (a server on this machine needs
    none), it still trains, and what it trains is served for at least 90 days.
    """
    if asked not in ("auto", "lora", "openai"):
        raise WorkbookError(f"trainer {asked!r} is not known; choose auto, lora or openai")
    today = today or store.now().date()
    warnings = provider_warnings(base_url, today)
    obstacles = _obstacles(base_url, api_model, task, today)
    if asked == "openai" and obstacles:
        warnings.append(f"trainer openai was asked for, but {'; '.join(obstacles)}")
    elif asked == "auto" and base_url and obstacles:
        warnings.append(f"lora instead of {base_url}: {'; '.join(obstacles)}")
    use_api = asked == "openai" or (asked == "auto" and not obstacles)
    return ("openai" if use_api else "lora"), warnings


def _obstacles(base_url: str, api_model: str, task: Task, today: date) -> list[str]:
    """What keeps this task from being trained at that endpoint."""
    if not (base_url and api_model):
        return ["base_url and api_model are not both given"]
    if is_loopback(base_url):
        return []
    obstacles = []
    if not task.data_may_leave:
        obstacles.append("data_may_leave is not true in task.yaml")
    if not (os.environ.get("WORKBOOK_API_KEY") or os.environ.get("OPENAI_API_KEY")):
        obstacles.append("no key is set (WORKBOOK_API_KEY)")
    provider = provider_of(base_url)
    if provider is None:
        return obstacles
    name = provider.name
    if provider.train_until and today > provider.train_until:
        obstacles.append(f"{name} took its last training job on {provider.train_until}")
    if provider.serve_until and (provider.serve_until - today).days < STALE_DAYS:
        obstacles.append(f"{name} serves tuned models only until {provider.serve_until}")
    return obstacles
