"""The shipped knowledge task keeps the promises of its README and task.yaml."""

from __future__ import annotations

import json
import re

import pytest

from helpers import evaluate, models, tasks
from helpers.evaluate import rungs
from helpers.parameters import load_profile
from helpers.records import Asking

SETTINGS = load_profile("policy_qa").values


@pytest.fixture(scope="module")
def task() -> tasks.Task:
    return tasks.load_task("policy_qa")


@pytest.fixture(scope="module")
def examples(task) -> list:
    return tasks.with_parts(tasks.load_examples(task).examples, 7, SETTINGS["split_ratios"])


def test_every_answer_stands_word_for_word_in_the_article_it_names_and_in_no_other_place_of_it(
    task, examples
):
    articles = {a.id: a.text for a in tasks.knowledge(task)}
    assert len(examples) >= 150 and len({e.user_text for e in examples}) == len(examples)
    for example in examples:
        (named,) = example.meta["articles"]
        answer = json.loads(example.answer)["answer"]
        assert re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", articles[named]), example.id


def test_no_fact_is_asked_about_twice_so_solved_examples_cannot_answer(examples):
    facts = [(e.meta["articles"][0], e.answer) for e in examples]
    assert len(set(facts)) == len(facts)


def test_every_article_is_asked_about_and_is_short(task, examples):
    articles = tasks.knowledge(task)
    assert {a.id for a in articles} == {e.meta["articles"][0] for e in examples}
    assert max(len(a.text.split()) for a in articles) <= 60


def test_retrieval_finds_the_right_article(task, examples):
    rows = evaluate.choose_rows(task, examples, "validation")
    articles = rungs.retrieve(tasks.knowledge(task), [e.user_text for e in rows], 1)
    hits = [
        e.meta["articles"][0] in {a.id for a in top} for e, top in zip(rows, articles, strict=True)
    ]
    assert len(hits) == len(rows) >= 60 and sum(hits) / len(hits) >= 0.95


def test_an_article_reaches_the_rag_prompt_and_no_other(task, examples):
    rows = evaluate.choose_rows(task, examples, "validation", 20)
    train = [e for e in examples if e.part == "train"]
    for rung in evaluate.LADDER:
        asking = Asking.of(SETTINGS).for_rung(rung, "tiny")
        chats = evaluate.build_prompts(asking, task, rows, train)
        holds = [
            json.loads(e.answer)["answer"] in c[-1].content
            for e, c in zip(rows, chats, strict=True)
        ]
        assert all(holds) if rung == "rag" else not any(holds), rung


@pytest.mark.parametrize("metric", ["accuracy", "format_compliance"])
def test_a_perfect_model_could_be_shown_to_meet_every_target(task, examples, metric):
    assert evaluate.rows_to_decide(task.targets[metric]) <= sum(e.part == "test" for e in examples)
    assert evaluate.rows_to_decide(task.targets[metric]) <= SETTINGS["max_validation_rows"]


def test_the_right_answers_keep_the_format_and_fit_into_what_may_be_generated(task, examples):
    assert not [e.id for e in examples if evaluate.format_reason(e.answer, task.schema)]
    assert max(models.count_text("tiny", [e.answer for e in examples])) < SETTINGS["max_new_tokens"]
