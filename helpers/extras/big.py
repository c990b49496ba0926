"""Curation of more rows than one process holds well: in batches, on this machine or on Ray.

The row functions are those of helpers.curate. Near-duplicates are proposed by MinHash bands, each
band on its own (its keys are sorted, equal keys are a bucket), and decided by the exact Jaccard
index, so that the pairs, and with them the dataset's fingerprint, are the same on every engine.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cached_property, partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from helpers import curate, store
from helpers.records import WorkbookError

if TYPE_CHECKING:
    from helpers.curate import Findings, Pair

PARTITIONS = 16  # of a shuffle by band
TEXTS = 5_000  # of a batch that is hashed or searched at a time
PAIRS = 20_000  # of a batch that is compared at a time
WAITING = 2_000_000  # candidates that are held before they are compared
PROCESSES = 2  # of this machine
WINDOW = 8  # batches that wait for them at a time
SEED = 7  # of the MinHashes, as in helpers.curate
_BASE = 0x9E3779B97F4A7C15  # 2**64 by the golden ratio
Codes = Any  # candidates as int64: i * texts + j, and texts**2 more where j is protected


def sign(lengths: Sequence[int], texts: Sequence[str]) -> list[bytes]:
    """For each length of band, a column of 64-bit keys a band: who shares one is a candidate."""
    import numpy as np
    from rensa import RMinHash

    sets = [curate.shingles(text) for text in texts]
    minhashes = RMinHash.from_token_sets(sets, curate.PERMUTATIONS, SEED)
    matrix = np.array([minhash.digest() for minhash in minhashes], dtype=np.uint64)
    columns = []
    for length in lengths:
        powers = np.array([pow(_BASE, k + 1, 2**64) for k in range(length)], dtype=np.uint64)
        for start in range(0, curate.PERMUTATIONS, length):
            columns.append((matrix[:, start : start + length] * powers).sum(axis=1).tobytes())
    return columns


class Buckets(NamedTuple):
    """Which pairs share a band's key: of the first `near` bands all, else those with a mark."""

    near: int
    marks: bytes  # a byte for each text: whether it is protected

    def __call__(self, band: int, keys: bytes) -> Iterator[Codes]:
        """Pairs (i, j), i < j or j protected, in pieces of no more pairs than there are texts."""
        import numpy as np

        texts = len(self.marks)
        is_protected = np.frombuffer(self.marks, dtype=np.bool_)
        keys_of = np.frombuffer(keys, dtype=np.uint64)
        order = np.argsort(keys_of, kind="stable")  # so that i < j in every bucket
        ordered = keys_of[order]
        ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)) + 1
        starts = np.concatenate(([0], ends[:-1]))
        sizes = ends - starts
        for apart in range(1, int(sizes.max(initial=0))):
            starts, sizes = starts[sizes > apart], sizes[sizes > apart]
            counts = sizes - apart
            skipped = starts - np.cumsum(counts) + counts
            first = np.repeat(skipped, counts) + np.arange(counts.sum())
            i, j = order[first], order[first + apart]
            if band < self.near:
                yield i * texts + j
                continue
            for one, other in ((i, j), (j, i)):
                yield ((texts + one) * texts + other)[is_protected[other]]


def distinct(pieces: Iterable[Codes]) -> Iterator[Codes]:
    """The candidates, sorted, each once in about WAITING: there may be too many to hold."""
    import numpy as np

    waiting, held = [], 0
    for piece in chain(pieces, [None]):
        if piece is not None:
            waiting.append(piece)
            held += len(piece)
        if held and (piece is None or held >= WAITING):
            yield np.unique(np.concatenate(waiting))
            waiting, held = [], 0


def confirm(
    thresholds: Sequence[float], batch: tuple[int, Any, list[str]]
) -> tuple[int, list[Pair]]:
    """Those candidates (pairs of texts' places, the texts in order) that reach their threshold."""
    import numpy as np

    kind, places, texts = batch
    used, local = np.unique(places, return_inverse=True)
    incidence = curate.incidence_of(texts)
    i, j = local.reshape(-1, 2).T
    pairs = curate.confirmed(incidence, incidence, i, j, thresholds[kind])
    return kind, [(int(used[a]), int(used[b]), score) for a, b, score in pairs]


