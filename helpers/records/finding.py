"""One form for every judgement: target, gate rule, check of monitor or doctor, slice, cause."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from helpers.records.base import Record
from helpers.records.estimates import Estimate

FindingVerdict = Literal["pass", "fail", "undecided"]
Verdict = Literal["pass", "fail", "inconclusive"]  # of a whole run, or of one comparison
Severity = Literal["info", "warning", "critical"]


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


def verdict_of(findings: Iterable[Finding]) -> Verdict:
    """fail if any finding fails, else inconclusive if any is undecided, else pass."""
    verdicts = {finding.verdict for finding in findings}
    if "fail" in verdicts:
        return "fail"
    return "inconclusive" if "undecided" in verdicts else "pass"


def as_finding_verdict(verdict: Verdict) -> FindingVerdict:
    """A comparison's verdict as one finding among others."""
    return "undecided" if verdict == "inconclusive" else verdict
