"""A run in progress: what is to be done, and run.json, which always says how far it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers import store
from helpers.records import RunRecord
from helpers.run.ending import Stop

Tell = Callable[[str], None]


@dataclass
class Book:
    """What is to be done, how far it is, and whom to tell."""

    run: store.Run
    values: dict[str, Any]  # run-level values, and what the profile and the command line set
    task_folder: Path
    queue: list[str]  # the notebooks of this start, in order; 01 may join them
    may_stop: bool  # a reason not to train ends the run; --only and --from ignore it
    resume: str  # the command that goes on
    tell: Tell
    record: RunRecord
    stop: Stop = field(default_factory=Stop)

    @property
    def train_anyway(self) -> str:
        """The reason to train against all advice, or ""."""
        return str(self.values.get("train_anyway_because", "")).strip()

    def update(self, **changes: Any) -> None:
        """Change run.json."""
        self.record = self.record.model_copy(update=changes)
        self.run.save(self.record)

    def mark(self, name: str, **changes: Any) -> None:
        """Change one notebook's entry in run.json."""
        self.record = self.record.with_entry(name, **changes)
        self.run.save(self.record)
