"""What each way costs: a request, the work before and after, break-even volumes, and which trainer is left to choose."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from helpers import store
from helpers.evaluate.running import RungResult
from helpers.models.api import is_loopback
from helpers.models.prices import STALE_DAYS
from helpers.records import WorkbookError
from helpers.tasks import Task

Trainer = Literal["lora", "openai"]
# Hours of work, ours to assume and yours to replace under prices.hours in task.yaml.
HOURS = {
    "prompt_once": 4.0,
    "prompt_monthly": 0.5,
    "rag_once": 24.0,
    "rag_monthly": 2.0,
    "curation_once": 16.0,
}
HOURS |= {"review_once": 4.0, "labelling_monthly": 3.0, "retraining_monthly": 1.0}
ELAPSED = {
    "prompting": "hours",
    "rag": "days",
    "fine_tuning": "weeks",
    "custom_model": "months",
}  # as the strategy says
# USD per million training tokens; the list price of about September 2026 (mirror of the provider's pricing page).
TRAINING_PRICES = {"gpt-4.1-mini": 5.0, "gpt-4.1": 25.0, "gpt-4o-mini": 3.0, "gpt-4o": 25.0}
# A model of one's own, by "compute-optimal" training: 20 tokens a parameter (Hoffmann et al. 2022, arXiv 2203.15556),
# 6 FLOPs per parameter and token (Kaplan et al. 2020, arXiv 2001.08361). 312 TFLOP/s is an A100's bf16 peak, 40% of it
# is what good training code reaches (PaLM: 46%, arXiv 2204.02311), 2 USD an hour a rented A100 in 2026.
TOKENS_PER_PARAMETER, FLOPS_PER_TOKEN, GPU_FLOPS, UTILISATION, GPU_USD = 20, 6, 312e12, 0.40, 2.0


class Provider(NamedTuple):
    """What a fine-tuning endpoint still offers, as known on `as_of`; `newcomers`: may a new organisation start there?"""

    host: str
    name: str
    as_of: date
    note: str
    train_until: date | None = None
    serve_until: date | None = None
    newcomers: bool = True


SEEN = date(2026, 11, 22)
CLOSING = "self-serve fine-tuning is being closed: new organisations get 403 training_not_available"
DEPLOY = "a tuned model must be deployed as well, which has an hourly fee"
PROVIDERS = (
    Provider(
        "api.openai.com",
        "OpenAI",
        SEEN,
        CLOSING,
        date(2027, 1, 6),
        date(2027, 1, 14),
        newcomers=False,
    ),
    Provider(
        "openai.azure.com",
        "Azure OpenAI / Foundry",
        SEEN,
        DEPLOY,
        date(2027, 4, 14),
        date(2027, 10, 1),
    ),
    Provider(
        "api.tokenfactory.nebius.com",
        "Nebius Token Factory",
        SEEN,
        "speaks the same API for open models",
    ),
)


def provider_of(base_url: str) -> Provider | None:
    """What is known of the provider behind an endpoint."""
    host = urlsplit(base_url).hostname or ""
    return next((p for p in PROVIDERS if host == p.host or host.endswith(f".{p.host}")), None)


def provider_warnings(base_url: str, today: date | None = None) -> list[str]:
    """What can still be trained there and until when it is served, and how old that knowledge is."""
    provider, today = provider_of(base_url), today or store.now().date()
    if provider is None:
        return []
    said = [f"{provider.name}: {provider.note} (as of {provider.as_of})"]
    if provider.train_until:
        said.append(f"{provider.name}: no new training jobs after {provider.train_until}")
    if provider.serve_until:
        left = (provider.serve_until - today).days
        said.append(
            f"{provider.name}: tuned models are served until {provider.serve_until}, {max(0, left)} days from now"
        )
    if not provider.newcomers:
        said.append(
            f"else: {', '.join(p.name for p in PROVIDERS if p.newcomers)}, or LoRA on hardware of your own"
        )
    if (today - provider.as_of).days > STALE_DAYS:
        said.append(
            f"what is known of {provider.name} is {(today - provider.as_of).days} days old; look it up again"
        )
    return said


def choose_trainer(
    asked: str, base_url: str, api_model: str, task: Task, today: date | None = None
) -> tuple[Trainer, list[str]]:
    """(trainer, warnings): auto is lora, on this machine, unless an API may be used, has a key and will serve on.

    An API is chosen when the data may go there, a key is set (a server on this machine needs none), it still trains,
    and what it trains is served for at least 90 days.
    """
    if asked not in ("auto", "lora", "openai"):
        raise WorkbookError(f"trainer {asked!r} is not known; choose auto, lora or openai")
    today, provider, lacking = today or store.now().date(), provider_of(base_url), []
    if not (base_url and api_model):
        lacking.append("base_url and api_model are not both given")
    elif not is_loopback(base_url):
        if not task.data_may_leave:
            lacking.append("data_may_leave is not true in task.yaml")
        if not (os.environ.get("WORKBOOK_API_KEY") or os.environ.get("OPENAI_API_KEY")):
            lacking.append("no key is set (WORKBOOK_API_KEY)")
        if provider and provider.train_until and today > provider.train_until:
            lacking.append(f"{provider.name} took its last training job on {provider.train_until}")
        if provider and provider.serve_until and (provider.serve_until - today).days < STALE_DAYS:
            lacking.append(f"{provider.name} serves tuned models only until {provider.serve_until}")
    warnings = provider_warnings(base_url, today) if base_url else []
    if asked == "openai" and lacking:
        warnings.append(f"trainer openai was asked for, but {'; '.join(lacking)}")
    elif asked == "auto" and base_url and lacking:
        warnings.append(f"lora instead of {base_url}: {'; '.join(lacking)}")
    return (
        "openai" if asked == "openai" or (asked == "auto" and not lacking) else "lora"
    ), warnings


def training_cost(
    task: Task, trainer: Trainer, api_model: str, tokens: int, tokens_per_second: float = 200.0
) -> float:
    """USD of one training run: by the token at an API, by the hour of own hardware (200 tokens/s: two CPU cores, 135M)."""
    if trainer == "lora":
        return (
            tokens / tokens_per_second / 3600 * float(task.prices.get("hardware_usd_per_hour") or 0)
        )
    own = (task.prices.get("training") or {}).get(api_model)
    known = [
        p
        for name, p in sorted(TRAINING_PRICES.items(), key=lambda x: -len(x[0]))
        if api_model.startswith(name)
    ]
    return tokens / 1e6 * float(own if own is not None else (known or [0.0])[0])


def economics(
    task: Task, rungs: Sequence[RungResult], best: str = "", training_usd: float = 0.0
) -> dict[str, Any]:
    """Per rung and for tuning: cost per request, one-off, monthly; and the volume from which tuning is the cheaper one.

    A month of v requests costs one-off / 12 + monthly + v x cost per request. Break-even: v = (upkeep of tuning -
    upkeep of the rung) / (rung's cost - tuned cost), null where tuning saves nothing per request. A tuned request is
    predicted to cost what the same model costs with the short prompt (zero_shot), until 04 has measured it.
    """
    stated: Mapping[str, Any] = task.prices.get("hours") or {}
    hours = {name: float(stated.get(name, usual)) for name, usual in HOURS.items()}
    per_hour, hosting = (
        float(task.prices.get(k) or 0) for k in ("person_usd_per_hour", "hosting_usd_per_month")
    )
    tuned_once = per_hour * (hours["curation_once"] + hours["review_once"]) + training_usd
    tuned_monthly = (
        per_hour * (hours["labelling_monthly"] + hours["retraining_monthly"])
        + training_usd
        + hosting
    )
    costs = {
        r.name: r.results.cost_per_request.value for r in rungs if r.results.cost_per_request.n
    }
    ways = {name: _way(name, cost, per_hour, hours) for name, cost in costs.items()}
    tuned = costs.get("zero_shot")
    if tuned is not None:
        ways["fine_tuned"] = {
            "cost_per_request": tuned,
            "one_off_usd": tuned_once,
            "monthly_usd": tuned_monthly,
        }
        ways["fine_tuned"]["elapsed"] = ELAPSED["fine_tuning"]
    needed: dict[str, int | None] = {}
    for name, way in ways.items():
        if name not in ("zero_shot", "fine_tuned") and tuned is not None:
            saving, more = (
                way["cost_per_request"] - tuned,
                _upkeep(ways["fine_tuned"]) - _upkeep(way),
            )
            needed[name] = max(0, int(more / saving) + 1) if saving > 0 else None
    return {
        "break_even_requests_per_month": needed.get(best),
        "break_even_against": needed,
        "ways": ways,
        "predicted_tuned_cost_per_request": tuned,
        "one_off_usd": tuned_once,
        "monthly_usd": tuned_monthly,
        "training_usd": training_usd,
        "hours": hours,
        "volume_per_month": task.volume_per_month,
        "prices_as_of": task.prices.get("as_of"),
    }


def _way(name: str, cost: float, per_hour: float, hours: Mapping[str, float]) -> dict[str, Any]:
    """A rung's work: zero_shot takes none worth counting, the others a prompt's, and rag the articles' as well."""
    kind, once, monthly = name.split("@")[0], 0.0, 0.0
    if kind != "zero_shot":
        once, monthly = hours["prompt_once"], hours["prompt_monthly"]
    if kind == "rag":
        once, monthly = once + hours["rag_once"], monthly + hours["rag_monthly"]
    took = ELAPSED["rag" if kind == "rag" else "prompting"]
    return {
        "cost_per_request": cost,
        "one_off_usd": per_hour * once,
        "monthly_usd": per_hour * monthly,
        "elapsed": took,
    }


def _upkeep(way: Mapping[str, Any]) -> float:
    return way["one_off_usd"] / 12 + way["monthly_usd"]  # the one-off work is spread over a year


def compute_estimate(parameters: float) -> dict[str, float]:
    """What training a model of one's own takes: tokens D = 20 N, FLOPs C = 6 N D, GPU-hours and USD (sources above)."""
    tokens = TOKENS_PER_PARAMETER * parameters
    flops = FLOPS_PER_TOKEN * parameters * tokens
    gpu_hours = flops / (GPU_FLOPS * UTILISATION) / 3600
    numbers = {
        "parameters": parameters,
        "tokens": tokens,
        "flops": flops,
        "gpu_hours": gpu_hours,
        "usd": gpu_hours * GPU_USD,
    }
    return {name: float(f"{value:.3g}") for name, value in numbers.items()}
