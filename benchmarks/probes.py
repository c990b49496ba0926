"""What timing rows alone costs a run: `python -m benchmarks.probes [RUN_FOLDER] [--json]`.

Without a folder it looks at the newest run that has an evaluation.

A row asked alone counts as an answer, so it costs what it takes beyond a row among others; one that
was timed again, after its answer, costs all of it. Both are read from the answers' cache: a block
of lines is a batch, which took as long as its last answer. Divided by the time of the notebook, by
the run's own record: 01 for what decision.json asked, 04 for what evaluation.json asked besides.
Imports, loading and the warm-up of two tokens are the notebook's.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

from helpers import store
from helpers.records import Asking

RECORDS = {"01_decide": "decision.json", "04_evaluate": "evaluation.json"}


def beyond(run: Path) -> dict[str, list[float]]:
    """Seconds of each row asked alone beyond one among others, by the way it was asked."""
    found: dict[str, list[float]] = {}
    for path in sorted((run.parents[1] / "cache" / "answers").glob("*.jsonl")):
        found |= _beyond(path.read_text(encoding="utf-8").split("\n\n"))
    return found


def _beyond(blocks: list[str]) -> dict[str, list[float]]:
    alone: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    shares: dict[str, list[float]] = defaultdict(list)  # seconds of a row among others
    known: set[str] = set()
    way = ""
    for block in blocks:
        rows = [json.loads(line) for line in block.splitlines() if line]
        milliseconds = [row["answer"]["latency_ms"] for row in rows]
        if rows and "alone" in rows[0]:
            way = rows[0].get("way", "")
            alone[way].append((milliseconds[0] / 1000, rows[0]["key"] in known))
        else:
            shares[way] += [max(milliseconds, default=0.0) / 1000 / len(rows)] * len(rows)
        known |= {row["key"] for row in rows}
    return {
        way: [
            seconds - (0.0 if is_known or not shares[way] else fmean(shares[way]))
            for seconds, is_known in times
        ]
        for way, times in alone.items()
    }


def share(run: Path) -> dict[str, Any]:
    """Percent of the time of 01 and of 04."""
    costs = beyond(run)
    record = store.read_json(run / "run.json")
    took = {each["name"]: each["seconds"] for each in record["notebooks"]}
    shares = {}
    for notebook, name in RECORDS.items():
        rungs = store.read_json(run / name)["rungs"] if (run / name).exists() else []
        times: list[float] = []
        for rung in rungs:
            asking = Asking(**rung["asking"])
            times += costs.pop(store.fingerprint([run.name, store.fingerprint(asking)]), [])
        if times and took.get(notebook):
            entry = {"kind": "size", "value": 100 * sum(times) / took[notebook], "n": len(times)}
            entry |= {"low": None, "high": None, "unit": "% of its time", "better": "lower"}
            shares[f"probes_{notebook[:2]}"] = entry
    return shares


def main() -> None:
    """Print the shares, and with --json one object on the last line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    runs = sorted(
        store.home().glob("runs/*/evaluation.json"), key=lambda path: path.stat().st_mtime
    )
    parser.add_argument("run", type=Path, nargs="?", default=runs[-1].parent if runs else None)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    shares = share(args.run.resolve()) if args.run else {}
    for name, entry in shares.items():
        print(f"{name}: {entry['value']:.1f} {entry['unit']}, {entry['n']} rows asked alone")
    if args.json:
        print(json.dumps(shares))


if __name__ == "__main__":
    main()
