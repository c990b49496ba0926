"""Numbers with their uncertainty: a score, what a rung scored, and the difference of two."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from helpers.records.base import Record


class Estimate(Record):
    """A number with its 95% interval and the number of rows behind it."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] n={self.n}"


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
    verdict: Literal["pass", "fail", "inconclusive"]
