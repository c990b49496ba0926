from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
from evaluate_toys import toy_rows, toy_task

from helpers.evaluate import scorers
from helpers.evaluate.scorers import score_answer
from helpers.models import embeddings
from helpers.records import Message, WorkbookError


def example(answer, **last):
    row = toy_rows(1)[0]
    return row.model_copy(
        update={"messages": [row.messages[0], Message(role="assistant", content=answer, **last)]}
    )


@pytest.mark.parametrize(
    ("spec", "wanted", "answer", "score"),
    [
        ("exact", "Paris", " paris ", 1),
        ("exact", "Paris", "Paris!!", 0),
        ("contains", "30 days", "You have 30 days to return it.", 1),
        ("contains", "30 days", "You have 130 days.", 0),
        ("contains", "", "anything", 0),
        ("numeric", "42", "The answer is 42.0", 1),
        ("numeric", "1,250.5", "it costs 1250.5", 1),
        ("numeric", "42", "43", 0),
        ("numeric:0.05", "42", "43", 1),
        ("numeric", "42", "no number", 0),
        ("chrf:0.5", "the parcel is lost", "the parcel is lost", 1),
        ("chrf:0.5", "the parcel is lost", "zzz", 0),
        ("semantic:0.9", "the parcel is lost", "the parcel is lost", 1),
        ("semantic:0.9", "the parcel is lost", "", 0),
        ("semantic", "", "", 1),
    ],
)
def test_each_scorer_tells_right_from_wrong(spec, wanted, answer, score):
    assert scorers.scorer(spec)(example(wanted), answer) == score


def test_without_a_threshold_overlap_and_meaning_are_scores_between_0_and_1():
    for spec in ("chrf", "semantic"):
        near = scorers.scorer(spec)(example("the parcel is lost"), "a parcel was lost")
        far = scorers.scorer(spec)(example("the parcel is lost"), "bananas are yellow")
        assert 0 <= far < near < 1


CALL = '{"name": "lookup", "arguments": {"id": 7}}'


def calls_of(*arguments):
    return [
        {"id": f"c{n}", "type": "function", "function": {"name": "lookup", "arguments": text}}
        for n, text in enumerate(arguments)
    ]


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        (CALL, 1),
        (f"<tool_call>{CALL}</tool_call>", 1),
        ('{"arguments": "{\\"id\\": 7}", "name": "lookup"}', 1),
        ('{"name": "lookup", "arguments": {"id": 8}}', 0),
        (f"<tool_call>{CALL}</tool_call><tool_call>{CALL}</tool_call>", 0),
        ("I will look it up", 0),
        ("[1, 2]", 0),
    ],
)
def test_tool_calls_match_by_name_and_arguments(answer, score):
    calls = [
        {"id": "c", "type": "function", "function": {"name": "lookup", "arguments": '{"id": 7}'}}
    ]
    assert scorers.scorer("tool_calls")(example(None, tool_calls=calls), answer) == score


def test_names_of_arguments_are_the_same_in_either_form_of_unicode():
    composed, decomposed = ({"name": "f", "arguments": {name: 1}} for name in ("é", "e\u0301"))
    assert scorers.same_calls([composed], [decomposed])


@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I’m sorry", True),
        ("As an AI model, I", True),
        ("Sure: 42", False),
    ],
)
def test_refusals_are_counted(tmp_path, answer, refused):
    task = toy_task(tmp_path, schema=None, scored_fields=[], accuracy_from="human")
    assert score_answer(task, example("x"), answer)[0]["refusal"] == refused


def test_an_own_scorer_by_import_path(tmp_path, monkeypatch):
    module = types.ModuleType("own_scorers")
    module.length = lambda example, answer: len(answer) / 10
    monkeypatch.setitem(sys.modules, "own_scorers", module)
    task = toy_task(
        tmp_path, schema=None, scored_fields=[], accuracy_from="scorer", scorer="own_scorers:length"
    )
    assert score_answer(task, example("x"), "12345")[0]["accuracy"] == 0.5
    with pytest.raises(WorkbookError, match="from 0 to 1"):
        score_answer(task, example("x"), "1" * 20)


@pytest.mark.parametrize("spec", ["nonsense", "no_such_module:score", "json:nothing"])
def test_an_unknown_scorer_says_which_are_known(spec):
    with pytest.raises(WorkbookError, match=r"tool_calls, nor package\.module:function"):
        scorers.scorer(spec)


def test_a_tolerance_that_is_no_number_is_named():
    with pytest.raises(WorkbookError, match="'wide' is not a number"):
        scorers.scorer("numeric:wide")


