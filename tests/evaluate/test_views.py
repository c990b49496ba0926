from __future__ import annotations

import re

import pytest
from evaluate_toys import (
    RIGHT,
    WRONG,
    answer_row,
    ask_rung,
    asking,
    constant,
    measure,
    right_where,
    session,
    toy_rows,
    toy_task,
)

from helpers import decide, evaluate
from helpers.records import Message, Screening
from helpers.show import decide as ladder_views
from helpers.show import evaluate as views


@pytest.fixture(autouse=True)
def quiet_pictures(prints):
    import matplotlib

    matplotlib.use("Agg")


@pytest.fixture
def measured(task, run):
    rows = toy_rows(40)
    base, tuned = right_where(lambda i: i % 3, "base"), constant(RIGHT, "tuned")
    return rows, measure(task, run, tuned, base, rows)


def overlaps(figure):
    """Pairs of texts of one axis that cover each other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas, found = FigureCanvasAgg(figure), []
    canvas.draw()
    renderer = canvas.get_renderer()
    for axis in figure.axes:
        texts = [
            t
            for t in [*axis.texts, *axis.get_yticklabels(), *axis.get_xticklabels(), axis.title]
            if t.get_text()
        ]
        boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in texts]
        found += [
            (a, b) for i, (a, x) in enumerate(boxes) for b, y in boxes[i + 1 :] if x.overlaps(y)
        ]
    return found


def test_pictures_are_drawn_without_texts_that_cover_each_other(task, measured, run):
    rows, evaluation = measured
    answers = evaluate.read_answers(run, evaluation.rung("fine_tuned"))
    assert overlaps(views.comparison(evaluation, task.targets)) == []
    labels = evaluate.label_scores(task, rows, answers)
    assert overlaps(views.confusion(labels, show_text=True)) == []
    assert overlaps(ladder_views.ladder(evaluation.rungs, task.targets)) == []


def test_the_comparison_names_the_verdict_the_rows_and_the_flips(task, measured):
    figure = views.comparison(measured[1], task.targets)
    said = " ".join(
        [figure.get_suptitle(), *(t.get_text() for a in figure.axes for t in [*a.texts, a.title])]
    )
    said += " ".join(axis.get_title("left") for axis in figure.axes)
    assert measured[1].verdict in said and "40 test rows" in said and "14 gained, 0 lost" in said


def test_headless_tables_hold_no_example_text(measured, run, monkeypatch):
    monkeypatch.setenv("WORKBOOK_HEADLESS", "1")
    rows, evaluation = measured
    answers = evaluate.read_answers(run, evaluation.rung("fine_tuned"))
    table = views.flip_table(evaluation, rows, answers, answers, show_text=True)
    assert table.data.count("<details>") == 12
    assert "thing number" not in table.data and "colour" not in table.data


def test_flips_show_losses_first(task, run):
    base, tuned = right_where(lambda i: i < 5, "b"), right_where(lambda i: i > 2, "t")
    rows = toy_rows(10)
    evaluation = measure(task, run, tuned, base, rows)
    answers = evaluate.read_answers(run, evaluation.rung("fine_tuned"))
    table = views.flip_table(evaluation, rows, answers, answers, show_text=True)
    assert re.findall(r"</span> (\w+) ·", table.data) == ["lost"] * 3 + ["gained"] * 5


def test_a_task_without_fixed_choices_gets_a_sentence_instead_of_a_matrix(tmp_path, run):
    task = toy_task(tmp_path, schema=None, scored_fields=[], accuracy_from="scorer")
    labels = evaluate.label_scores(task, toy_rows(2), [])
    assert "nothing to mix up" in views.confusion(labels, show_text=True).data


def test_the_picture_of_mistakes_counts_as_the_accuracy_does_and_shows_no_free_text(tmp_path):
    task = toy_task(tmp_path, schema=None, scored_fields=[], accuracy_from="scorer", scorer="exact")
    gold = ["Billing", "Login"] * 30
    rows = []
    said = []
    for number, example in enumerate(toy_rows(60)):
        answer = Message(role="assistant", content=gold[number])
        rows.append(example.model_copy(update={"messages": [example.messages[0], answer]}))
        text = gold[number].lower() if number < 30 else f"Mr Smith of room {number}"
        scores, _ = evaluate.score_answer(task, rows[-1], text)
        said.append(answer_row(example.id, text).model_copy(update={"scores": scores}))
    labels = evaluate.label_scores(task, rows, said)
    for show_text in (True, False):  # thirty free texts are too many columns, by hand too
        [axis] = views.confusion(labels, show_text).axes
        assert axis.get_title("left") == "answer: 30 of 60 right"
        shown = [text.get_text() for text in axis.get_xticklabels()]
        assert shown[:2] == ["Billing", "Login"] and shown[2].startswith("(none of")


def test_every_table_of_the_decision_says_what_it_rests_on(task, run):
    examples = toy_rows(40, "validation") + toy_rows(150, "test", 40)
    model = constant(WRONG)
    ways = [asking("zero_shot", model), asking("prompt", model)]
    rungs = evaluate.ask_ladder(ways, examples[:40], session(task, run, model))
    screening = decide.screen(
        task, **dict.fromkeys(Screening.model_fields.keys() - {"warnings"}, False)
    )
    found = decide.decide(task, rungs, examples, screening, run, decide.Choices())
    assert "0 [0, 0.0876] n=40" in ladder_views.rung_table(rungs).to_string()
    assert "150 test rows" in ladder_views.plan_table(found).to_string()
    assert "not_yet" in ladder_views.verdict_table(found).to_string()
    assert len(ladder_views.screening_table(screening).data) == 0
    assert "150" in ladder_views.parts_and_targets(task, examples).to_string()


def test_slices_diagnoses_and_ratings_are_shown(task, measured, run):
    rows, evaluation = measured
    answers = {r.name: evaluate.read_answers(run, r) for r in evaluation.rungs}
    assert "by slice" in views.slice_table(evaluation).to_html()
    run.save(evaluation)
    shown = views.diagnosis_table(evaluate.diagnose_run(run, rows)).to_string()
    assert "broken evaluation" in shown and "unknown" in shown
    pairs = evaluate.blind_table(rows, answers["fine_tuned"], answers["prompt"])
    assert (
        "nothing to rate"
        in views.rating_table(evaluation, pairs, run, True, evaluate.write_ratings).data
    )


def test_a_click_in_the_blind_table_is_kept_and_feeds_the_same_paired_test(tmp_path, run):
    task = toy_task(
        tmp_path, schema=None, scored_fields=[], accuracy_from="human", targets={"accuracy": 0.2}
    )
    rows = toy_rows(40)
    base, tuned = constant("a poor answer", "base"), constant("a good answer", "tuned")
    evaluation = measure(task, run, tuned, base, rows)
    assert evaluation.verdict == "inconclusive" and evaluation.ratings.rated == 0
    answers = {r.name: evaluate.read_answers(run, r) for r in evaluation.rungs}
    pairs = evaluate.blind_table(rows, answers["fine_tuned"], answers["prompt"])
    box = views.rating_table(evaluation, pairs, run, True, evaluate.write_ratings)
    for pair, buttons in zip(pairs, box.children[2::2], strict=True):
        buttons.value = "A" if pair["A"] == "a good answer" else "B"
    again = measure(task, run, tuned, base, rows)
    assert again.ratings.rated == 80 and again.comparison["accuracy"].gained == 40
    assert again.verdict == "pass" and again.fine_tuned_model.accuracy.value == 1


def test_a_learning_curve_is_drawn_with_its_target(task, run):
    rungs = {}
    for percent, k in ((25, 2), (50, 3), (100, 5)):
        model = right_where(lambda i, k=k: i % k, f"m{percent}")
        rungs[percent] = ask_rung(model, "prompt", toy_rows(30), task, run)
    figure = views.learning_curve(rungs, task.targets)
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert overlaps(figure) == [] and legend == ["target 50%"]
