"""What the gateway costs: time over a fast engine, requests a second, and who decodes fastest.

python -m benchmarks.serve [--json] [--only overhead,sustained,switching,trials,local,llamacpp]

The engine is a stand-in that answers at once, so that all the time is the gateway's; engine,
gateway and clients are three processes on one machine. `overhead` asks the engine directly and
through the gateway in turns, 100 requests a second in an open loop. `local` and `llamacpp` ask the
embedded model itself, batch 1 (llamacpp needs the package xllamacpp).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
TESTS = ("tests", "tests/registry", "tests/serve")
TEXT = "My order did not arrive and I was charged twice. Please help me as soon as you can."
HEADERS = {"content-type": "application/json"}
RATE, SECONDS, CLIENTS = 100, 20, 16
SEED = 2026  # of simulated trials; the rule was chosen on others


def body_for(model: str) -> bytes:
    """One request."""
    return json.dumps({"model": model, "messages": [{"role": "user", "content": TEXT}]}).encode()


@contextlib.contextmanager
def child(*command: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that says `listening at ADDRESS`; (process, address), until the block ends."""
    process = subprocess.Popen(
        [sys.executable, *command], stderr=subprocess.PIPE, text=True, cwd=PROJECT
    )
    assert process.stderr is not None
    try:
        line = next(text for text in process.stderr if "listening at" in text)
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield process, line.split("listening at ")[1].split()[0]
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def served() -> Iterator[tuple[int, str, str]]:
    """(pid of a gateway, its address, the address of its engine), version v1 in production."""
    from serve_toys import register

    register("v1", "production")
    with child("-m", "benchmarks.serve", "--engine") as (_, engine):
        command = ("-m", "helpers.serve", "--port", "0", "--engine", f"{engine}/v1")
        with child(*command) as (process, gateway):
            wait_for(gateway)
            yield process.pid, gateway, engine


def wait_for(address: str) -> None:
    """Until it is ready."""
    import urllib3

    pool = urllib3.PoolManager(retries=urllib3.Retry(200, backoff_factor=0.05, backoff_max=0.5))
    pool.request("GET", f"{address}/healthz")


def open_loop(address: str, model: str, seconds: float) -> list[float]:
    """Milliseconds of each request, RATE of them a second, whatever the earlier ones take."""
    import urllib3

    pool = urllib3.PoolManager(maxsize=64, retries=False)
    body = body_for(model)
    url = f"{address}/v1/chat/completions"
    began = time.perf_counter() + 0.2

    def ask(number: int) -> float:
        due = began + number / RATE
        time.sleep(max(0.0, due - time.perf_counter()))
        reply = pool.request("POST", url, body=body, headers=HEADERS)
        assert reply.status == 200, reply.data
        return 1000 * (time.perf_counter() - due)

    with ThreadPoolExecutor(32) as clients:
        return list(clients.map(ask, range(int(RATE * seconds))))


def quantile(values: list[float], q: float) -> float:
    """By the nearest rank."""
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]


def entry(kind: str, value: float, n: int, unit: str, better: str = "lower") -> dict[str, Any]:
    """One figure of --json."""
    return {"kind": kind, "value": round(value, 3), "low": None, "high": None, "n": n,
            "unit": unit, "better": better}  # fmt: skip


