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

    @property
    def has_interval(self) -> bool:
        """Whether low and high are more than the one measurement that there is."""
        return self.n > 1 or self.low < self.high

    def __str__(self) -> str:
        largest = max(abs(self.value), abs(self.low), abs(self.high))
        form = ".2g" if 0 < largest < 0.01 else ".3f"  # a request's cost is no 0.000
        interval = f" [{self.low:{form}}, {self.high:{form}}]" if self.has_interval else ""
        return f"{self.value:{form}}{interval} n={self.n}"


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
