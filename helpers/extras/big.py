"""Pairs of texts that are alike, and the engines of curation: this machine's processes, or Ray.

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
from itertools import chain, islice, pairwise
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING, Any, NamedTuple

from helpers import curate, store
from helpers.records import WorkbookError

if TYPE_CHECKING:
    from helpers.curate import Findings, Pair

TEXTS = 5_000  # of a batch that is hashed or searched at a time
PAIRS = 20_000  # of a batch that is compared at a time
IN_MEMORY = 2**20  # bytes of a column that are not worth a file
WAITING = 2_000_000  # candidates that are held before they are compared, and pairs of a span
PROCESSES = 2  # of this machine
WINDOW = 8  # batches that wait for them at a time
RAY_WINDOW = 4  # and for Ray's workers
RAY_STORE = 400 * 2**20  # bytes of this machine's memory for what is on its way to them
BITS = -1  # the kind of the column that is no band
Column = tuple[int, bytes]  # of all texts: the number of the threshold whose band it is, its keys
# of a band: its kind; the texts that share a key, key by key; how many of the same key follow each;
# how far apart the pairs lie that are to be looked at
Span = tuple[int, Any, Any, range]
Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
Codes = Any  # candidates as int64: i * texts + j, and texts**2 more for the second threshold


def sign(thresholds: Sequence[float], texts: Sequence[str]) -> list[Column]:
    """The low bits of the texts' MinHashes, and for each threshold its bands' keys."""
    minhashes = curate.minhashes_of(texts)
    columns = [(BITS, curate.low_bits(minhashes).tobytes())]
    for kind, threshold in enumerate(thresholds):
        columns += [(kind, keys.tobytes()) for keys in curate.band_keys(minhashes, threshold).T]
    return columns


class Buckets(NamedTuple):
    """Which pairs share a band's key and may be alike, as their low bits have it."""

    thresholds: Sequence[float]
    bits: bytes  # 32 of each text
    marks: bytes  # one of each text: whether it is protected

    def __call__(self, span: Span) -> Codes:
        """Of the first threshold's band pairs (i, j), i < j; of the second's those with a mark."""
        import numpy as np

        kind, order, following, aparts = span
        texts = len(self.marks)
        bits = np.frombuffer(self.bits, dtype=np.uint64).reshape(texts, -1)
        is_protected = np.frombuffer(self.marks, dtype=np.bool_)
        codes = [np.zeros(0, dtype=np.int64)]
        first = np.flatnonzero(following)
        for apart in aparts:
            first = first[following[first] >= apart]
            i, j = order[first], order[first + apart]
            possible = curate.may_reach(bits[i], bits[j], self.thresholds[kind])
            i, j = i[possible], j[possible]
            if kind == 0:
                codes.append(i * texts + j)
                continue
            for one, other in ((i, j), (j, i)):
                codes.append(((texts + one) * texts + other)[is_protected[other]])
        return np.concatenate(codes)


