from __future__ import annotations

import csv
import random

import pytest
import record_toys
from evaluate_toys import (
    ScriptedModel,
    answer_row,
    constant,
    session,
    toy_rows,
    toy_task,
    trained_toy,
)
from evaluate_toys import measure as measure_04

from helpers import evaluate, store
from helpers.evaluate import judge as judging
from helpers.records import Asking, Budget, WorkbookError

pytestmark = pytest.mark.usefixtures("prints")


@pytest.fixture
def text_task(tmp_path):
    changes = {
        "schema": None,
        "scored_fields": [],
        "accuracy_from": "judge",
        "targets": {"accuracy": 0.2},
    }
    return toy_task(tmp_path, rubric="it is good", **changes)


def fair(chat):
    """Says which of A and B is the good answer."""
    text = chat[-1].content
    return "A" if text.index("good") < text.index("poor") else "B"


def measure(task, run, judge, n=30):
    tuned, base = constant("a good answer", "tuned"), constant("a poor answer", "base")
    return measure_04(task, run, tuned, base, toy_rows(n), judge=judge)


def test_a_judge_that_can_tell_decides(text_task, run):
    found = measure(text_task, run, ScriptedModel(fair, "judge"))
    assert found.verdict == "pass" and found.comparison["accuracy"].gained == 30
    assert found.ratings.order_consistency.value == 1
    assert any("not compared with people" in warning for warning in found.ratings.warnings)


def test_a_judge_that_always_takes_the_first_answer_gives_no_gain(text_task, run):
    found = measure(text_task, run, constant("A", "biased"))
    assert found.ratings.order_consistency.value == 0
    assert any("the same in both orders of A and B: 0.000" in reason for reason in found.reasons)


def test_a_judge_that_goes_by_the_place_shows_no_candidate_to_be_no_worse(text_task, run):
    changes = {"replace": "not_worse", "margins": {"accuracy": 0.1}, "targets": {"accuracy": 0.0}}
    task = text_task.model_copy(update=changes)
    found = measure(task, run, constant("A", "biased"))
    assert found.comparison["accuracy"].verdict == "pass" and found.verdict == "inconclusive"
    assert found.comparison["accuracy"].difference.value == 0 and found.verdict != "pass"


def test_without_a_judge_the_verdict_is_inconclusive_and_says_why(text_task, run):
    found = measure(text_task, run, None)
    assert found.verdict == "inconclusive" and any(
        "no judge is set" in reason for reason in found.reasons
    )


def test_agreement_with_people_is_kappa(text_task, run):
    measure(text_task, run, None)
    answers = [
        [answer_row(e.id, text) for e in toy_rows(30)]
        for text in ("a good answer", "a poor answer")
    ]
    pairs = evaluate.blind_table(toy_rows(30), *answers)
    for pair in pairs:
        pair["choice"] = "A" if "good" in pair["A"] else "B"
    evaluate.write_ratings(run.path("ratings.csv"), pairs)
    found = measure(text_task, run, ScriptedModel(fair, "judge"))
    assert found.ratings.kappa == 1 and found.ratings.kappa_rows == 60
    first = dict(zip("abcd", (True, True, False, False), strict=True))
    second = dict(zip("abcd", (True, False, False, True), strict=True))
    assert judging.kappa(first, second) == (0, 4)


def test_the_blind_table_hides_whose_answer_is_whose():
    rows = toy_rows(40)
    ours, theirs = ([answer_row(e.id, text) for e in rows] for text in ("ours", "theirs"))
    table = evaluate.blind_table(rows, ours, theirs)
    assert 8 < sum(row["A"] == "ours" for row in table) < 32
    assert table == evaluate.blind_table(rows, ours[::-1], theirs), (
        "the same each time, whatever the order"
    )


def by_rank(*texts):
    """A judge that takes the answer that stands later among `texts`."""

    def reply(chat):
        a, b = chat[-1].content.split("Answer A:\n")[1].split("\n\nAnswer B:\n")
        return "Both." if a == b else "AB"[texts.index(a) < texts.index(b)]

    return ScriptedModel(reply, "judge")


