"""Exact and near duplicates, and leaks between parts, judged by the user's text alone.

A shared system prompt makes strangers look alike, and chains of likeness (a like b, b like c) end in deleting
nearly everything: so only the user's turns are compared, and a row goes only for a kept row it matches itself.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from helpers.curate.checks import Sieved, reject
from helpers.records import Issue, TrainingExample
from helpers.tasks import normalise

SHINGLE = 5  # characters
PERMUTATIONS = 128
PROTECTION = {"test": 0, "validation": 1, "train": 2}
Label = Callable[[TrainingExample], str | None]
Neighbours = dict[int, list[tuple[int, float]]]


class Conflict(NamedTuple):
    """Two near-identical inputs with different labels: one of the two labels is wrong, and a person must say which."""

    example: TrainingExample
    other: TrainingExample
    score: float


def shingles(text: str) -> set[str]:
    """The character 5-grams of a normalised text (the text itself when it is shorter)."""
    return {text[i : i + SHINGLE] for i in range(max(1, len(text) - SHINGLE + 1))}


def jaccard(a: set[str], b: set[str]) -> float:
    """Shared shingles / all shingles: 1.0 = the same set, 0.0 = nothing shared."""
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)


def near_pairs(texts: Sequence[str], threshold: float) -> Iterator[tuple[int, int, float]]:
    """(i, j, Jaccard) of all i < j with Jaccard >= threshold: MinHash proposes, exact Jaccard decides."""
    from rensa import RMinHash, RMinHashLSH

    # A pair at the threshold is missed with chance (1 - t^rows)^bands: below 1e-4 for both choices.
    rows = 4 if threshold >= 0.71 else 2
    hashes = RMinHash.from_token_sets([shingles(t) for t in texts], PERMUTATIONS, 7)
    index = RMinHashLSH(threshold, PERMUTATIONS, PERMUTATIONS // rows)
    index.insert_many(hashes)
    for i, candidates in enumerate(index.query_all(hashes)):
        mine = shingles(texts[i])
        for j in candidates:
            if j > i and (score := jaccard(mine, shingles(texts[j]))) >= threshold:
                yield i, j, score


def cross_pairs(texts: Sequence[str], others: Sequence[str], threshold: float) -> Iterator[tuple[int, int, float]]:
    """(i, j, Jaccard) of all texts[i] and others[j] with Jaccard >= threshold, exactly, by a sparse product."""
    from scipy.sparse import csr_matrix

    vocabulary: dict[str, int] = {}
    for other in others:
        for gram in shingles(other):
            vocabulary.setdefault(gram, len(vocabulary))

    def matrix(chunk: Sequence[str]) -> tuple[csr_matrix, list[int]]:
        columns, starts, sizes = [], [0], []
        for grams in map(shingles, chunk):
            columns += [vocabulary[g] for g in grams if g in vocabulary]
            starts.append(len(columns))
            sizes.append(len(grams))
        return csr_matrix(([1] * len(columns), columns, starts), shape=(len(chunk), len(vocabulary))), sizes

    if not texts or not vocabulary:
        return
    right, right_sizes = matrix(others)
    for start in range(0, len(texts), 5000):  # bounds the product's memory
        left, left_sizes = matrix(texts[start : start + 5000])
        shared = (left @ right.T).tocoo()
        for i, j, n in zip(shared.row.tolist(), shared.col.tolist(), shared.data.tolist(), strict=True):
            if (score := n / (left_sizes[i] + right_sizes[j] - n)) >= threshold:
                yield start + i, j, score


def deduplicate_examples(
    examples: Iterable[TrainingExample], label: Label, near_threshold: float = 0.8, leakage_threshold: float = 0.6
) -> tuple[Sieved, list[Conflict]]:
    """Leave out copies, near-copies and leaks; each with the id of the kept row it matches, and how closely.

    Of two copies the one in the more protected part stays (test, then validation), then the verified, then the
    earlier. Copies in one part are duplicates; across parts, at the lower leakage threshold, they are leaks, and so
    is a row whose group (conversation) has a row in a more protected part. Different labels in one part: a conflict.
    `label` says what two rows must share to be the same answer; None makes every answer the same.
    """
    ordered = sorted(examples, key=_precedence)
    texts = list(dict.fromkeys(normalise(e.user_text) for e in ordered))
    number = {text: i for i, text in enumerate(texts)}
    of_row = [number[normalise(e.user_text)] for e in ordered]
    protected = sorted({of_row[i] for i, e in enumerate(ordered) if e.part != "train"})
    near, leaks = _neighbours(texts, protected, near_threshold, leakage_threshold)
    kept_by_text: defaultdict[int, list[TrainingExample]] = defaultdict(list)
    kept_by_group: dict[str, TrainingExample] = {}
    kept, rejected, counts, conflicts = [], [], Counter(), []
    for example, text in zip(ordered, of_row, strict=True):
        alike = [(other, score) for t, score in near.get(text, []) for other in kept_by_text[t]]
        closest = sorted(alike, key=lambda pair: -pair[1])
        across = [(other, score) for t, score in leaks.get(text, []) for other in kept_by_text[t]]
        issues = [
            *_leak(example, across, kept_by_group.get(example.group)),
            *_duplicate(example, closest, label),
        ]
        if not issues or issues[0].code == "potential_leakage":
            conflicts += [Conflict(example, o, score) for o, score in closest if label(o) != label(example)]
        if issues:
            stage = "leakage" if issues[0].code == "potential_leakage" else "duplicates"
            rejected.append(reject(example, issues, stage))
            counts[example.source, issues[0].code] += 1
            continue
        kept.append(example)
        kept_by_text[text].append(example)
        kept_by_group.setdefault(example.group, example)
    return Sieved(kept, rejected, counts), conflicts


def _precedence(example: TrainingExample) -> tuple[int, bool, float, str]:
    moment = example.created_at.timestamp()
    return PROTECTION[example.part or "train"], example.quality != "verified", moment, example.id


def _neighbours(
    texts: list[str], protected: list[int], near_threshold: float, leakage_threshold: float
) -> tuple[Neighbours, Neighbours]:
    """For every distinct text: its near-duplicates, and the protected texts it leaks (each with itself)."""
    near: Neighbours = {i: [(i, 1.0)] for i in range(len(texts))}
    for i, j, score in near_pairs(texts, near_threshold):
        near[i].append((j, score))
        near[j].append((i, score))
    leaks: Neighbours = defaultdict(list)
    threshold = min(near_threshold, leakage_threshold)  # a near-duplicate must never straddle parts
    for i, j, score in cross_pairs(texts, [texts[p] for p in protected], threshold):
        leaks[i].append((protected[j], score))
    return near, leaks


def _leak(
    example: TrainingExample, across: list[tuple[TrainingExample, float]], groupmate: TrainingExample | None
) -> list[Issue]:
    """The row of a more protected part that this row repeats or shares its conversation with."""
    mine = PROTECTION[example.part or "train"]
    above = [pair for pair in across if PROTECTION[pair[0].part or "train"] < mine]
    if above:
        other, score = max(above, key=lambda pair: pair[1])
        what = f"the same user text as a {other.part} row" if score == 1 else f"close to a {other.part} row"
        return [Issue(code="potential_leakage", evidence=what, matched_id=other.id, score=round(score, 4))]
    if groupmate is not None and PROTECTION[groupmate.part or "train"] < mine:
        what = f"the same conversation as a {groupmate.part} row"
        return [Issue(code="potential_leakage", evidence=what, matched_id=groupmate.id)]
    return []


def _duplicate(example: TrainingExample, closest: list[tuple[TrainingExample, float]], label: Label) -> list[Issue]:
    """The kept row of the same part and label that this row repeats; the closest one is named."""
    for other, score in closest:
        if other.part != example.part or label(other) != label(example):
            continue
        same = (normalise(t) for t in (example.user_text, other.user_text))
        answers = (normalise(t) for t in (example.answer, other.answer))
        if len(set(same)) == 1 and len(set(answers)) == 1:
            return [Issue(code="exact_duplicate", evidence="same text and answer", matched_id=other.id, score=1.0)]
        evidence = f"character 5-gram Jaccard {score:.2f} with a kept row of the same label"
        return [Issue(code="near_duplicate", evidence=evidence, matched_id=other.id, score=round(score, 4))]
    return []
