"""Numbers with their uncertainty, and the one form of every judgement that is drawn from them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

from pydantic import Field

from helpers.records.base import Record

FindingVerdict = Literal["pass", "fail", "undecided"]
Verdict = Literal["pass", "fail", "inconclusive"]  # of a whole run, or of one comparison
Severity = Literal["info", "warning", "critical"]
AlarmState = Literal["open", "acknowledged", "resolved"]


class Estimate(Record):
    """A number with its 95% interval and the number of rows behind it."""

    value: float
    low: float
    high: float
    n: int

    @property
    def has_interval(self) -> bool:
        """Whether low and high are more than the one measurement that there is."""
        return self.n > 1 or self.low < self.high

    def __str__(self) -> str:
        largest = max(abs(self.value), abs(self.low), abs(self.high))
        form = ".2g" if 0 < largest < 0.01 else ".3f"  # a request's cost is no 0.000
        interval = f" [{self.low:{form}}, {self.high:{form}}]" if self.has_interval else ""
        return f"{self.value:{form}}{interval} n={self.n}"


NOTHING = Estimate(value=0.0, low=0.0, high=1.0, n=0)  # a score of no rows


class EvalResults(Record):
    """What one rung scored on one part. Latencies in ms, cost in USD per request."""

    accuracy: Estimate
    format_compliance: Estimate
    latency_p50: Estimate
    latency_p95: Estimate
    cost_per_request: Estimate
    quality_scores: dict[str, Estimate] = Field(default_factory=dict)


class MetricComparison(Record):
    """Tuned minus other on the same rows, for one metric."""

    difference: Estimate
    method: str
    gained: int  # rows right only with the tuned model
    lost: int
    margin: float
    verdict: Verdict


class Finding(Record):
    """One judgement with its evidence.

    `severity` is what a finding that did not pass means for its owner: info (good to know),
    warning (a person should look), critical (stop, or act). `threshold` is what `estimate` was
    held against.
    """

    name: str
    verdict: FindingVerdict
    evidence: str = ""
    severity: Severity | None = None
    remedy: str = ""
    estimate: Estimate | None = None
    threshold: float | None = None
    p: float | None = None  # already corrected for looking at many, where many were looked at


class Alarm(Record):
    """open: nobody has looked; acknowledged: somebody did, and said why; resolved: it is over."""

    id: str
    task: str  # as it is registered
    version: str  # which served when it was raised; "" = none
    name: str  # of the finding
    severity: Severity
    state: AlarmState
    finding: Finding  # as it was when it was raised; `pass`: the last look did not see it
    opened_at: datetime
    seen_at: datetime  # the last look that still saw it
    told_at: datetime  # when the team was told last
    changed_at: datetime  # when its state changed last
    actor: str = ""  # who acknowledged or resolved it
    because: str = ""


def verdict_of(findings: Iterable[Finding]) -> Verdict:
    """fail if any finding fails, else inconclusive if any is undecided, else pass."""
    verdicts = {finding.verdict for finding in findings}
    if "fail" in verdicts:
        return "fail"
    return "inconclusive" if "undecided" in verdicts else "pass"


def as_finding_verdict(verdict: Verdict) -> FindingVerdict:
    """A comparison's verdict as one finding among others."""
    return "undecided" if verdict == "inconclusive" else verdict
