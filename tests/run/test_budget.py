"""The tutorial keeps its budget: what a reader waits for is known before anything is run."""

from __future__ import annotations

import importlib

import pytest

from helpers import tasks
from helpers.parameters import known_parameters, load_profile, resolve
from helpers.records import Allowance, Asking
from helpers.run import tutorial_budget


@pytest.fixture(scope="module")
def values() -> dict:
    """The tutorial's parameters: the notebooks' defaults, and what the profile changes."""
    return known_parameters() | resolve(load_profile("tutorial"))


@pytest.fixture(scope="module")
def lines(values: dict) -> dict[str, Allowance]:
    names = ("task", "seed", "split_ratios", "max_validation_rows", "max_train_tokens")
    asking = Asking.of(values).for_rung("prompt", values["base_model"])
    budget = tutorial_budget(asking=asking, **{name: values[name] for name in names})
    return {line.what: line for line in budget}


def test_the_tutorial_keeps_its_budget(lines):
    limits = {
        "prompt, zero_shot": 160,
        "prompt, prompt": 160,
        "prompt, few_shot": 350,
        "prompt, rag": 350,
    }
    limits |= {
        "answer": 40,
        "validation, a rung": 60,
        "test, a rung": 120,
        "training, all epochs": 60_000,
    }
    assert {what: line.limit for what, line in lines.items()} == limits
    assert not [
        line for line in lines.values() if line.largest > limits[line.what] or not line.kept
    ]
    assert lines["test, a rung"].largest >= 100, "enough rows to decide by"


def test_the_longest_right_answer_fits_into_what_may_be_generated(lines, values):
    assert lines["answer"].largest < values["max_new_tokens"] <= 40, (
        "one token more ends the answer"
    )


def test_01_asks_the_rungs_whose_length_is_known(lines, values):
    assert {f"prompt, {rung}" for rung in values["rungs"]} <= set(lines)


def test_a_budget_that_is_not_kept_says_so(values, monkeypatch):
    monkeypatch.setattr(importlib.import_module("helpers.run.doctor"), "PROMPT", 10)
    ratios = {"train": 0.2, "validation": 0.4, "test": 0.4}
    asking = Asking(model="tiny", few_shot_k=3, rag_k=1)
    budget = tutorial_budget(values["task"], asking, 7, ratios, 0, 0)
    assert {line.what for line in budget if not line.kept} == {
        "prompt, zero_shot",
        "prompt, prompt",
        "validation, a rung",
        "test, a rung",
        "training, all epochs",
    }
    assert tasks.load_task(values["task"]).shipped
