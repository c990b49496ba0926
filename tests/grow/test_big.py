"""Curation in batches gives the dataset that memory gives: on disk, and on Ray where it is."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from functools import partial
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import curate, store
from helpers.curate import collect
from helpers.extras import big
from helpers.records import Rows, WorkbookError, beside, chosen, in_order, rows

TASK = """name: big
instructions: {full: "Which team?", short: "Which team?"}
output: {schema: {type: object, properties: {team: {type: string}}, required: [team]}}
scored_fields: [team]
targets: {accuracy: 0.8}
"""
RATIOS = {"train": 0.6, "validation": 0.2, "test": 0.2}


def no_self(pairs):
    return {(i, j, round(score, 9)) for i, j, score in pairs if i != j}


def every_pair(texts, protected, near, across):
    """The same by comparing all with all."""
    sets = [curate.shingles(text) for text in texts]
    places = product(range(len(texts)), repeat=2)
    scored = [(i, j, curate.jaccard(sets[i], sets[j])) for i, j in places]
    above = [pair for pair in scored if pair[2] >= across and protected[pair[1]]]
    return [pair for pair in scored if pair[2] >= near], above


words = st.sampled_from(["where", "is", "my", "parcel", "from", "the", "north", "who", "pays"])
texts = st.lists(st.lists(words, min_size=1, max_size=9).map(" ".join), unique=True, max_size=40)


@settings(max_examples=40, deadline=None)
@given(texts, st.integers(0, 5), st.sampled_from([0.4, 0.6, 0.8]))
def test_bands_give_the_pairs_that_all_pairs_give(texts, every, across):
    protected = [every > 0 and place % every == 0 for place in range(len(texts))]
    theirs = [no_self(pairs) for pairs in every_pair(texts, protected, 0.8, across)]
    for bound in (big.WAITING, 9, 1):  # 1: what a band proposes is compared at once, little known
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(big, "WAITING", bound)
            ours = curate.pairs_here(texts, protected, 0.8, across)
        assert [no_self(pairs) for pairs in ours] == theirs
        assert all(len(pairs) == len(no_self(pairs)) for pairs in ours)  # each once


def test_texts_that_are_all_alike_are_looked_at_in_pieces_and_compared_once(monkeypatch):
    monkeypatch.setattr(big, "WAITING", 600)
    sizes = []

    def run(function, items):
        for result in map(function, items):
            if isinstance(function, big.Buckets):
                sizes.append(len(result))
            elif isinstance(function, partial) and function.func is big.confirm:
                sizes.append(-len(result[1]))
            yield result

    letters = [f"Dear all, we have not heard from you since last week, {k:03}" for k in range(60)]
    near, across = big.like_pairs(run, letters, [False] * 60, 0.6, 0.6)
    pieces = [size for size in sizes if size > 0]
    assert len(pieces) > 9 and max(pieces) <= 600 + 60
    assert -sum(size for size in sizes if size < 0) == len(near) / 2 == 60 * 59 / 2 and not across


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
    """Every file of the version but the two that say when it was made."""
    curated = curate.curate(config, say=lambda text: None)
    version = curate.publish_dataset(curated).metadata.version
    folder = store.home() / "datasets" / version
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    shutil.rmtree(folder)
    del files["manifest.json"], files["card.md"]
    return version, files, curated.funnel


def test_a_dataset_is_the_same_in_memory_and_in_batches(config, monkeypatch):
    in_memory = published(config)
    for code in ("near_duplicate", "potential_leakage", "contains_pii"):
        assert code.encode() in in_memory[1]["rejected.jsonl"]
    monkeypatch.setattr(rows, "HELD", 7)
    monkeypatch.setattr(rows, "RECENT", 3)
    monkeypatch.setattr(rows, "BUFFER", 1000)
    assert published(config) == in_memory
    assert not list((store.home() / "cache").iterdir())  # its files have no names
    monkeypatch.setattr(collect, "MANY", 0)
    monkeypatch.setattr(big, "TEXTS", 50)
    monkeypatch.setattr(big, "PAIRS", 37)
    monkeypatch.setattr(big, "WAITING", 200)
    assert published(config) == in_memory


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=60), st.integers(0, 40), st.integers(1, 9))
def test_rows_on_disk_are_a_list(values, held, recent):
    values = [(value, str(place)) for place, value in enumerate(values)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "HELD", held)
        patch.setattr(rows, "RECENT", recent)
        patch.setattr(rows, "BUFFER", 64)
        kept = Rows(tempfile.TemporaryFile)
        for value in values:
            kept.append(value)
        backwards = in_order(kept, range(len(values))[::-1])
        some = beside(kept)
        for value in kept:  # known again, or kept twice: the same rows
            some.append(value)
        assert kept == values and backwards == values[::-1] and some == values
        assert chosen(kept, lambda row: row[0] > 4) == [row for row in values if row[0] > 4]
        assert kept[2:5] == values[2:5] and [kept[k] for k in range(len(kept))] == values


def test_a_full_disk_is_said_with_the_way_out():
    def full():
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(WorkbookError, match="free some"):
        patch.setattr(rows, "HELD", 1)
        kept = Rows(full)
        for text in "abc":
            kept.append(text)
        list(kept)


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
