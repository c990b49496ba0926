"""What growth costs: an endpoint asked at rate, a million rows curated, a log of a hundred million.

`python -m benchmarks.grow [rate|curate|log] … [--rows N] [--engines local,ray] [--json]`; without a
name, the rate. The log of 100 million rows takes 4 GB of the temporary folder and minutes to write.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import accumulate, product
from pathlib import Path

from benchmarks.curate import output_and_peak

LATENCY = float(
    os.environ.get("GROW_LATENCY", 0.05)
)  # seconds that the endpoint takes for each answer
REPLY = {
    "id": "x",
    "object": "chat.completion",
    "created": 1,
    "model": "toy",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": '{"team": "billing"}'},
        }
    ],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
}
TASK = """name: rate
instructions: {full: "Say which team it is.", short: "Which team?"}
output:
  schema:
    type: object
    properties: {team: {enum: [billing, shipping]}}
    required: [team]
scored_fields: [team]
targets: {accuracy: 0.8}
"""


class Endpoint(asyncio.Protocol):
    """Answers every request after LATENCY with the same bytes; as little work as can be."""

    body = json.dumps(REPLY).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    answer = head % len(body) + body

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        self.transport = transport
        self.waiting = b""

    def data_received(self, data: bytes) -> None:
        """A part of a request; the answer follows the last one."""
        self.waiting += data
        head, end, rest = self.waiting.partition(b"\r\n\r\n")
        if not end:
            return
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        if len(rest) >= length:
            self.waiting = rest[length:]
            asyncio.get_running_loop().call_later(LATENCY, self.reply)

    def reply(self) -> None:
        """Answer the request that has waited long enough."""
        self.transport.write(self.answer)


def serve(queue: multiprocessing.Queue) -> None:
    """Serve on a free port of the loopback, for ever."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Endpoint, "127.0.0.1", 0, backlog=512)
        queue.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def peak_mib() -> float:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def rate(rows: int, at_once: int) -> dict[str, dict[str, object]]:
    """One rung at a loopback endpoint: requests/s as a share of at_once / LATENCY."""
    from helpers import evaluate, store, tasks
    from helpers.models import ApiModel
    from helpers.records import Asking, Budget, Message, TrainingExample

    queue: multiprocessing.Queue = multiprocessing.get_context("spawn").Queue()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(queue,), daemon=True)
    server.start()
    try:
        model = ApiModel("toy", f"http://127.0.0.1:{queue.get(timeout=60)}/v1")
        folder = store.home() / "rate"
        store.write_text(folder / "task.yaml", TASK)
        task = tasks.load_task(str(folder))
        gold = Message(role="assistant", content='{"team": "billing"}')
        examples = []
        for number in range(rows):
            text = f"Question {number}: where is my parcel, and who pays for what was broken?"
            messages = [Message(role="user", content=text), gold]
            examples.append(
                TrainingExample(
                    id=f"r{number}", messages=messages, source="human", quality="verified",
                    created_at=store.now(), group=f"g{number}", part="validation",
                )
            )  # fmt: skip
        run = store.open_run(f"rate{at_once}")
        session = evaluate.Session(
            task, run, Budget(run), latency_rows=0, at_once=at_once, say=lambda text: None
        )
        session.models[model.spec] = model
        began, cpu = time.monotonic(), time.process_time()
        result = evaluate.ask_rung(Asking().for_rung("prompt", model.spec), examples, session)
        seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    finally:
        server.terminate()
    assert result.n == rows and result.results.accuracy.value == 1.0
    possible = at_once / LATENCY
    share, more = rows / seconds / possible, {"n": rows}
    return {
        f"rate_share_{at_once}": figure("rate", share, "of concurrency/latency", "higher", more),
        f"rate_per_second_{at_once}": figure("rate", rows / seconds, "requests/s", "higher", more),
        "rate_cpu_ms": figure("seconds", 1000 * cpu / rows, "CPU ms a request", "lower", more),
        "rate_mib": figure("size", peak_mib(), "MiB", "lower", more),
    }


