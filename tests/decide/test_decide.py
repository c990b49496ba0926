from __future__ import annotations

import json
import math
import random
from datetime import date, timedelta

import pytest
from evaluate_toys import RIGHT, WRONG, constant, right_where, session, toy_rows, toy_task

from helpers import evaluate, store
from helpers.decide import (
    Choices,
    choose_trainer,
    decide,
    economics,
    label_noise,
    recommend,
    screen,
    without_leaks,
)
from helpers.decide.economics import HOURS, OWN_MODEL, provider_warnings, training_cost
from helpers.decide.screening import contradictions
from helpers.decide.verdict import Evidence, plan, undecidable_targets
from helpers.records import Asking, Decision, Estimate, Finding, Message, Screening, WorkbookError

ANSWERS = {
    "new_knowledge": False,
    "format_or_style": True,
    "domain_terms": False,
    "shorter_prompt": False,
    "one_off": False,
    "changing_requirements": False,
}


NOISE = Finding(
    name="label_noise_answer", verdict="fail", evidence="a third is wrong", remedy="fix labels"
)


def screening(**changes):
    return Screening(**(ANSWERS | changes))


def evidence(**changes):
    values = {
        "meeting": [],
        "undecided": {},
        "rag_gains": False,
        "knowledge_task": False,
        "unrated": False,
        "undecidable": {},
        "noisy_labels": [],
        "pays_from": None,
        "volume": 0,
        "n_test": 100,
        "n_validation": 60,
        "n_examples": 400,
        "min_examples": 100,
        "best_rung": "prompt",
    }
    return Evidence(**(values | changes))


@pytest.mark.parametrize(
    ("answers", "changes", "expected"),
    [
        ({}, {}, "fine_tuning"),
        ({}, {"meeting": ["zero_shot", "rag"]}, "prompting"),
        ({}, {"meeting": ["few_shot"]}, "prompting"),
        ({}, {"meeting": ["rag"]}, "rag"),
        (
            {},
            {"meeting": ["prompt"], "undecidable": {"accuracy": 200}, "n_examples": 5},
            "prompting",
        ),
        ({"new_knowledge": True}, {"knowledge_task": True, "rag_gains": True}, "rag"),
        ({"new_knowledge": True}, {"rag_gains": True}, "rag"),
        ({"new_knowledge": True}, {"knowledge_task": True}, "not_yet"),
        ({}, {"knowledge_task": True, "rag_gains": True}, "rag"),
        ({}, {"knowledge_task": True}, "not_yet"),
        ({}, {"rag_gains": True}, "fine_tuning"),  # a gain alone makes no knowledge task
        ({"one_off": True}, {}, "not_yet"),
        ({"changing_requirements": True}, {}, "not_yet"),
        ({}, {"n_examples": 99}, "not_yet"),
        ({}, {"n_examples": 100}, "fine_tuning"),
        ({}, {"undecidable": {"accuracy": 189}}, "not_yet"),
        ({"format_or_style": False}, {}, "not_yet"),
        ({"own_architecture": True}, {}, "custom_model"),
        ({"own_architecture": True, "one_off": True}, {}, "not_yet"),
        ({"own_architecture": True, "format_or_style": False}, {}, "custom_model"),
        ({}, {"meeting": ["classical", "prompt"]}, "classical"),
        ({}, {"undecided": {"prompt": {"accuracy": 73}}}, "not_yet"),
        ({}, {"meeting": ["rag"], "undecided": {"prompt": {"accuracy": 73}}}, "rag"),
        ({}, {"unrated": True}, "not_yet"),
        ({}, {"noisy_labels": [NOISE]}, "not_yet"),
        ({"format_or_style": False, "shorter_prompt": True}, {"volume": 0}, "fine_tuning"),
        (
            {"format_or_style": False, "shorter_prompt": True},
            {"volume": 1000, "pays_from": 415_000_000},
            "not_yet",
        ),
        ({"shorter_prompt": True}, {"volume": 1000, "pays_from": 415_000_000}, "fine_tuning"),
        ({"format_or_style": False, "shorter_prompt": True}, {"volume": 1000}, "fine_tuning"),
    ],
)
def test_the_cheapest_thing_that_works_and_never_tuning_by_elimination(answers, changes, expected):
    recommendation, reasons, next_action = recommend(screening(**answers), evidence(**changes))
    assert recommendation == expected
    assert reasons and next_action


