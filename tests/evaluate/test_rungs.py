from __future__ import annotations

import pytest
from evaluate_toys import toy_rows, toy_task

from helpers import tasks
from helpers.evaluate import rungs
from helpers.evaluate.rungs import LADDER, available, demonstrations, effort, retrieve
from helpers.models import count_chats
from helpers.records import Asking, Message, WorkbookError
from helpers.tasks import Article


def build_prompts(rung, task, examples, train=(), **changes):
    """A rung's chats, asked by a record's own defaults or with changes of them."""
    way = Asking().for_rung(rung, "toy").model_copy(update=changes)
    return rungs.build_prompts(way, task, examples, train)


RATIOS = {"train": 0.65, "validation": 0.12, "test": 0.23}


@pytest.fixture(scope="module")
def shipped():
    task = tasks.load_task("support_triage")
    return task, tasks.with_parts(tasks.load_examples(task).examples, 7, RATIOS)


def test_every_rung_ends_with_the_question_and_hides_the_answer(shipped):
    task, examples = shipped
    rows, train = (
        [e for e in examples if e.part == "validation"],
        [e for e in examples if e.part == "train"],
    )
    for rung in (*LADDER, "fine_tuned"):
        for example, chat in zip(rows, build_prompts(rung, task, rows, train), strict=True):
            assert chat[0].role == "system" and chat[-1].role == "user"
            assert chat[-1].content == example.user_text
            assert [m.role for m in chat].count("system") == 1


@pytest.mark.parametrize(
    ("rung", "limit"),
    [("zero_shot", 160), ("fine_tuned", 160), ("prompt", 160), ("few_shot", 350), ("rag", 350)],
)
def test_rendered_prompts_keep_the_tutorials_budget(shipped, rung, limit):
    task, examples = shipped
    train = [e for e in examples if e.part == "train"]
    longest = max(count_chats("embedded", build_prompts(rung, task, examples, train)))
    assert longest <= limit, f"the longest {rung} prompt has {longest} tokens"


def test_demonstrations_are_fixed_varied_and_of_the_train_part_alone(shipped):
    task, examples = shipped
    shown = demonstrations(task, examples, 3)
    assert shown == demonstrations(task, list(reversed(examples)), 3)
    assert {e.part for e in shown} == {"train"}
    assert len({e.answer for e in shown}) == 3
    assert len({e.answer.split(",")[0] for e in shown}) == 3, "three categories"


def test_fewer_demonstrations_than_asked_for_are_no_error(task):
    assert len(demonstrations(task, toy_rows(2, "train"), 5)) == 2
    assert demonstrations(task, toy_rows(5, "test"), 3) == []


ARTICLES = [
    Article(id="refund", title="Refunds", text="A double charge is refunded within ten days."),
    Article(id="parcel", title="Parcels", text="A late parcel is traced at the carrier."),
]


def test_retrieval_finds_the_article_that_shares_words_and_none_otherwise():
    found = retrieve(
        ARTICLES,
        ["Where is my late parcel?", "charged double, refund please", "xyzzy", "", "the"],
        1,
    )
    assert [[a.id for a in hits] for hits in found] == [["parcel"], ["refund"], [], [], []]
    assert retrieve([], ["parcel"], 2) == [[]]


@pytest.mark.parametrize(
    ("texts", "question"),
    [
        (["किताब लौटाने का नियम", "डिलीवरी में कितने दिन"], "मुझे किताब वापस करनी है"),
        (["பொருள் திரும்ப அனுப்புதல்", "விநியோக நாட்கள்"], "பொருள் எப்படி திரும்ப?"),
        (["বই ফেরত দেওয়া", "কত দিন লাগে"], "আমি বই ফেরত চাই"),
        (["le cafe\u0301 moulu", "le thé noir"], "du café moulu"),
        (["fees of zone 3", "fees of zone 5"], "what does zone 3 cost"),
        (["水 の 値段", "火 の 値段"], "水"),
    ],
)
def test_articles_are_found_by_words_with_vowel_signs_and_by_single_digits(texts, question):
    articles = [Article(id=str(i), title="", text=text) for i, text in enumerate(texts)]
    for order in (articles, articles[::-1]):
        (result,) = retrieve(order, [question], 1)
        assert [article.id for article in result] == ["0"]


