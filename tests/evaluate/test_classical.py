"""The cheapest rung: a classifier that must be tried before a training is paid for."""

from __future__ import annotations

import json

import pytest
from evaluate_toys import SCHEMA, asking, constant, session, toy_rows, toy_task

from helpers import evaluate
from helpers.records import Asking, Message, WorkbookError

COLOURS = {"red": "rose tomato cherry", "blue": "sea sky ink"}


def telling_rows(n, part, first=0):
    """Rows whose words tell their label."""
    rows = []
    for i, example in enumerate(toy_rows(n, part, first)):
        colour = "red" if i % 2 else "blue"
        word = COLOURS[colour].split()[i % 3]
        text = f"{word} thing number {first + i}"
        answer = json.dumps({"colour": colour, "size": i % 2})
        messages = [Message(role="user", content=text), Message(role="assistant", content=answer)]
        rows.append(example.model_copy(update={"messages": messages}))
    return rows


def climb(task, run, rows, train, names=("classical",)):
    model = constant("nothing")
    ways = evaluate.ways_to_ask(names, Asking(), task, model)
    where = session(task, run, model, train=train)
    return evaluate.ask_ladder(ways, rows, where), model


def test_labels_that_words_tell_are_answered_as_strict_json_with_cost_and_latency(task, run):
    rows, train = telling_rows(12, "validation"), telling_rows(60, "train", 100)
    (rung,), model = climb(task, run, rows, train)
    assert rung.results.accuracy.value == rung.results.format_compliance.value == 1.0
    assert model.asked == [] and rung.asking.model == rung.name == "classical"
    assert rung.results.latency_p95.n == 1 and rung.results.cost_per_request.n
    answer = json.loads(evaluate.read_answers(run, rung)[0].answer)
    assert answer == {"colour": "blue", "size": 0}, "a number stays a number"


def test_the_decision_alone_asks_it_again_on_the_test_part(task, run):
    """04 loads it from its Asking and the train part, like any other rung."""
    train, rows = telling_rows(60, "train", 100), telling_rows(12, "test")
    way = asking("classical", constant("x")).model_copy(update={"model": "classical"})
    rung = evaluate.ask_rung(way, rows, session(task, run, train=train))
    assert rung.results.accuracy.value == 1.0 and rung.part == "test"


def test_other_train_rows_are_another_model_whose_answers_are_not_remembered(task):
    train = telling_rows(60, "train", 100)
    first = evaluate.ClassicalModel(task, train)
    again = evaluate.ClassicalModel(task, train[::-1])
    other = evaluate.ClassicalModel(task, train[:-1])
    assert first.fingerprint == again.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"accuracy_from": "human"}, "people or a model judge"),
        ({"schema": None, "scored_fields": []}, "free text"),
    ],
)
def test_texts_are_left_to_language_models_and_said(tmp_path, run, changes, reason):
    train = []
    for example in toy_rows(40, "train", 100):
        text = example.messages[-1].model_copy(update={"content": f"words {example.id}"})
        train.append(example.model_copy(update={"messages": [example.messages[0], text]}))
    task = toy_task(tmp_path, **changes)
    assert reason in evaluate.available(["classical"], task, train)["classical"]
    results, _ = climb(task, run, toy_rows(3, "validation"), train)
    assert results == []
    with pytest.raises(WorkbookError, match="leave it out of `rungs`"):
        evaluate.ClassicalModel(task, train)


def test_too_few_rows_and_fields_without_a_label_are_said(task):
    assert "20 are needed" in evaluate.why_not(task, telling_rows(19, "train"))
    odd = toy_task(task.folder, schema=SCHEMA, scored_fields=["size"])
    train = []
    for i, example in enumerate(toy_rows(40, "train")):
        answer = example.messages[-1].model_copy(update={"content": json.dumps({"size": i})})
        train.append(example.model_copy(update={"messages": [example.messages[0], answer]}))
    assert "field size is free text (40 values in 40 rows)" in evaluate.why_not(odd, train)


def test_a_whole_answer_can_be_the_label(tmp_path, run):
    train = telling_rows(60, "train", 100)
    task = toy_task(tmp_path, schema=None, scored_fields=[], accuracy_from="scorer")
    (rung,), _ = climb(task, run, telling_rows(6, "validation"), train)
    assert rung.results.accuracy.value == 1.0


def test_the_form_of_labels_is_no_matter_of_chance(tmp_path, run):
    """12 of 12 would never show 95%, but labels that the schema accepted cannot break it."""
    task = toy_task(tmp_path, targets={"accuracy": 0.5, "format_compliance": 0.95})
    (rung,), _ = climb(task, run, telling_rows(12, "validation"), telling_rows(60, "train", 100))
    verdicts = {name: f.verdict for name, f in evaluate.check_rung(task, rung).items()}
    assert verdicts == {"accuracy": "pass", "format_compliance": "pass"}
    model = rung.model_copy(update={"name": "prompt"})
    assert evaluate.check_rung(task, model)["format_compliance"].verdict == "undecided"