def test_not_yet_names_everything_in_the_way_and_what_to_do_first():
    _, reasons, action = recommend(
        screening(one_off=True),
        evidence(n_examples=40, undecidable={"format_compliance": 189}, n_test=30),
    )
    assert len(reasons) == 3 and "189" in reasons[0] and "189" in action


@pytest.mark.parametrize(
    ("n", "expected"), [(188, {"accuracy": 189}), (189, {}), (0, {"accuracy": 189})]
)
def test_a_target_is_decidable_when_all_right_would_show_it(tmp_path, n, expected):
    task = toy_task(tmp_path, targets={"accuracy": 0.98, "latency_p95": 10})
    assert undecidable_targets(task, n) == expected


def everything(n_test=100):
    return toy_rows(60, "validation") + toy_rows(200, "train", 60) + toy_rows(n_test, "test", 260)


def measured(model, task, run, examples, names=("zero_shot", "prompt", "few_shot"), **changes):
    train = [example for example in examples if example.part == "train"]
    rows = evaluate.choose_rows(task, examples, "validation", 60)
    ways = evaluate.ways_to_ask(list(names), Asking(**changes), task, model)
    return evaluate.ask_ladder(ways, rows, session(task, run, model, train=train))


def verdict(model, task, run, examples=None, **choices):
    examples = examples or everything()
    rungs = measured(model, task, run, examples)
    return decide(task, rungs, examples, screen(task, **ANSWERS), run, Choices(**choices))


def test_a_rung_that_surely_meets_the_targets_ends_the_search(task, run):
    decision = verdict(constant(RIGHT), task, run)
    assert (decision.recommendation, decision.status, decision.targets_met) == (
        "prompting",
        "measured",
        True,
    )
    assert "zero_shot" in decision.reasons[0]


def test_nothing_works_and_the_questionnaire_allows_it_so_tuning_is_predicted(task, run):
    decision = verdict(constant(WRONG), task, run)
    assert (decision.recommendation, decision.status, decision.targets_met) == (
        "fine_tuning",
        "predicted",
        False,
    )
    assert decision.trainer == "lora" and decision.best_rung == "zero_shot", "the cheaper of equals"


def test_a_rung_that_may_meet_the_targets_is_named(task, run):
    decision = verdict(right_where(lambda i: i % 2, "half"), task, run)
    assert decision.recommendation == "not_yet", "more rows decide it, not a training"
    assert any("may meet the targets: accuracy undecided at n=60" in w for w in decision.warnings)


def test_rag_wins_a_knowledge_task_without_meeting_the_targets(tmp_path, run):
    (tmp_path / "knowledge").mkdir()
    (tmp_path / "knowledge" / "thing.md").write_text("Every thing is red and has a number.")
    task = toy_task(tmp_path, targets={"accuracy": 0.9}, screening={"new_knowledge": True})
    knowing = right_where(lambda i: i < 40, "knows")
    reply = knowing.reply
    knowing.reply = lambda chat: reply(chat) if "is red" in chat[0].content else WRONG
    examples = everything()
    rungs = measured(knowing, task, run, examples, ("zero_shot", "prompt", "rag"))
    decision = decide(task, rungs, examples, screen(task, **ANSWERS), run, Choices())
    assert (decision.recommendation, decision.targets_met, decision.best_rung) == (
        "rag",
        False,
        "rag",
    )
    assert "task.yaml holds" in decision.warnings[0]
    gain = next(c for c in decision.comparisons if c.rung == "rag").accuracy
    assert gain.verdict == "pass" and gain.gained == 40


def test_the_test_part_is_counted_and_never_asked_about(task, run):
    model = constant(WRONG)
    decision = verdict(model, task, run, everything(n_test=37))
    assert decision.power.n == 37 and 0.1 < decision.power.detectable_difference < 0.3
    asked = {int(chat[-1].content.split()[-1]) for chat in model.asked}
    assert max(asked) < 60


