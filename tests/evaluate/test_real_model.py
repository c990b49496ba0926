"""One rung asked of a real (tiny, random) transformers model."""

from __future__ import annotations

import pytest
from evaluate_toys import ask_rung, toy_rows

from helpers import models
from helpers.evaluate.running import read_answers


@pytest.mark.filterwarnings("ignore")
def test_a_real_model_is_asked_remembered_and_scored(task, run, monkeypatch):
    model = models.load_model("tiny")
    first = ask_rung(model, "prompt", toy_rows(5), task, run, max_new_tokens=4, latency_rows=2)
    answers = read_answers(run, first)
    assert all(row.tokens_out <= 4 and row.tokens_in > 10 for row in answers)
    assert first.results.quality_scores["endless"].value == 1 and first.results.latency_p95.n == 1
    monkeypatch.setattr(model, "answer", lambda *a, **k: pytest.fail("asked again"))
    ask_rung(model, "prompt", toy_rows(5), task, run, max_new_tokens=4, latency_rows=0)
    assert [r.answer for r in read_answers(run, first)] == [r.answer for r in answers]
