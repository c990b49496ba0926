"""The shipped task keeps the promises of its README and task.yaml."""

from pathlib import Path

import pytest

from benchmarks import simulate_logs
from helpers import evaluate, tasks

RATIOS = {"train": 0.65, "validation": 0.12, "test": 0.23}


def shipped() -> tasks.Task:
    return tasks.load_task("support_triage")


@pytest.mark.parametrize("metric", ["accuracy", "format_compliance"])
def test_a_perfect_model_could_be_shown_to_meet_every_target(metric):
    examples = tasks.with_parts(tasks.load_examples(shipped()).examples, 7, RATIOS)
    n_test = sum(e.part == "test" for e in examples)
    assert evaluate.rows_to_decide(shipped().targets[metric]) <= n_test


def test_the_simulated_logs_are_made_again_byte_for_byte(tmp_path):
    fragments = Path(simulate_logs.__file__).parent / "data" / "support_triage_fragments.jsonl"
    simulate_logs.simulate(shipped().folder / "human.jsonl", fragments, tmp_path)
    for name in ("production.jsonl", "live.jsonl"):
        assert (tmp_path / name).read_bytes() == (shipped().folder / name).read_bytes(), name


def test_the_logs_are_as_large_and_as_dirty_as_promised():
    loaded = tasks.load_examples(shipped(), "production")
    texts = [e.user_text for e in loaded.examples]
    assert len(loaded.examples) + len(loaded.unreadable) >= 3000 and len(loaded.unreadable) >= 10
    assert "" in texts and max(map(len, texts)) > 5000 and len(set(texts)) < len(texts) - 50
    months = {(e.created_at.year, e.created_at.month) for e in loaded.examples}
    assert len(months) == 6 and any(e.feedback_score is None for e in loaded.examples)


def test_the_handbook_states_every_house_code():
    articles = tasks.knowledge(shipped())
    everything = "\n".join(a.text for a in articles)
    assert len(articles) >= 25
    for field in shipped().schema["properties"].values():
        assert all(value in everything for value in field["enum"])
