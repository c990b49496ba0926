"""A finding about what serves that stays until a person, or another version, has dealt with it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from helpers.records.base import Record
from helpers.records.finding import Finding, Severity

AlarmState = Literal["open", "acknowledged", "resolved"]


class Alarm(Record):
    """open: nobody has looked; acknowledged: somebody did, and said why; resolved: it is over."""

    id: str
    task: str  # as it is registered
    version: str  # which served when it was raised; "" = none
    name: str  # of the finding
    severity: Severity
    state: AlarmState
    finding: Finding  # as it was when it was raised
    opened_at: datetime
    seen_at: datetime  # the last look that still saw it
    told_at: datetime  # when the team was told last
    changed_at: datetime  # when its state changed last
    actor: str = ""  # who acknowledged or resolved it
    because: str = ""
