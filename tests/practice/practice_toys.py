"""A practice file, and the real SDK as a client."""

from __future__ import annotations

import json
import time
from typing import Any

from openai import OpenAI


def chat_rows(n: int = 12) -> list[dict[str, Any]]:
    answers = ["KE", "RA"]
    return [
        {
            "messages": [
                {"role": "user", "content": f"hub {i} offline"},
                {"role": "assistant", "content": answers[i % 2]},
            ]
        }
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


def client_of(server: Any, mode: str = "spec", **options: Any) -> OpenAI:
    """Strict in spec mode: any field of a wrong type raises."""
    options = {
        "api_key": "sk-practice",
        "timeout": 60.0,
        "_strict_response_validation": mode == "spec",
    } | options
    return OpenAI(base_url=server.url, **options)
