"""promotion.json: what was asked, what the gate said, what happened."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from helpers.records.base import Artifact
from helpers.records.finding import Finding, Verdict

Target = Literal["none", "staging", "production"]


class Promotion(Artifact):
    """promotion.json holds exactly this."""

    FILE: ClassVar[str] = "promotion.json"
    WRITTEN_BY: ClassVar[str] = "05_registry"

    version: str
    target: Target
    verdict: Verdict
    promoted: bool
    rules: list[Finding]
    reasons: list[str] = Field(default_factory=list)
    previous: str | None = None  # the version that served before this one
    generation: int = 0
    forced: bool = False

    @classmethod
    def upgrade(cls, old: dict[str, Any], params: dict[str, Any] | None) -> dict[str, Any]:
        """0.1.0 called a rule that does not decide inconclusive."""
        words = {"pass": "pass", "fail": "fail", "inconclusive": "undecided"}
        old["rules"] = [rule | {"verdict": words[rule["verdict"]]} for rule in old["rules"]]
        return old