def test_decision_json_is_as_its_readers_know_it(task, run):
    decision = verdict(constant(WRONG), task, run)
    run.save(decision)
    written = store.read_json(run.path(Decision.FILE))
    assert {
        "recommendation",
        "status",
        "targets_met",
        "trainer",
        "reasons",
        "warnings",
        "rungs",
        "comparisons",
    } <= set(written)
    assert {"economics", "power", "plan", "best_rung", "train_anyway_because"} <= set(written)
    assert {"name", "model", "part", "n", "results", "tokens_per_request"} <= set(
        written["rungs"][0]
    )
    assert set(written["plan"]) >= {"owner", "cadence", "review_on"}
    assert "thing number" not in json.dumps(written)
    assert run.load(Decision) == decision


def test_the_decision_says_how_each_rung_was_asked(task, run):
    examples = everything()
    rungs = measured(constant(WRONG), task, run, examples, few_shot_k=6, max_new_tokens=77)
    run.save(decide(task, rungs, examples, screening(), run, Choices()))
    asking = run.load(Decision).asking("few_shot")
    assert (asking.few_shot_k, asking.max_new_tokens, asking.style) == (6, 77, "full")
    with pytest.raises(WorkbookError, match="asked zero_shot, prompt, few_shot, not rag"):
        run.load(Decision).asking("rag")


def test_training_against_advice_is_recorded(task, run):
    decision = verdict(constant(RIGHT), task, run, train_anyway_because="a course")
    assert decision.recommendation == "prompting" and decision.train_anyway_because == "a course"
    assert any("against this advice, because: a course" in w for w in decision.warnings)


def test_the_break_even_volume_is_where_the_saving_pays_the_upkeep(task, run):
    rungs = measured(constant(WRONG), task, run, everything())
    costs = {"zero_shot": 0.001, "prompt": 0.003, "few_shot": 0.001}
    rungs = [_costing(r, costs[r.name]) for r in rungs]
    numbers = economics(task, rungs)
    tuned, prompt = (numbers.ways[name] for name in ("fine_tuned", "prompt"))
    upkeep = (tuned.one_off_usd - prompt.one_off_usd) / 12 + tuned.monthly_usd - prompt.monthly_usd
    needed = numbers.break_even_against["prompt"]
    assert needed * 0.002 >= upkeep > (needed - 2) * 0.002
    assert numbers.break_even_against["few_shot"] is None, "no saving, no break-even"


def _costing(rung, usd):
    estimate = Estimate(value=usd, low=usd, high=usd, n=8)
    return rung.model_copy(
        update={"results": rung.results.model_copy(update={"cost_per_request": estimate})}
    )


@pytest.mark.parametrize(
    "prices",
    [
        {"person_usd_per_hour": -40},
        {"hosting_usd_per_month": math.nan},
        {"person_usd_per_hour": "forty"},
        {"hours": {"promt_once": 3}},
        {"hours": {"rag_once": -1}},
        {"hours": "forty"},
        {"hours": ["rag_once"]},
        {"training": {"gpt-4.1-mini": "five"}},
        {"training": {"gpt-4.1-mini": -5}},
        {"training": 5},
    ],
)
def test_prices_that_cannot_be_are_named(tmp_path, prices):
    """A negative wage paid for any way; hours of a misspelled name were not counted."""
    (name, value), *_ = prices.items()
    if isinstance(value, dict):
        (name,) = value
    task = toy_task(tmp_path, prices=prices)
    with pytest.raises(WorkbookError, match=name):
        economics(task, [], training_usd=training_cost(task, "openai", "gpt-4.1-mini-2025", 1000))


def test_unknown_costs_are_left_out_rather_than_guessed(tmp_path, run):
    task = toy_task(tmp_path, prices={})
    numbers = economics(task, measured(constant(WRONG), task, run, everything()))
    assert numbers.break_even_against == {} and numbers.break_even_requests_per_month is None
    json.loads(store.dumps(numbers))


