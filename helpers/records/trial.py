"""A version beside the one in production: tried in the shadow, or on a share of the users."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from helpers.records.base import Record


class Trial(Record):
    """What is tried, on how many requests, and the rule by which it ends: written down before."""

    kind: Literal["shadow", "canary"]
    task: str  # as it is registered
    version: str  # the candidate
    against: str  # the version in production when it began; another one ends the trial
    share: float = Field(gt=0, le=1)  # of the requests
    started_at: datetime
    # how often a promotion may be wrong: this attempt's share of the year's 5%
    alpha: float = 0.025
    harm_alpha: float = 0.05  # how often a rollback may be wrong
    # what the candidate may lose, by metric: less is asked for before a promotion
    margins: dict[str, float] = Field(default_factory=dict)
    # and more than this, surely lost, ends the trial
    harm_margins: dict[str, float] = Field(default_factory=dict)
    max_requests: int = Field(2000, ge=1)  # answered by the candidate: then it ends undecided
    promote: bool = False  # ask the gate for production when it surely holds its margins
