"""Exact and near duplicates, and leaks between parts, judged by the user's text alone.

A shared system prompt makes strangers look alike, and chains of likeness (a like b, b like c) end in deleting
nearly everything: so only the user's turns are compared, and a row goes only for a kept row it matches itself.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from helpers.curate.checks import Sieved, reject
from helpers.records import Issue, TrainingExample
from helpers.tasks import normalise

SHINGLE = 5  # characters
PERMUTATIONS = 240  # divides into bands of 2, 3, 4, 5 and 6 rows
_BASE = 0x9E3779B97F4A7C15  # 2**64 by the golden ratio
CHUNK, PAIRS = 5_000, 200_000  # texts hashed and pairs compared at a time: they bound the memory
RUN, SHORT_RUN = (
    13,
    8,
)  # words in a row that are a quotation (GPT-3's rule); shorter texts are compared by likeness alone
PROTECTION = {"test": 0, "validation": 1, "train": 2}
Label = Callable[[TrainingExample], str | None]
Conflict = tuple[
    TrainingExample, TrainingExample, float
]  # alike by so much, with different labels: one is wrong
Neighbours = defaultdict[str, list[tuple[str, float]]]


def shingles(text: str) -> set[str]:
    """The character 5-grams of a normalised text (the text itself when it is shorter)."""
    return {text[i : i + SHINGLE] for i in range(max(1, len(text) - SHINGLE + 1))}


def jaccard(a: set[str], b: set[str]) -> float:
    """Shared shingles / all shingles: 1.0 = the same set, 0.0 = nothing shared."""
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)


def similar(
    texts: Sequence[str], others: Sequence[str], threshold: float
) -> Iterator[tuple[int, int, float]]:
    """(i, j, Jaccard) of all texts[i] and others[j] with Jaccard >= threshold: MinHash proposes, exact Jaccard decides."""
    mine = sketched(texts)
    yield from pairs(mine, mine if texts is others else sketched(others), threshold)


class Sketches(NamedTuple):
    """What texts are compared by: which holds which shingle (a sparse 1 for each), and their MinHashes."""

    incidence: Any
    minhashes: list[Any]

    def of(self, rows: Sequence[int]) -> Sketches:
        """The sketches of some of the texts."""
        return Sketches(self.incidence[rows], [self.minhashes[row] for row in rows])


def sketched(texts: Sequence[str]) -> Sketches:
    """Each text's shingles and MinHash; they serve every threshold."""
    from rensa import RMinHash

    hashed: list[Any] = []
    for start in range(0, len(texts), CHUNK):
        hashed += RMinHash.from_token_sets(
            [shingles(text) for text in texts[start : start + CHUNK]], PERMUTATIONS, 7
        )
    return Sketches(_incidence(texts), hashed)


