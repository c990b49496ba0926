"""What is said of growth: simulated workers, the file of what was measured, its figure."""

from __future__ import annotations

import gc
import json

import pytest

from benchmarks import growth
from helpers import show
from helpers.records import few_collections


def test_simulated_workers_share_a_stage_s_tasks_and_wait_for_its_last_one():
    graph = {"serial": 2.0, "tasks": {"sign": [1.0] * 10, "bands": [4.0, 1.0, 1.0, 1.0]}}
    assert growth.total(graph) == 19.0
    assert growth.speed_up(graph, 1) == 1.0
    assert growth.speed_up(graph, 2) == pytest.approx(19 / (2 + 5 + 4))
    assert growth.speed_up(graph, 10) == pytest.approx(19 / (2 + 1 + 4))


def test_what_was_measured_says_with_what_and_is_drawn():
    entries = json.loads(growth.GROWTH.read_text())
    named = {"rows", "engine", "seconds", "processor", "gib", "limit_gib", "kept"}
    for entry in entries:
        assert entry.keys() >= named | {"fingerprint", "commit", "machine", "beside_other_work"}
        assert entry["gib"] <= (entry["limit_gib"] or entry["gib"])
    prints = {(entry["rows"], entry["fingerprint"]) for entry in entries}
    assert len(prints) == len({rows for rows, _ in prints})  # every engine gives the same rows
    figure = growth.growth_figure(entries)
    words = show.alt_text(figure)
    assert "Time" in words and "Memory" in words and "local" in words
    assert growth.PICTURE.exists()


def test_the_collector_of_cycles_is_as_it_was_after_a_curation():
    before = gc.get_threshold()
    with pytest.raises(ValueError), few_collections():
        assert gc.get_threshold()[0] > before[0]
        raise ValueError
    assert gc.get_threshold() == before