def test_what_was_right_beside_the_prompt_is_not_right_beside_production(
    text_task, run, monkeypatch
):
    """Kept for the answer, the prompt's word made a lost comparison with production a tie."""
    task = text_task.model_copy(update={"replace": "not_worse", "margins": {"accuracy": 0.05}})
    asking = Asking().for_rung("fine_tuned", "v0")
    store.open_run("before").save(trained_toy(model_id="v0", version="v0", asking=asking))
    production = record_toys.in_production("v0", run_id="before", model_id="v0")
    tuned, base, best = constant("good", "tuned"), constant("poor", "base"), constant("best", "v0")
    monkeypatch.setattr("helpers.evaluate.evaluation.load_models", lambda model: (base, best))
    judge = by_rank("poor", "good", "best")
    found = measure_04(task, run, tuned, base, toy_rows(40), judge=judge, production=production)
    assert found.comparison["accuracy"].difference.value == 1
    assert found.against["production"]["accuracy"].difference.value == -1
    assert found.verdict == "fail" and found.regression


def test_production_is_not_measured_with_a_prompt_it_was_not_trained_with(
    text_task, run, monkeypatch
):
    asking = Asking().for_rung("fine_tuned", "v0")
    served = trained_toy(model_id="v0", version="v0", asking=asking)
    prints = served.fingerprints | {"system_prompt": "another"}
    store.open_run("before").save(served.model_copy(update={"fingerprints": prints}))
    production = record_toys.in_production("v0", run_id="before", model_id="v0")
    tuned, base = constant("good", "tuned"), constant("poor", "base")
    monkeypatch.setattr("helpers.evaluate.evaluation.load_models", lambda model: (base, base))
    judge = by_rank("poor", "good")
    found = measure_04(
        text_task, run, tuned, base, toy_rows(40), judge=judge, production=production
    )
    assert found.verdict == "inconclusive" and "production" not in {r.name for r in found.rungs}
    assert any("v0, which serves now" in text and "system prompt" in text for text in found.reasons)


@pytest.mark.parametrize(
    ("text", "vote"),
    [
        ("**B**", (False, True)),
        ("Answer: A", (True, False)),
        ("Both.", (True, True)),
        ("Neither A nor B is right", (False, False)),
        ("A and B are alike", None),
        ("<think>A is", None),
        ("<think>A is short</think>B", (False, True)),
        ("I cannot judge this", None),
        ("Not A.", None),
        ("Both are wrong", None),
        ("A tie", None),
        ("B isn’t right", None),
        ("b", (False, True)),
        ("答案A更好", (True, False)),
        ("Both are equally good.", (True, True)),
        ("Neither; both are wrong", (False, False)),
        ("A, because it is not vague", (True, False)),
        ("A. The other one is incorrect.", (True, False)),
        ("A is right. B is right too.", None),
        ("I can't say A, B or both", None),
        ("A is wrong. B is wrong.", None),
        ("It names vitamin B12", None),
        ('{"choice": "neither"}', (False, False)),
    ],
)
def test_a_reply_is_one_choice_or_none(text, vote):
    assert judging._vote(text) == vote


def test_few_rated_rows_are_few_test_rows(tmp_path, run):
    task, rows = human_task(tmp_path), toy_rows(60)
    tuned, base = constant("good", "tuned"), constant("poor", "base")
    measure_04(task, run, tuned, base, rows)
    blind = list(csv.DictReader((run.private / "blind.csv").read_text().splitlines()))[:8]
    choices = rated(blind, lambda row: "A" if row["A"] == "good" else "B")
    evaluate.write_ratings(run.private / "ratings.csv", choices)
    found = measure_04(task, run, tuned, base, rows)
    power = next(finding for finding in found.findings if finding.name == "power")
    assert "8 of 60" in power.evidence and found.verdict == "inconclusive"
    assert power.evidence in found.reasons


def test_rated_rows_of_one_chat_are_one(tmp_path, run):
    """36 rated rows of 12 chats were enough to tell a better model from a lucky one."""
    task = human_task(tmp_path)
    rows = toy_rows(120, group=lambda i: f"chat {i // 3}")
    tuned, base = constant("good", "tuned"), constant("poor", "base")
    measure_04(task, run, tuned, base, rows)
    blind = list(csv.DictReader((run.private / "blind.csv").read_text().splitlines()))
    ids = {example.id for example in rows[:36]}
    choices = rated([row for row in blind if row["id"] in ids], lambda row: "A")
    evaluate.write_ratings(run.private / "ratings.csv", choices)
    found = measure_04(task, run, tuned, base, rows)
    power = next(finding for finding in found.findings if finding.name == "power")
    assert power.verdict == "undecided" and "12 of 40" in power.evidence


