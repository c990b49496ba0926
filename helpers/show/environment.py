"""Notebook 00: what this machine has, and what the tutorial will cost."""

from __future__ import annotations

from collections.abc import Sequence

from helpers import show
from helpers.records import Allowance, Finding


def checks_table(checks: Sequence[Finding]) -> show.Table:
    """What the doctor found, one check a row."""
    columns = ["name", "verdict", "severity", "evidence", "remedy"]
    return show.table(checks, "This machine", columns)


def budget_table(allowances: Sequence[Allowance]) -> show.Table:
    """What the tutorial may use, and what it uses."""
    columns = ["what", "unit", "largest", "limit", "kept"]
    return show.table(allowances, "The tutorial's budget", columns)