@pytest.mark.parametrize(
    ("asked", "url", "model", "leave", "expected"),
    [
        ("auto", "", "", False, "lora"),
        ("auto", "http://127.0.0.1:9/v1", "m", False, "openai"),
        ("auto", "https://api.example.com/v1", "m", False, "lora"),
        ("auto", "https://api.example.com/v1", "m", True, "openai"),
        ("lora", "http://127.0.0.1:9/v1", "m", True, "lora"),
        ("openai", "http://127.0.0.1:9/v1", "m", False, "openai"),
    ],
)
def test_the_trainer_is_local_unless_an_api_is_configured_and_allowed(
    tmp_path, monkeypatch, asked, url, model, leave, expected
):
    monkeypatch.setenv("WORKBOOK_API_KEY", "sk-test")
    assert (
        choose_trainer(asked, url, model, toy_task(tmp_path, data_may_leave=leave))[0] == expected
    )


@pytest.mark.parametrize(
    ("day", "key", "expected", "words"),
    [
        (date(2026, 10, 1), "k", "openai", "served until 2027-01-14"),
        (date(2026, 11, 25), "k", "lora", "serves tuned models only until 2027-01-14"),
        (date(2027, 2, 1), "k", "lora", "took its last training job on 2027-01-06"),
        (date(2026, 10, 1), "", "lora", "no key is set"),
    ],
)
def test_a_provider_that_is_closing_is_named_and_not_chosen(
    tmp_path, monkeypatch, day, key, expected, words
):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("WORKBOOK_API_KEY", key)
    task = toy_task(tmp_path, data_may_leave=True)
    trainer, warnings = choose_trainer(
        "auto", "https://api.openai.com/v1", "gpt-4.1-mini", task, day
    )
    assert trainer == expected and any(words in w for w in warnings), warnings


def test_what_is_known_of_a_provider_gets_old():
    assert not any(
        "look it up" in w
        for w in provider_warnings("https://x.openai.azure.com/openai/v1/", date(2026, 12, 1))
    )
    assert any(
        "look it up" in w
        for w in provider_warnings("https://x.openai.azure.com/openai/v1/", date(2027, 6, 1))
    )
    assert provider_warnings("https://evil-openai.azure.com.example/v1") == []


def test_a_training_run_is_priced_by_token_or_by_the_hour(tmp_path):
    task = toy_task(tmp_path)
    assert training_cost(task, "openai", "gpt-4.1-mini-2025-04-14", 2_000_000) == 10.0
    assert training_cost(task, "openai", "gpt-4.1-2025-04-14", 1_000_000) == 25.0
    own = toy_task(tmp_path, prices={"training": {"mine": 4.0}, "as_of": "2026-11-22"})
    assert training_cost(own, "openai", "mine", 500_000) == 2.0
    assert training_cost(task, "lora", "", 720_000) == pytest.approx(0.36), (
        "an hour at 200 tokens a second"
    )


def test_a_model_of_ones_own_is_estimated_by_its_sources():
    tokens = 20 * 1e9
    flops = 6 * 1e9 * tokens
    hours = flops / (312e12 * 0.40) / 3600
    numbers = f"{tokens:.0e} tokens, {flops:.1e} FLOPs, {hours:.0f} GPU-hours, {2 * hours:.0f} USD"
    assert numbers.replace("e+", "e") in OWN_MODEL


def test_every_way_has_its_work_and_its_time(task, run):
    numbers = economics(task, measured(constant(WRONG), task, run, everything()), "prompt")
    assert [numbers.ways[n].elapsed for n in ("prompt", "fine_tuned")] == ["hours", "weeks"]
    assert numbers.ways["zero_shot"].one_off_usd == 0 < numbers.ways["prompt"].one_off_usd
    assert numbers.break_even_requests_per_month == numbers.break_even_against["prompt"]


