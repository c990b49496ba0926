"""health.json: is the model in production still good?"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Literal

from pydantic import Field

from helpers.records.base import Artifact, Record
from helpers.records.findings import Estimate, Finding

HealthVerdict = Literal["ok", "watch", "retrain"]
REPLAY_USER = "workbook-replay"  # as whom 06 asks a gateway: logged as a trial, no traffic


class Window(Record):
    """The days of live traffic that were judged, and the files they were read from."""

    start: datetime
    end: datetime
    days: int
    files: list[str] = Field(default_factory=list)


class Day(Record):
    """One day of live traffic, for a figure; a day without ratings has n = 0 there."""

    day: str
    n: int
    format_compliance: Estimate
    feedback: Estimate


class Replay(Record):
    """One night; scores by the id of the row, from 0 to 1. A row without an answer says nothing."""

    version: str  # which version was asked
    at: datetime  # when
    place: str  # where: a base_url; "": as it is registered
    before: dict[str, float] = Field(default_factory=dict)  # how right it was in 04
    now: dict[str, float] = Field(default_factory=dict)  # and how right it is now
    same: int = 0  # answers that are word for word those of 04
    error: str = ""  # why nothing could be asked


class Health(Artifact):
    """health.json. A failed critical check asks for a retrain, a failed warning for a look."""

    FILE: ClassVar[str] = "health.json"
    WRITTEN_BY: ClassVar[str] = "06_monitor"

    verdict: HealthVerdict
    reasons: list[str]
    checks: list[Finding]
    version: str | None
    window: Window
    simulated: bool
    unreadable: int
    causes: list[Finding] = Field(default_factory=list)  # fail: it is there; remedy: what to do
    alarms: list[str] = Field(default_factory=list)  # ids of the alarms that are not resolved

    @classmethod
    def upgrade(cls, old: dict[str, Any], params: dict[str, Any] | None) -> dict[str, Any]:
        """0.1.0 had a form of its own for checks."""
        old["checks"] = [_check_of_0_1(check) for check in old["checks"]]
        window = old["window"]
        old["window"] = {
            "start": window["from"],
            "end": window["to"],
            "days": window["days"],
            "files": window["files"],
        }
        return old


def _check_of_0_1(check: dict[str, Any]) -> dict[str, Any]:
    value, low, high = check["value"], check.get("low"), check.get("high")
    estimate = None
    if value is not None:
        estimate = {"value": value, "low": value, "high": value, "n": check["n"]}
        if low is not None and high is not None:
            estimate |= {"low": low, "high": high}
    severity = {"ok": None, "watch": "warning", "retrain": "critical"}[check["verdict"]]
    return {
        "name": check["name"],
        "verdict": "pass" if severity is None else "fail",
        "severity": severity,
        "evidence": check["evidence"],
        "estimate": estimate,
        "threshold": check["baseline"],
        "p": check.get("p"),
    }
