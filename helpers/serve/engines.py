"""What answers for a version: our own models, llama.cpp's server, or any OpenAI-compatible one."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from helpers import models, store
from helpers.models import Answer
from helpers.records import Budget, Message, WorkbookError
from helpers.serve.served import Served

Logprobs = Mapping[str, Any] | None


class Loaded(Protocol):
    """One version, ready to answer."""

    engine: str  # what computes its answers, as the command line names it

    def answer(self, chat: list[Message], limit: int, logprobs: Logprobs = None) -> Answer:
        """One answer; blocks, and is called from many threads at once.

        `logprobs`: what OpenAI calls logprobs and top_logprobs, where somebody asks for them; a
        Reply holds them where the engine gives any.
        """

    def close(self) -> None:
        """Give its memory back; nobody asks it any more."""


# makes a version ready, beside others; WorkbookError when it cannot be what was promoted
Engine = Callable[[Served], Loaded]


class Hosted:
    """A version that lives at the provider that trained it: requests are forwarded there."""

    engine = "its provider"

    def __init__(self, served: Served, limit_usd: float) -> None:
        self._task = served.task
        self._budget = Budget(Month(served.task.registry_name), limit_usd)
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
        budget, key = self._reserve(worst)
        try:
            answer = self._model.answer([chat], limit)[0]
        except WorkbookError:  # it was refused, or reached nobody
            budget.settle(key, 0.0)
            raise
        budget.settle(key, models.real_cost(self._task, self._model, answer, worst))
        return answer

    def _reserve(self, usd: float) -> tuple[Budget, str]:
        """Book a request on this month's ledger, one after the other, whoever else does so."""
        month = Month(self._task.registry_name)
        with open(store.make_folder(month.path("")) / "lock", "w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            if self._budget.run_id != month.id:
                self._budget = Budget(month, self._budget.limit_usd)
            return self._budget, self._budget.reserve(usd, "serving")

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