def test_answers_that_the_data_speaks_against_are_said(tmp_path, run):
    task = toy_task(tmp_path, volume_per_month=5000)
    rungs = measured(constant(RIGHT), task, run, everything())
    same = [r.model_copy(update={"tokens_per_request": 50.0}) for r in rungs]
    answers = screening(shorter_prompt=True, one_off=True)
    warnings = contradictions(answers, task, same, rag_gains=True, knowledge_task=False)
    for words in (
        "facts are missing",
        "shorter_prompt",
        "one_off",
        "no article",
        "keeps the format",
    ):
        assert any(words in w for w in warnings) == (words != "no article"), words
    trained = [r.model_copy(update={"name": "classical"}) for r in same]
    warnings = contradictions(answers, task, trained, rag_gains=True, knowledge_task=False)
    assert not any("keeps the format" in w for w in warnings), "a trained classifier always does"
    facts = screening(new_knowledge=True)
    warnings = contradictions(facts, task, same, rag_gains=False, knowledge_task=True)
    assert any("fill knowledge/" in w for w in warnings)
    warnings = contradictions(screening(), task, same, rag_gains=False, knowledge_task=True)
    assert any("name the articles" in w for w in warnings)


def test_the_review_comes_before_the_provider_stops_serving(task):
    usual = plan(task, "fine_tuning", screening(), HOURS, None)
    served_until = store.now().date() + timedelta(days=50)
    closing = plan(task, "fine_tuning", screening(), HOURS, served_until)
    assert served_until - timedelta(days=30) == date.fromisoformat(closing.review_on)
    assert usual.hours_per_month == 4.0 and usual.time_to_build == "weeks"
    assert plan(task, "rag", screening(), HOURS, None).time_to_build == "days"


def test_bad_answers_and_trainers_are_errors_with_a_remedy(tmp_path, run):
    with pytest.raises(WorkbookError, match="choose auto, lora or openai"):
        choose_trainer("gpu", "", "", toy_task(tmp_path))
    with pytest.raises(WorkbookError, match=r"screening\.one_off should be true or false"):
        screen(toy_task(tmp_path, screening={"one_off": "no"}), **ANSWERS)
    with pytest.raises(WorkbookError, match="zero_shot"):
        decide(toy_task(tmp_path), [], everything(), screening(), run, Choices())


def test_of_equally_accurate_rungs_the_better_formed_one_is_to_beat(task, run):
    broken = measured(constant("no JSON"), task, run, everything(), ("zero_shot",))
    formed = measured(constant(WRONG, "formed"), task, run, everything(), ("prompt", "few_shot"))
    assert evaluate.best_rung([*broken, *formed]).name == "prompt"


def test_a_break_even_far_above_the_volume_is_a_reason_that_is_said():
    told = {"volume": 1000, "pays_from": 415_000_000}
    reasons = recommend(screening(shorter_prompt=True), evidence(**told)).reasons
    assert any(
        "from 415,000,000 requests a month on, and task.yaml expects 1,000" in r for r in reasons
    )
    assert "weighs 3 of 6" in reasons[-2], "the shorter prompt does not count"
    unknown = recommend(screening(shorter_prompt=True), evidence(volume=1000)).reasons
    assert "weighs 4 of 6" in unknown[-1], "what costs are not known, nothing is said of"


def test_undecided_names_the_rows_and_where_to_take_them_from():
    def action(**changes):
        return recommend(screening(), evidence(**changes)).next_action

    rows = {"undecided": {"prompt": {"format_compliance": 73}}}
    assert action(**rows, n_validation=112) == "ask 73 validation rows (max_validation_rows=73)"
    assert "label 13 more for validation" in action(**rows, n_validation=60)
    assert "no number of rows decide" in action(undecided={"prompt": {"accuracy": 0}})
    tie = {"prompt": {"accuracy": 0, "format_compliance": 73}}
    assert "no number of rows decide" in action(undecided=tie), "73 rows do not decide both"
    assert "so near the target that 2689 rows" in action(undecided={"prompt": {"accuracy": 2689}})
    assert "latency_rows=80" in action(undecided={"prompt": {"latency_p95": 0}})
    assert "prices in task.yaml" in action(undecided={"prompt": {"cost_per_request": 0}})


