"""What 02's parameters say, checked before anything is read."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, time
from typing import Any

from pydantic import model_validator

from helpers import models
from helpers.records import Record, WorkbookError

SHARES = {
    "near_duplicate_threshold": 0.4,
    "leakage_threshold": 0.4,
    "wipeout_share": 0.01,
    "synthetic_share": 0.0,
}  # field -> its least value; 1 is the most


class DataCollectionConfig(Record):
    """What 02's parameters say; names and defaults are those of the flat vocabulary."""

    task: str = "support_triage"
    base_model: str = "embedded"
    seed: int = 7
    split_ratios: dict[str, float]
    use_production: bool = True
    min_feedback_score: float = 4.0
    date_from: str = ""
    date_to: str = ""
    min_tokens: int = 4
    max_tokens: int = 0
    near_duplicate_threshold: float = 0.8
    leakage_threshold: float = 0.6
    wipeout_share: float = 0.5
    check_names: str = "off"
    use_synthetic: bool = False
    synthetic_share: float = 0.2
    synthetic_model: str = ""
    synthetic_base_url: str = ""
    engine: str = "local"
    engine_address: str = ""

    @model_validator(mode="after")
    def _sensible(self) -> DataCollectionConfig:
        for name, least in SHARES.items():
            value = getattr(self, name)
            if not least <= value <= 1:
                raise WorkbookError(f"{name} is {value}; give a number from {least} to 1.0")
        if self.engine not in ("local", "ray"):
            raise WorkbookError(f"engine is {self.engine!r}; choose local or ray")
        if self.check_names not in ("off", "review", "mask"):
            raise WorkbookError(f"check_names is {self.check_names!r}; choose off, review or mask")
        if self.min_tokens < 0 or 0 != self.max_tokens < self.min_tokens:
            raise WorkbookError(
                f"min_tokens {self.min_tokens} must not be below 0, nor above max_tokens"
                f" {self.max_tokens} (0: all that the base model reads)"
            )
        start, end = self.date_range
        if start and end and start > end:
            raise WorkbookError(f"date_from {self.date_from} is after date_to {self.date_to}")
        return self

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> DataCollectionConfig:
        """The configuration that a notebook's parameters (its globals()) spell, field by field."""
        return cls(**{name: parameters[name] for name in cls.model_fields if name in parameters})

    @property
    def longest(self) -> int:
        """Tokens of the longest row: max_tokens, or with 0 all that the base model reads."""
        return self.max_tokens or models.context_of(self.base_model)

    @property
    def date_range(self) -> tuple[datetime | None, datetime | None]:
        """First and last moment, inclusive; a bare date_to ends with its day, no zone is UTC."""
        start = _moment("date_from", self.date_from, time.min)
        return start, _moment("date_to", self.date_to, time.max)


def _moment(name: str, text: str, time_of_day: time) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise WorkbookError(
            f"{name} {text!r} is not a date; write 2026-06-01 or 2026-06-01T09:00+02:00"
        ) from None
    if len(text) <= 10:  # a date without a time
        moment = datetime.combine(moment.date(), time_of_day)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
