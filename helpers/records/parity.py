"""parity.json: does the engine that serves a version answer as the trained model does?"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from helpers.records.base import Artifact
from helpers.records.estimates import Estimate
from helpers.records.finding import Finding


class Parity(Artifact):
    """parity.json. Latencies in ms, of requests asked one by one through the engine."""

    FILE: ClassVar[str] = "parity.json"
    WRITTEN_BY: ClassVar[str] = "`workbook serve --check`"

    version: str
    engine: str  # local, llamacpp, or the base_url of a server
    artifact_sha256: str  # of the files that were checked
    checked_at: datetime
    n: int  # validation rows that were asked
    equal: int  # of them: the same answer, character for character
    findings: list[Finding]  # parity, and each known cause of a difference
    latency_p50: Estimate
    latency_p95: Estimate