def test_a_text_task_that_nobody_rated_is_not_sent_to_training(tmp_path, run):
    changes = {"schema": None, "scored_fields": [], "accuracy_from": "human"}
    task = toy_task(tmp_path, targets={"accuracy": 0.5}, **changes)
    decision = verdict(constant("some text"), task, run)
    assert decision.recommendation == "not_yet" and "workbook rate" in decision.next_action
    assert not any("undecided at n=0" in warning for warning in decision.warnings)


def test_what_the_cheaper_rungs_were_not_given_is_said(task, run):
    decision = verdict(constant(WRONG), task, run, prompt_search_budget=0)
    assert any("unsearched baseline" in warning for warning in decision.warnings)
    assert any("classical rung was not asked" in warning for warning in decision.warnings)
    searched = verdict(constant(WRONG), task, run, prompt_search_budget=6)
    assert not any("unsearched" in warning for warning in searched.warnings)


def noisy(n, share):
    """Labels that a word tells, a share of them replaced."""
    rows = []
    rng = random.Random(0)
    for i, example in enumerate(toy_rows(n, "train")):
        colour = "red" if i % 2 else "blue"
        text = f"{'rose' if i % 2 else 'sea'} thing number{i}"
        if rng.random() < share:
            colour = "blue" if colour == "red" else "red"
        answer = json.dumps({"colour": colour, "size": 1})
        messages = [Message(role="user", content=text), Message(role="assistant", content=answer)]
        rows.append(example.model_copy(update={"messages": messages}))
    return rows


@pytest.mark.parametrize(("share", "expected"), [(0.0, "pass"), (0.3, "fail")])
def test_wrong_labels_are_estimated_before_a_training_is_paid(task, run, share, expected):
    (finding,) = label_noise(task, noisy(240, share))
    assert finding.verdict == expected and finding.name == "label_noise_colour"
    assert finding.estimate.low <= share <= finding.estimate.high
    rows = noisy(400, share)
    validation = [row.model_copy(update={"part": "validation"}) for row in rows[360:]]
    examples = rows[:360] + validation + toy_rows(100, "test", 2000)
    decision = verdict(constant("no JSON"), task, run, examples)
    assert (decision.recommendation == "not_yet") is (expected == "fail")
    if expected == "fail":
        assert "fix labels first" in decision.next_action


def test_labels_that_words_do_not_tell_are_left_undecided(task):
    rows = []
    for i, example in enumerate(toy_rows(200, "train")):
        colour = "red" if i * i % 11 < 5 else "blue"
        answer = Message(role="assistant", content=json.dumps({"colour": colour, "size": 1}))
        question = Message(role="user", content=f"thing {'abcdefgh'[i % 8]}")
        rows.append(example.model_copy(update={"messages": [question, answer]}))
    (finding,) = label_noise(task, rows)
    assert finding.verdict != "fail"


def test_01_leaves_out_the_leaks_that_02_rejects(task):
    """A copy of a test question in train would be a solved example that gives the answer away."""
    train, test = toy_rows(30, "train", 100), toy_rows(20, "test", 400)
    asked = test[3].messages
    leak = train[5].model_copy(update={"messages": asked, "group": "other"})
    unverified = train[6].model_copy(
        update={"messages": asked, "group": "log", "quality": "unverified", "id": "log1"}
    )
    judged = spread(toy_rows(5, "validation", 700))
    rows = [*spread(train[:5]), leak, *spread(train[7:]), *spread(test[:3]), test[3], unverified]
    with pytest.raises(WorkbookError, match=r"no validation rows are left: 1 of 33 .*1 potential"):
        without_leaks(task, rows)
    rows += judged
    kept, left_out = without_leaks(task, rows)
    assert {row.id for row in rows} - {row.id for row in kept} == {leak.id}
    assert "1 potential_leakage" in left_out
    assert without_leaks(task, kept) == (kept, "")


def spread(rows):
    """The rows with questions that share no words."""
    apart = []
    for row in rows:
        words = " ".join(f"{letter}{row.id}{letter}" for letter in "abcdefgh")
        question = row.messages[0].model_copy(update={"content": words})
        apart.append(row.model_copy(update={"messages": [question, *row.messages[1:]]}))
    return apart
