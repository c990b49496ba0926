"""Nobody named a profile: one is chosen by task, trainer and machine, and no tutorial's limit."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_toys import TASK

from helpers import parameters, train
from helpers.parameters import load_profile, resolve
from helpers.records import WorkbookError
from helpers.run import choose_profile

SHIPPED = {"tutorial", "policy_qa", "smoke", "practice"}  # made for a shipped task
LIMITS = {  # a parameter that drops or cuts, or asks the cheaper rungs less -> its value without
    "max_train_tokens": 0,
    "max_new_tokens": 0,
    "max_test_rows": 0,
    "max_validation_rows": 60,
    "most_validation_rows": 300,
    "prompt_search_budget": 6,
    "rungs": ["classical", "zero_shot", "prompt", "few_shot", "rag"],
    "few_shot_pick": "nearest",
    "date_from": "",
}


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "task.yaml").write_text(TASK)
    return f"task={tmp_path}"


@pytest.mark.parametrize(
    ("profile", "extra", "gigabytes", "chosen", "reason"),
    [
        ("", [], 0, "laptop", "no GPU here"),
        ("tutorial", [], 0, "laptop", "tutorial's limits are made for its own task"),
        ("smoke", [], 0, "smoke", ""),
        ("", ["trainer=openai"], 0, "openai", "trainer is openai"),
        ("", [], 80, "lora_8b_open", "80 GB"),
        ("", [], 24, "qlora_8b", "24 GB"),
        ("", [], 8, "laptop", "few for an 8B model"),
        ("", ["base_model=my/model"], 80, "laptop", "base_model is my/model"),
    ],
)
def test_a_task_of_ones_own_gets_the_profile_of_its_machine(
    monkeypatch, own, profile, extra, gigabytes, chosen, reason
):
    card = train.fitting.Gpu(0, 1000 * gigabytes, []) if gigabytes else None
    monkeypatch.setattr(train, "gpu_state", lambda: card)
    name, why = choose_profile(profile, [own, *extra])
    assert name == chosen and reason in why and bool(reason) == bool(why)


@pytest.mark.parametrize(
    ("task", "chosen"),
    [("", "tutorial"), ("policy_qa", "policy_qa"), ("support_triage", "tutorial")],
)
def test_a_shipped_task_gets_the_profile_that_was_made_for_it(task, chosen):
    assert choose_profile("", [f"task={task}"] if task else [])[0] == chosen


def test_a_named_profile_with_a_broken_task_is_refused_by_the_run_that_writes_it_down(tmp_path):
    assert choose_profile("tutorial", [f"task={tmp_path}/none"]) == ("tutorial", "")
    with pytest.raises(WorkbookError, match="workbook new"):
        choose_profile("", [f"task={tmp_path}/none"])


@pytest.mark.parametrize("path", sorted(parameters.PROFILES.glob("*.yaml")), ids=lambda p: p.stem)
def test_no_limit_of_the_tutorial_reaches_a_task_of_ones_own(path, own):
    """Neither a default nor a profile that is meant for other tasks than the shipped ones."""
    name, _ = choose_profile(path.stem, [own])
    values = parameters.known_parameters()
    if name not in SHIPPED:
        values |= resolve(load_profile(name))
    assert {key: values[key] for key in LIMITS} == LIMITS
