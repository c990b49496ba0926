"""evaluation.json: the tuned model against what it has to beat, on the same test rows."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from helpers.records.asking import asking_of_0_1
from helpers.records.base import Artifact, Record
from helpers.records.decision import RungResult
from helpers.records.findings import (
    NOTHING,
    Estimate,
    EvalResults,
    Finding,
    MetricComparison,
    Verdict,
)

MET = {"yes": "pass", "no": "fail", "undecided": "undecided"}  # 0.1.0's words for targets
CHANGED = {"better": "pass", "worse": "fail", "unsure": "undecided"}  # and for slices


class FineTuneEvaluation(Artifact):
    """The base and the tuned model on the same test rows."""

    base_model: EvalResults
    fine_tuned_model: EvalResults
    comparison: dict[str, MetricComparison]


class Attempt(Record):
    """Which attempt of the past year this is, and how sure it therefore has to be."""

    number: int
    alpha: float  # the gain's lower bound may be wrong this often
    looks_at_these_rows: int  # attempts of the past year on exactly these test rows, with this one
    detectable_difference: float  # smallest gain shown in 80% of the cases, at 20% flips
    fresh_rows_needed: int  # rows to add to the test part; 0 = not yet


class Ratings(Record):
    """Who rated the answers, how many, and how far that can be trusted."""

    by: Literal["judge", "human"]
    rated: int = 0
    order_consistency: Estimate = NOTHING  # same choice when A and B change places
    repeat_consistency: Estimate | None = None  # 0.1.0 asked some pairs again
    kappa: float | None = None  # agreement with people beyond chance; None = no such ratings
    kappa_rows: int = 0
    cost_usd: float = 0.0
    warnings: list[str] = Field(default_factory=list)


class Evaluation(FineTuneEvaluation):
    """evaluation.json: the comparison and everything it rests on."""

    FILE: ClassVar[str] = "evaluation.json"
    WRITTEN_BY: ClassVar[str] = "04_evaluate"

    n_test: int
    rungs: list[RungResult]
    best_rung: str
    flips: dict[str, list[str]]  # ids of the rows that were gained, and of those that were lost
    verdict: Verdict
    reasons: list[str]
    findings: list[Finding]  # what the verdict was drawn from, targets apart
    targets: dict[str, Finding]  # by metric: its estimate against the target of task.yaml
    regression: bool  # surely worse than an opponent by more than the margin, in any metric
    min_gain: float
    production: str  # the version that served when this was measured; "" = none
    against: dict[str, dict[str, MetricComparison]]  # what it would replace
    attempt: Attempt
    slices: list[Finding] = Field(default_factory=list)
    ratings: Ratings | None  # how well a judge, or people, agree; None where a scorer decides
    fingerprints: dict[str, str]
    dataset_version: str
    version: str
    timing: dict[str, Any]
    limits: list[str] = Field(default_factory=list)  # what a limit cut or left out, in words

    def rung(self, name: str) -> RungResult:
        """One of the measured rungs."""
        return next(r for r in self.rungs if r.name == name)

    @classmethod
    def upgrade(cls, old: dict[str, Any], params: dict[str, Any] | None) -> dict[str, Any]:
        """0.1.0 had other words for targets and slices, and no record of how it asked."""
        where = cls.FILE
        old["rungs"] = [
            rung | {"asking": asking_of_0_1(rung["name"], rung["model"], {}, params, where)}
            for rung in old["rungs"]
        ]
        old["targets"] = {
            metric: {
                "name": metric,
                "verdict": MET[check["met"]],
                "estimate": check["estimate"],
                "threshold": check["target"],
            }
            for metric, check in old["targets"].items()
        }
        old["slices"] = [
            {
                "name": part["slice"],
                "verdict": CHANGED[part["verdict"]],
                "estimate": part["difference"],
                "p": part["p_holm"],
                "evidence": f"{part['gained']} gained, {part['lost']} lost",
            }
            for part in old["slices"]
        ]
        return old | {"findings": []}