def _end_with_parent() -> None:
    """End this process when the one that started it has ended, however it did."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


class Local:
    """Two processes of this machine, a few batches at a time; what can wait lies on disk."""

    @cached_property
    def _pool(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")  # a fork would copy other threads' locks
        return ProcessPoolExecutor(PROCESSES, context, _end_with_parent)

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """The results in the order of the items."""
        rest = iter(items)
        while window := list(islice(rest, WINDOW)):
            yield from (map if len(window) == 1 else self._pool.map)(function, window)

    def bands(self, lengths: Sequence[int], texts: Sequence[str], work: Buckets) -> Iterator[Codes]:
        """What `work` makes of each band's keys of all texts: here by one file for each band."""
        files: list[BinaryIO] = []
        for columns in self.map(partial(sign, lengths), batched(texts, TEXTS)):
            files = files or [store.nameless_file() for _ in columns]
            for file, column in zip(files, columns, strict=True):
                file.write(column)
        for band, file in enumerate(files):
            file.seek(0)
            yield from work(band, file.read())
            file.close()

    def search(self, texts: Iterable[str]) -> Callable[[str], Findings]:
        """What any of the texts holds, known by the texts' hashes: there may be millions."""
        found: dict[int, Findings] = {}
        rest = iter(texts)
        while window := list(islice(rest, WINDOW * TEXTS)):
            distinct = [text for text in dict.fromkeys(window) if hash(text) not in found]
            findings = self.map(curate.search_texts, batched(distinct, TEXTS))
            for batch, some in zip(batched(distinct, TEXTS), findings, strict=True):
                for text, finding in zip(batch, some, strict=True):
                    found[hash(text)] = finding if any(finding) else curate.NOTHING

        def findings_of(text: str) -> Findings:
            known = found.get(hash(text))
            return curate.search_text(text) if known is None else known

        return findings_of


class Ray(Local):
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
        here = {} if address else {"include_dashboard": False, "log_to_driver": False}
        try:
            ray.init(address or None, ignore_reinit_error=True, logging_level="error", **here)
        except Exception as error:  # it raises bare ones
            where = f"Ray at {address}" if address else "Ray on this machine"
            raise WorkbookError(f"{where} did not start: {str(error)[:200]}") from None

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """As batch maps over a dataset of pickled batches."""

        def work(batch: dict[str, Any]) -> dict[str, Any]:
            results = [pickle.dumps(function(pickle.loads(data))) for data in batch["data"]]
            return {"place": batch["place"], "data": results}

        dataset = _dataset(items)
        results = dataset.map_batches(work, batch_size=1).take_all() if dataset else []
        for row in sorted(results, key=lambda row: row["place"]):
            yield pickle.loads(row["data"])

    def bands(self, lengths: Sequence[int], texts: Sequence[str], work: Buckets) -> Iterator[Codes]:
        """Signed batch by batch, grouped by band."""
        import numpy as np

        def signed(batch: dict[str, Any]) -> dict[str, Any]:
            columns = sign(lengths, pickle.loads(batch["data"][0]))
            places = [batch["place"][0]] * len(columns)
            return {"place": places, "band": list(range(len(columns))), "data": columns}

        def worked(group: dict[str, Any]) -> dict[str, Any]:
            order = sorted(range(len(group["place"])), key=lambda k: group["place"][k])
            keys = b"".join(group["data"][k] for k in order)
            return {"data": [codes.tobytes() for codes in work(int(group["band"][0]), keys)]}

        dataset = _dataset(batched(texts, TEXTS))
        if dataset:
            groups = dataset.map_batches(signed, batch_size=1).groupby("band")
            for row in groups.map_groups(worked).iter_rows():
                yield np.frombuffer(row["data"], dtype=np.int64)


def _dataset(items: Iterable[Any]) -> Any:
    """A row for each item, in places of their own; None where there is none."""
    import ray

    rows = [{"place": place, "data": pickle.dumps(item)} for place, item in enumerate(items)]
    return ray.data.from_items(rows, override_num_blocks=min(len(rows), 200)) if rows else None


def engine_of(name: str, address: str = "") -> Local:
    """The engine that 02's parameters name."""
    return Ray(address) if name == "ray" else Local()


def batched(items: Sequence[Any], size: int) -> Iterator[Any]:
    """The items, `size` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def like_pairs(
    engine: Local, texts: Sequence[str], protected: Sequence[bool], near: float, across: float
) -> tuple[list[Pair], list[Pair]]:
    """(i, j, Jaccard) of distinct texts: all from `near` on; from `across` on, j protected.

    What `curate.pairs_in_memory` gives, in another order and without the pairs (i, i).
    """
    import numpy as np

    lengths = [curate.rows_of_band(threshold) for threshold in (near, across)]
    marks = np.array(protected, dtype=np.bool_).tobytes()
    work = Buckets(curate.PERMUTATIONS // lengths[0], marks)

    def batches() -> Iterator[tuple[int, Any, list[str]]]:
        for codes in distinct(engine.bands(lengths, texts, work)):
            kinds = np.split(codes, [np.searchsorted(codes, len(texts) ** 2)])
            for kind, of_kind in enumerate(kinds):
                for some in batched(of_kind, PAIRS):
                    i, j = np.divmod(some, len(texts))
                    places = np.stack([i % len(texts), j], axis=1)
                    yield kind, places, [texts[k] for k in np.unique(places)]

    found: list[dict[tuple[int, int], float]] = [{}, {}]  # a pair may be a candidate again
    for kind, pairs in engine.map(partial(confirm, (near, across)), batches()):
        found[kind].update(((i, j), score) for i, j, score in pairs)
    one_way, across_pairs = ([(*pair, score) for pair, score in each.items()] for each in found)
    return one_way + [(j, i, score) for i, j, score in one_way], across_pairs
