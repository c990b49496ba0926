"""The tutorial keeps its budget: what a reader waits for is known before anything is run."""

from __future__ import annotations

import pytest

from helpers import retrain, store, tasks
from helpers.run import machine
from helpers.parameters import NOTEBOOKS, RUN_LEVEL, load_profile, settle


@pytest.fixture(scope="module")
def values() -> dict:
    """The tutorial's parameters: the notebooks' defaults, and what the profile changes."""
    cells = [store.declared_parameters(store.NOTEBOOKS / f"{name}.ipynb") for name in NOTEBOOKS]
    return (
        {k: v for cell in cells for k, v in cell.items()}
        | RUN_LEVEL
        | settle(load_profile("tutorial"))
    )


@pytest.fixture(scope="module")
def lines(values: dict) -> dict:
    names = [
        "task",
        "base_model",
        "seed",
        "split_ratios",
        "few_shot_k",
        "rag_k",
        "max_validation_rows",
        "max_train_tokens",
    ]
    return {
        line["what"]: line
        for line in retrain.tutorial_budget(**{name: values[name] for name in names})
    }


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
    assert {what: line["limit"] for what, line in lines.items()} == limits
    assert not [
        line
        for line in lines.values()
        if line["largest"] > limits[line["what"]] or line["kept"] != "yes"
    ]
    assert lines["test, a rung"]["largest"] >= 100, "enough rows to decide by"


def test_the_longest_right_answer_fits_into_what_may_be_generated(lines, values):
    assert lines["answer"]["largest"] < values["max_new_tokens"] <= 40, (
        "one token more ends the answer"
    )


def test_01_asks_the_rungs_whose_length_is_known(lines, values):
    assert {f"prompt, {rung}" for rung in values["rungs"]} <= set(lines)


def test_a_budget_that_is_not_kept_says_so(values, monkeypatch):
    monkeypatch.setattr(machine, "PROMPT", 10)
    ratios = {"train": 0.2, "validation": 0.4, "test": 0.4}
    found = {
        x["what"]: x["kept"]
        for x in retrain.tutorial_budget(values["task"], "tiny", 7, ratios, 3, 1, 0, 0)
    }
    assert {what for what, kept in found.items() if kept == "no"} == {
        "prompt, zero_shot",
        "prompt, prompt",
        "validation, a rung",
        "test, a rung",
        "training, all epochs",
    }
    assert tasks.load_task(values["task"]).shipped