def overhead(rounds: int = 3) -> dict[str, Any]:
    """Gateway minus engine, asked in turns; and the gateway's own processor time."""
    import psutil

    direct: list[float] = []
    through: list[float] = []
    with served() as (pid, gateway, engine):
        open_loop(gateway, "toy", 2)
        process = psutil.Process(pid)
        for _ in range(rounds):
            direct += open_loop(engine, "v1", SECONDS / rounds)
            before = process.cpu_times()
            through += open_loop(gateway, "toy", SECONDS / rounds)
            after = process.cpu_times()
    used = after.user + after.system - before.user - before.system
    n = len(through)
    return {
        "overhead_p50": entry("seconds", quantile(through, 0.5) - quantile(direct, 0.5), n, "ms"),
        "overhead_p99": entry("seconds", quantile(through, 0.99) - quantile(direct, 0.99), n, "ms"),
        "gateway_cpu": entry("seconds", 1000 * used / (n / rounds), n // rounds, "ms a request"),
    }


def sustained() -> dict[str, Any]:
    """Requests a second from clients that ask again at once."""
    import urllib3

    with served() as (_, gateway, _):
        open_loop(gateway, "toy", 1)
        body = body_for("toy")
        until = time.perf_counter() + SECONDS

        def client(_: int) -> int:
            pool = urllib3.PoolManager(retries=False)
            count = 0
            while time.perf_counter() < until:
                url = f"{gateway}/v1/chat/completions"
                reply = pool.request("POST", url, body=body, headers=HEADERS)
                assert reply.status == 200, reply.data
                count += 1
            return count

        with ThreadPoolExecutor(CLIENTS) as clients:
            total = sum(clients.map(client, range(CLIENTS)))
    return {"sustained": entry("rate", total / SECONDS, total, "requests/s", "higher")}


def switching() -> dict[str, Any]:
    """Seconds from a promotion's commit until the gateway answers with it, of ten of them."""
    import urllib3
    from serve_toys import register

    pool = urllib3.PoolManager()
    lags = []
    with served() as (_, gateway, _):
        manager = register("v2")
        manager.promote("v2", "production", because="bench", force=True)
        for _ in range(10):
            manager.rollback(because="bench")
            began = time.perf_counter()
            target = str(manager.route().generation)
            reply = None
            while reply is None or reply.headers["x-workbook-generation"] != target:
                url = f"{gateway}/v1/chat/completions"
                reply = pool.request("POST", url, body=body_for("toy"), headers=HEADERS)
            lags.append(time.perf_counter() - began)
    return {"switch_lag": entry("seconds", statistics.median(lags), len(lags), "s")}


def trials() -> dict[str, Any]:
    """Shadow and canary, 2,000 simulated ones: how often they are wrong, how soon they see harm."""
    from test_trials import rates

    found = {}
    for name, value in rates(runs=2000, n=1000, seed=SEED).items():
        better = "higher" if name.startswith("rolled") else "lower"
        key = name.replace(" ", "_").replace(",", "")
        found[key] = entry("rate", value, 2000, "share", better)
    return found


def a_token(engine: str) -> dict[str, Any]:
    """Milliseconds a token of one request after the other, the embedded model with an adapter."""
    import urllib3
    from test_parity import embedded_version

    embedded_version("v1")
    pool = urllib3.PoolManager()
    speeds = []
    with child("-m", "helpers.serve", "--port", "0", "--engine", engine) as (_, gateway):
        wait_for(gateway)
        for number in range(15):
            began = time.perf_counter()
            url = f"{gateway}/v1/chat/completions"
            reply = pool.request("POST", url, body=body_for("toy"), headers=HEADERS)
            seconds = time.perf_counter() - began
            assert reply.status == 200, reply.data
            if number > 2:
                speeds.append(1000 * seconds / json.loads(reply.data)["usage"]["completion_tokens"])
    return {f"{engine}_p50": entry("seconds", statistics.median(speeds), len(speeds), "ms a token")}


def serve_engine() -> None:
    """The stand-in engine, in this process."""
    import uvicorn
    from serve_toys import ToyEngine

    from helpers.serve.settings import Settings
    from helpers.serve.starting import listen

    listener = listen(Settings(port=0))
    sys.stderr.write(f"listening at http://127.0.0.1:{listener.getsockname()[1]}\n")
    sys.stderr.flush()
    config = uvicorn.Config(ToyEngine().app, log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listener])


def main() -> None:
    """Measure, print a table, and with --json one object on the last line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", default="overhead,sustained,switching,trials,local")
    parser.add_argument("--engine", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    sys.path[:0] = [str(PROJECT / folder) for folder in TESTS]
    if asked.engine:
        serve_engine()
        return
    found: dict[str, Any] = {}
    for part in asked.only.split(","):
        with tempfile.TemporaryDirectory() as folder:
            os.environ["WORKBOOK_HOME"] = f"{folder}/home"
            if part in ("local", "llamacpp"):
                found |= a_token(part)
            else:
                found |= globals()[part]()
    for name, value in found.items():
        print(f"{name:28} {value['value']:10.3f} {value['unit']:14} n={value['n']}")
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    if asked.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
