"""Exact and near duplicates, and leaks between parts, judged by the user's text alone.

A shared system prompt makes strangers look alike, and chains of likeness (a like b, b like c) end in deleting
nearly everything: so only the user's turns are compared, and a row goes only for a kept row it matches itself.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

from helpers.curate.checks import Sieved, reject
from helpers.records import Issue, TrainingExample
from helpers.tasks import normalise

SHINGLE = 5  # characters
PERMUTATIONS = 128
PROTECTION = {"test": 0, "validation": 1, "train": 2}
Label = Callable[[TrainingExample], str | None]
Conflict = tuple[TrainingExample, TrainingExample, float]  # alike by so much, with different labels: one is wrong
Neighbours = defaultdict[str, list[tuple[str, float]]]


def shingles(text: str) -> set[str]:
    """The character 5-grams of a normalised text (the text itself when it is shorter)."""
    return {text[i : i + SHINGLE] for i in range(max(1, len(text) - SHINGLE + 1))}


def jaccard(a: set[str], b: set[str]) -> float:
    """Shared shingles / all shingles: 1.0 = the same set, 0.0 = nothing shared."""
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)


def similar(texts: Sequence[str], others: Sequence[str], threshold: float) -> Iterator[tuple[int, int, float]]:
    """(i, j, Jaccard) of all texts[i] and others[j] with Jaccard >= threshold: MinHash proposes, exact Jaccard decides."""
    from rensa import RMinHash, RMinHashLSH

    # A pair at the threshold is missed with chance (1 - threshold^rows)^bands: below 1e-4 for each of these.
    rows = 4 if threshold >= 0.71 else 3 if threshold >= 0.6 else 2
    permutations = PERMUTATIONS // rows * rows
    mine, theirs = [shingles(text) for text in texts], [shingles(other) for other in others]
    index = RMinHashLSH(threshold, permutations, permutations // rows)
    index.insert_many(RMinHash.from_token_sets(theirs, permutations, 7))
    for i, candidates in enumerate(index.query_all(RMinHash.from_token_sets(mine, permutations, 7))):
        for j in candidates:
            if (score := jaccard(mine[i], theirs[j])) >= threshold:
                yield i, j, score


def deduplicate_examples(
    examples: Iterable[TrainingExample], label: Label, near_threshold: float = 0.8, leakage_threshold: float = 0.6
) -> tuple[Sieved, list[Conflict]]:
    """Leave out copies, near-copies and leaks; each with the id of the kept row it matches, and how closely.

    Of two copies the more protected one stays (test, validation, train), then the verified, then the earlier. Copies in
    one part are duplicates, or a conflict when their `label` differs; across parts, at the lower leakage threshold, they
    are leaks, and so is a row whose group (conversation) has a row in a more protected part.
    """
    ordered = sorted(examples, key=_precedence)
    of_row = [normalise(e.user_text) for e in ordered]
    protected = list(dict.fromkeys(text for text, e in zip(of_row, ordered, strict=True) if e.part != "train"))
    texts = list(dict.fromkeys(of_row))
    near = _neighbours(texts, texts, near_threshold)
    leaks = _neighbours(texts, protected, min(near_threshold, leakage_threshold))  # no near-duplicate straddles parts
    by_text: defaultdict[str, list[TrainingExample]] = defaultdict(list)  # the rows kept so far
    by_group: dict[str, TrainingExample] = {}
    kept, rejected, counts, conflicts = [], [], Counter(), []
    for example, text in zip(ordered, of_row, strict=True):
        closest = sorted(((o, score) for t, score in near[text] for o in by_text[t]), key=lambda pair: -pair[1])
        across = [(other, score) for t, score in leaks[text] for other in by_text[t]]
        leak = _leak(example, across, by_group.get(example.group))
        copy = _duplicate(example, closest, label)
        if leak or not copy:
            conflicts += [(example, o, score) for o, score in closest if label(o) != label(example)]
        if issues := leak + copy:
            rejected.append(reject(example, issues, "leakage" if leak else "duplicates"))
            counts[example.source, issues[0].code] += 1
        else:
            kept.append(example)
            by_text[text].append(example)
            by_group.setdefault(example.group, example)
    return Sieved(kept, rejected, counts), conflicts


def _precedence(example: TrainingExample) -> tuple[int, bool, float, str]:
    moment = example.created_at.timestamp()
    return PROTECTION[example.part or "train"], example.quality != "verified", moment, example.id


def _neighbours(texts: list[str], others: list[str], threshold: float) -> Neighbours:
    """text -> the others that are as like it as that, each with its likeness (equal texts: 1.0)."""
    found: Neighbours = defaultdict(list)
    for i, j, score in similar(texts, others, threshold):
        found[texts[i]].append((others[j], score))
    return found


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
        mine, its = ([normalise(text) for text in (e.user_text, e.answer)] for e in (example, other))
        if mine == its:
            return [Issue(code="exact_duplicate", evidence="same text and answer", matched_id=other.id, score=1.0)]
        evidence = f"character 5-gram Jaccard {score:.2f} with a kept row of the same label"
        return [Issue(code="near_duplicate", evidence=evidence, matched_id=other.id, score=round(score, 4))]
    return []
