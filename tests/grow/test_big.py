"""Curation in batches gives the dataset that memory gives: on disk, and on Ray where it is."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import curate, store
from helpers.curate import collect
from helpers.extras import big
from helpers.records import WorkbookError

TASK = """name: big
instructions: {full: "Which team?", short: "Which team?"}
output: {schema: {type: object, properties: {team: {type: string}}, required: [team]}}
scored_fields: [team]
targets: {accuracy: 0.8}
"""
RATIOS = {"train": 0.6, "validation": 0.2, "test": 0.2}


def no_self(pairs):
    return {(i, j, round(score, 9)) for i, j, score in pairs if i != j}


words = st.sampled_from(["where", "is", "my", "parcel", "from", "the", "north", "who", "pays"])
texts = st.lists(st.lists(words, min_size=1, max_size=9).map(" ".join), unique=True, max_size=40)


@settings(max_examples=40, deadline=None)
@given(texts, st.integers(0, 5), st.sampled_from([0.4, 0.6, 0.8]))
def test_bands_on_disk_give_the_pairs_that_memory_gives(texts, every, across):
    protected = [every > 0 and place % every == 0 for place in range(len(texts))]
    ours = big.like_pairs(big.Local(), texts, protected, 0.8, across)
    theirs = curate.pairs_in_memory(texts, protected, 0.8, across)
    assert [no_self(pairs) for pairs in ours] == [no_self(pairs) for pairs in theirs]


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path / "home"))
    folder = tmp_path / "task"
    store.write_text(folder / "task.yaml", TASK)
    chance, rows = random.Random(5), []
    for number in range(300):
        text = " ".join(chance.choice("abcdefghijkl") * 4 + str(number % 97) for _ in range(9))
        for copy in range(1 + number % 3):
            question = text[: len(text) - copy] + "x" * copy
            if number % 29 == 0:
                question += " call 0171 2345678" if copy else " mail to mara@example.com"
            answer = json.dumps({"team": "north" if number % 2 else "south"})
            messages = [{"role": "user", "content": question}]
            messages.append({"role": "assistant", "content": answer})
            rows.append({"messages": messages})
    store.write_jsonl(folder / "human.jsonl", rows)
    settings = {"task": str(folder), "split_ratios": RATIOS, "base_model": "tiny"}
    return curate.DataCollectionConfig(**settings, use_production=False, max_tokens=512)


def published(config):
    curated = curate.curate(config)
    rejected = [(row.example["id"], row.issues) for row in curated.rejected]
    return curate.content_fingerprint(curated.examples), rejected, curated.funnel


def test_a_dataset_is_the_same_in_memory_and_in_batches(config, monkeypatch):
    in_memory = published(config)
    assert {row.code for _, issues in in_memory[1] for row in issues} >= {
        "near_duplicate",
        "potential_leakage",
        "contains_pii",
    }
    monkeypatch.setattr(collect, "MANY", 0)
    monkeypatch.setattr(big, "TEXTS", 50)
    monkeypatch.setattr(big, "PAIRS", 37)
    assert published(config) == in_memory


def test_ray_gives_the_same_dataset(config):
    ray = pytest.importorskip("ray", reason="the extra ray is not installed")
    in_memory = published(config)
    try:
        assert published(config.model_copy(update={"engine": "ray"})) == in_memory
    finally:
        ray.shutdown()


def test_an_engine_that_is_not_there_is_refused_with_the_way_to_get_it(config, monkeypatch):
    with pytest.raises(WorkbookError, match="choose local or ray"):
        curate.DataCollectionConfig(split_ratios=RATIOS, engine="spark")
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(WorkbookError, match=r"pip install -e '\.\[ray\]'"):
        curate.curate(config.model_copy(update={"engine": "ray"}))
