"""What asking needs beside the rows: the task, the run, its money, the loaded models."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from helpers import models, store, tasks
from helpers.evaluate.classical import CLASSICAL, ClassicalModel
from helpers.evaluate.scorers import Examples
from helpers.models import Model
from helpers.records import Asking, Budget, WorkbookError
from helpers.tasks import Task

MOST_AT_ONCE = 8  # requests side by side at an endpoint, where nobody says another number
LOG = "log:"  # how an Asking names the answers of a log as its model; the file follows
Say = Callable[[str], Any]
Line = dict[str, Any]  # an attempt at the test rows
Ledger = Callable[[str, Line], list[Line]]  # writes one of a task down, once; all of them, in order

log = logging.getLogger(__name__)


def in_no_ledger(task: str, attempt: Line) -> list[Line]:
    """WorkbookError: an attempt at the test rows that nobody writes down is not to be made."""
    raise WorkbookError(f"{task}: attempts are counted; give Session(attempts=record_attempt)")


@dataclass(frozen=True)
class Session:
    """One task, one run and its budget.

    `models` are the loaded ones, by the name that an Asking calls them; others join them when they
    are first asked.
    """

    task: Task
    run: store.Run  # whose folder keeps the answers
    budget: Budget
    train: Examples = ()  # where solved examples come from
    latency_rows: int = 12  # rows asked one by one to measure latency; 0 leaves it out
    say: Say = log.info
    models: dict[str, Model] = field(default_factory=dict)
    at_once: int = MOST_AT_ONCE  # requests side by side at an endpoint, if it bears them
    offline: bool = False  # endpoints are asked in their provider's batches, within a day
    attempts: Ledger = in_no_ledger  # 04: registry.record_attempt
    judge: Model | None = None  # asked where task.yaml says `accuracy_from: judge`

    def model_of(self, asking: Asking) -> Model:
        """The model that an Asking names."""
        spec = asking.model
        if spec not in self.models:
            if spec.startswith(LOG):
                self.models[spec] = logged_answers(self.task, spec)
            elif spec == CLASSICAL:
                self.models[spec] = ClassicalModel(self.task, self.train)
            else:
                self.models[spec] = models.load_model(spec)
        return self.models[spec]


def logged_answers(task: Task, spec: str) -> Model:
    """The answers of the file that task.yaml names under `incumbent.answers`, as a model."""
    path = task.folder / spec.removeprefix(LOG)
    answers = {}
    for example in tasks.load_examples(task, "human", path=path).examples:
        for turn in tasks.asked_turns(task, example):
            answers[models.question(turn.messages)] = turn.answer
    return models.LoggedModel(answers, spec)