def test_articles_without_a_word_are_found_by_none():
    empty = [Article(id="1", title="", text=""), Article(id="2", title="!", text="…")]
    assert retrieve(empty, ["where is my parcel", ""], 2) == [[], []]


def test_a_passage_is_as_short_in_scripts_without_spaces():
    article = Article(id="1", title="", text="退货政策说明" * 500)
    assert len(rungs.passage(article)) == 182
    assert rungs.passage(Article(id="2", title="", text="")) == ""


def test_rag_puts_the_passage_into_the_system_turn_and_cuts_long_ones(tmp_path):
    task = toy_task(tmp_path)
    (tmp_path / "knowledge").mkdir()
    (tmp_path / "knowledge" / "thing.md").write_text("# Thing\nA thing is red. " + "word " * 500)
    with_article, without = build_prompts("rag", task, [toy_rows(1)[0], _asks("xyzzy")], rag_k=1)
    assert (
        "A thing is red." in with_article[0].content and len(with_article[0].content.split()) < 120
    )
    assert without[0].content == task.instructions_full


def _asks(text):
    row = toy_rows(1)[0]
    return row.model_copy(
        update={"messages": [Message(role="user", content=text), row.messages[-1]]}
    )


def test_rungs_that_cannot_be_asked_say_why(task):
    missing = available(["zero_shot", "few_shot", "rag"], task, [])
    assert (
        missing["zero_shot"] == ""
        and "article" in missing["rag"]
        and "train" in missing["few_shot"]
    )
    with pytest.raises(WorkbookError, match="unknown rung 'best_of'"):
        available(["best_of"], task, [])


def test_the_tuned_model_is_asked_in_the_style_it_was_trained_with(task):
    row = toy_rows(1)
    assert build_prompts("fine_tuned", task, row, style="short") == build_prompts(
        "zero_shot", task, row
    )
    assert build_prompts("fine_tuned", task, row, style="full") == build_prompts(
        "prompt", task, row
    )


def test_meaning_finds_what_shares_no_word():
    pytest.importorskip("wordllama")
    articles = [
        Article(id=i, title=i, text=t)
        for i, t in (("fruit", "Apples and pears."), ("cars", "An automobile needs petrol."))
    ]
    assert retrieve(articles, ["which fuel does my car take"], 1) == [[]]
    assert retrieve(articles, ["which fuel does my car take"], 1, dense=0.5)[0][0].id == "cars"


def test_the_nearest_solved_examples_are_shown_and_the_nearest_comes_last(task):
    train = toy_rows(30, "train", 100)
    chat = build_prompts(
        "few_shot", task, toy_rows(1, first=117), train, few_shot_k=1, few_shot_pick="nearest"
    )[0]
    assert chat[1].content == "thing number 117" and len(chat) == 4
    with pytest.raises(WorkbookError, match=r"few_shot_pick.*'fixed' or 'nearest'; got 'best'"):
        Asking.of({"few_shot_pick": "best"})


def test_passages_stand_before_the_question_in_solved_examples_too(tmp_path):
    (tmp_path / "knowledge").mkdir()
    (tmp_path / "knowledge" / "thing.md").write_text("Every thing is red.")
    chat = build_prompts(
        "rag", toy_task(tmp_path), toy_rows(1), toy_rows(9, "train", 50), rag_shots=2
    )[0]
    assert [m.role for m in chat] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert all(
        m.content.startswith("Every thing is red.\n\nthing number")
        for m in chat
        if m.role == "user"
    )
    assert "red" not in chat[0].content


def test_another_model_is_asked_in_the_same_way(task):
    assert build_prompts("prompt@strong", task, toy_rows(2)) == build_prompts(
        "prompt", task, toy_rows(2)
    )
    assert sorted(["rag", "prompt@x", "incumbent", "zero_shot"], key=effort) == [
        "incumbent",
        "zero_shot",
        "rag",
        "prompt@x",
    ]
