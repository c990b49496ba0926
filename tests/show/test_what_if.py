"""What-if: by hand boxes with names that tell at once, headless a table of one thing moved."""

from __future__ import annotations

import pytest
from record_toys import decision

from helpers import decide, evaluate, store
from helpers.decide.verdict import Evidence
from helpers.records import Power
from helpers.show import curate
from helpers.show import decide as views
from helpers.show.whatif import what_if

EVIDENCE = Evidence(
    meeting=[],
    undecided={},
    unrated=False,
    rag_gains=False,
    knowledge_task=False,
    undecidable={},
    noisy_labels=[],
    pays_from=None,
    volume=0,
    n_test=120,
    n_validation=60,
    n_examples=400,
    min_examples=100,
    best_rung="few_shot",
)


@pytest.fixture
def by_hand(monkeypatch):
    monkeypatch.delenv("WORKBOOK_HEADLESS", raising=False)


@pytest.fixture
def headless(monkeypatch):
    monkeypatch.setenv("WORKBOOK_HEADLESS", "1")


def total(a: int, b: int) -> str:
    return f"{a + b} <in all>"


def test_headless_it_is_a_table_with_one_thing_moved_at_a_time(headless):
    table = what_if("Sum", {"a": (1, 2), "b": (10, 20, 30)}, [1, 10], total)
    rows = table.data.to_dict("records")
    assert [row["what follows"] for row in rows] == [f"{n} <in all>" for n in (11, 12, 21, 31)]
    assert table.caption == "Sum"


def test_by_hand_every_box_has_a_name_and_the_answer_is_said_aloud(by_hand):
    widget = what_if("Sum", {"a": (1, 2), "b": (10, 20)}, [1, 10], total)
    _, a, b, result = widget.children
    assert (a.description, b.description) == ("a", "b")
    assert 'role="status"' in result.value and "11 &lt;in all&gt;" in result.value
    b.value = 20
    assert "21 &lt;in all&gt;" in result.value
    page = widget._repr_mimebundle_()["text/html"]
    assert "<td" in page and "12 &lt;in all&gt;" in page, "for viewers without widgets"


def test_other_answers_give_the_verdict_of_01_itself(by_hand):
    screening = decision().screening
    widget = views.questionnaire(screening, lambda s: decide.recommend(s, EVIDENCE))
    boxes = {box.description: box for box in widget.children[1:-1]}
    boxes["changing requirements"].value = True
    text = widget.children[-1].value
    assert "not_yet: every change would be a new training run" in text
    assert "changing_requirements: true" in text, "as a profile spells it"
    assert screening == decision().screening, "it feeds nothing"


def test_a_ladder_without_rungs_says_so(by_hand):
    assert "None of `rungs`" in views.ladder([], {}).data
    assert "none" in views.rung_table([]).to_html()


def test_cost_at_a_volume_names_the_cheapest_way_first(headless):
    verdict = decision()
    table = views.cost_at(verdict)
    assert len(table.data) >= 6
    if not verdict.economics.ways:
        assert "unknown" in table.data["what follows"][0]


def test_power_is_what_the_plan_says_at_the_smallest_gain(headless):
    power = Power(n=118, detectable_difference=evaluate.detectable_difference(118), rows_needed={})
    assert evaluate.chance_to_see(118, power.detectable_difference) == pytest.approx(0.8, abs=1e-3)
    rows = views.power_at(power, evaluate.chance_to_see).data["what follows"]
    percent = [int(row.split("about ")[1].split("%")[0]) for row in rows]
    assert all(0 <= p <= 100 for p in percent) and max(percent) > 95 > min(percent)


def test_a_lower_threshold_merges_more(headless):
    pairs = [{"threshold": 0.5, "pairs": 1200}, {"threshold": 0.5, "pairs": 1200}]
    table = curate.threshold_at([*pairs, {"threshold": 0.8, "pairs": 3}])
    follows = list(table.data["what follows"])
    assert "merged: 3;" in follows[0] and "merged: 1,200;" in follows[1] and len(follows) == 2
    assert store.headless()
