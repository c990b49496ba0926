"""One row of the registry, and one of its routes."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from helpers.records.base import Record
from helpers.records.estimates import EvalResults

Status = Literal["training", "evaluating", "staging", "production", "deprecated"]


class FineTunedModelVersion(Record):
    """One row of the registry. Immutable but for its status."""

    id: str
    task: str
    run_id: str
    model_id: str
    base_model: str
    trained_at: datetime
    dataset_version: str | None = None
    eval_results: EvalResults | None = None
    status: Status
    metadata: dict[str, Any] = Field(default_factory=dict)


class Route(Record):
    """Which version serves a task; generation counts the changes, 0: nothing was promoted."""

    task: str
    version: str | None = None  # None: nothing serves
    previous: str | None = None  # what a rollback goes back to
    generation: int = 0
    since: str = ""
