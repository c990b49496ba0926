"""What one request costs, from the dated prices of a task: hardware by the second, endpoints by the token."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

from helpers import store
from helpers.records import Record

if TYPE_CHECKING:
    from helpers.models import Answer, Model
    from helpers.tasks import Task

STALE_DAYS = 90


class Cost(Record):
    """USD of one request, or None and the reason why it is not known."""

    usd: float | None
    reason: str = ""


def request_cost(task: Task, model: Model, answer: Answer, seconds: float | None = None) -> Cost:
    """USD of one answer: by the token where prices.models names the model, else by the second of own hardware.

    `seconds` is the time of the request alone (latency_probe); an answer's own latency includes its batch's neighbours.
    """
    price = token_price(task, model.name)
    if price is not None:
        if not answer.tokens_in:
            return Cost(usd=None, reason="the endpoint did not say how many tokens it used")
        return Cost(usd=token_cost(price, answer.tokens_in, answer.tokens_out, answer.tokens_cached))
    if not model.is_loopback:
        return Cost(usd=None, reason=f"task.yaml has no prices.models entry for {model.name}")
    if task.prices.get("hardware_usd_per_hour") is None:
        return Cost(usd=None, reason="task.yaml has no prices.hardware_usd_per_hour")
    spent = answer.latency_ms / 1000 if seconds is None else seconds
    return Cost(usd=spent * float(task.prices["hardware_usd_per_hour"]) / 3600)


def token_price(task: Task, name: str) -> dict[str, float] | None:
    """The price entry of a model: its exact name, else the longest entry that its name begins with (dated snapshots)."""
    models: dict[str, dict[str, float]] = task.prices.get("models") or {}
    fits = [key for key in models if name == key or name.startswith((f"{key}-", f"{key}:"))]
    return models[max(fits, key=len)] if fits else None


def token_cost(price: dict[str, float], tokens_in: int, tokens_out: int, tokens_cached: int = 0) -> float:
    """USD = (uncached input x input + cached x cached + output x output) / 1,000,000."""
    cached = float(price.get("cached", price["input"]))
    total = (tokens_in - tokens_cached) * float(price["input"]) + tokens_cached * cached
    return (total + tokens_out * float(price["output"])) / 1e6


def price_warnings(task: Task, today: date | None = None) -> list[str]:
    """What a reader should know before trusting a cost: prices without a date, or older than 90 days."""
    try:
        as_of = date.fromisoformat(str(task.prices.get("as_of"))[:10])
    except ValueError:
        return [f"task.yaml: prices.as_of is {task.prices.get('as_of')}, not a date (YYYY-MM-DD): how old are they?"]
    age = ((today or store.now().date()) - as_of).days
    return [f"prices are {age} days old (as of {as_of}); look them up again"] if age > STALE_DAYS else []
