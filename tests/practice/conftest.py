"""A practice API in this process, asked by the real SDK over real HTTP; its waiting takes no time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from helpers.practice.endpoints import Settings
from helpers.practice.server import serve
from helpers.practice.state import Clock

FAST = 500.0  # seconds of the API in one of ours


def chat_rows(n: int = 12) -> list[dict[str, Any]]:
    answers = ["KE", "RA"]
    return [
        {"messages": [{"role": "user", "content": f"hub {i} offline"}, {"role": "assistant", "content": answers[i % 2]}]}
        for i in range(n)
    ]


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def until_ended(client: OpenAI, job_id: str, seconds: float = 200.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        job = client.fine_tuning.jobs.retrieve(job_id)
        if job.status in ("succeeded", "failed", "cancelled"):
            return job
        time.sleep(0.05)
    raise AssertionError(f"{job_id} is still {job.status}")


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """start(mode, scenario, folder) -> the running server."""
    running = []

    def begin(mode: str = "spec", scenario: str = "ok", folder: Path = tmp_path / "state", speed: float = FAST) -> Any:
        server = serve(folder, 0, Settings(mode, "tiny", scenario), Clock(speed))
        running.append(server.__enter__())
        return server

    yield begin
    for server in running:
        server.__exit__()


def client_of(server: Any, mode: str = "spec", **options: Any) -> OpenAI:
    """Strict in spec mode: any field of a wrong type raises."""
    options = {"api_key": "sk-practice", "timeout": 60.0, "_strict_response_validation": mode == "spec"} | options
    return OpenAI(base_url=server.url, **options)
