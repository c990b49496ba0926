"""Curation of more rows than one process holds well: in batches, on this machine or on Ray.

The row functions are those of helpers.curate. Near-duplicates are proposed by MinHash bands, each
band on its own (its keys are sorted, equal keys are a bucket), and decided by the exact Jaccard
index, so that the pairs, and with them the dataset's fingerprint, are the same on every engine.
"""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from helpers import curate
from helpers.records import WorkbookError

if TYPE_CHECKING:
    from helpers.curate import Findings, Pair

PARTITIONS = 16  # of a shuffle by band
TEXTS = 5_000  # of a batch that is hashed at a time
PAIRS = 100_000  # of a batch that is compared at a time
Band = tuple[int, bytes]  # its number, and its candidates: pairs (i, j) as int64
SEED = 7  # of the MinHashes, as in helpers.curate
_BASE = 0x9E3779B97F4A7C15  # 2**64 by the golden ratio


class Signing(NamedTuple):
    """How texts are hashed: the lengths of bands, one for each threshold."""

    band_rows: tuple[int, ...]

    def __call__(self, texts: Sequence[str]) -> list[bytes]:
        """A column of 64-bit keys for each band of each length: who shares one is a candidate."""
        import numpy as np
        from rensa import RMinHash

        sets = [curate.shingles(text) for text in texts]
        minhashes = RMinHash.from_token_sets(sets, curate.PERMUTATIONS, SEED)
        matrix = np.array([minhash.digest() for minhash in minhashes], dtype=np.uint64)
        columns = []
        for length in self.band_rows:
            powers = np.array([pow(_BASE, k + 1, 2**64) for k in range(length)], dtype=np.uint64)
            for start in range(0, curate.PERMUTATIONS, length):
                columns.append((matrix[:, start : start + length] * powers).sum(axis=1).tobytes())
        return columns


class Buckets(NamedTuple):
    """Which pairs share a band's key: of the first `near` bands all, else those with a mark."""

    near: int
    marks: bytes  # a byte for each text: whether it is protected

    def __call__(self, band: int, keys: bytes) -> bytes:
        """Pairs (i, j) as int64: i < j, or j protected."""
        import numpy as np

        keys_of = np.frombuffer(keys, dtype=np.uint64)
        order = np.argsort(keys_of, kind="stable")  # so that i < j in every bucket
        ordered = keys_of[order]
        ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)) + 1
        starts = np.concatenate(([0], ends[:-1]))
        sizes = ends - starts
        pairs = [np.zeros((0, 2), dtype=np.int64)]
        for apart in range(1, int(sizes.max(initial=0))):
            starts, sizes = starts[sizes > apart], sizes[sizes > apart]
            counts = sizes - apart
            skipped = starts - np.cumsum(counts) + counts
            first = np.repeat(skipped, counts) + np.arange(counts.sum())
            pairs.append(np.stack([order[first], order[first + apart]], axis=1))
        found = np.concatenate(pairs)
        if band >= self.near:
            is_protected = np.frombuffer(self.marks, dtype=np.bool_)
            found = np.concatenate([found, found[:, ::-1]])
            found = found[is_protected[found[:, 1]]]
        return found.tobytes()


class Confirming(NamedTuple):
    """The exact comparison of candidates."""

    texts: Callable[[], Sequence[str]]
    threshold: float

    def __call__(self, pairs: bytes) -> list[Pair]:
        """Those of the pairs whose Jaccard index reaches the threshold."""
        import numpy as np

        places = np.frombuffer(pairs, dtype=np.int64).reshape(-1, 2)
        used, local = np.unique(places, return_inverse=True)
        all_texts = self.texts()
        incidence = curate.incidence_of([all_texts[place] for place in used])
        i, j = local.reshape(-1, 2).T
        confirmed = curate.confirmed(incidence, incidence, i, j, self.threshold)
        return [(int(used[a]), int(used[b]), score) for a, b, score in confirmed]


class Engine(Protocol):
    """Where batches are worked on."""

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """The results in the order of the items."""
        ...

    def bands(self, signing: Signing, texts: Sequence[str], work: Buckets) -> Iterator[Band]:
        """What `work` makes of each band's keys of all texts."""
        ...

    def search(self, texts: Iterable[str]) -> Callable[[str], Findings]:
        """What any of the texts holds."""
        ...

    def share(self, value: Any) -> Callable[[], Any]:
        """A value that every batch needs, sent once."""
        ...


class Local:
    """This process, a batch at a time; what is not needed now lies on disk."""

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """One after the other."""
        return map(function, items)

    def bands(self, signing: Signing, texts: Sequence[str], work: Buckets) -> Iterator[Band]:
        """By one file for each band."""
        with tempfile.TemporaryDirectory(prefix="bands-") as name:
            paths: list[Path] = []
            for columns in map(signing, batched(texts, TEXTS)):
                paths = paths or [Path(name) / str(k) for k in range(len(columns))]
                for path, column in zip(paths, columns, strict=True):
                    with open(path, "ab") as file:
                        file.write(column)
            for band, path in enumerate(paths):
                yield band, work(band, path.read_bytes())

    def search(self, texts: Iterable[str]) -> Callable[[str], Findings]:
        """By two child processes."""
        return curate.search_ahead(texts)

    def share(self, value: Any) -> Callable[[], Any]:
        """It is here already."""
        return lambda: value


