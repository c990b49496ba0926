"""What likeness of texts is measured by: MinHash proposes pairs, the exact Jaccard index of 5-grams
decides. The pairs themselves are found in helpers/extras/big.py.

MinHash and its bands: Broder 1997, "On the resemblance and containment of documents"; Leskovec,
Rajaraman and Ullman, "Mining of Massive Datasets", chapter 3. Its lowest bits: Li and König 2010,
"b-Bit minwise hashing".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

SHINGLE = 5  # characters
PERMUTATIONS = 240  # divides into bands of 2, 3, 4, 5 and 6 rows
BAND_ROWS = ((0.8, 6), (0.71, 5), (0.6, 4), (0.5, 3), (0.0, 2))  # from a threshold on: rows a band
CHUNK = 2_000  # texts hashed at a time
DEVIATIONS = 5  # that a pair may look less alike than it is: 1 of a million does
_BASE = 0x9E3779B97F4A7C15  # 2**64 by the golden ratio
Pair = tuple[int, int, float]  # (i, j, Jaccard) of two texts


def shingles(text: str) -> set[str]:
    """The character 5-grams of a normalised text (the text itself when it is shorter)."""
    return {text[i : i + SHINGLE] for i in range(max(1, len(text) - SHINGLE + 1))}


def jaccard(a: set[str], b: set[str]) -> float:
    """Shared shingles / all shingles: 1.0 = the same set, 0.0 = nothing shared."""
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)


def minhashes_of(texts: Sequence[str]) -> Any:
    """(texts, PERMUTATIONS): for each permutation of all shingles the least one of the text's."""
    import numpy as np
    from rensa import RMinHash

    minhashes = [np.zeros((0, PERMUTATIONS), dtype=np.uint32)]
    for start in range(0, len(texts), CHUNK):
        sets = [shingles(text) for text in texts[start : start + CHUNK]]
        hashes = RMinHash.from_token_sets(sets, PERMUTATIONS, 7)
        minhashes.append(np.array([each.digest() for each in hashes], dtype=np.uint32))
    return np.concatenate(minhashes)


def low_bits(minhashes: Any) -> Any:
    """(texts, 4) of 64 bits: the lowest one of each MinHash."""
    import numpy as np

    bits = np.packbits((minhashes & 1).astype(np.uint8), axis=1)
    return np.pad(bits, ((0, 0), (0, -bits.shape[1] % 8))).view(np.uint64)


def may_reach(bits: Any, others: Any, threshold: float) -> Any:
    """Which pairs of low bits, row by row, may be of texts whose Jaccard index is the threshold.

    Of two texts of index J, (1 + J) / 2 of the bits are the same. Most candidates end here, at a
    hundredth of what the exact index costs.
    """
    import numpy as np

    same = (1 + threshold) / 2
    deviation = (same * (1 - same) / PERMUTATIONS) ** 0.5
    differing = np.bitwise_count(bits ^ others).sum(axis=1)
    return differing <= PERMUTATIONS * (1 - same + DEVIATIONS * deviation) + 1e-9


def _powers(n: int) -> Any:
    import numpy as np

    return np.array([pow(_BASE, k + 1, 2**64) for k in range(n)], dtype=np.uint64)


def band_keys(minhashes: Any, threshold: float) -> Any:
    """(texts, bands) of 64 bits: texts that share one are candidates.

    A pair at the threshold is missed with chance (1 - threshold^rows)^bands: below 3e-4 for each
    line of BAND_ROWS.
    """
    length = next(rows for least, rows in BAND_ROWS if threshold >= least)
    powers = _powers(length)
    rows = minhashes.reshape(len(minhashes), PERMUTATIONS // length, length)
    return sum(rows[:, :, k] * powers[k] for k in range(length))


def incidence_of(texts: Sequence[str]) -> Any:
    """Which text holds which shingle: a sparse matrix (texts, 2**62) with a 1 per shingle.

    A shingle's column is a 62-bit polynomial of its characters: two of ten million have the same
    with chance 1e-5.
    """
    import numpy as np
    from scipy.sparse import csr_array

    counts = [np.zeros(1, dtype=np.int64)]
    columns = [np.zeros(0, dtype=np.int64)]
    for start in range(0, len(texts), CHUNK):
        row, grams = _grams(texts[start : start + CHUNK])
        order = np.lexsort((grams, row))
        row, grams = row[order], grams[order]
        first = np.append(True, (np.diff(row) != 0) | (np.diff(grams) != 0))
        counts.append(np.bincount(row[first], minlength=min(CHUNK, len(texts) - start)))
        columns.append(grams[first])
    column = np.concatenate(columns)
    return csr_array(
        (np.ones(len(column), dtype=np.int32), column, np.cumsum(np.concatenate(counts))),
        shape=(len(texts), 2**62),
    )


def _grams(texts: Sequence[str]) -> tuple[Any, Any]:
    """(number of its text, column) of every 5-gram."""
    import numpy as np

    padded = [text.ljust(SHINGLE, "\U0010ffff") for text in texts]
    encoded = "".join(padded).encode("utf-32-le", "surrogatepass")
    letters = np.frombuffer(encoded, dtype="<u4").astype(np.uint64)
    windows = np.lib.stride_tricks.sliding_window_view(letters, SHINGLE)
    grams = (windows * _powers(SHINGLE)).sum(axis=1) >> np.uint64(2)
    lengths = np.array([len(text) for text in padded])
    row = np.repeat(np.arange(len(padded)), lengths)[: len(grams)]
    to_the_end = np.cumsum(lengths)[row] - np.arange(len(row))
    inside = to_the_end >= SHINGLE  # else the window runs into the next text
    return row[inside], grams[inside].astype(np.int64)


def confirmed(incidence: Any, others: Any, i: Any, j: Any, threshold: float) -> Iterator[Pair]:
    """Those of the pairs (i, j) whose exact Jaccard index reaches the threshold."""
    import numpy as np

    sizes = np.diff(incidence.indptr)
    other_sizes = np.diff(others.indptr)
    least = threshold * np.maximum(sizes[i], other_sizes[j]) - 1e-9
    possible = np.minimum(sizes[i], other_sizes[j]) >= least
    i, j = i[possible], j[possible]
    shared = incidence[i].multiply(others[j]).sum(axis=1)
    score = shared / (sizes[i] + other_sizes[j] - shared)
    hit = score >= threshold
    yield from zip(i[hit].tolist(), j[hit].tolist(), score[hit].tolist(), strict=True)
