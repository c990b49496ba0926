"""A handful of simulated tasks of each kind; `python -m benchmarks.verdicts` draws 200 of each."""

from __future__ import annotations

import pytest

from benchmarks import verdicts


@pytest.mark.parametrize("name", list(verdicts.KINDS))
def test_the_advice_is_right_or_not_yet_and_never_wrong(monkeypatch, tmp_path, name):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path))
    outcomes = verdicts.simulate(verdicts.KINDS[name], tasks=2, seed=11)
    assert outcomes["wrong"] == 0 and outcomes["right"] >= 1, outcomes
