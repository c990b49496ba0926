"""Which trainer is left to choose: this machine, or an endpoint that may have the data."""

from __future__ import annotations

import os
from datetime import date

from helpers import store
from helpers.models import PROVIDERS, STALE_DAYS, is_loopback, provider_of
from helpers.records import Trainer, WorkbookError
from helpers.tasks import Task


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
    warnings = provider_warnings(base_url, today) if base_url else []
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
