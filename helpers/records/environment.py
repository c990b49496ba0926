"""environment.json: what this machine has, and what the tutorial will cost on it."""

from __future__ import annotations

from typing import Any, ClassVar

from helpers.records.base import Artifact, Record
from helpers.records.finding import Finding


class Versions(Record):
    """What one needs to repeat a run; the commit ends with "+changes" when files differ from it."""

    python: str
    packages: dict[str, str]
    commit: str | None


class Allowance(Record):
    """One line of the tutorial's budget: the largest amount found, and what it is made for."""

    what: str
    unit: str
    largest: int
    limit: int

    @property
    def kept(self) -> bool:
        """Whether the largest is within the limit."""
        return self.largest <= self.limit


class Environment(Artifact):
    """environment.json."""

    FILE: ClassVar[str] = "environment.json"
    WRITTEN_BY: ClassVar[str] = "00_start_here"

    ready: bool
    checks: list[Finding]
    budget: list[Allowance]
    versions: Versions

    @classmethod
    def upgrade(cls, old: dict[str, Any], params: dict[str, Any] | None) -> dict[str, Any]:
        """0.1.0's doctor had words of its own."""
        verdicts = {"ok": "pass", "warning": "fail", "missing": "fail"}
        severities = {"ok": None, "warning": "warning", "missing": "critical"}
        old["checks"] = [
            {
                "name": check["name"],
                "verdict": verdicts[check["status"]],
                "severity": severities[check["status"]],
                "evidence": check["found"],
                "remedy": check["remedy"],
            }
            for check in old["checks"]
        ]
        for line in old["budget"]:
            line.pop("kept")
        return old
