"""Notebook 00: what this machine has, and what the tutorial will cost."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from helpers import show
from helpers.records import Allowance, Finding


def checks_table(checks: Sequence[Finding]) -> show.Table:
    """What the doctor found, one check a row."""
    return show.table(checks, "This machine", ["name", "verdict", "severity", "evidence", "remedy"])


def budget_table(allowances: Sequence[Allowance]) -> show.Table:
    """What the tutorial may use, and what this task uses."""
    columns = {
        "what": "what",
        "unit": "unit",
        "largest": _largest,
        "limit": "limit",
        "kept": "kept",
    }
    return show.table(allowances, "The tutorial's budget", columns)


def _largest(allowance: Allowance) -> int | str:
    return "no limit" if allowance.largest == sys.maxsize else allowance.largest