def test_ratings_are_read_as_spreadsheets_save_them(tmp_path, run):
    path = run.path("ratings.csv")
    row = "r1;Grüße, wohin?;x;y;a;b;Both\n"
    path.write_bytes(f"id;asked;A;B;a_sha;b_sha;choice\n{row}".encode("cp1252"))
    assert judging.read_ratings(run, human_task(tmp_path)) == {
        ("r1", "sa", "sb"): True,
        ("r1", "sb", "sa"): True,
    }
    for name in ("utf-8", "utf-8-sig", "cp1252", "utf-16"):
        path.write_bytes("id;a_sha;b_sha;choice\ngröße-1;a;b;A\n".encode(name))
        assert judging.read_ratings(run, human_task(tmp_path))["größe-1", "sa", "sb"], name
    path.write_text("id,choice\nr1,A\n")
    with pytest.raises(WorkbookError, match=r"ratings.csv has to keep .* a_sha, b_sha"):
        judging.read_ratings(run, human_task(tmp_path))


def test_no_spreadsheet_takes_what_an_answer_is_known_by_for_a_number():
    for number in range(2000):
        with pytest.raises(ValueError, match="could not convert"):
            float(judging.sha(str(number)))


def test_one_rung_alone_is_rated_too(text_task, run):
    model = constant("fine", "model")
    where = session(text_task, run, model, judge=constant("both", "judge"))
    rows = toy_rows(12, "validation")
    ways = evaluate.ways_to_ask(["zero_shot"], Asking(), text_task, model)
    (rung,) = evaluate.rate_rungs(evaluate.ask_ladder(ways, rows, where), rows, where)
    assert (rung.results.accuracy.value, rung.results.accuracy.n) == (1.0, 12)


def test_a_choice_that_is_none_of_the_four_is_an_error_with_its_line(text_task, run):
    run.path("ratings.csv").write_text("id,a_sha,b_sha,choice\nr1,x,y,both\nr2,x,y,perhaps\n")
    with pytest.raises(WorkbookError, match=r"ratings.csv, line 3: choice 'perhaps'"):
        judging.read_ratings(run, text_task)


def test_judged_text_stays_here_unless_the_task_lets_it_go(text_task, run):
    judge = ScriptedModel(fair, "remote")
    judge.is_loopback = False
    with pytest.raises(WorkbookError, match="data_may_leave"):
        measure(text_task, run, judge)
    assert judge.asked == []


class PaidJudge(ScriptedModel):
    provider = "api"


def test_a_paid_judge_is_paid_from_the_runs_budget(text_task, run):
    prices = {"models": {"judge": {"input": 1.0, "output": 2.0}}}
    task, judge = text_task.model_copy(update={"prices": prices}), PaidJudge(fair, "judge")
    with pytest.raises(WorkbookError, match=r"judge may cost .* max_cost_usd=0;"):
        measure(task, run, judge)
    assert judge.asked == []
    tuned, base = constant("a good answer", "tuned"), constant("a poor answer", "base")
    found = measure_04(task, run, tuned, base, toy_rows(30), judge=judge, limit_usd=1.0)
    assert set(Budget(run).by_whom()) == {"judge"} and judge.limits == {8}
    assert found.ratings.cost_usd == pytest.approx(Budget(run).spent) and Budget(run).reserved == 0


def human_task(tmp_path):
    return toy_task(
        tmp_path, schema=None, scored_fields=[], accuracy_from="human", targets={"accuracy": 0.2}
    )


def rated(pairs, choose):
    """The rows of private/blind.csv as a person hands them back."""
    return [row | {"choice": choose(row)} for row in pairs]


def test_equal_answers_are_one_question_whose_answer_counts_for_both(tmp_path, run):
    """One key for both sides marked right ones wrong: 10% where 97.5% was true."""
    task, rows = human_task(tmp_path), toy_rows(20)
    same = [answer_row(e.id, "the same answer") for e in rows]
    pairs = evaluate.blind_table(rows, same, same)
    assert all(row["a_sha"] == row["b_sha"] and "the same answer as A" in row["B"] for row in pairs)
    for choice, right in (("A", True), ("B", True), ("both", True), ("neither", False)):
        evaluate.write_ratings(
            run.private / "ratings.csv", rated(pairs, lambda row, choice=choice: choice)
        )
        assert set(judging.read_ratings(run, task).values()) == {right}, choice
    tuned, base = constant("the same answer", "tuned"), constant("the same answer", "base")
    evaluate.write_ratings(run.private / "ratings.csv", rated(pairs, lambda row: "both"))
    found = measure_04(task, run, tuned, base, rows)
    assert found.fine_tuned_model.accuracy.value == 1.0
    assert found.comparison["accuracy"].difference.value == 0.0


