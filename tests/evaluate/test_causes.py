from __future__ import annotations

import pytest
import record_toys
from evaluate_toys import BROKEN, RIGHT, WRONG, answer_row, constant, measure, toy_rows, toy_task

from helpers import evaluate
from helpers.evaluate import causes
from helpers.evaluate.slices import compare_slices
from helpers.evaluate.statistics import holm
from helpers.records import Message


def answered(texts, **scores):
    return [answer_row(f"r{i:04d}", text, **scores) for i, text in enumerate(texts)]


def test_answers_equal_to_the_bases_mean_that_the_adapter_does_nothing():
    same = answered([RIGHT] * 20)
    assert causes.broken_evaluation(same, same, [], []).verdict == "fail"
    assert causes.broken_evaluation(same, answered([WRONG] * 20), [], []).verdict == "pass"


def test_a_test_question_in_train_breaks_the_evaluation():
    found = causes.broken_evaluation(
        answered([RIGHT]), answered([WRONG]), toy_rows(3, "train"), toy_rows(1)
    )
    assert found.verdict == "fail" and "1 test rows in train" in found.evidence


def test_answers_cut_before_the_gold_length_break_the_evaluation_and_blame_no_template():
    cut = answered([RIGHT[:5]] * 20, endless=1.0)
    test = toy_rows(20)
    found = causes.broken_evaluation(cut, answered([WRONG] * 20), [], test)
    assert found.verdict == "fail" and "20 answers cut at max_new_tokens" in found.evidence
    assert causes.template_mismatch(test, cut).verdict == "pass"


def test_endless_or_wrapped_answers_speak_for_another_template():
    endless = answered([RIGHT] * 20, endless=1.0)
    wrapped = answered([BROKEN] * 20, accuracy=0.0, accuracy_tolerant=1.0)
    right = answered([RIGHT] * 20, accuracy=1.0, accuracy_tolerant=1.0)
    found = [causes.template_mismatch([], rows).verdict for rows in (endless, wrapped, right)]
    assert found == ["fail", "fail", "pass"]


@pytest.mark.parametrize(
    ("curve", "over"),
    [
        ([2.0, 1.0, 0.8, 1.0], "fail"),
        ([2.0, 1.0, 0.8, 0.81], "pass"),
        ([2.0], "undecided"),
        ([], "undecided"),
    ],
)
def test_a_validation_loss_that_rose_again_is_overfitting(curve, over):
    assert causes.judge_curve(curve, record_toys.evaluation())[0].verdict == over


def test_a_loss_that_still_falls_while_the_target_is_missed_is_underfitting(task, run, prints):
    poor = measure(task, run, constant(WRONG, "t"), constant(BROKEN, "b"), toy_rows(20))
    assert causes.judge_curve([2.0, 1.5, 1.0], poor)[1].verdict == "fail"
    assert causes.judge_curve([2.0, 1.0, 0.99], poor)[1].verdict == "pass"
    assert evaluate.diagnose_run(run, toy_rows(20)) == [], "nothing to diagnose yet"
    run.save(poor)
    found = {cause.name: cause.verdict for cause in evaluate.diagnose_run(run, toy_rows(20))}
    assert found["data_quality"] == found["broken_evaluation"] == "pass"
    assert found["overfit"] == "undecided"


def test_two_models_that_agree_against_the_label_cast_doubt_on_it():
    both = answered([WRONG] * 3 + [RIGHT] * 17)
    found = causes.data_quality([], toy_rows(20), both, both)
    assert found.verdict == "fail" and "3 test rows" in found.evidence
    assert "r0001" in found.evidence and "mend their labels" in found.remedy


def test_two_models_that_babble_alike_cast_no_doubt_on_a_label():
    noise = []
    for row in answered(["Teresa Teresa"] * 20):
        noise.append(row.model_copy(update={"scores": row.scores | {"format_compliance": 0.0}}))
    found = causes.data_quality([], toy_rows(20), noise, noise)
    assert found.verdict == "pass" and "in 0 test rows" in found.evidence


def test_what_the_scorer_takes_for_the_label_casts_no_doubt_on_it():
    """Two models that said "It is 5." where gold says "5 days" were believed more than gold."""
    gold = Message(role="assistant", content="5 days")
    test = [e.model_copy(update={"messages": [e.messages[0], gold]}) for e in toy_rows(20)]
    right = answered(["It is 5."] * 20, accuracy=1.0)
    assert causes.data_quality([], test, right, right).verdict == "pass"
    wrong = answered(["It is 6."] * 20, accuracy=0.0)
    assert causes.data_quality([], test, wrong, wrong).verdict == "fail"


def test_equal_questions_with_two_answers_are_named():
    [one] = toy_rows(1, "train")
    other = one.model_copy(
        update={"id": "x", "messages": [one.messages[0], Message(role="assistant", content=WRONG)]}
    )
    assert causes.data_quality([one, other], [], [], []).verdict == "fail"


def test_a_slice_that_surely_lost_is_found_below_a_good_average(tmp_path):
    task = toy_task(tmp_path)
    rows = toy_rows(100)
    blue = [
        e.model_copy(update={"messages": [e.messages[0], Message(role="assistant", content=WRONG)]})
        if i < 20
        else e
        for i, e in enumerate(rows)
    ]
    hits = [(0, 1)] * 20 + [(1, 0)] * 60 + [(1, 1)] * 20
    pairs = [
        tuple(answer_row(e.id, group=e.group, accuracy=float(hit)) for hit in pair)
        for e, pair in zip(blue, hits, strict=True)
    ]
    found = compare_slices(task, blue, pairs)
    assert (found[0].name, found[0].verdict) == ("colour = blue", "fail")
    assert found[0].evidence == "0 gained, 20 lost" and found[0].p < 0.05
    assert {s.verdict for s in found[1:]} == {"pass"}


def test_holm_corrects_for_every_look():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == [] and holm([0.9, 0.9]) == [1.0, 1.0]