def pairs(mine: Sketches, theirs: Sketches, threshold: float) -> Iterator[tuple[int, int, float]]:
    """`similar` for texts that are sketched already."""
    import numpy as np
    from rensa import RMinHashLSH

    # A pair at the threshold is missed with chance (1 - threshold^rows)^bands: below 3e-4 for each of these.
    rows = (
        6
        if threshold >= 0.8
        else 5
        if threshold >= 0.71
        else 4
        if threshold >= 0.6
        else 3
        if threshold >= 0.5
        else 2
    )
    index = RMinHashLSH(threshold, PERMUTATIONS, PERMUTATIONS // rows)
    index.insert_many(theirs.minhashes)
    for start in range(0, len(mine.minhashes), CHUNK):
        candidates = index.query_all(mine.minhashes[start : start + CHUNK])
        i = np.repeat(
            np.arange(start, start + len(candidates)), [len(found) for found in candidates]
        )
        j = np.fromiter((k for found in candidates for k in found), dtype=np.int64, count=len(i))
        for at in range(0, len(i), PAIRS):
            yield from _confirmed(
                mine.incidence, theirs.incidence, i[at : at + PAIRS], j[at : at + PAIRS], threshold
            )


def _incidence(texts: Sequence[str]) -> Any:
    """Which text holds which shingle, as a sparse matrix with a 1 per shingle.

    A shingle's column is a 62-bit polynomial of its characters: two of ten million have the same with chance 1e-5.
    """
    import numpy as np
    from scipy.sparse import csr_array

    powers = np.array([pow(_BASE, k + 1, 2**64) for k in range(SHINGLE)], dtype=np.uint64)
    sizes, columns = [np.zeros(1, dtype=np.int64)], []
    for start in range(0, len(texts), CHUNK):
        chunk = [text.ljust(SHINGLE, "\U0010ffff") for text in texts[start : start + CHUNK]]
        lengths = np.array([len(text) for text in chunk])
        letters = np.frombuffer(
            "".join(chunk).encode("utf-32-le", "surrogatepass"), dtype="<u4"
        ).astype(np.uint64)
        grams = (np.lib.stride_tricks.sliding_window_view(letters, SHINGLE) * powers).sum(
            axis=1
        ) >> np.uint64(2)
        row = np.repeat(np.arange(len(chunk)), lengths)
        inside = (np.cumsum(lengths)[row] - np.arange(len(row)) >= SHINGLE)[
            : len(grams)
        ]  # else it runs into the next text
        row, grams = row[: len(grams)][inside], grams[inside].astype(np.int64)
        order = np.lexsort((grams, row))
        row, grams = row[order], grams[order]
        new = np.append(True, (np.diff(row) != 0) | (np.diff(grams) != 0))
        sizes.append(np.bincount(row[new], minlength=len(chunk)))
        columns.append(grams[new])
    ends, column = (
        np.cumsum(np.concatenate(sizes)),
        np.concatenate(columns or [np.zeros(0, dtype=np.int64)]),
    )
    return csr_array(
        (np.ones(len(column), dtype=np.int32), column, ends), shape=(len(texts), 2**62)
    )


def _confirmed(
    mine: Any, theirs: Any, i: Any, j: Any, threshold: float
) -> Iterator[tuple[int, int, float]]:
    """Those of the pairs (i, j) whose exact Jaccard, shared shingles / all shingles, reaches the threshold."""
    import numpy as np

    sizes = np.diff(mine.indptr)[i], np.diff(theirs.indptr)[j]
    possible = np.minimum(*sizes) >= threshold * np.maximum(*sizes) - 1e-9
    i, j = i[possible], j[possible]
    shared = mine[i].multiply(theirs[j]).sum(axis=1)
    score = shared / (sizes[0][possible] + sizes[1][possible] - shared)
    hit = score >= threshold
    yield from zip(i[hit].tolist(), j[hit].tolist(), score[hit].tolist(), strict=True)


def deduplicate_examples(
    examples: Iterable[TrainingExample],
    label: Label,
    near_threshold: float = 0.8,
    leakage_threshold: float = 0.6,
    accepted: Container[str] = (),
) -> tuple[Sieved, list[Conflict]]:
    """Leave out copies, near-copies and leaks; each with the id of the kept row it matches, and how closely.

    Of two copies the more protected one stays (test, validation, train), then the verified, then the earlier. Copies in
    one part are duplicates, or a conflict when their `label` differs; across parts, at the lower leakage threshold, they
    are leaks, and so is a row whose group (conversation) has a row in a more protected part.
    """
    ordered = sorted(examples, key=_precedence)
    of_row = [normalise(e.user_text) for e in ordered]
    texts = list(dict.fromkeys(of_row))
    secret = {text for text, e in zip(of_row, ordered, strict=True) if e.part != "train"}
    protected = [i for i, text in enumerate(texts) if text in secret]
    sketches = sketched(texts)
    near = _neighbours(texts, pairs(sketches, sketches, near_threshold))
    across = pairs(
        sketches, sketches.of(protected), min(near_threshold, leakage_threshold)
    )  # no near-duplicate straddles
    leaks = _neighbours(texts, ((i, protected[k], score) for i, k, score in across))
    by_text: defaultdict[str, list[TrainingExample]] = defaultdict(list)  # the rows kept so far
    by_group: dict[str, TrainingExample] = {}
    quotes: dict[
        tuple[str, ...], TrainingExample
    ] = {}  # runs of words that give a protected row away
    lengths = sorted({min(RUN, n) for t in secret if (n := len(t.split())) >= SHORT_RUN})
    kept, rejected, counts, conflicts = [], [], Counter(), []
    for example, text in zip(ordered, of_row, strict=True):
        closest = sorted(
            ((o, score) for t, score in near[text] for o in by_text[t]), key=lambda pair: -pair[1]
        )
        above = [(other, score) for t, score in leaks[text] for other in by_text[t]]
        quoted = next(
            (row for n in lengths for gram in _runs(text, n) if (row := quotes.get(gram))), None
        )
        leak = _leak(example, above, by_group.get(example.group), quoted)
        copy = [] if example.id in accepted else _duplicate(example, closest, label)
        if leak or not copy:
            conflicts += [(example, o, score) for o, score in closest if label(o) != label(example)]
        if issues := leak + copy:
            rejected.append(reject(example, issues, "leakage" if leak else "duplicates"))
            counts[example.source, issues[0].code] += 1
        else:
            kept.append(example)
            by_text[text].append(example)
            by_group.setdefault(example.group, example)
            if example.part != "train" and len(text.split()) >= SHORT_RUN:
                for gram in _runs(text, min(RUN, len(text.split()))):
                    quotes.setdefault(gram, example)
    return Sieved(kept, rejected, counts), conflicts


def _precedence(example: TrainingExample) -> tuple[int, bool, float, str]:
    moment = example.created_at.timestamp()
    return PROTECTION[example.part or "train"], example.quality != "verified", moment, example.id


def _neighbours(texts: list[str], alike: Iterable[tuple[int, int, float]]) -> Neighbours:
    """text -> the texts that are as like it as that, each with its likeness (equal texts: 1.0)."""
    found: Neighbours = defaultdict(list)
    for i, j, score in alike:
        found[texts[i]].append((texts[j], score))
    return found


def _runs(text: str, n: int) -> Iterator[tuple[str, ...]]:
    """All runs of n words."""
    words = text.split()
    return (tuple(words[k : k + n]) for k in range(len(words) - n + 1))


def _leak(
    example: TrainingExample,
    across: list[tuple[TrainingExample, float]],
    groupmate: TrainingExample | None,
    quoted: TrainingExample | None,
) -> list[Issue]:
    """The row of a more protected part that this row repeats or shares its conversation with."""
    mine = PROTECTION[example.part or "train"]
    above = [pair for pair in across if PROTECTION[pair[0].part or "train"] < mine]
    if above:
        other, score = max(above, key=lambda pair: pair[1])
        what = (
            f"the same user text as a {other.part} row"
            if score == 1
            else f"close to a {other.part} row"
        )
        return [
            Issue(
                code="potential_leakage", evidence=what, matched_id=other.id, score=round(score, 4)
            )
        ]
    if quoted is not None and PROTECTION[quoted.part or "train"] < mine:
        what = f"quotes a {quoted.part} row: {RUN} words in a row, or the whole of a shorter one"
        return [Issue(code="potential_leakage", evidence=what, matched_id=quoted.id)]
    if groupmate is not None and PROTECTION[groupmate.part or "train"] < mine:
        what = f"the same conversation as a {groupmate.part} row"
        return [Issue(code="potential_leakage", evidence=what, matched_id=groupmate.id)]
    return []


def _duplicate(
    example: TrainingExample, closest: list[tuple[TrainingExample, float]], label: Label
) -> list[Issue]:
    """The kept row of the same part and label that this row repeats; the closest one is named."""
    for other, score in closest:
        if other.part != example.part or label(other) != label(example):
            continue
        mine, its = (
            [normalise(text) for text in (e.user_text, e.answer)] for e in (example, other)
        )
        if mine == its:
            return [
                Issue(
                    code="exact_duplicate",
                    evidence="same text and answer",
                    matched_id=other.id,
                    score=1.0,
                )
            ]
        evidence = f"character 5-gram Jaccard {score:.2f} with a kept row of the same label"
        return [
            Issue(
                code="near_duplicate", evidence=evidence, matched_id=other.id, score=round(score, 4)
            )
        ]
    return []
