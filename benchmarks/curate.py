"""Curation measured: `python -m benchmarks.curate [--json] [--quick] [--rows N] [--only pii,…]`.

Sections: pipeline (all rows through all stages), growth, production (a big log by score and date),
pii, contamination, near_duplicates, restaurant8k. The data sets lie outside the project (`--data`,
or WORKBOOK_DATA); a section whose data is missing is left out and said. Time-critical sections run
in a child process whose memory is summed over its tree.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from helpers import store

SLOTS = ("people", "date", "time", "first_name", "last_name")
TASK = """
name: booking
instructions: {full: "Reply with the slots as JSON.", short: "Slots as JSON."}
output: {schema: {type: object, additionalProperties: {type: string}}}
targets: {accuracy: 0.8}
"""
RATIOS = {"train": 0.7, "validation": 0.1, "test": 0.2}
Entries = dict[str, dict[str, Any]]


def entry(
    kind: str,
    value: float,
    better: str,
    n: int,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
) -> dict:
    """One figure in the form that all benchmarks share; low and high are the value unless given."""
    bounds = {"low": value if low is None else low, "high": value if high is None else high}
    return {"kind": kind, "value": value, **bounds, "n": n, "unit": unit, "better": better}


def share(hits: int, n: int, better: str = "higher") -> dict[str, Any]:
    """A share with its 95% Wilson interval (E. B. Wilson 1927)."""
    z, p = 1.96, hits / n
    centre, half = p + z * z / (2 * n), z * ((p * (1 - p) + z * z / (4 * n)) / n) ** 0.5
    return entry(
        "rate",
        p,
        better,
        n,
        "",
        (centre - half) / (1 + z * z / n),
        (centre + half) / (1 + z * z / n),
    )


def rows_of(path: Path) -> list[dict[str, Any]]:
    """All rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# --- made-up rows ---------------------------------------------------------------------------------


def bookings(data: Path, n: int, seed: int = 7) -> Iterator[dict[str, Any]]:
    """n chat rows: two of restaurant8k's sentences each, their slots refilled.

    Every tenth is a near-copy (at most 5 are alike).
    """
    rng = random.Random(seed)
    source = [
        row for row in rows_of(data / "restaurant8k" / "train.jsonl") if len(row["text"]) >= 20
    ]
    values = {
        slot: sorted({r["slots"][slot] for r in source if slot in r["slots"]}) for slot in SLOTS
    }
    made, copies, base = 0, 0, ("", {})
    while made < n:
        if made % 50 < 45:  # of 50 rows 45 are new and 5 are copies of the last two
            text, slots = _refilled(rng, source, values)
            more, others = _refilled(rng, source, values)
            base, copies = (f"{text} {more}", slots | others), 0
            row = base
        else:
            copies += 1
            letters = list(base[0])
            at = rng.randrange(len(letters))
            letters[at] = rng.choice("qxz")
            row = ("".join(letters), base[1]) if copies < 4 else _refilled_pair(rng, source, values)
        answer = json.dumps(row[1], sort_keys=True)
        yield {
            "id": f"b{made}",
            "messages": [
                {"role": "user", "content": row[0]},
                {"role": "assistant", "content": answer},
            ],
        }
        made += 1


def _refilled_pair(rng: random.Random, source: list, values: dict) -> tuple[str, dict[str, str]]:
    (text, slots), (more, others) = _refilled(rng, source, values), _refilled(rng, source, values)
    return f"{text} {more}", slots | others


def _refilled(rng: random.Random, source: list, values: dict) -> tuple[str, dict[str, str]]:
    row = rng.choice(source)
    text, slots = row["text"], {}
    for slot, old in row["slots"].items():
        if slot in values and old in text:
            slots[slot] = rng.choice(values[slot])
            text = text.replace(old, slots[slot], 1)
    return text, slots


