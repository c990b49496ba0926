from __future__ import annotations

import json

import pytest
from evaluate_toys import BROKEN, RIGHT, WRONG, toy_rows, toy_task

from helpers.evaluate import scorers
from helpers.evaluate.scorers import score_answer
from helpers.records import WorkbookError


@pytest.fixture
def task(tmp_path):
    return toy_task(tmp_path)


EXAMPLE = toy_rows(1)[0]


@pytest.mark.parametrize(
    ("answer", "strict", "tolerant", "right", "right_tolerant"),
    [
        (RIGHT, 1, 1, 1, 1),
        (f"  {RIGHT}\n", 1, 1, 1, 1),
        (WRONG, 1, 1, 0, 0),
        (BROKEN, 0, 1, 0, 1),
        (f"```json\n{RIGHT}\n```", 0, 1, 0, 1),
        ('{"colour":"red","size":1,"x":2}', 0, 0, 1, 1),
        ('{"colour":"red"}', 0, 0, 0, 0),
        ('{"colour":"red","size":true}', 0, 0, 0, 0),
        ('{"colour":"red","size":"1"}', 0, 0, 0, 0),
        ('{"colour":"red","size":NaN}', 0, 0, 0, 0),
        (f"[{RIGHT}]", 0, 1, 0, 1),
        ('{"colour":"blue","colour":"red","size":1}', 0, 0, 0, 0),
        ("{" * 5000, 0, 0, 0, 0),
        ('{"a":' * 3000, 0, 0, 0, 0),
        ("", 0, 0, 0, 0),
    ],
)
def test_strict_reading_decides_and_tolerant_reading_stands_beside_it(
    task, answer, strict, tolerant, right, right_tolerant
):
    scores = score_answer(task, EXAMPLE, answer)[0]
    assert (scores["format_compliance"], scores["format_tolerant"]) == (strict, tolerant)
    assert (scores["accuracy"], scores["accuracy_tolerant"]) == (right, right_tolerant)


def test_an_object_without_declared_fields_is_compared_as_a_whole(tmp_path):
    """With no field to compare, every answer was right."""
    task = toy_task(tmp_path, schema={"type": "object"}, scored_fields=[])
    for answer, right in ((RIGHT, 1), (WRONG, 0), ("no", 0), ("{}", 0), (BROKEN, 0)):
        assert score_answer(task, EXAMPLE, answer)[0]["accuracy"] == right, answer


def test_every_refused_format_has_its_reason(task):
    for answer in ("", "no", BROKEN, WRONG.replace("blue", "pink"), "[1]"):
        scores, reason = score_answer(task, EXAMPLE, answer)
        assert bool(reason) == (scores["format_compliance"] == 0)
    assert "pink" in score_answer(task, EXAMPLE, WRONG.replace("blue", "pink"))[1]


def test_fields_are_scored_one_by_one_and_accuracy_needs_all(task):
    scores = score_answer(task, EXAMPLE, WRONG)[0]
    assert (scores["field_colour"], scores["field_size"], scores["accuracy"]) == (0, 1, 0)


@pytest.mark.parametrize(
    ("ours", "theirs", "equal"),
    [
        (1, 1.0, True),
        (1, True, False),
        ("a", "a", True),
        (None, None, True),
        ([1], [1], True),
        ([True], [1], False),
        ({"a": 1}, {"a": 2}, False),
    ],
)
def test_field_values_are_compared_as_json(ours, theirs, equal):
    assert scorers.field_equal({"x": ours}, {"x": theirs}, "x") is equal


def test_a_field_that_is_missing_on_one_side_is_not_equal():
    assert not scorers.field_equal({"x": None}, {}, "x")
    assert scorers.field_equal({}, {}, "x")


def test_text_tasks_are_scored_by_normalised_text(tmp_path):
    task = toy_task(tmp_path, schema=None, scored_fields=[], accuracy_from="scorer")
    assert score_answer(task, EXAMPLE, RIGHT.upper() + " \n")[0]["accuracy"] == 1
    assert score_answer(task, EXAMPLE, "", "stop")[0] == {
        "endless": 0,
        "empty": 1,
        "refusal": 0,
        "format_compliance": 0,
        "accuracy": 0,
    }
    assert score_answer(task, EXAMPLE, "x", "length")[0]["format_compliance"] == 0


@pytest.mark.parametrize("source", ["judge", "human"])
def test_what_only_people_can_judge_gets_no_accuracy(tmp_path, source):
    task = toy_task(tmp_path, schema=None, scored_fields=[], accuracy_from=source)
    assert "accuracy" not in score_answer(task, EXAMPLE, "x")[0]


def test_a_gold_answer_that_is_no_json_names_its_row(task):
    messages = [EXAMPLE.messages[0], EXAMPLE.messages[1].model_copy(update={"content": "red"})]
    broken = EXAMPLE.model_copy(
        update={"messages": messages, "meta": {"file": "human.jsonl", "line": 7}}
    )
    with pytest.raises(WorkbookError, match=r"human\.jsonl, line 7"):
        score_answer(task, broken, RIGHT)


def test_a_broken_schema_is_an_error_of_the_task(tmp_path):
    with pytest.raises(ValueError, match="no JSON Schema"):
        toy_task(tmp_path, schema={"type": "objekt", "properties": {"colour": {}, "size": {}}})


def test_scores_can_be_recomputed_from_the_text_alone(task):
    first, second = (
        score_answer(task, EXAMPLE, RIGHT),
        score_answer(task, EXAMPLE, json.loads(json.dumps(RIGHT))),
    )
    assert first == second
