"""Tasks as users bring them: file, `workbook new`, ladder, advice; and simulated ones of each kind.

`python -m benchmarks.kinds` prints the table, `python -m benchmarks.verdicts` draws 200 of each.
"""

from __future__ import annotations

import pytest

from benchmarks import kinds, verdicts


@pytest.mark.parametrize("name", list(kinds.KINDS))
def test_the_advice_is_right_and_other_code_finds_the_same_scores(monkeypatch, tmp_path, name):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path))
    outcome = kinds.check(name)
    assert outcome["right"] and outcome["exact"], outcome


@pytest.mark.parametrize("name", list(verdicts.KINDS))
def test_simulated_advice_is_right_or_not_yet_and_never_wrong(monkeypatch, tmp_path, name):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path))
    assert verdicts.simulate(verdicts.KINDS[name], tasks=1, seed=11)["wrong"] == 0
