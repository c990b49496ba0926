from __future__ import annotations

import json

import pytest
from evaluate_toys import RIGHT, WRONG, ScriptedModel, constant, toy_rows, toy_task

from helpers import evaluate, store
from helpers.evaluate import ladder
from helpers.evaluate.running import read_answers
from helpers.records import WorkbookError


def settings(**more):
    return {"train": toy_rows(20, "train", 100), **more}


def test_other_models_climb_the_same_rungs_and_keep_their_answers_apart(task, run, monkeypatch):
    strong = constant(RIGHT, "strong")
    monkeypatch.setattr(ladder, "rung_model", lambda spec: strong)
    rows = toy_rows(10, "validation")
    names, found = ("zero_shot", "prompt"), {}
    for result in evaluate.ask_ladder(
        constant(WRONG), names, rows, task, run, rung_models=["/models/strong"], **settings()
    ):
        found[result.name] = (
            result.model,
            result.results.accuracy.value,
            read_answers(run, result)[0]["answer"],
        )
    assert list(found) == ["zero_shot", "prompt", "zero_shot@strong", "prompt@strong"]
    assert found["prompt"] == ("scripted", 0.0, WRONG) and found["prompt@strong"] == (
        "strong",
        1.0,
        RIGHT,
    )


def test_the_model_behind_a_rung_is_found_again_for_the_test_part(task, monkeypatch):
    base, strong = constant(WRONG), constant(RIGHT, "strong")
    monkeypatch.setattr(ladder, "rung_model", lambda spec: strong)
    assert ladder.model_for("prompt", base, task, []) is base
    assert ladder.model_for("prompt@strong-1.5b", base, task, ["org/strong-1.5b"]) is strong
    assert ladder.label("org/big at http://127.0.0.1:9/v1") == "big"
    with pytest.raises(WorkbookError, match="rung_models"):
        ladder.model_for("prompt@gone", base, task, [])


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
    (result,) = evaluate.ask_ladder(model, ["incumbent"], rows, task, run, **settings())
    assert result.results.accuracy.value == pytest.approx(4 / 6) and model.asked == []
    assert result.results.quality_scores["failed"].value == pytest.approx(2 / 6), (
        "a missing answer is a failure, not a gap"
    )


def test_todays_prompt_is_asked_with_todays_wording(tmp_path, run):
    model = constant(RIGHT)
    task = toy_task(tmp_path, incumbent={"instructions": "The old words."})
    (result,) = evaluate.ask_ladder(
        model, ["incumbent"], toy_rows(3, "validation"), task, run, **settings()
    )
    assert result.name == "incumbent" and {chat[0].content for chat in model.asked} == {
        "The old words."
    }


def test_without_an_incumbent_the_rung_is_left_out_and_said(task, run):
    said: list[str] = []
    names = ["incumbent", "zero_shot"]
    found = evaluate.ask_ladder(
        constant(RIGHT), names, toy_rows(2, "validation"), task, run, say=said.append
    )
    assert [r.name for r in found] == ["zero_shot"] and any("no incumbent" in line for line in said)


def test_the_search_keeps_what_scores_better_and_stops_at_its_budget(tmp_path, run):
    task = toy_task(tmp_path, wordings=["Think hard.", "Say red."])
    model = ScriptedModel(lambda chat: RIGHT if chat[0].content == "Say red." else WRONG)
    rows, given = toy_rows(8, "validation"), {"few_shot_pick": "fixed"}
    assert (
        evaluate.search_prompts(model, ["prompt"], rows, task, run, given, 0, **settings()) == given
    )
    assert model.asked == [], "no budget, nothing asked"
    found = evaluate.search_prompts(model, ["prompt"], rows, task, run, given, 9, **settings())
    assert found == given | {"instructions": "Say red."}
    assert len(model.asked) == 3 * len(rows), "the given wording and two others"
    other = constant(WRONG, "other")
    evaluate.search_prompts(other, ["prompt", "few_shot"], rows, task, run, given, 2, **settings())
    assert len(other.asked) == 2 * len(rows)


def test_what_was_chosen_in_01_is_what_04_asks(task, run):
    from helpers.evaluate.compare import asked_in_01

    assert asked_in_01(run) == {}
    run.write(
        "decision.json",
        {"asking": {"few_shot_pick": "nearest"}, "recommendation": "rag", "trainer": "lora"},
    )
    assert asked_in_01(store.open_run(run.id)) == {"few_shot_pick": "nearest"}
