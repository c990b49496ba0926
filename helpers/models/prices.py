"""What one request costs, from a task's dated prices: by the token, or by own hardware's second."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

from helpers import store
from helpers.records import WorkbookError

if TYPE_CHECKING:
    from helpers.models.answers import Answer, Model
    from helpers.records import Message
    from helpers.tasks import Task

STALE_DAYS = 90


def token_price(task: Task, name: str) -> dict[str, float] | None:
    """A model's entry in prices.models: its name, else the longest beginning (dated snapshots)."""
    prices: dict[str, dict[str, float]] = task.prices.get("models") or {}
    fitting = [key for key in prices if name == key or name.startswith((f"{key}-", f"{key}:"))]
    return prices[max(fitting, key=len)] if fitting else None


def batch_prices(task: Task) -> Task:
    """The task with the prices of a provider's batches: batch_input, batch_output, batch_cached.

    Where task.yaml does not name them, a batch counts at the ordinary price.
    """
    entries = {}
    for name, price in (task.prices.get("models") or {}).items():
        batch = {key[6:]: usd for key, usd in price.items() if key.startswith("batch_")}
        if "input" in batch:
            batch = {"cached": batch["input"]} | batch
        entries[name] = price | batch
    return task.model_copy(update={"prices": task.prices | {"models": entries}})


def token_cost(
    price: dict[str, float], tokens_in: int, tokens_out: int, tokens_cached: int = 0
) -> float:
    """USD = (uncached input x input + cached x cached + output x output) / 1,000,000."""
    cached = float(price.get("cached", price["input"]))
    total = (tokens_in - tokens_cached) * float(price["input"]) + tokens_cached * cached
    return (total + tokens_out * float(price["output"])) / 1e6


def request_cost(task: Task, model: Model, answer: Answer, seconds: float) -> float | None:
    """USD of one answer: by the token where prices.models names the model, else by the second.

    `seconds` is the time of the request alone, on own hardware. None: no price, or the endpoint did
    not say how many tokens it used.
    """
    price = token_price(task, model.name)
    if price is not None:
        if not answer.tokens_in:
            return None
        return token_cost(price, answer.tokens_in, answer.tokens_out, answer.tokens_cached)
    hourly = task.prices.get("hardware_usd_per_hour")
    if model.is_loopback and hourly is not None:
        return seconds * float(hourly) / 3600
    return None


def is_paid(task: Task, model: Model) -> bool:
    """Whether asking this model goes through the Budget.

    Every endpoint elsewhere does, and one on this machine where task.yaml has a price for it.
    """
    if model.provider != "api":
        return False
    return not model.is_loopback or token_price(task, model.name) is not None


def worst_cost(task: Task, model: Model, prompt: list[Message], max_new_tokens: int) -> float:
    """USD to reserve for one paid request: its prompt as counted here, and the longest answer."""
    price = token_price(task, model.name)
    if price is None:
        raise WorkbookError(
            f"task.yaml: prices.models has no entry for {model.name}; add it to bound what is spent"
        )
    return token_cost(price, model.count_tokens(prompt), max_new_tokens)


def real_cost(task: Task, model: Model, answer: Answer, reserved: float) -> float:
    """USD to settle for one paid request: what the endpoint counted.

    An answer without its count costs what was reserved for it; a failed request costs nothing.
    """
    cost = request_cost(task, model, answer, 0.0)
    if cost is not None:
        return cost
    return 0.0 if answer.finish == "error" else reserved


def price_warnings(task: Task, today: date | None = None) -> list[str]:
    """What to know before trusting a cost: prices without a date, or older than 90 days."""
    try:
        as_of = date.fromisoformat(str(task.prices.get("as_of"))[:10])
    except ValueError:
        return [
            f"task.yaml: prices.as_of is {task.prices.get('as_of')}, not a date (YYYY-MM-DD): how"
            " old are they?"
        ]
    age = ((today or store.now().date()) - as_of).days
    if age <= STALE_DAYS:
        return []
    return [f"prices are {age} days old (as of {as_of}); look them up again"]
