"""The knowledge task ends as the workbook promises: rag where articles help, not_yet where there are none."""

from __future__ import annotations

import json
import shutil

import pytest
from evaluate_toys import ScriptedModel

from helpers import decide, evaluate, tasks
from helpers.parameters import load_profile

SETTINGS = load_profile("policy_qa").values


def climb(task: tasks.Task, run, share: int) -> decide.verdict.Decision:
    """The ladder with a model that copies the answer where its prompt holds it, in `share` of 10 cases."""
    examples = tasks.with_parts(tasks.load_examples(task).examples, 7, SETTINGS["split_ratios"])
    rows = evaluate.choose_rows(examples, "validation", SETTINGS["max_validation_rows"])
    gold = {e.user_text: e.answer for e in rows}

    def reply(chat) -> str:
        last = chat[-1].content or ""
        question = next(q for q in gold if last.endswith(q))
        known = (
            json.loads(gold[question])["answer"] in last
            and int.from_bytes(question.encode()[-4:]) % 10 < share
        )
        return gold[question] if known else '{"answer":"no idea"}'

    model, train = ScriptedModel(reply), [e for e in examples if e.part == "train"]
    asking = {name: SETTINGS[name] for name in ("rag_shots", "few_shot_pick")}
    names = ["zero_shot", "prompt", "few_shot", "rag"]
    measured = evaluate.ask_ladder(model, names, rows, task, run, train=train, asking=asking)
    answers = {"format_or_style": True, "domain_terms": True, "shorter_prompt": True}
    screening = decide.screen(
        task, new_knowledge=False, one_off=False, changing_requirements=False, **answers
    )
    return decide.decide(task, measured, examples, screening, run, asking=asking)


def test_retrieval_is_advised_though_it_does_not_meet_the_targets_yet(run):
    found = climb(tasks.load_task("policy_qa"), run, share=5)
    assert (found.recommendation, found.status, found.targets_met) == ("rag", "measured", False)
    gain = next(c for c in found.comparisons if c["rung"] == "rag")["accuracy"]
    assert gain.difference.value >= 0.2 and gain.difference.low > 0 and gain.verdict == "pass"
    assert (
        "retrieval" in found.next_action
        and found.best_rung == "rag"
        and found.asking["rag_shots"] == 3
    )


def test_a_perfect_reader_meets_every_target_with_retrieval(run):
    found = climb(tasks.load_task("policy_qa"), run, share=10)
    assert (found.recommendation, found.targets_met, found.next_action) == (
        "rag",
        True,
        "serve the rag rung",
    )


@pytest.mark.parametrize("articles", ["none", "empty folder"])
def test_without_articles_the_advice_is_not_yet(tmp_path, run, articles):
    folder = tmp_path / "policy_qa"
    shutil.copytree(tasks.load_task("policy_qa").folder, folder)
    shutil.rmtree(folder / "knowledge")
    if articles == "empty folder":
        (folder / "knowledge").mkdir()
    found = climb(tasks.load_task(str(folder)), run, share=10)
    assert found.recommendation == "not_yet" and "rag" not in [r.name for r in found.rungs]
    assert any("fill knowledge/" in w for w in found.warnings)