def logs(path: Path, n: int, seed: int = 7) -> None:
    """n rows of a production log: a third rated, half a year, 400 bytes a row.

    The path's ending says whether it is JSONL or Parquet.
    """
    rng = random.Random(seed)
    words = [
        "my",
        "order",
        "parcel",
        "hub",
        "camera",
        "plan",
        "invoice",
        "late",
        "broken",
        "again",
        "please",
        "help",
        "today",
    ]

    def rows() -> Iterator[dict[str, Any]]:
        for i in range(n):
            text = " ".join(rng.choices(words, k=18)) + f" case {i}"
            turns = [
                {"role": "user", "content": text},
                {"role": "assistant", "content": '{"people": "2"}'},
            ]
            day, second = divmod(i * 180 * 86_400 // n, 86_400)
            clock = f"{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}+00:00"
            at = f"2026-{5 + day // 30:02d}-{1 + day % 30:02d}T{clock}"
            score = rng.choice([1, 2, 3, 4, 5]) if rng.random() < 0.33 else None
            yield {
                "id": f"p{i}",
                "created_at": at,
                "feedback_score": score,
                "model_version": "v1",
                "messages": turns,
            }

    if path.suffix == ".jsonl":
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows())
        return
    import pyarrow as pa
    from pyarrow import parquet

    buffer, writer = [], None
    for row in rows():
        buffer.append(row)
        if len(buffer) == 50_000 or int(row["id"][1:]) == n - 1:
            table = pa.Table.from_pylist(buffer, schema=writer.schema if writer else None)
            writer = writer or parquet.ParquetWriter(path, table.schema)
            writer.write_table(table)
            buffer = []
    if writer:
        writer.close()


# --- measuring ------------------------------------------------------------------------------------


def watched(*command: str) -> tuple[float, float, dict[str, Any]]:
    """Run this module's child: (its seconds, its tree's highest PSS in GiB, what it printed)."""
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.curate", "--child", *command],
        stdout=subprocess.PIPE,
        text=True,
    )
    out, peak = output_and_peak(child)
    said = json.loads(out.splitlines()[-1])
    return said["seconds"], peak, said


def output_and_peak(child: subprocess.Popen[str]) -> tuple[str, float]:
    """What a process says until its end, and the most memory of it and its children: PSS, GiB."""
    peak, done = [0.0], threading.Event()

    def sample() -> None:
        # a look walks the page tables, and the measured process waits meanwhile
        while not done.wait(1.0):
            peak[0] = max(peak[0], sum(_pss(pid) for pid in _tree(child.pid)))

    watcher = threading.Thread(target=sample)
    watcher.start()
    out, _ = child.communicate()
    done.set()
    watcher.join()
    if child.returncode:
        raise SystemExit(f"the measured child failed with {child.returncode}")
    return out, peak[0]