@pytest.mark.parametrize(
    "spec", ["chrf:60", "semantic:-1", "numeric:-1", "numeric:inf", "exact:0.5"]
)
def test_a_number_that_a_scorer_cannot_use_is_named(spec):
    with pytest.raises(WorkbookError, match="takes no such number"):
        scorers.scorer(spec)


@pytest.mark.parametrize(
    ("spec", "module", "extra"),
    [("chrf", "sacrebleu", "text"), ("semantic", "wordllama", "curate")],
)
def test_a_missing_extra_is_named(monkeypatch, spec, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    embeddings._packaged_model.cache_clear()
    with pytest.raises(WorkbookError, match=rf"\[{extra}\]"):
        scorers.scorer(spec)(example("a"), "b")
    embeddings._packaged_model.cache_clear()


def test_a_scorer_of_a_fields_task_stands_beside_its_accuracy(tmp_path):
    scores = score_answer(toy_task(tmp_path, scorer="contains"), toy_rows(1)[0], "no")[0]
    assert scores["contains"] == 0 and scores["accuracy"] == 0


def block(*arguments, name="lookup"):
    """An answer that calls the function once with each of these arguments."""
    calls = [f'{{"name": "{name}", "arguments": {text}}}' for text in arguments]
    return "\n".join(f"<tool_call>{call}</tool_call>" for call in calls)


TOOLS = [{"type": "function", "function": {"name": "lookup", "parameters": {"type": "object"}}}]


@pytest.mark.parametrize(
    ("gold", "answer", "score"),
    [
        (['{"id": 7}', '{"id": 8}'], block('{"id": 8}', '{"id": 7}'), 1),
        (['{"id": 7, "at": [1, 2]}'], block('{"at": [1.0, 2], "id": 7.0}'), 1),
        (['{"id": 7}'], block('{"id": 7}') + "\nLet me see", 1),
        (['{"id": 7}'], block('"{\\"id\\": 7}"'), 1),
        (['{"id": 7}', '{"id": 8}'], block('{"id": 7}'), 0),
        (['{"id": 7}'], block('{"id": 7}', '{"id": 7}'), 0),
        (['{"id": 7}'], block('{"id": "7"}'), 0),
        (['{"on": true}'], block('{"on": 1}'), 0),
        (['{"at": [1, 2]}'], block('{"at": [2, 1]}'), 0),
        (['{"id": 7}'], block('{"id": 7}', name="look_up"), 0),
        (['{"id": 7}'], "I looked it up: 7", 0),
        (['{"id": 7}'], "", 0),
        (["{}"], "", 0),
    ],
)
@pytest.mark.parametrize("scorer", ["exact", "tool_calls", "contains"])
def test_calls_are_scored_by_name_and_arguments_in_any_order_by_every_scorer(
    scorer, gold, answer, score
):
    task = toy_task(Path(), accuracy_from="scorer", scorer=scorer, schema=None, scored_fields=[])
    row = example(None, tool_calls=calls_of(*gold)).model_copy(update={"tools": TOOLS})
    scores, reason = score_answer(task, row, answer)
    assert scores["accuracy"] == score
    assert bool(scores["format_compliance"]) == (not reason)
    if score:
        assert not reason and score_answer(task, row, row.answer)[0]["accuracy"] == 1


def test_a_text_where_no_call_is_due_is_right_as_a_text_alone():
    task = toy_task(
        Path(), accuracy_from="scorer", scorer="tool_calls", schema=None, scored_fields=[]
    )
    row = example("No tool is needed").model_copy(update={"tools": TOOLS})
    assert score_answer(task, row, "no tool is needed")[0]["accuracy"] == 1
    assert score_answer(task, row, block('{"id": 7}'))[0]["accuracy"] == 0
    assert score_answer(task, row, " ")[0]["accuracy"] == 0


def test_calls_keep_the_format_where_the_tools_can_carry_them_out():
    task = toy_task(
        Path(), accuracy_from="scorer", scorer="tool_calls", schema=None, scored_fields=[]
    )
    row = example(None, tool_calls=calls_of('{"id": 7}')).model_copy(update={"tools": TOOLS})
    assert score_answer(task, row, block('{"id": 8}'))[1] == ""
    assert "no tool" in score_answer(task, row, block("{}", name="other"))[1]
    assert score_answer(task, row, "Seven")[1] == "no call"


def test_an_empty_answer_is_never_right():
    task = toy_task(Path(), accuracy_from="scorer", schema=None, scored_fields=[])
    for scorer in ("exact", "contains", "tool_calls", "numeric", "semantic"):
        scored = task.model_copy(update={"scorer": scorer})
        for gold in ("", "Paris"):
            assert score_answer(scored, example(gold), "")[0]["accuracy"] == 0
