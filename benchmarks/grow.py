"""What growth costs: an endpoint asked at rate, a million rows curated, a log of a hundred million.

`python -m benchmarks.grow [rate|curate|log|plot] … [--rows N] [--engines local,ray] [--json]`;
without a name, the rate. `--gib 4` holds a curation and all its processes to so much memory;
`--home FOLDER` keeps the made-up rows and goes on with them; `--record` writes what a curation took
into docs/measured/growth.json, of which `plot` makes the figure of docs/scaling.md. The log of 100
million rows takes 4 GB and minutes to write, day by day: killed and started again with the same
home it goes on.
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

from benchmarks import growth
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


def curated(engine: str, args: argparse.Namespace) -> dict[str, dict[str, object]]:
    """One curation of made-up rows, in a process of its own, within args.gib of memory (0: any)."""
    from helpers import store

    rows, gib = args.rows or 100_000, args.gib
    folder = store.home() / f"curated{rows}"
    path = folder / "human.jsonl"
    if not path.exists():
        store.write_text(folder / "task.yaml", TASK)
        store.write_jsonl(path, made_up(rows))
    command = [sys.executable, "-c", CURATE, str(folder), engine]
    with growth.limited(gib) as limit:
        if limit:
            command = ["sh", "-c", f'echo $$ > {limit}/cgroup.procs; exec "$@"', "sh", *command]
        began = time.monotonic()
        out, peak = output_and_peak(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        seconds = time.monotonic() - began
    entry = json.loads(out.splitlines()[-1])
    entry |= {"rows": rows, "engine": engine, "seconds": round(seconds), "gib": round(peak, 2)}
    entry |= {"limit_gib": gib if limit else None, "beside_other_work": not args.alone}
    graph = entry.pop("graph")
    if graph["tasks"]:
        entry["simulated"] = {n: round(growth.speed_up(graph, n), 2) for n in growth.SIMULATED}
        entry["serial_share"] = round(graph["serial"] / growth.total(graph), 3)
    sys.stderr.write(json.dumps(entry) + "\n")
    if args.record:
        growth.recorded(entry)
    more, name = {"n": rows, "fingerprint": entry["fingerprint"]}, f"curate_{rows}_{engine}"
    figures = {
        f"{name}_seconds": figure("seconds", seconds, "s", "lower", more),
        f"{name}_processor": figure("seconds", entry["processor"], "CPU s", "lower", more),
        f"{name}_gib": figure("size", peak, "GiB", "lower", more),
    }
    for workers, ratio in entry.get("simulated", {}).items():
        label = f"{name}_simulated_{workers}_workers"
        figures[label] = figure("ratio", ratio, "of one worker's time", "higher", more)
    return figures


CURATE = """
import gc, json, resource, sys, time
from benchmarks import growth
from helpers import curate
graph = growth.traced() if sys.argv[2] == "local" else {"tasks": {}, "here": 0}
ratios = {"train": 0.8, "validation": 0.1, "test": 0.1}
config = curate.DataCollectionConfig(
    task=sys.argv[1], split_ratios=ratios, use_production=False, engine=sys.argv[2],
    wipeout_share=1.0,
)
began = time.monotonic()
def say(text):
    mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    sys.stderr.write(f"{time.monotonic() - began:6.0f} s {mib:6d} MiB  {text}\\n")
dataset = curate.publish_dataset(curate.curate(config, say=say))
say("published")
gc.collect()  # ends the processes that helped, so that their time is known
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
own, helped = (times.ru_utime + times.ru_stime for times in used)
graph["serial"] = own - graph["here"]
print(json.dumps({
    "kept": len(dataset.examples), "processor": round(own + helped),
    "fingerprint": dataset.metadata.fingerprint, "graph": graph,
}))
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
    """The log, day by day, but for the days that are there; its size. One row in ten is rated."""
    import numpy as np
    import pyarrow
    from pyarrow import parquet

    words = np.array([f"parcel {k} has not arrived and nobody answers " for k in range(5000)])
    answers = pyarrow.array(['{"team": "billing"}', '{"team": "shipping"}'])
    size = 0
    for day in range(days):
        n = rows // days + (day < rows % days)
        start = np.datetime64("2026-01-01") + day
        path = folder / f"date={start}" / "log.parquet"
        if path.exists():
            size += path.stat().st_size
            continue
        chance = np.random.default_rng([7, day])
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
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(table, path.with_suffix(".partial"), row_group_size=100_000)
        path.with_suffix(".partial").replace(path)
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
    parser.add_argument("--gib", type=float, default=0, help="of curate: memory that it may take")
    parser.add_argument("--record", action="store_true", help="of curate: into docs/measured")
    parser.add_argument("--alone", action="store_true", help="nothing else runs on this machine")
    parser.add_argument("--home", default="", help="a folder that keeps what is made up")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    figures: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory(prefix="grow-") as folder:
        os.environ["WORKBOOK_HOME"] = args.home or str(Path(folder) / "home")
        if "rate" in args.what:
            figures |= rate(args.rows or 20_000, args.at_once)
        if "curate" in args.what:
            for engine in args.engines.split(","):
                figures |= curated(engine, args)
        if "log" in args.what:
            figures |= log_of_weeks(args.rows or 100_000_000)
        if "plot" in args.what:
            growth.plot()
    for name, entry in figures.items():
        sys.stderr.write(f"{name:28s} {entry['value']:>10} {entry['unit']}\n")
    if args.json:
        sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