def _tree(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        found = [int(text) for text in children.read_text().split()]
    except OSError:
        return [pid]
    return [pid, *(p for child in found for p in _tree(child))]


def _pss(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    found = re.search(r"^Pss:\s+(\d+)", text, re.M)
    return int(found[1]) / 2**20 if found else 0.0


def child(what: str, folder: str) -> None:
    """One measured call in a process of its own; prints {seconds, …} without Python's start."""
    from helpers import curate, tasks

    config = {"task": folder, "base_model": "tiny", "split_ratios": RATIOS, "wipeout_share": 1.0}
    begun = time.perf_counter()
    if what == "pipeline":
        curated = curate.curate(curate.DataCollectionConfig(**config, use_production=False))
        counts = {"kept": len(curated.examples), "rejected": len(curated.rejected)}
    else:
        settings = curate.DataCollectionConfig(
            **config, date_from="2026-07-01", date_to="2026-07-31"
        )
        logs, _ = curate.load_production(tasks.load_task(folder), settings)
        counts = {"kept": len(logs.examples), "dropped": sum(logs.dropped.values())}
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    processor = sum(times.ru_utime + times.ru_stime for times in used)
    print(json.dumps({"seconds": time.perf_counter() - begun, "processor": processor} | counts))


def _folder(place: Path, name: str) -> Path:
    folder = place / name
    folder.mkdir()
    (folder / "task.yaml").write_text(TASK)
    return folder


def pipeline(data: Path, rows: int) -> Entries:
    """All rows through all stages, the names' tier off."""
    with tempfile.TemporaryDirectory() as place:
        folder = _folder(Path(place), "booking")
        store.write_jsonl(folder / "human.jsonl", bookings(data, rows))
        seconds, peak, said = watched("pipeline", str(folder))
    size = f"{rows // 1000}k"
    return {
        f"rows_{size}_seconds": entry("seconds", seconds, "lower", rows, "s"),
        f"rows_{size}_processor_seconds": entry(
            "seconds", said["processor"], "lower", rows, "s"
        ),  # of all its processes
        f"rows_{size}_gib": entry("size", peak, "lower", rows, "GiB"),
        f"rows_{size}_kept": entry("count", said["kept"], "higher", rows, "rows"),
    }


def growth(data: Path, rows: int) -> Entries:
    """How much faster than n log n the time grows from a tenth of --rows to three times --rows."""
    import math

    few, many = max(1000, rows // 10), rows * 3
    first, last = (pipeline(data, n)[f"rows_{n // 1000}k_seconds"]["value"] for n in (few, many))
    ratio = (last / first) / (many * math.log(many) / (few * math.log(few)))
    return {"curate_growth_over_n_log_n": entry("ratio", ratio, "lower", many)}


def production(data: Path, rows: int) -> Entries:
    """A log ten times --rows, taken by score and by a month's dates."""
    found: Entries = {}
    for ending in ("parquet", "jsonl"):
        with tempfile.TemporaryDirectory() as place:
            folder = _folder(Path(place), "booking")
            logs(folder / f"production.{ending}", rows * 10)
            seconds, peak, said = watched("production", str(folder))
        assert said["kept"] + said["dropped"] == rows * 10
        found[f"production_{ending}_seconds"] = entry("seconds", seconds, "lower", rows * 10, "s")
        found[f"production_{ending}_peak_pss"] = entry("size", peak, "lower", rows * 10, "GiB")
    return found


DIRECT = {
    "PERSON",
    "STREET_ADDRESS",
    "CREDIT_CARD",
    "PHONE_NUMBER",
    "EMAIL_ADDRESS",
    "IBAN_CODE",
    "US_SSN",
    "IP_ADDRESS",
}
DIRECT |= {"US_DRIVER_LICENSE"}


def pii(data: Path, rows: int) -> Entries:
    """Does a document hold any direct personal data: the default tier, and the tier with names."""
    from helpers.extras import names
    from helpers.redaction import find_personal_data

    docs = rows_of(data / "pii_presidio_research" / "synth_dataset_v2.jsonl")[: rows // 50 or 20]
    truth = [any(s["entity_type"] in DIRECT for s in doc["spans"]) for doc in docs]
    found: Entries = {}
    patterns = [bool(find_personal_data(doc["full_text"])) for doc in docs]
    guesses = {"pii_default": patterns}
    with_names = names.find_names([doc["full_text"] for doc in docs])
    guesses["pii_ner"] = [a or bool(b) for a, b in zip(patterns, with_names, strict=True)]
    for name, guess in guesses.items():
        for half, rows_ in (
            ("", slice(None)),
            ("_odd", slice(1, None, 2)),
        ):  # kinds and threshold were chosen on the even ones
            hits = sum(g and t for g, t in zip(guess[rows_], truth[rows_], strict=True))
            found[f"{name}_recall{half}"] = share(hits, sum(truth[rows_]))
            found[f"{name}_precision{half}"] = share(hits, max(1, sum(guess[rows_])))
    problems = [row["question"] for row in rows_of(data / "contamination" / "gsm8k_test.jsonl")]
    flagged = sum(bool(find_personal_data(text)) for text in problems)
    found["pii_default_gsm8k_flagged"] = entry("count", flagged, "lower", len(problems), "problems")
    return found


def contamination(data: Path, rows: int) -> Entries:
    """Rephrased GSM8K test questions found by meaning, and test questions taken for one another.

    The even rows chose the thresholds, the odd ones count.
    """
    from helpers.extras.doubts import rephrased

    tests = [row["question"] for row in rows_of(data / "contamination" / "gsm8k_test.jsonl")]
    copies = [
        row["text"].removeprefix("Question: ").split("\nAnswer:")[0]
        for row in rows_of(data / "contamination" / "gsm8k_rephrased.jsonl")
    ]
    found: Entries = {}
    for name, texts, better in (("recall", copies, "higher"), ("fp", tests, "lower")):
        flagged = {i for i, _, _ in rephrased(texts, tests)}
        for half, rows_ in (("", range(1, len(texts), 2)), ("_even", range(0, len(texts), 2))):
            found[f"contamination_{name}{half}"] = share(
                len(flagged & set(rows_)), len(rows_), better
            )
    return found | exact_copies(tests)


def exact_copies(tests: list[str]) -> Entries:
    """Every test question copied into train, in other case and spacing, must be found a leak."""
    from datetime import UTC, datetime

    from helpers.curate import deduplicate_examples
    from helpers.records import Message, TrainingExample
    from helpers.tasks import group_of

    def row(text: str, part: str) -> TrainingExample:
        turns = [Message(role="user", content=text), Message(role="assistant", content="4")]
        given = {
            "source": "human",
            "quality": "verified",
            "created_at": datetime(2026, 1, 1, tzinfo=UTC),
            "group": group_of(text),
        }
        return TrainingExample(id=f"{part}:{text[:300]}", messages=turns, part=part, **given)

    copies = [row(f"  {text.upper()} ", "train") for text in tests]
    stage = deduplicate_examples([*(row(t, "test") for t in tests), *copies], lambda e: None)
    left = sum(e.part == "train" for e in stage.kept)
    return {"contamination_exact_copies_found": share(len(tests) - left, len(tests))}


def _restaurant(data: Path) -> tuple[list[str], list[str]]:
    from helpers.tasks import normalise

    return tuple(
        [normalise(r["text"]) for r in rows_of(data / "restaurant8k" / f"{p}.jsonl")]
        for p in ("train", "test")
    )


def near_duplicates(data: Path, rows: int) -> Entries:
    """Pairs at Jaccard >= .8 against all pairs by a sparse matrix product, on restaurant8k."""
    import numpy as np
    from scipy.sparse import csr_array

    from helpers.curate import incidence_of, pairs_here

    train, test = _restaurant(data)
    texts = list(dict.fromkeys((train + test)[:rows] if rows < 50_000 else train + test))
    near, _ = pairs_here(texts, [False] * len(texts), 0.8, 1.0)
    found = {(i, j) for i, j, _ in near if i < j}
    matrix = incidence_of(texts)
    known, columns = np.unique(
        matrix.indices, return_inverse=True
    )  # a matrix product wants columns that are counted
    matrix = csr_array((matrix.data, columns, matrix.indptr), shape=(len(texts), len(known)))
    sizes = np.diff(matrix.indptr)
    truth = set()
    for start in range(0, len(texts), 1000):
        shared = (matrix[start : start + 1000] @ matrix.T).tocoo()
        i, j = shared.coords[0] + start, shared.coords[1]
        alike = (shared.data / (sizes[i] + sizes[j] - shared.data) >= 0.8) & (i < j)
        truth |= set(zip(i[alike].tolist(), j[alike].tolist(), strict=True))
    both = len(found & truth)
    return {
        "near_duplicate_recall": share(both, len(truth)),
        "near_duplicate_precision": share(both, max(1, len(found))),
    }


def restaurant8k(data: Path, rows: int) -> Entries:
    """Published test rows that stand in train, by rule."""
    from helpers.curate import pairs_here

    raw = [
        [r["text"] for r in rows_of(data / "restaurant8k" / f"{part}.jsonl")]
        for part in ("train", "test")
    ]
    train, test = _restaurant(data)
    low = [{text.lower() for text in raw[0]}, set(train)]
    counts = {
        "lower_case": sum(t.lower() in low[0] for t in raw[1]),
        "normalised": sum(t in low[1] for t in test),
    }
    marks = [False] * len(test) + [True] * len(train)
    for threshold in (0.8, 0.6):
        _, across = pairs_here([*test, *train], marks, 1.0, threshold)
        hit = {i for i, _, _ in across if i < len(test)}
        counts[f"jaccard_{int(threshold * 10)}"] = len(hit)
    return {
        f"restaurant8k_test_in_train_{rule}": entry("count", n, "higher", len(test), "rows")
        for rule, n in counts.items()
    }


SECTIONS: dict[str, tuple[Callable[[Path, int], Entries], str]] = {
    "pipeline": (pipeline, "restaurant8k"),
    "growth": (growth, "restaurant8k"),
    "production": (production, ""),
    "pii": (pii, "pii_presidio_research"),
    "contamination": (contamination, "contamination"),
    "near_duplicates": (near_duplicates, "restaurant8k"),
    "restaurant8k": (restaurant8k, "restaurant8k"),
}


def main() -> None:
    """Measure the chosen sections; the last line of --json is one object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--quick", action="store_true", help="2,000 rows: does it run?")
    parser.add_argument("--only", default=",".join(SECTIONS))
    beside = next(
        (p / "shared" / "data" for p in store.PROJECT.parents if (p / "shared" / "data").is_dir()),
        Path("data"),
    )
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("WORKBOOK_DATA", beside)))
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(*args.child)
        return
    rows = 2_000 if args.quick else args.rows
    found: Entries = {}
    for name in args.only.split(","):
        measure, needs = SECTIONS[name]
        if not (args.data / needs).is_dir():
            print(f"{name}: left out, {args.data / needs} is missing", file=sys.stderr)
            continue
        found |= (new := measure(args.data, rows))
        for key, value in new.items():
            print(
                f"{key:45} {value['value']:>10.4g} {value['unit']:5} n={value['n']}",
                file=sys.stderr,
                flush=True,
            )
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
