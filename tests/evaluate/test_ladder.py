from __future__ import annotations

import json

import pytest
from evaluate_toys import (
    RIGHT,
    WRONG,
    ScriptedModel,
    ask_rung,
    asking,
    constant,
    measure,
    session,
    toy_rows,
    toy_task,
    trained_toy,
)
from record_toys import decision, rung

from helpers import evaluate
from helpers.evaluate import ladder
from helpers.evaluate.running import read_answers
from helpers.records import Asking, Decision, Message, RungResult, WorkbookError

BASIS = Asking()


def climb(names, model, rows, task, run, *others, rung_models=(), **changes):
    """The ladder with one model; `others` are those that rung_models or task.yaml name."""
    ways = evaluate.ways_to_ask(names, BASIS, task, model, rung_models)
    where = session(task, run, model, *others, train=toy_rows(20, "train", 100), **changes)
    return evaluate.ask_ladder(ways, rows, where)


def test_other_models_climb_the_same_rungs_and_keep_their_answers_apart(task, run):
    strong = constant(RIGHT, "/models/strong")
    rows = toy_rows(10, "validation")
    names, found = ("zero_shot", "prompt"), {}
    results = climb(names, constant(WRONG), rows, task, run, strong, rung_models=["/models/strong"])
    for result in results:
        answer = read_answers(run, result)[0].answer
        found[result.name] = (result.model, result.results.accuracy.value, answer)
    assert list(found) == ["zero_shot", "prompt", "zero_shot@strong", "prompt@strong"]
    assert found["prompt"] == ("scripted", 0.0, WRONG)
    assert found["prompt@strong"] == ("/models/strong", 1.0, RIGHT)


def test_the_model_behind_a_rung_is_found_again_for_the_test_part(task, run):
    """By its Asking, which a decision carries; nothing has to be named a second time."""
    base, strong = constant(WRONG), constant(RIGHT, "org/strong-1.5b")
    ways = evaluate.ways_to_ask(["prompt"], BASIS, task, base, ["org/strong-1.5b"])
    run.save(decision(rungs=[rung(way.rung, asking=way) for way in ways], best_rung="prompt"))
    where = session(task, run, base, strong)
    asked = {way.rung: where.model_of(run.load(Decision).asking(way.rung)) for way in ways}
    assert asked == {"prompt": base, "prompt@strong-1.5b": strong}
    assert ladder.label("org/big at http://127.0.0.1:9/v1") == "big"
    with pytest.raises(WorkbookError, match=r"asked prompt, prompt@strong-1\.5b, not prompt@gone"):
        run.load(Decision).asking("prompt@gone")


def test_models_of_one_name_stay_apart(task, run):
    """org/llama and other/llama were one rung, with the answers of the second."""
    task = task.model_copy(update={"reasoning": "keep"})  # so that nobody asks a hub for templates
    first, second = constant(RIGHT, "org/llama"), constant(WRONG, "other/llama")
    specs = [first.spec, second.spec, first.spec, "/models/big"]
    ways = evaluate.ways_to_ask(["prompt"], BASIS, task, constant(WRONG), specs)
    names = ["prompt", "prompt@org-llama", "prompt@other-llama", "prompt@big"]
    assert [way.rung for way in ways] == names
    where = session(task, run, first, second)
    results = evaluate.ask_ladder(ways[1:3], toy_rows(3, "validation"), where)
    assert [read_answers(run, result)[0].answer for result in results] == [RIGHT, WRONG]
    places = [f"llama at https://me:hunter2x@{host}.org/v1" for host in ("one", "two")]
    ways = evaluate.ways_to_ask(["prompt"], BASIS, task, constant(WRONG), places)
    assert len({way.rung for way in ways}) == 3 and "hunter2" not in str([w.rung for w in ways])


