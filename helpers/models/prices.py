"""What one request costs, from the dated prices of a task: hardware by the second, endpoints by the token."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

from helpers import store

if TYPE_CHECKING:
    from helpers.models import Answer, Model
    from helpers.tasks import Task

STALE_DAYS = 90


def request_cost(task: Task, model: Model, answer: Answer, seconds: float) -> float | None:
    """USD of one answer: by the token where prices.models names the model, else by the second of own hardware.

    `seconds` is the time of the request alone. None: no price, or the endpoint did not say how many tokens it used.
    """
    hourly = task.prices.get("hardware_usd_per_hour")
    if (price := token_price(task, model.name)) is not None:
        return (
            token_cost(price, answer.tokens_in, answer.tokens_out, answer.tokens_cached)
            if answer.tokens_in
            else None
        )
    return seconds * float(hourly) / 3600 if model.is_loopback and hourly is not None else None


def token_price(task: Task, name: str) -> dict[str, float] | None:
    """The price entry of a model: its exact name, else the longest entry that its name begins with (dated snapshots)."""
    models: dict[str, dict[str, float]] = task.prices.get("models") or {}
    fits = [key for key in models if name == key or name.startswith((f"{key}-", f"{key}:"))]
    return models[max(fits, key=len)] if fits else None


def token_cost(
    price: dict[str, float], tokens_in: int, tokens_out: int, tokens_cached: int = 0
) -> float:
    """USD = (uncached input x input + cached x cached + output x output) / 1,000,000."""
    cached = float(price.get("cached", price["input"]))
    total = (tokens_in - tokens_cached) * float(price["input"]) + tokens_cached * cached
    return (total + tokens_out * float(price["output"])) / 1e6


def price_warnings(task: Task, today: date | None = None) -> list[str]:
    """What a reader should know before trusting a cost: prices without a date, or older than 90 days."""
    try:
        as_of = date.fromisoformat(str(task.prices.get("as_of"))[:10])
    except ValueError:
        return [
            f"task.yaml: prices.as_of is {task.prices.get('as_of')}, not a date (YYYY-MM-DD): how old are they?"
        ]
    age = ((today or store.now().date()) - as_of).days
    return (
        [f"prices are {age} days old (as of {as_of}); look them up again"]
        if age > STALE_DAYS
        else []
    )
