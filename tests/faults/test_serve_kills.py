"""A gateway is killed while it answers: its log is read right, no answered request is missing.

N=20 ROOM=serve python -m pytest tests/faults -q
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import urllib3
from fault_points import every_point

sys.path.append(str(Path(__file__).resolve().parents[1] / "serve"))  # serve_toys

from registry_toys import TASK, home  # noqa: F401 (home: a fixture)
from serve_toys import ToyEngine, chat_body, dumps, register, running

from helpers import store
from helpers.records import read_live_lines

SEED = 18
CLIENTS = 8
LAST_SECOND = 1.0  # what a kill may cost
RIDER = "x" * 2000  # long lines are torn more easily


@pytest.fixture(scope="module")
def engine():
    toy = ToyEngine()
    with running(toy.app) as address:
        toy.url = f"{address}/v1"
        yield toy


def start(engine, port):
    """A gateway in a process of its own; (process, port), when it answers."""
    command = [sys.executable, "-m", "helpers.serve", "--port", str(port), "--engine", engine.url]
    child = subprocess.Popen(
        [*command, "--log-text", "full"], stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    line = next(text for text in child.stderr if "listening at" in text)
    port = int(line.split("listening at ")[1].split()[0].rpartition(":")[2])
    threading.Thread(target=child.stderr.read, daemon=True).start()
    pool = urllib3.PoolManager(retries=urllib3.Retry(100, backoff_factor=0.02, backoff_max=0.2))
    pool.request("GET", f"http://127.0.0.1:{port}/healthz")
    return child, port


def kill_at(engine, point):
    """Kill -9 at a random moment under load, start again, ask once more; what is wrong after."""
    chance = random.Random(f"{SEED}:{point}")
    child, port = start(engine, 0)
    answered: dict[str, float] = {}
    stop = threading.Event()

    def client(number):
        pool = urllib3.PoolManager(retries=False)
        while not stop.is_set():
            body = dumps(chat_body(f"{number} {RIDER}"))
            headers = {"content-type": "application/json"}
            try:
                url = f"http://127.0.0.1:{port}/v1/chat/completions"
                reply = pool.request("POST", url, body=body, headers=headers)
            except urllib3.exceptions.HTTPError:
                return
            answered[reply.headers["x-request-id"]] = time.time()

    with ThreadPoolExecutor(CLIENTS) as clients:
        for number in range(CLIENTS):
            clients.submit(client, number)
        time.sleep(chance.uniform(0.3, 1.5))
        child.send_signal(signal.SIGKILL)
        killed = time.time()
        child.wait()
        stop.set()
    child, port = start(engine, 0)
    try:
        pool = urllib3.PoolManager()
        headers = {"content-type": "application/json"}
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        last = pool.request("POST", url, body=dumps(chat_body("after")), headers=headers)
        answered[last.headers["x-request-id"]] = time.time() + 60
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(60)
    return problems(answered, killed)


def problems(answered, killed):
    found = []
    lines = []
    for path in sorted((store.home() / "live" / TASK).glob("*.jsonl")):
        lines += path.read_bytes().split(b"\n")
    rows, unreadable = read_live_lines(lines)
    ids = [row.request_id for row in rows]
    if len(ids) != len(set(ids)):
        found.append("a request stands twice")
    if unreadable > 1:
        found.append(f"{unreadable} lines cannot be read")
    for row in rows:
        if row.version != "v1" or not row.answer.startswith("v1 ") or row.status != "ok":
            found.append(f"misread: {row.request_id}")
    missing = [at for request_id, at in answered.items() if request_id not in set(ids)]
    # what came out of the socket just after the kill was answered just before it
    older = [killed - at for at in missing if abs(killed - at) > LAST_SECOND]
    if older:
        found.append(f"{len(older)} answered requests are missing, up to {max(older):.2f} s old")
    return found


def test_a_killed_gateway_loses_no_more_than_its_last_second(engine, tmp_path, monkeypatch):
    def work(point):
        monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path / str(point) / "home"))
        register("v1", "production")
        return kill_at(engine, point)

    failures = every_point("serve_kills", 2, work, SEED)
    assert not failures