class Ray:
    """Ray Data: batches are the rows of a dataset, bands are its groups."""

    def __init__(self, address: str = "") -> None:
        try:
            import ray
            import ray.data
        except ImportError:
            raise WorkbookError(
                "engine is ray, and Ray is not installed; pip install -e '.[ray]', or leave engine"
                " at local"
            ) from None
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.default_hash_shuffle_parallelism = PARTITIONS
        if not ray.is_initialized():
            options = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
            try:
                ray.init(address or None, **({"logging_level": "error"} if address else options))
            except Exception as error:  # it raises bare ones
                where = f"Ray at {address}" if address else "Ray on this machine"
                raise WorkbookError(f"{where} did not start: {str(error)[:200]}") from None

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """As batch maps over a dataset of pickled batches."""
        rows = [{"place": k, "data": pickle.dumps(item)} for k, item in enumerate(items)]
        if not rows:
            return

        def work(batch: dict[str, Any]) -> dict[str, Any]:
            results = [pickle.dumps(function(pickle.loads(data))) for data in batch["data"]]
            return {"place": batch["place"], "data": results}

        results = _dataset(rows).map_batches(work, batch_size=1).take_all()
        for row in sorted(results, key=lambda row: row["place"]):
            yield pickle.loads(row["data"])

    def bands(self, signing: Signing, texts: Sequence[str], work: Buckets) -> Iterator[Band]:
        """Signed batch by batch, grouped by band."""

        def sign(batch: dict[str, Any]) -> dict[str, Any]:
            places, bands, data = [], [], []
            for place, pickled in zip(batch["place"], batch["data"], strict=True):
                for band, column in enumerate(signing(pickle.loads(pickled))):
                    places.append(place)
                    bands.append(band)
                    data.append(column)
            return {"place": places, "band": bands, "data": data}

        def join(group: dict[str, Any]) -> dict[str, Any]:
            order = sorted(range(len(group["place"])), key=lambda k: group["place"][k])
            keys = b"".join(group["data"][k] for k in order)
            band = int(group["band"][0])
            return {"band": [band], "data": [work(band, keys)]}

        batches = batched(texts, TEXTS)
        rows = [{"place": k, "data": pickle.dumps(texts)} for k, texts in enumerate(batches)]
        if rows:
            signed = _dataset(rows).map_batches(sign, batch_size=1)
            for row in signed.groupby("band").map_groups(join).iter_rows():
                yield row["band"], row["data"]

    def search(self, texts: Iterable[str]) -> Callable[[str], Findings]:
        """By batch maps; the next step waits for them."""
        batches = list(batched(list(dict.fromkeys(texts)), TEXTS))
        found: dict[str, Findings] = {}
        for batch, findings in zip(batches, self.map(curate.search_texts, batches), strict=True):
            found.update(zip(batch, findings, strict=True))
        return lambda text: found[text] if text in found else curate.search_text(text)

    def share(self, value: Any) -> Callable[[], Any]:
        """By the object store."""
        import ray

        reference = ray.put(value)
        return lambda: ray.get(reference)


def _dataset(rows: list[dict[str, Any]]) -> Any:
    import ray

    return ray.data.from_items(rows, override_num_blocks=min(len(rows), 200))


def engine_of(name: str, address: str = "") -> Engine:
    """The engine that 02's parameters name."""
    return Ray(address) if name == "ray" else Local()


def batched(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """The items, `size` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def like_pairs(
    engine: Engine, texts: Sequence[str], protected: Sequence[bool], near: float, across: float
) -> tuple[list[Pair], list[Pair]]:
    """(i, j, Jaccard) of distinct texts: all from `near` on; from `across` on, j protected.

    What `curate.pairs_in_memory` gives, in another order and without the pairs (i, i).
    """
    import numpy as np

    lengths = tuple(map(curate.rows_of_band, (near, across)))
    bands = curate.PERMUTATIONS // lengths[0]
    work = Buckets(bands, np.array(protected, dtype=np.bool_).tobytes())
    codes = [np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)]
    for band, pairs in engine.bands(Signing(lengths), texts, work):
        i, j = np.frombuffer(pairs, dtype=np.int64).reshape(-1, 2).T
        kind = int(band >= bands)
        codes[kind] = np.union1d(codes[kind], i * len(texts) + j)
    shared = engine.share(texts)
    confirmed: list[list[Pair]] = []
    for candidates, threshold in zip(codes, (near, across), strict=True):
        places = np.stack(np.divmod(candidates, len(texts) or 1), axis=1)
        batches = (some.tobytes() for some in batched(places, PAIRS))
        results = engine.map(Confirming(shared, threshold), batches)
        confirmed.append([pair for some in results for pair in some])
    one_way, across_pairs = confirmed
    return one_way + [(j, i, score) for i, j, score in one_way], across_pairs
