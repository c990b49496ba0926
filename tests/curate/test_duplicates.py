import random
from itertools import combinations

import pytest
from toy_curate import example

from helpers.curate import deduplicate_examples, jaccard, pairs_here, shingles
from helpers.tasks import normalise


def label(row):
    return row.answer


def touched(texts, seed=3):
    """The texts and, for each, a copy with some characters changed: pairs at every likeness."""
    rng = random.Random(seed)
    out = list(texts)
    for text in texts:
        letters = list(text)
        for _ in range(rng.randrange(1, 9)):
            letters[rng.randrange(len(letters))] = rng.choice("xyz ")
        out.append("".join(letters))
    return list(dict.fromkeys(out))


def brute(texts, others, threshold):
    pairs = [
        (i, j, jaccard(shingles(a), shingles(b)))
        for i, a in enumerate(texts)
        for j, b in enumerate(others)
    ]
    return {(i, j) for i, j, score in pairs if score >= threshold}


@pytest.mark.parametrize("threshold", [0.4, 0.5, 0.6, 0.7, 0.8, 1.0])
def test_similar_texts_are_those_that_brute_force_finds_with_their_scores(sentences, threshold):
    texts = touched(sentences(120))
    marks = [number < 50 for number in range(len(texts))]
    near, across = (
        {(i, j): score for i, j, score in pairs}
        for pairs in pairs_here(texts, marks, threshold, threshold)
    )
    truth = {(i, j) for i, j in brute(texts, texts, threshold) if i != j}
    assert set(near) == truth and set(across) == {(i, j) for i, j in truth if j < 50}
    found = near | across
    assert all(
        score == jaccard(shingles(texts[i]), shingles(texts[j])) for (i, j), score in found.items()
    )
    assert threshold == 1.0 or len(found) > 10
    assert pairs_here([], [], threshold, threshold) == ([], [])
    assert pairs_here(["a"], [True], threshold, threshold) == ([], [])


def test_no_near_duplicate_straddles_parts_and_none_of_one_label_is_left_in_a_part(sentences):
    rng = random.Random(5)
    texts = touched(sentences(100)) + sentences(30)
    rows = []
    for i, text in enumerate(texts):
        part = rng.choice(["train", "validation", "test"])
        quality = rng.choice(["verified", "unverified"]) if part == "train" else "verified"
        rows.append(
            example(text, rng.choice(["yes", "no"]), part, quality, day=1 + i % 28, id=str(i))
        )
    stage = deduplicate_examples(rows, label)
    for a, b in combinations(stage.kept, 2):
        score = jaccard(shingles(normalise(a.user_text)), shingles(normalise(b.user_text)))
        if a.part != b.part:
            assert score < 0.6 and a.group != b.group
        else:
            assert score < 0.8 or label(a) != label(b)
    assert len(stage.kept) + len(stage.rejected) == len(rows) and stage.questions
    kept = {e.id for e in stage.kept}
    assert all(r.issues[0].matched_id in kept for r in stage.rejected)


def test_a_chain_of_likeness_loses_only_rows_that_match_a_kept_row():
    words = [f"{c}{c}{c}{c}" for c in "abcdefghijklmnopqrstuvwxyz"]
    a, b, c = " ".join(words[:20]), " ".join(words[1:21]), " ".join(words[4:24])
    assert jaccard(shingles(a), shingles(b)) >= 0.8 > jaccard(shingles(a), shingles(c))
    stage = deduplicate_examples([example(t, day=i + 1) for i, t in enumerate((a, b, c))], label)
    assert [e.user_text for e in stage.kept] == [a, c]


def test_of_two_copies_the_more_protected_then_the_verified_then_the_earlier_stays():
    late, early = (
        example("where is my parcel now", day=9, id="late"),
        example("Where is my parcel  now", day=2, id="early"),
    )
    logged = example("where is my parcel now", quality="unverified", day=1, id="logged")
    judged = example("where is my parcel now", part="test", day=20, id="judged")
    stage = deduplicate_examples([late, early, logged], label)
    assert [e.id for e in stage.kept] == ["early"]
    assert {r.issues[0].code for r in stage.rejected} == {"exact_duplicate"}
    stage = deduplicate_examples([late, early, logged, judged], label)
    assert [e.id for e in stage.kept] == ["judged"]
    assert {(r.issues[0].code, r.issues[0].matched_id) for r in stage.rejected} == {
        ("potential_leakage", "judged")
    }


def test_equal_inputs_with_different_labels_are_a_conflict_and_stay():
    rows = [
        example("someone stole my card", "yes", id="a"),
        example("someone stole my card", "no", id="b"),
    ]
    stage = deduplicate_examples(rows, label)
    assert len(stage.kept) == 2 and not stage.rejected
    assert [(question.example.id, question.why) for question in stage.questions] == [
        ("b", "label_conflict with a (Jaccard 1.00)"),
        ("a", "label_conflict with b (Jaccard 1.00)"),
    ]


def test_marks_that_nobody_sees_hide_no_copy():
    judged = example("where is my parcel today", part="test", id="judged")
    copy = example("whe\u200bre is\u2060 my par\u00adcel to\u200fday", id="copy")
    (row,) = deduplicate_examples([copy, judged], label).rejected
    assert (row.example["id"], row.issues[0].code) == ("copy", "potential_leakage")
    assert row.issues[0].evidence == "the same user text as a test row"


def test_a_row_of_a_conversation_that_is_judged_may_not_teach():
    judged = example("the first message of them", part="test", group="conversation:7", id="judged")
    logged = example("quite another text later on", quality="unverified", group="conversation:7")
    stage = deduplicate_examples([logged, judged], label)
    (row,) = stage.rejected
    assert (
        row.issues[0].code == "potential_leakage"
        and row.issues[0].matched_id == "judged"
        and row.stage == "leakage"
    )


def test_the_order_of_the_rows_does_not_matter(sentences):
    rows = [example(t, day=1 + i % 28, id=str(i)) for i, t in enumerate(touched(sentences(40)))]
    shuffled = random.Random(2).sample(rows, len(rows))
    one = deduplicate_examples(rows, label)
    two = deduplicate_examples(shuffled, label)
    assert [e.id for e in one.kept] == [e.id for e in two.kept]
