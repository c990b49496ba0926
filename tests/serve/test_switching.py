"""Many requests from 16 clients over 10 promotions and rollbacks: none fails, none is lost."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import urllib3
from registry_toys import TASK
from serve_toys import chat_body, dumps, gateway, log_of, register, until

from helpers import registry, store

REQUESTS = 2000 if os.environ.get("N") else 800  # `N=1` for the number that is promised
CLIENTS, CHANGES = 16, 10
LAG = 2.0  # seconds from a commit in the registry to the switch at a gateway, on a busy machine


def test_no_request_fails_or_is_unstamped_while_versions_change(engine):
    manager = register("v1", "production")
    register("v2")
    answers = []
    changes_done = threading.Event()

    def client(number: int) -> None:
        pool = urllib3.PoolManager(retries=False)
        for n in range(REQUESTS // CLIENTS):
            began = store.now()
            body = dumps(chat_body(f"{number} {n}", stream=n % 5 == 0))
            headers = {"content-type": "application/json"}
            reply = pool.request(
                "POST", f"{address}/v1/chat/completions", body=body, headers=headers
            )
            answers.append((began, store.now(), reply))
            if not changes_done.is_set() and n > REQUESTS // CLIENTS - 20:
                time.sleep(0.1)  # some requests are left for the last change

    clients = ThreadPoolExecutor(CLIENTS)
    with gateway(engine.url, follow_every=0.1, most_waiting=64) as (address, made), clients:
        running = [clients.submit(client, number) for number in range(CLIENTS)]
        until(lambda: len(answers) > 50)
        for change in range(CHANGES):
            if change == 0:
                manager.promote("v2", "production", because="toy", force=True)
            else:
                manager.rollback(because="toy")
            until(lambda change=change: made.lanes[TASK].generation == change + 2)
        changes_done.set()
        for each in running:
            each.result()
    in_production = moments()
    assert len(answers) == REQUESTS
    assert {reply.status for _, _, reply in answers} == {200}
    for began, ended, reply in answers:
        version = reply.headers["x-workbook-version"]
        generation = int(reply.headers["x-workbook-generation"])
        since, till, serving = in_production[generation]
        assert version == serving
        assert since <= ended and (till is None or (began - till).total_seconds() <= LAG)
        assert f'"{version} '.encode() in reply.data  # who is named is who answered
    rows = log_of()
    assert len(rows) == REQUESTS
    assert {row.request_id for row in rows} == {r.headers["x-request-id"] for _, _, r in answers}
    assert {row.generation for row in rows} == set(range(1, CHANGES + 2))


def moments():
    """generation -> (from when, until when, which version) it was in production."""
    switches = [row for row in registry.history(TASK) if row["to_status"] == "production"]
    spans = {}
    for row, following in zip(switches, [*switches[1:], None], strict=True):
        since = datetime.fromisoformat(row["at"])
        till = datetime.fromisoformat(following["at"]) if following else None
        spans[row["generation"]] = (since, till, row["version"])
    return spans