def test_logged_answers_of_today_are_a_rung_and_cost_no_request(tmp_path, run):
    rows = toy_rows(6, "validation")
    log = [
        {
            "messages": [
                {"role": "user", "content": e.user_text},
                {"role": "assistant", "content": RIGHT},
            ]
        }
        for e in rows[:4]
    ]
    (tmp_path / "today.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    task, model = toy_task(tmp_path, incumbent={"answers": "today.jsonl"}), constant(WRONG)
    (result,) = climb(["incumbent"], model, rows, task, run)
    assert result.results.accuracy.value == pytest.approx(4 / 6) and model.asked == []
    assert result.results.quality_scores["failed"].value == pytest.approx(2 / 6), (
        "a missing answer is a failure, not a gap"
    )


def test_todays_prompt_is_asked_with_todays_wording(tmp_path, run):
    model = constant(RIGHT)
    task = toy_task(tmp_path, incumbent={"instructions": "The old words."})
    (result,) = climb(["incumbent"], model, toy_rows(3, "validation"), task, run)
    assert result.name == "incumbent" and result.asking.wording == "The old words."
    assert {chat[0].content for chat in model.asked} == {"The old words."}


def test_without_an_incumbent_the_rung_is_left_out_and_said(task, run):
    said: list[str] = []
    names = ["incumbent", "zero_shot"]
    rows = toy_rows(2, "validation")
    found = climb(names, constant(RIGHT), rows, task, run, say=said.append)
    assert [r.name for r in found] == ["zero_shot"] and any("no incumbent" in line for line in said)


def test_the_search_keeps_what_scores_better_and_stops_at_its_budget(tmp_path, run):
    task = toy_task(tmp_path, wordings=["Think hard.", "Say red."])
    model = ScriptedModel(lambda chat: RIGHT if chat[0].content == "Say red." else WRONG)
    rows, train = toy_rows(8, "validation"), toy_rows(20, "train", 100)
    ways = evaluate.ways_to_ask(["prompt"], BASIS, task, model)
    where = session(task, run, model, train=train)
    assert evaluate.search_prompts(ways, rows, where, 0) == ways
    assert model.asked == [], "no budget, nothing asked"
    found = evaluate.search_prompts(ways, rows, where, 9)
    assert found == [ways[0].model_copy(update={"wording": "Say red."})]
    assert len(model.asked) == 3 * len(rows), "the given wording and two others"
    other = constant(WRONG, "other")
    ways = evaluate.ways_to_ask(["prompt", "few_shot"], BASIS, task, other)
    evaluate.search_prompts(ways, rows, session(task, run, other, train=train), 2)
    assert len(other.asked) == 2 * len(rows)


def right_after(shots: int) -> ScriptedModel:
    """Right only where its prompt holds this many solved examples."""
    return ScriptedModel(lambda chat: RIGHT if len(chat) == 2 + 2 * shots else WRONG, "base")


def test_what_01_chose_is_what_04_asks(task, run, prints):
    """0.1.0 asked with its own k = 3 and called the tuned model a whole point better."""
    base, train = right_after(6), toy_rows(20, "train", 900)
    basis = Asking(few_shot_k=6)
    ways = evaluate.ways_to_ask(["zero_shot", "few_shot"], basis, task, base)
    where = session(task, run, base, train=train)
    measured = evaluate.ask_ladder(ways, toy_rows(8, "validation", 500), where)
    chosen = measured[1]
    assert (chosen.name, chosen.results.accuracy.value) == ("few_shot", 1.0)
    run.save(decision(rungs=measured, best_rung="few_shot"))
    tuned = constant(RIGHT, "tuned")
    found = measure(task, run, tuned, base, toy_rows(40), train=train)
    assert found.rung("few_shot").asking == chosen.asking
    assert found.rung("few_shot").results.accuracy.value == 1.0
    assert found.comparison["accuracy"].difference.value == 0.0 and found.verdict != "pass"


def test_what_was_chosen_in_01_is_what_04_asks(tmp_path, run, prints):
    """The best rung's chats about the test part are made of all that 01 chose."""
    (tmp_path / "knowledge").mkdir()
    (tmp_path / "knowledge" / "thing.md").write_text("Every thing is red.")
    task, base = toy_task(tmp_path), constant(WRONG, "base")
    changes = {"wording": "Other words.", "few_shot_pick": "nearest", "rag_shots": 2}
    chosen = asking("rag", base, **changes, max_new_tokens=60)
    short = asking("zero_shot", base, max_new_tokens=60)
    rungs = [rung("zero_shot", asking=short), rung("rag", asking=chosen)]
    run.save(decision(rungs=rungs, best_rung="rag"))
    train, rows = toy_rows(20, "train", 900), toy_rows(40)
    measure(task, run, constant(RIGHT, "tuned"), base, rows, train=train)
    expected = evaluate.build_prompts(chosen, task, rows, train)
    assert all(chat in base.asked for chat in expected) and "Other words." in str(expected[0])
    assert base.limits == {60}


def test_without_a_decision_the_full_prompt_with_the_tuned_models_limits_stands_in(
    task, run, prints
):
    base, tuned = constant(WRONG, "base"), constant(RIGHT, "tuned")
    limit = trained_toy().asking.model_copy(update={"max_new_tokens": 60})
    found = measure(task, run, tuned, base, toy_rows(40), card=trained_toy(asking=limit))
    assert (found.best_rung, base.limits, tuned.limits) == ("prompt", {60}, {60})
    assert {r.asking.style for r in found.rungs if r.name == "prompt"} == {"full"}


def test_longer_answers_are_asked_for_everywhere(task, run):
    model, rows = constant(RIGHT), toy_rows(3, "validation")
    result = ask_rung(model, "prompt", rows, task, run, max_new_tokens=60)
    assert model.limits == {60} and result.asking.max_new_tokens == 60
    ways = evaluate.ways_to_ask(["zero_shot", "prompt"], Asking(max_new_tokens=60), task, model)
    evaluate.search_prompts(ways, rows, session(task, run, model), 4)
    evaluate.ask_ladder(ways, rows, session(task, run, model))
    assert model.limits == {60}


def test_a_rung_that_needs_what_no_model_takes_is_refused_by_name(task, run):
    model = constant(RIGHT)
    with pytest.raises(WorkbookError, match="rung prompt is to be asked with stop"):
        ask_rung(model, "prompt", toy_rows(3), task, run, stop=["\n"])
    assert model.asked == []


def test_a_rungs_result_says_how_it_was_asked(task, run):
    result = ask_rung(constant(RIGHT), "prompt", toy_rows(3), task, run)
    assert RungResult.model_validate_json(result.model_dump_json()).asking == result.asking
    assert result.asking.model == "scripted"


def test_a_row_that_a_template_refuses_is_named_with_its_line(task, run):
    model = constant(RIGHT)
    model.provider = "local"

    def refuse(chat, *args):
        if "row 1" in chat[-1].content:
            raise WorkbookError("the chat template does not take this chat")
        return 1

    model.count_tokens = refuse
    answer = model.answer
    model.answer = lambda chats, limit: [refuse(chat) for chat in chats] and answer(chats, limit)
    rows = toy_rows(3)
    rows[1] = rows[1].model_copy(
        update={
            "messages": [Message(role="user", content="row 1"), rows[1].messages[-1]],
            "meta": {"file": "human.jsonl", "line": 9},
        }
    )
    with pytest.raises(WorkbookError, match=r"\(human.jsonl, line 9\): the chat template"):
        ask_rung(model, "prompt", rows, task, run)


def test_a_task_that_lets_models_think_gives_thoughts_room_and_offers_its_tools(task):
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    changed = task.model_copy(update={"reasoning": "keep", "tools": tools})
    basis = Asking(max_new_tokens=20)
    (way,) = evaluate.ways_to_ask(["prompt"], basis, changed, constant(RIGHT))
    assert way.max_new_tokens == 20 + 512 and way.tools == tools
    chats = evaluate.build_prompts(way, task, toy_rows(2))
    assert [chat[0].tools for chat in chats] == [tools, tools]
    (way,) = evaluate.ways_to_ask(["prompt"], basis, task, constant(RIGHT))
    assert way.max_new_tokens == 20 and way.tools == []
