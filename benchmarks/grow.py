"""What growth costs: an endpoint asked at rate, a million rows curated, a log of a hundred million.

`python -m benchmarks.grow [rate|curate|log] … [--rows N] [--json]`; without a name, the rate.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

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


def figure(kind: str, value: float, unit: str, better: str, more: dict) -> dict[str, object]:
    """One entry of what --json prints."""
    return {"kind": kind, "value": round(value, 3), "unit": unit, "better": better, **more}


def main() -> None:
    """Measure what is named and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", default=["rate"])
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=25)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    figures: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory(prefix="grow-") as folder:
        os.environ["WORKBOOK_HOME"] = str(Path(folder) / "home")
        if "rate" in args.what:
            figures |= rate(args.rows or 20_000, args.at_once)
    for name, entry in figures.items():
        sys.stderr.write(f"{name:28s} {entry['value']:>10} {entry['unit']}\n")
    if args.json:
        sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