def test_what_is_still_to_rate_stands_in_the_blind_table_until_it_is_rated(tmp_path, run):
    task, rows = human_task(tmp_path), toy_rows(20)
    tuned, base = constant("good", "tuned"), constant("=poor", "base")
    measure_04(task, run, tuned, base, rows)
    blind = list(csv.DictReader((run.private / "blind.csv").read_text().splitlines()))
    assert len(blind) == 20 and {row["choice"] for row in blind} == {""}
    assert "=poor" not in {row["A"] for row in blind}, "no spreadsheet takes it for a formula"
    evaluate.write_ratings(
        run.private / "ratings.csv", rated(blind, lambda row: "A" if row["A"] == "good" else "B")
    )
    found = measure_04(task, run, tuned, base, rows)
    assert (found.ratings.rated, found.fine_tuned_model.accuracy.value) == (40, 1.0)


def test_what_was_written_to_be_rated_is_read_whatever_its_texts_hold(tmp_path, run):
    rng = random.Random(5)
    for _ in range(60):
        table = []
        for n in range(4):
            texts = ["".join(rng.choices('ab,\n";A', k=rng.randrange(1, 60))) for _ in range(3)]
            row = dict(zip(("asked", "A", "B"), texts, strict=True))
            row |= {"id": f"r{n}", "a_sha": "sa", "b_sha": f"sb{n}", "choice": "A"}
            table.append(row)
        path = evaluate.write_ratings(run.path("ratings.csv"), table)
        assert len(judging.read_ratings(run, human_task(tmp_path))) == 8
    path.write_bytes(path.read_bytes().removesuffix(b",A\r\n"))  # the last row is not rated yet
    assert len(judging.read_ratings(run, human_task(tmp_path))) == 6


def test_ratings_whose_id_a_spreadsheet_has_changed_are_named(tmp_path, run):
    task, rows = human_task(tmp_path), toy_rows(5)
    rows = [e.model_copy(update={"id": f"größe-{i}"}) for i, e in enumerate(rows)]
    tuned, base = constant("good", "tuned"), constant("poor", "base")
    measure_04(task, run, tuned, base, rows)
    blind = list(csv.DictReader((run.private / "blind.csv").read_text().splitlines()))
    path = evaluate.write_ratings(run.private / "ratings.csv", rated(blind, lambda row: "A"))
    text = path.read_text()
    path.write_bytes(text.encode("cp1252"))
    assert measure_04(task, run, tuned, base, rows).ratings.rated == 10
    path.write_text(text.replace("größe-3", "gr??e-3").replace("größe-4", "4"))
    said = []
    found = measure_04(task, run, tuned, base, rows, say=said.append)
    assert found.ratings.rated == 6
    assert any("ratings of 2 ids" in line and "gr??e-3" in line for line in said), said


def test_several_people_decide_by_majority_and_their_agreement_is_said(tmp_path, run):
    task, rows = human_task(tmp_path), toy_rows(20)
    ours = [answer_row(e.id, "x") for e in rows]
    theirs = [answer_row(e.id, "y") for e in rows]
    pairs = evaluate.blind_table(rows, ours, theirs)
    people = {"ratings.csv": "A", "ratings-ann.csv": "A", "ratings-bob.csv": "B"}
    for name, choice in people.items():
        table = rated(pairs, lambda row, choice=choice: choice)
        evaluate.write_ratings(run.private / name, table)
    rights = judging.read_ratings(run, task)
    assert all(rights[row["id"], row["a_sha"], row["b_sha"]] for row in pairs)
    assert not any(rights[row["id"], row["b_sha"], row["a_sha"]] for row in pairs)
    tuned, base = constant("x", "tuned"), constant("y", "base")
    assert "kappa -1.00" in measure_04(task, run, tuned, base, rows).ratings.warnings[0]


def test_rungs_of_01_get_their_accuracy_from_the_same_ratings(tmp_path, run):
    task, rows = human_task(tmp_path), toy_rows(12, "validation")
    model = ScriptedModel(lambda chat: "good" if "As JSON." in chat[0].content else "poor")
    where = session(task, run, model)
    ways = evaluate.ways_to_ask(["zero_shot", "prompt"], Asking(), task, model)
    measured = evaluate.ask_ladder(ways, rows, where)
    unrated = evaluate.rate_rungs(measured, rows, where)
    assert [rung.results.accuracy.n for rung in unrated] == [0, 0]
    blind = list(csv.DictReader((run.private / "blind.csv").read_text().splitlines()))
    choices = rated(blind, lambda row: "A" if row["A"] == "good" else "B")
    evaluate.write_ratings(run.private / "ratings.csv", choices)
    zero_shot, prompt = evaluate.rate_rungs(measured, rows, where)
    assert (zero_shot.results.accuracy.value, prompt.results.accuracy.value) == (1.0, 0.0)