def curated(rows: int, engine: str) -> dict[str, dict[str, object]]:
    """One curation of made-up rows, in a process of its own."""
    from helpers import store

    folder = store.home() / f"curated{rows}"
    if not folder.exists():
        store.write_text(folder / "task.yaml", TASK)
        with open(folder / "human.jsonl", "w", encoding="utf-8") as file:
            for row in made_up(rows):
                file.write(json.dumps(row) + "\n")
    command = [sys.executable, "-c", CURATE, str(folder), engine]
    began = time.monotonic()
    out, gib = output_and_peak(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    seconds = time.monotonic() - began
    kept, processor, fingerprint = out.split()[-3:]
    sys.stderr.write(f"{engine}: {rows} rows, {kept} kept, fingerprint {fingerprint[:12]}\n")
    more, name = {"n": rows, "fingerprint": fingerprint}, f"curate_{rows}_{engine}"
    return {
        f"{name}_seconds": figure("seconds", seconds, "s", "lower", more),
        f"{name}_processor": figure("seconds", float(processor), "CPU s", "lower", more),
        f"{name}_gib": figure("size", gib, "GiB", "lower", more),
    }


CURATE = """
import gc, resource, sys
from helpers import curate
ratios = {"train": 0.8, "validation": 0.1, "test": 0.1}
config = curate.DataCollectionConfig(
    task=sys.argv[1], split_ratios=ratios, use_production=False, engine=sys.argv[2],
    wipeout_share=1.0,
)
dataset = curate.collect_training_data(config)
gc.collect()  # ends the processes that helped, so that their time is known
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
seconds = sum(times.ru_utime + times.ru_stime for times in used)
print(len(dataset.examples), round(seconds, 1), dataset.metadata.fingerprint)
"""


def made_up(rows: int) -> Iterator[dict[str, object]]:
    """Chat rows of 20 words, as frequent as words are (Zipf); one in ten is a near-copy."""
    chance = random.Random(7)
    parts = "bdfgklmprst", "aeiou", "lmnrst", "aeiou", ("lan", "mer", "st", "rin", "ko", "v")
    words = ["".join(letters) for letters in product(*parts)]  # 9,900
    chance.shuffle(words)
    frequencies = list(accumulate(1 / (rank + 2) for rank in range(len(words))))
    text = ""
    for number in range(rows):
        if number % 10 and text:
            text = " ".join(chance.choices(words, cum_weights=frequencies, k=20)) + f" {number}"
        else:
            text = f"{text[:-1]}x" if text else f"first of all {number}"
        answer = json.dumps({"team": "billing" if number % 2 else "shipping"})
        user, assistant = {"role": "user", "content": text}, {"role": "assistant"}
        yield {"id": f"g{number}", "messages": [user, assistant | {"content": answer}]}


def log_of_weeks(rows: int) -> dict[str, dict[str, object]]:
    """A year of logs as Parquet, a file a day; the rows of one week with a score of 4 or more."""
    from helpers import store, tasks

    folder = store.home() / "lake"
    store.write_text(folder / "task.yaml", TASK)
    began = time.monotonic()
    size = write_log(folder / "production", rows)
    sys.stderr.write(
        f"written: {rows} rows, {size / 1e9:.2f} GB, {time.monotonic() - began:.0f} s\n"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", SELECT, str(folder)], check=True, capture_output=True, text=True
    )
    seconds = time.monotonic() - began
    kept, low, out, mib = map(float, done.stdout.split())
    assert kept + low + out == rows and tasks.load_task(str(folder))
    sys.stderr.write(f"{kept:.0f} rows of one week with 4 or more, of {rows}\n")
    return {
        "log_week_seconds": figure("seconds", seconds, "s", "lower", {"n": rows, "bytes": size}),
        "log_week_gib": figure("size", mib / 1024, "GiB", "lower", {"n": rows}),
    }


SELECT = """
import resource, sys
from datetime import datetime, UTC
from pyarrow import parquet
from helpers import tasks
from helpers.extras import lake
first, last = datetime(2026, 6, 1, tzinfo=UTC), datetime(2026, 6, 7, 23, 59, 59, tzinfo=UTC)
selected = lake.select(tasks.load_task(sys.argv[1]), first, last, 4.0)
kept = parquet.ParquetFile(selected.path).metadata.num_rows
low, out = (selected.dropped[code] for code in ("low_feedback", "out_of_date_range"))
print(kept, low, out, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def write_log(folder: Path, rows: int, days: int = 365) -> int:
    """The log, day by day; its size in bytes. One row in ten is rated."""
    import numpy as np
    import pyarrow
    from pyarrow import parquet

    chance = np.random.default_rng(7)
    words = np.array([f"parcel {k} has not arrived and nobody answers " for k in range(5000)])
    answers = pyarrow.array(['{"team": "billing"}', '{"team": "shipping"}'])
    size = 0
    for day in range(days):
        n = rows // days + (day < rows % days)
        start = np.datetime64("2026-01-01") + day
        seconds = np.sort(chance.integers(0, 86_400_000_000, n)).astype("timedelta64[us]")
        scores = chance.integers(1, 6, n).astype(np.float32)
        number = pyarrow.array(chance.integers(0, 10**12, n)).cast(pyarrow.string())
        text = pyarrow.array(words).take(pyarrow.array(chance.integers(0, len(words), n)))
        table = pyarrow.table({
            "id": number,
            "created_at": pyarrow.array(start.astype("datetime64[us]") + seconds),
            "input": pyarrow.compute.binary_join_element_wise(text, number, ""),
            "output": answers.take(pyarrow.array(chance.integers(0, 2, n))),
            "model_version": pyarrow.array(["v7"]).take(pyarrow.array(np.zeros(n, np.int64))),
            "feedback_score": pyarrow.array(scores, mask=chance.random(n) > 0.1),
        })  # fmt: skip
        path = folder / f"date={start}" / "log.parquet"
        path.parent.mkdir(parents=True)
        parquet.write_table(table, path, row_group_size=100_000)
        size += path.stat().st_size
    return size


def figure(kind: str, value: float, unit: str, better: str, more: dict) -> dict[str, object]:
    """One entry of what --json prints."""
    return {"kind": kind, "value": round(value, 3), "unit": unit, "better": better, **more}


def main() -> None:
    """Measure what is named and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", default=["rate"])
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=25)
    parser.add_argument("--engines", default="local", help="of curate: local,ray")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    figures: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory(prefix="grow-") as folder:
        os.environ["WORKBOOK_HOME"] = str(Path(folder) / "home")
        if "rate" in args.what:
            figures |= rate(args.rows or 20_000, args.at_once)
        if "curate" in args.what:
            for engine in args.engines.split(","):
                figures |= curated(args.rows or 100_000, engine)
        if "log" in args.what:
            figures |= log_of_weeks(args.rows or 100_000_000)
    for name, entry in figures.items():
        sys.stderr.write(f"{name:28s} {entry['value']:>10} {entry['unit']}\n")
    if args.json:
        sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
