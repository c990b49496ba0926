"""What Prometheus is told: counts and times by task and version, never a word of a chat."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from helpers.models import Answer

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)  # seconds


class Metrics:
    """The counters of one gateway."""

    def __init__(self) -> None:
        disable_created_metrics()
        self._registry = CollectorRegistry()
        by_version = ["task", "version", "arm"]
        self.requests = Counter(
            "workbook_requests", "Requests.", [*by_version, "status"], registry=self._registry
        )
        self.seconds = Histogram(
            "workbook_answer_seconds",
            "From request to answer.",
            by_version,
            buckets=BUCKETS,
            registry=self._registry,
        )
        self.tokens = Counter(
            "workbook_tokens", "Tokens.", [*by_version, "kind"], registry=self._registry
        )
        self.refused = Counter(
            "workbook_refused", "Requests refused.", ["reason"], registry=self._registry
        )
        self.feedback = Counter(
            "workbook_feedback", "Ratings.", ["task", "version", "kind"], registry=self._registry
        )
        self.waiting = Gauge(
            "workbook_waiting", "Requests without an answer yet.", ["task"], registry=self._registry
        )
        self.generation = Gauge(
            "workbook_route_generation", "Route followed.", ["task"], registry=self._registry
        )
        self.log_problem = Gauge(
            "workbook_log_problem", "1: the live log cannot be written.", registry=self._registry
        )

    def count(self, labels: tuple[str, str, str], answer: Answer, seconds: float) -> None:
        """One answered, or failed, request; `labels`: task, version, arm."""
        status = "error" if answer.finish == "error" else "ok"
        self.requests.labels(*labels, status).inc()
        self.seconds.labels(*labels).observe(seconds)
        self.tokens.labels(*labels, "prompt").inc(answer.tokens_in)
        self.tokens.labels(*labels, "answer").inc(answer.tokens_out)

    def page(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self._registry)
