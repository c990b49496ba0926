"""A toy fine-tuning endpoint over real HTTP: enough of it for the real SDK to walk through."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

REFUSAL = {
    "message": "no longer able to create jobs",
    "type": "invalid_request_error",
    "param": None,
}
REFUSAL["code"] = "training_not_available"


class ToyApi:
    """State of the endpoint.

    `scenario` is ok, forbidden, broken, slow_create, no_listing, failed or stuck.
    """

    def __init__(self, scenario: str = "ok") -> None:
        self.scenario, self.files, self.jobs, self.events = scenario, {}, {}, {}
        self.creates, self.polls, self.lock = 0, 0, threading.Lock()
        self.model: dict[str, Any] = {}  # what models.retrieve says besides
        self.asked: dict[str, Any] = {}  # the last create request
        self.answers: dict[
            str, dict[str, str]
        ] = {}  # model -> {a word of the question: its answer}
        self.chats: list[dict[str, Any]] = []  # what was asked
        self.spoil: Callable[[bytes], bytes] = lambda data: data  # what becomes of a reply
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self) -> ToyApi:
        return self

    def __exit__(self, *_: Any) -> None:
        self.server.shutdown()
        self.server.server_close()

    def say(self, job: str, message: str, kind: str = "message", data: Any = None) -> None:
        n = len(self.events[job])
        event = {
            "object": "fine_tuning.job.event",
            "id": f"ftevent-{n}",
            "created_at": 1000 + n,
            "level": "info",
        }
        self.events[job].append(event | {"type": kind, "message": message, "data": data})

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            self.creates += 1
            name = f"ftjob-{self.creates}"
            job = {
                "object": "fine_tuning.job",
                "id": name,
                "model": body["model"] + "-2024-07-18",
                "created_at": 1000,
            }
            job |= {
                "status": "validating_files",
                "error": {},
                "fine_tuned_model": None,
                "finished_at": None,
                "seed": 7,
            }
            job |= {
                "organization_id": "org-toy",
                "result_files": [],
                "trained_tokens": None,
                "method": body["method"],
            }
            job |= {
                "training_file": body["training_file"],
                "validation_file": body.get("validation_file"),
            }
            job |= {"hyperparameters": {"n_epochs": "auto"}, "metadata": body.get("metadata")}
            self.jobs[name], self.events[name] = job, []
            self.say(name, f"Created fine-tuning job: {name}")
        return job

    def advance(self, job: dict[str, Any]) -> None:
        self.polls += 1
        if self.scenario == "stuck":
            return
        if self.scenario == "failed" and job["status"] != "failed":
            problem = {
                "code": "invalid_training_file",
                "message": "Line 3 is broken",
                "param": "training_file",
            }
            job |= {"status": "failed", "error": problem}
        elif job["status"] == "validating_files":
            job["status"] = "running"
            for step in range(1, 131):  # more than one page
                metrics = {
                    "step": step,
                    "total_steps": 130,
                    "train_loss": 2 / step,
                    "valid_loss": 3 / step,
                }
                self.say(job["id"], f"Step {step}/130", "metrics", metrics)
        elif job["status"] == "running":
            job |= {"status": "succeeded", "finished_at": 1060, "trained_tokens": 1234}
            job["fine_tuned_model"] = f"ft:{job['model']}:toy::abcd1234"

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        self.chats.append(asked)
        question = asked["messages"][-1]["content"]
        known = self.answers[asked["model"]]
        text = next((answer for word, answer in known.items() if word in question), "no idea")
        choice = {"index": 0, "finish_reason": "stop"}
        choice["message"] = {"role": "assistant", "content": text}
        reply = {"id": "chat", "object": "chat.completion", "created": 1, "model": asked["model"]}
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        return reply | {"choices": [choice], "usage": usage}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        toy = self

        class Handler(BaseHTTPRequestHandler):
            wbufsize = -1  # head and body in one packet

            def log_message(self, *_: Any) -> None:
                pass

            def send(self, value: Any, status: int = 200) -> None:
                data = toy.spoil(json.dumps(value).encode())
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.path == "/v1/files":
                    name = f"file-{len(toy.files) + 1}"
                    toy.files[name] = re.search(rb'filename="([^"]+)"', body)[1].decode()
                    reply = {
                        "object": "file",
                        "id": name,
                        "bytes": len(body),
                        "created_at": 1,
                        "purpose": "fine-tune",
                    }
                    return self.send(reply | {"filename": toy.files[name], "status": "processed"})
                if self.path == "/v1/chat/completions":
                    return self.send(toy.answer(json.loads(body)))
                if toy.scenario == "forbidden":
                    return self.send({"error": REFUSAL}, 403)
                toy.asked = json.loads(body)
                if toy.scenario == "broken":
                    return self.send(
                        {"error": {"message": "try later", "type": "server_error"}}, 500
                    )
                job = toy.create(toy.asked)
                if toy.scenario == "slow_create":
                    time.sleep(2)
                return self.send(job)

            def do_DELETE(self) -> None:
                name = self.path.rsplit("/", 1)[1]
                del toy.files[name]
                self.send({"id": name, "object": "file", "deleted": True})

            def do_GET(self) -> None:
                url = urlsplit(self.path)
                query, parts = parse_qs(url.query), url.path.split("/")
                if url.path == "/v1/fine_tuning/jobs" and toy.scenario == "no_listing":
                    return self.send({"error": {"message": "not found"}}, 404)
                if url.path == "/v1/fine_tuning/jobs":
                    return self.send(
                        {"object": "list", "data": list(toy.jobs.values())[::-1], "has_more": False}
                    )
                if parts[2] == "models":
                    return self.send(
                        {"id": parts[3], "object": "model", "created": 1, "owned_by": "toy"}
                        | toy.model
                    )
                if url.path == "/v1/files":
                    files = [
                        {"id": name, "filename": filename} for name, filename in toy.files.items()
                    ]
                    return self.send({"object": "list", "data": files, "has_more": False})
                if parts[-1] == "checkpoints":
                    return self.send({"object": "list", "data": [], "has_more": False})
                job = toy.jobs[parts[4]]
                if len(parts) == 5:
                    toy.advance(job)
                    return self.send(job)
                newest = toy.events[job["id"]][::-1]
                after = query.get("after", [""])[0]
                start = next((n + 1 for n, e in enumerate(newest) if e["id"] == after), 0)
                limit = int(query.get("limit", ["20"])[0])
                page = newest[start : start + limit]
                return self.send(
                    {"object": "list", "data": page, "has_more": start + limit < len(newest)}
                )

        return Handler
