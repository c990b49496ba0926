from __future__ import annotations

import json

import pytest
from evaluate_toys import RIGHT, answer_row, toy_rows, toy_task

from helpers import evaluate
from helpers.evaluate.compare import flips, pair_rows
from helpers.evaluate.slices import compare_slices, macro_f1, slices_of
from helpers.records import Message


def labelled(labels):
    rows = []
    for example, label in zip(toy_rows(len(labels)), labels, strict=True):
        answer = Message(role="assistant", content=json.dumps({"colour": label, "size": 1}))
        rows.append(example.model_copy(update={"messages": [example.messages[0], answer]}))
    return rows


def answers(labels):
    return [
        answer_row(f"r{i:04d}", json.dumps({"colour": label, "size": 1}))
        for i, label in enumerate(labels)
    ]


def scored(task, examples, rows):
    """The rows as asking writes them, with their scores."""
    pairs = zip(examples, rows, strict=True)
    scores = [evaluate.score_answer(task, example, row.answer)[0] for example, row in pairs]
    updates = zip(rows, scores, strict=True)
    return [row.model_copy(update={"scores": each}) for row, each in updates]


def test_a_rare_label_that_is_always_missed_shows_where_the_average_does_not(task):
    gold = ["red"] * 90 + ["out_of_scope"] * 10
    scores = evaluate.label_scores(task, labelled(gold), answers(["red"] * 100))
    colour = next(field for field in scores if field.field == "colour")
    outside, red = colour.labels
    assert outside.is_out_of_scope and (outside.label, outside.rows) == ("out_of_scope", 10)
    assert outside.recall.value == 0 and outside.recall.high < 0.35 and outside.precision.n == 0
    assert red.recall.value == 1.0 and red.precision.value == 0.9
    assert colour.macro_f1.value == pytest.approx((0 + 2 * 90 / 190) / 2)
    assert colour.macro_f1.low <= colour.macro_f1.value <= colour.macro_f1.high < 0.6


def test_macro_f1_is_that_of_the_textbook():
    sklearn = pytest.importorskip("sklearn.metrics")
    pairs = [("a", "a"), ("a", "b"), ("b", "b"), ("b", "c"), ("c", "c"), ("c", "c"), ("c", "")]
    gold, said = zip(*pairs, strict=True)
    expected = sklearn.f1_score(gold, said, labels=["a", "b", "c"], average="macro")
    assert macro_f1(pairs, list(map(str, range(7)))).value == pytest.approx(expected)


def test_answers_of_one_chat_make_no_interval_narrower(task):
    gold = ["red", "blue"] * 20
    said = ["red", "blue", "blue", "blue"] * 10
    single = evaluate.label_scores(task, labelled(gold), answers(said))[0]
    rows = []
    for i, row in enumerate(answers([label for label in said for _ in range(3)])):
        rows.append(row.model_copy(update={"group": f"chat {i // 3}"}))
    examples = labelled([label for label in gold for _ in range(3)])
    tripled = evaluate.label_scores(task, examples, rows)[0]
    assert (tripled.macro_f1.low, tripled.macro_f1.high) == (
        single.macro_f1.low,
        single.macro_f1.high,
    )
    for one, three in zip(single.labels, tripled.labels, strict=True):
        assert three.rows == 3 * one.rows and three.recall.n == 3 * one.recall.n
        assert (
            three.recall.low <= one.recall.low + 1e-9
            and three.precision.low <= one.precision.low + 1e-9
        )


def test_a_label_is_answered_in_any_spelling_that_the_accuracy_takes(task, tmp_path):
    """1.0 was no 1, Billing no billing: the table spoke against the accuracy beside it."""
    gold = ["café", "退货"] * 20
    said = scored(task, labelled(gold), answers(["cafe\u0301", "退货"] * 20))
    colour = evaluate.label_scores(task, labelled(gold), said)[0]
    assert [label.label for label in colour.labels] == ["café", "退货"]
    assert colour.macro_f1.value == 1.0
    size = toy_task(tmp_path, scored_fields=["size"])
    floats = [answer_row(row.id, '{"colour": "red", "size": 1.0}') for row in said]
    floats = scored(size, labelled(gold), floats)
    assert evaluate.label_scores(size, labelled(gold), floats)[0].macro_f1.value == 1.0
    text = toy_task(tmp_path, schema=None, scored_fields=[], accuracy_from="scorer")
    rows = [row.model_copy(update={"answer": RIGHT.upper()}) for row in said]
    rows = scored(text, toy_rows(40), rows)
    assert evaluate.label_scores(text, toy_rows(40), rows)[0].macro_f1.value == 1.0


def test_values_that_repeat_are_slices_whether_or_not_the_schema_lists_them(tmp_path):
    listed = {"type": "object", "properties": {"colour": {"$ref": "#/$defs/colour"}, "size": {}}}
    task = toy_task(tmp_path, schema=listed | {"$defs": {"colour": {"enum": ["red", "blue"]}}})
    slices = slices_of(task, labelled(["red", "blue"] * 20))
    assert len(slices["colour = red"]) == len(slices["colour = blue"]) == 20


def test_the_name_of_a_slice_holds_no_long_or_personal_text_that_no_schema_lists(tmp_path):
    long = "The customer asks for a refund and wants it on another account "
    values = [long + "A", long + "B", "write to ann.miller@example.org", "3", 3]
    task = toy_task(
        tmp_path, schema={"type": "object", "properties": {"colour": {}}}, scored_fields=["colour"]
    )
    slices = slices_of(task, labelled(values * 12))
    assert [len(ids) for name, ids in slices.items() if "colour" in name] == [12] * 5
    names = " ".join(slices)
    assert "example.org" not in names and "another account" not in names
    assert {"colour = 3", 'colour = "3"'} <= slices.keys()
    listed = {"type": "object", "properties": {"colour": {"enum": values}}}
    task = toy_task(tmp_path, schema=listed, scored_fields=["colour"])
    assert f"colour = {long}A" in slices_of(task, labelled(values * 12))


def test_a_slice_of_graded_scores_is_judged_by_their_mean(tmp_path):
    """70 gains and 30 larger losses were "surely lost", at a difference of 0.000."""
    task = toy_task(tmp_path, schema=None, scored_fields=[], accuracy_from="scorer", scorer="chrf")
    rows = toy_rows(100, first=50)  # fifty shorter questions, fifty longer
    ours = [answer_row(e.id, accuracy=0.52 if i % 10 < 7 else 0.5) for i, e in enumerate(rows)]
    theirs = [answer_row(e.id, accuracy=0.5 if i % 10 < 7 else 0.547) for i, e in enumerate(rows)]
    found = compare_slices(task, rows, pair_rows(ours, theirs))
    assert found and {finding.verdict for finding in found} == {"undecided"}
    changed = flips(ours, theirs)
    assert (len(changed["gained"]), len(changed["lost"])) == (70, 30), "as the comparison counts"


def test_broken_answers_have_no_label_and_texts_have_no_table(task):
    rows = labelled(["red", "red", "blue", "blue"])
    broken = [answer_row(e.id, "no JSON") for e in rows]
    colour = evaluate.label_scores(task, rows, broken)[0]
    assert colour.macro_f1.value == 0.0 and {label.recall.value for label in colour.labels} == {0.0}
    texts = labelled([f"text {i}" for i in range(30)])
    names = [f.field for f in evaluate.label_scores(task, texts, [answer_row(e.id) for e in texts])]
    assert "colour" not in names
