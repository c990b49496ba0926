"""The simulations behind docs/statistics.md, at a size that a test can afford."""

from __future__ import annotations

import json

import pytest

from benchmarks import statistics as simulation


@pytest.fixture(scope="module")
def figures():
    simulation.SIZES, kept = (20, 100, 400), simulation.SIZES
    found = simulation.main(["--json", "--repeats", "400"])
    simulation.SIZES = kept
    return found


def test_the_gate_keeps_its_promises(figures):
    value = {name: entry["value"] for name, entry in figures.items()}
    three_errors = 3 * (0.05 * 0.95 / 400) ** 0.5
    assert value["false_promotion_worst"] <= 0.05 + three_errors
    assert value["false_claim_worst"] <= 0.05 + three_errors
    assert value["year_false_promotion"] <= 0.05 + three_errors
    assert value["coverage_worst"] >= 0.93 - three_errors
    assert value["power_10_points_n400"] >= 0.95
    assert value["lift_5_false_promotion_worst"] > 0.3 and value["year_95_every_week"] > 0.3, (
        "the usual rules do not"
    )


def test_the_last_line_of_json_is_one_object_in_the_common_form(capsys, monkeypatch):
    monkeypatch.setattr(simulation, "SIZES", (20, 50, 400))
    monkeypatch.setattr(
        simulation, "years", lambda rng, repeats: [{"with the budget": 0.04, "95% every week": 0.5}]
    )
    simulation.main(["--json", "--repeats", "100"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"false_promotion_worst", "power_10_points_n400", "year_false_promotion"} <= set(found)
    assert all(
        {"kind", "value", "low", "high", "n", "unit", "better"} <= set(entry)
        for entry in found.values()
    )
