from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluate"))
from evaluate_toys import toy_rows

from helpers.extras import explore
from helpers.records import WorkbookError


def test_a_task_without_labels_or_without_a_log_is_told_and_ends_in_no_traceback():
    with pytest.raises(WorkbookError, match="no labels"):
        explore.field_to_learn({})
    assert explore.field_to_learn({"queue": str}) == "queue"
    exam = explore.Exam(toy_rows(4, "test"), lambda example: example.answer)
    assert explore.learn([], 360, 0.0, exam) == {"rows": 0, "wrong labels": 0.0}
