"""A registered toy task, an engine that answers at once, and a gateway before it: real HTTP."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import record_toys
import registry_toys
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from helpers import store
from helpers.records import (
    Asking,
    DatasetPointer,
    LiveRow,
    Message,
    TrainingExample,
    read_live_lines,
)
from helpers.registry import FineTuneLifecycleManager
from helpers.serve.gateway import Gateway
from helpers.serve.settings import Settings, checked_keys
from helpers.serve.starting import engine_of, running

TASK = registry_toys.TASK
client = httpx2.Client(verify=False, timeout=60, trust_env=False)  # its connections stay open
INSTRUCTIONS = "Answer in one word."
TASK_YAML = f"""
name: {TASK}
instructions: {{full: "Please answer in one word.", short: "{INSTRUCTIONS}"}}
output: {{text: true}}
accuracy_from: scorer
targets: {{accuracy: 0.5}}
"""


def task_folder() -> Path:
    folder = store.home().parent / "toy_task"
    store.write_text(folder / "task.yaml", TASK_YAML)
    return folder


def register(
    version: str, to: str = "staging", make_adapter: Any = None, **changes: Any
) -> FineTuneLifecycleManager:
    """A version of the toy task whose run names its task folder."""
    manager = FineTuneLifecycleManager(TASK)  # before a model is there that nobody registered
    prompt = hashlib.sha256(INSTRUCTIONS.encode()).hexdigest()
    changes = {"fingerprints": registry_toys.FINGERPRINTS | {"system_prompt": prompt}} | changes
    changes = {"asking": Asking().for_rung("fine_tuned", version)} | changes
    run = registry_toys.make_run(version)
    if make_adapter is not None:
        shutil.rmtree(store.home() / f"models/{version}/adapter")
        make_adapter()
    model = registry_toys.model(version, **changes)
    run.save(model)
    run.save(record_toys.run_record(run.id, params={"task": str(task_folder())}))
    manager.register(run)
    if to:
        because = "toy" if to == "production" else ""
        assert manager.promote(version, to, because=because, force=bool(because)).promoted
    return manager


def publish_dataset(run: store.Run, rows: int = 12) -> None:
    """A dataset of validation rows, as 02 writes it."""
    manifest = registry_toys.manifest("d1", rows)
    folder = store.home() / "datasets" / "d1"
    examples = [
        TrainingExample(
            id=f"row{n}",
            messages=[
                Message(role="user", content=f"Question number {n} of many"),
                Message(role="assistant", content="yes"),
            ],
            source="human",
            quality="verified",
            created_at=record_toys.WHEN,
            group=f"row{n}",
            part="validation",
        )
        for n in range(rows)
    ]
    for part in ("train", "validation", "test"):
        store.write_jsonl(folder / f"{part}.jsonl", examples if part == "validation" else [])
    store.write_json(folder / "manifest.json", manifest)
    run.save(DatasetPointer(version="d1", fingerprint=manifest.fingerprint))


class ToyEngine:
    """An OpenAI-compatible server that loads adapters as vLLM or SGLang do, and answers at once."""

    def __init__(self, runtime: str = "vllm") -> None:
        self.loaded: dict[str, str] = {}
        self.unloaded: list[str] = []
        self.asked: list[dict[str, Any]] = []
        self.delay = 0.0
        # name -> the status that it answers with, or that, a message and headers
        self.fails: dict[str, Any] = {}
        self.said_model = ""  # as which it says to answer
        self.refuses = ""  # an option that it does not know
        self.answers: Any = lambda body: f"{body['model']} {body['messages'][-1]['content']}"
        self.gate = threading.Event()
        self.gate.set()
        prefix = "/v1" if runtime == "vllm" else ""
        routes = [
            Route("/v1/models", self.models),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
        ]
        if runtime in ("vllm", "sglang"):
            routes += [
                Route(f"{prefix}/load_lora_adapter", self.load, methods=["POST"]),
                Route(f"{prefix}/unload_lora_adapter", self.unload, methods=["POST"]),
            ]
        self.runtime = runtime
        self.app = Starlette(routes=routes)

    async def models(self, request: Request) -> JSONResponse:
        rows = [{"id": name, "object": "model"} for name in ("base", *self.loaded)]
        for row in rows[1:]:
            row |= {"owned_by": self.runtime, "parent": "base"}
        return JSONResponse({"object": "list", "data": rows})

    async def load(self, request: Request) -> Any:
        body = await request.json()
        if body["lora_name"] in self.loaded or not Path(body["lora_path"]).is_dir():
            return JSONResponse({"error": "no"}, 400)
        self.loaded[body["lora_name"]] = body["lora_path"]
        if self.runtime == "sglang":
            return JSONResponse({"success": True})
        return PlainTextResponse(f"Success: LoRA adapter '{body['lora_name']}' added.")

    async def unload(self, request: Request) -> Any:
        name = (await request.json())["lora_name"]
        self.unloaded.append(name)
        self.loaded.pop(name, None)
        return JSONResponse({"success": True})

    async def chat(self, request: Request) -> JSONResponse:
        import anyio

        body = await request.json()
        self.asked.append(body)
        while not self.gate.is_set():
            await anyio.sleep(0.01)
        await anyio.sleep(self.delay)
        if self.refuses in body or body.get("top_logprobs", 0) > 5:
            return JSONResponse(
                {"error": {"message": f"unknown: {self.refuses or 'logprobs'}"}}, 400
            )
        if body["model"] in self.fails:
            failure = self.fails[body["model"]]
            status, said, headers = failure if isinstance(failure, tuple) else (failure, "no", {})
            return JSONResponse({"error": {"message": said}}, status, headers)
        if self.runtime == "sglang":  # whatever `model` says, the base answers
            body["model"] = body.get("lora_path", "base")
        if body["model"] not in (*self.loaded, "base"):
            return JSONResponse({"error": {"message": "no such model"}}, 404)
        said = self.answers(body)
        message = said if isinstance(said, dict) else {"role": "assistant", "content": said}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        if body.get("logprobs"):
            choice["logprobs"] = {"content": [{"token": "x", "logprob": -0.5, "top_logprobs": []}]}
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        content = {"id": "x", "choices": [choice], "usage": usage}
        return JSONResponse(content | ({"model": self.said_model} if self.said_model else {}))


@contextlib.contextmanager
def gateway(engine: str, **changes: Any) -> Iterator[tuple[str, Gateway]]:
    """(address, gateway) of a gateway over an engine at `engine`."""
    settings = Settings(
        **({"port": 0, "engine": engine, "follow_every": 0.05, "log_text": "full"} | changes)
    )
    made = Gateway(settings, checked_keys(settings), engine_of(settings.engine))
    with running(made.app(), settings) as address:
        client.get(f"{address}/healthz")  # it answers once it has looked at the registry
        yield address, made


def log_of(task: str = TASK) -> list[LiveRow]:
    """What the live log holds."""
    rows = []
    for path in sorted((store.home() / "live" / task).glob("*.jsonl")):
        result = read_live_lines(path.read_bytes().splitlines())
        assert result.unreadable == 0
        rows += result.rows
    return rows


def until(true: Any, seconds: float = 10.0) -> None:
    """Wait for something."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)


def chat_body(text: str = "Hello", **more: Any) -> dict[str, Any]:
    return {"model": TASK, "messages": [{"role": "user", "content": text}], **more}


def dumps(value: Any) -> bytes:
    return json.dumps(value).encode()