def spans(bands: Iterable[Column]) -> Iterator[Span]:
    """Each band in spans of about WAITING pairs: many texts alike have too many to hold.

    No more than that and one pair a text.
    """
    import numpy as np

    for kind, column in bands:
        keys = np.frombuffer(column, dtype=np.uint64)
        order = np.argsort(keys, kind="stable")  # so that i < j
        lasts = np.flatnonzero(np.append(np.diff(keys[order]) != 0, True))  # of each key
        sizes = np.diff(lasts, prepend=-1)
        following = np.repeat(lasts, sizes) - np.arange(len(keys))
        is_shared = np.repeat(sizes > 1, sizes)
        pairs = np.cumsum(np.bincount(following)[::-1])[::-1][1:]  # that lie 1, 2, … apart
        starts = 1 + np.flatnonzero(np.diff(np.cumsum(pairs) // WAITING, prepend=-1))
        for start, end in pairwise([*starts.tolist(), len(pairs) + 1]):
            yield kind, order[is_shared], following[is_shared], range(start, end)


def distinct(pieces: Iterable[Codes]) -> Iterator[Codes]:
    """The candidates, sorted, each once as far as some times WAITING are remembered.

    Those beyond are there once in about WAITING: there may be too many to hold.
    """
    import numpy as np

    known = np.array([np.iinfo(np.int64).max])
    waiting, held = [], 0
    for piece in chain(pieces, [None]):
        if piece is not None:
            waiting.append(piece)
            held += len(piece)
        if held and (piece is None or held >= WAITING):
            codes = np.sort(np.concatenate(waiting))
            waiting, held = [], 0
            is_first = np.diff(codes, prepend=-1) > 0
            codes = codes[is_first & (known[np.searchsorted(known, codes)] != codes)]
            if len(known) < 3 * WAITING:
                known = np.insert(known, np.searchsorted(known, codes), codes)
            yield codes


def confirm(
    thresholds: Sequence[float], batch: tuple[int, Any, list[str]]
) -> tuple[int, list[Pair]]:
    """Those candidates (pairs of texts' places, the texts in order) that reach their threshold."""
    import numpy as np

    kind, places, texts = batch
    used, local = np.unique(places, return_inverse=True)
    incidence = curate.incidence_of(texts)
    i, j = local.reshape(-1, 2).T
    found = curate.confirmed(incidence, incidence, i, j, thresholds[kind])
    return kind, [(int(used[first]), int(used[second]), score) for first, second, score in found]


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

    def close(self) -> None:
        """End the processes: what they hold is wanted for what follows."""
        self._pool.shutdown()
        del self._pool

    def search(self, texts: Iterable[str]) -> Callable[[str], Findings]:
        """What any of the texts holds, known by their digests: there may be millions."""
        found: dict[bytes, Findings] = {}
        rest = iter(texts)
        while window := list(islice(rest, WINDOW * TEXTS)):
            text_of = {curate.digest(text): text for text in window}
            new = [key for key in text_of if key not in found]
            batches = batched([text_of[key] for key in new], TEXTS)
            findings = chain.from_iterable(self.map(curate.search_texts, batches))
            found.update(zip(new, findings, strict=True))

        def findings_of(text: str) -> Findings:
            known = found.get(curate.digest(text))
            return curate.search_text(text) if known is None else known

        return findings_of


class Ray(Local):
    """Ray Data: batches, and bands, are the rows of its datasets."""

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
        self.is_ours = not address and not ray.is_initialized()
        ours = {"include_dashboard": False, "log_to_driver": False}
        options = {} if address else ours | {"object_store_memory": RAY_STORE}
        try:
            ray.init(address or None, ignore_reinit_error=True, logging_level="error", **options)
        except Exception as error:  # it raises bare ones
            where = f"Ray at {address}" if address else "Ray on this machine"
            raise WorkbookError(f"{where} did not start: {str(error)[:200]}") from None

    def close(self) -> None:
        """End what was started here; a cluster goes on."""
        import ray

        if self.is_ours:
            ray.shutdown()

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """As batch maps over datasets of pickled items, a few at a time."""
        import ray

        shared = ray.put(pickle.dumps(function))

        def work(batch: dict[str, Any]) -> dict[str, Any]:
            function = pickle.loads(ray.get(shared))
            results = [pickle.dumps(function(pickle.loads(data))) for data in batch["data"]]
            return {"place": batch["place"], "data": results}

        rest = iter(items)
        while window := list(islice(rest, RAY_WINDOW)):
            rows = [{"place": k, "data": pickle.dumps(item)} for k, item in enumerate(window)]
            dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
            results = dataset.map_batches(work, batch_size=1).take_all()
            for row in sorted(results, key=lambda row: row["place"]):
                yield pickle.loads(row["data"])


def engine_of(name: str, address: str = "") -> Local:
    """The engine that 02's parameters name."""
    return Ray(address) if name == "ray" else Local()


def batched(items: Sequence[Any], size: int) -> Iterator[Any]:
    """The items, `size` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _columns(parts: Iterable[list[Column]]) -> Iterator[Column]:
    """The columns of all texts, put together on disk from those of some."""
    files: list[SpooledTemporaryFile[bytes]] = []
    folder = store.make_folder(store.home() / "cache")
    kinds: list[int] = []
    for columns in parts:
        kinds = [kind for kind, _ in columns]
        for _ in columns if not files else ():
            files.append(SpooledTemporaryFile(IN_MEMORY, dir=folder))  # noqa: SIM115 (closed below)
        for file, (_, column) in zip(files, columns, strict=True):
            file.write(column)
    for kind, file in zip(kinds, files, strict=True):
        file.seek(0)
        yield kind, file.read()
        file.close()


def like_pairs(
    run: Map, texts: Sequence[str], protected: Sequence[bool], near: float, across: float
) -> tuple[list[Pair], list[Pair]]:
    """(i, j, Jaccard) of distinct texts: all from `near` on; from `across` on, j protected.

    `run` maps a function over batches, in order; what cannot be held meanwhile lies on disk.
    """
    import numpy as np

    thresholds = (near, across)
    columns = _columns(run(partial(sign, thresholds), batched(texts, TEXTS)))
    _, bits = next(columns, (BITS, b""))
    marks = np.array(protected, dtype=np.bool_).tobytes()
    work = Buckets(thresholds, bits, marks)

    def batches() -> Iterator[tuple[int, Any, list[str]]]:
        for codes in distinct(run(work, spans(columns))):
            kinds = np.split(codes, [np.searchsorted(codes, len(texts) ** 2)])
            for kind, of_kind in enumerate(kinds):
                for some in batched(of_kind, PAIRS):
                    i, j = np.divmod(some, len(texts))
                    places = np.stack([i % len(texts), j], axis=1)
                    yield kind, places, [texts[k] for k in np.unique(places)]

    found: tuple[set[Pair], set[Pair]] = set(), set()  # a pair may be a candidate again
    for kind, pairs in run(partial(confirm, thresholds), batches()):
        found[kind].update(pairs)
    other_way = [(j, i, score) for i, j, score in found[0]]
    return [*found[0], *other_way], [*found[1]]
