"""What answers for a version: our own models, llama.cpp's server, or any OpenAI-compatible one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from helpers import models, store
from helpers.models import Answer
from helpers.records import Budget, Message
from helpers.serve.served import Served

Logprobs = Mapping[str, Any] | None


class Loaded(Protocol):
    """One version, ready to answer."""

    def answer(self, chat: list[Message], limit: int, logprobs: Logprobs = None) -> Answer:
        """One answer; blocks, and is called from many threads at once.

        `logprobs`: what OpenAI calls logprobs and top_logprobs, where somebody asks for them; a
        Reply holds them where the engine gives any.
        """

    def close(self) -> None:
        """Give its memory back; nobody asks it any more."""


class Engine(Protocol):
    """Loads versions one beside the other."""

    name: str

    def load(self, served: Served) -> Loaded:
        """Make a version ready; WorkbookError when it cannot be what was promoted."""


class Hosted:
    """A version that lives at the provider that trained it: requests are forwarded there."""

    def __init__(self, served: Served, limit_usd: float) -> None:
        self._task = served.task
        self._limit_usd = limit_usd
        model = models.ApiModel(served.model.model_id, served.model.base_url)
        models.check_may_send(served.task, model)
        self._model = model.with_asking(served.asking)
        self._is_paid = models.is_paid(served.task, model)
        if self._is_paid:  # a price that is not known is told now, not at the first request
            models.worst_cost(served.task, model, [], served.asking.max_new_tokens)

    def answer(self, chat: list[Message], limit: int, logprobs: Logprobs = None) -> Answer:
        """Ask the provider; what it costs is booked on this month's ledger of the task."""
        if not self._is_paid:
            return self._model.answer([chat], limit)[0]
        worst = models.worst_cost(self._task, self._model, chat, limit)
        budget = Budget(Month(self._task.registry_name), self._limit_usd)
        key = budget.reserve(worst, "serving")
        answer = self._model.answer([chat], limit)[0]
        budget.settle(key, models.real_cost(self._task, self._model, answer, worst))
        return answer

    def close(self) -> None:
        """Nothing lies here."""


class Month:
    """Where a task's serving costs of this month stand."""

    def __init__(self, task: str) -> None:
        self.id = f"serving {task} in {store.now():%Y-%m}"
        self._folder = store.home() / "serve" / task / f"{store.now():%Y-%m}"

    def path(self, name: str) -> Path:
        """A file of this month."""
        return self._folder / name
