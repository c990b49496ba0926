"""Versions at an OpenAI-compatible server: one that lists them, or that loads adapters as it runs.

vLLM (with VLLM_ALLOW_RUNTIME_LORA_UPDATING) and SGLang load an adapter by its folder under a name.
The name is the version's id, and is never used for anything else: a server that is told to load
other weights under a known name may go on with the old ones. Written against their documented
endpoints and tested against a stand-in that speaks them.
"""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import urlsplit

from helpers import models
from helpers.models import Answer
from helpers.records import Message, WorkbookError, with_calls
from helpers.serve.engines import Logprobs
from helpers.serve.served import Served
from helpers.serve.wire import Reply

LOAD = ("/v1/load_lora_adapter", "/load_lora_adapter")  # vLLM's path, then SGLang's
UNLOAD = ("/v1/unload_lora_adapter", "/unload_lora_adapter")
FINISH = {"stop": "stop", "length": "length"}


class Server:
    """HTTP to one server, over connections that stay open."""

    def __init__(self, base_url: str, timeout: float = 120.0, connections: int = 64) -> None:
        import urllib3

        self.base_url = base_url.rstrip("/")
        self._root = self.base_url.removesuffix("/v1")
        self._headers = {"content-type": "application/json"}
        key = models.api_key(base_url)
        if key:
            self._headers["authorization"] = f"Bearer {key}"
        # once more where a connection that had stayed open was closed on the other side
        again = urllib3.Retry(1, allowed_methods=None, status=0, redirect=0, other=0)
        self._pool = urllib3.PoolManager(
            maxsize=connections, timeout=urllib3.Timeout(timeout, connect=5.0), retries=again
        )

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and JSON of one answer; (0, why) where there was none."""
        import urllib3

        address = self.base_url + path if path.startswith("/chat") else self._root + path
        data = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        try:
            reply = self._pool.request(
                method, address, body=data, headers=self._headers, redirect=False
            )
        except urllib3.exceptions.HTTPError as error:
            return 0, f"no connection ({type(error).__name__})"
        try:
            return reply.status, json.loads(reply.data)
        except ValueError:  # vLLM answers some requests with plain text
            return reply.status, None

    def names(self) -> list[str]:
        """The models that it lists; WorkbookError where nobody answers."""
        status, content = self.ask("GET", "/v1/models")
        if status != 200 or not isinstance(content, dict):
            raise WorkbookError(
                f"{self.base_url} does not list its models (status {status}); start the server, or"
                " give another --engine"
            )
        return [str(model.get("id")) for model in content.get("data", [])]

    def call_either(self, paths: tuple[str, ...], body: dict[str, str]) -> bool:
        """Whether one of the paths took this."""
        for path in paths:
            status, content = self.ask("POST", path, body)
            refused = isinstance(content, dict) and content.get("success") is False
            if status == 200 and not refused:
                return True
        return False


class Upstream:
    """One version at a server.

    It is not held to a JSON Schema there, since it was measured without.
    """

    def __init__(self, server: Server, served: Served, gate: models.ApiModel | None = None) -> None:
        asking = served.asking
        told = {"stop": asking.stop, "chat_template_kwargs": asking.template_args}
        self._server = server
        self._name = served.id
        self._told = {name: value for name, value in told.items() if value}
        self._gate = gate  # of another machine: knows what may leave this one

    def answer(self, chat: list[Message], limit: int, logprobs: Logprobs = None) -> Answer:
        """One greedy answer; what goes wrong is told without the chat's words."""
        body = {
            "model": self._name,
            "messages": models.as_dicts(chat),
            "max_tokens": limit,
            "temperature": 0,
            **self._told,
            **(logprobs or {}),
        }
        tools = models.tools_of(chat)
        if tools:
            body["tools"] = tools
        started = time.perf_counter()
        held_back = self._gate.hold_back(chat) if self._gate is not None else None
        if held_back is not None:
            return held_back
        status, content = self._server.ask("POST", "/chat/completions", body)
        took = 1000 * (time.perf_counter() - started)
        try:
            return _as_answer(content, took)
        except (LookupError, TypeError, AttributeError):
            reason = content if status == 0 else f"{status} from the engine"
            return models.failed(reason, took)

    def close(self) -> None:
        """The server keeps what it listed by itself."""


class Adapter(Upstream):
    """A version that was loaded into a running server, and leaves it again."""

    def close(self) -> None:
        """Have it unloaded."""
        self._server.call_either(UNLOAD, {"lora_name": self._name})


def _as_answer(content: Any, latency_ms: float) -> Answer:
    choice = content["choices"][0]
    message = choice["message"]
    usage = content.get("usage") or {}
    details = usage.get("prompt_tokens_details") or {}
    return Reply(
        text=with_calls(message.get("content"), message.get("tool_calls")).strip(),
        thoughts=message.get("reasoning_content") or "",
        tokens_in=usage.get("prompt_tokens") or 0,
        tokens_out=usage.get("completion_tokens") or 0,
        tokens_cached=details.get("cached_tokens") or 0,
        latency_ms=latency_ms,
        finish=FINISH.get(choice.get("finish_reason"), "stop"),
        logprobs=choice.get("logprobs"),
    )


class UrlEngine:
    """A server that somebody else runs."""

    def __init__(self, base_url: str, timeout: float, connections: int) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise WorkbookError(
                f"--engine {base_url!r}: give auto, local, llamacpp or an address such as"
                " http://127.0.0.1:8000/v1"
            )
        self.name = base_url
        self._server = Server(base_url, timeout, connections)

    def load(self, served: Served) -> Upstream:
        """The version as the server lists it, else its adapter, loaded under the version's id."""
        gate = models.ApiModel(served.id, self.name)
        models.check_may_send(served.task, gate)
        if served.id in self._server.names():
            return Upstream(self._server, served, gate)
        body = {"lora_name": served.id, "lora_path": str(served.adapter)}
        loaded = served.adapter is not None and self._server.call_either(LOAD, body)
        if not loaded or served.id not in self._server.names():
            raise WorkbookError(
                f"{self.name} serves no model {served.id} and loads no adapter while it runs; start"
                " it with that version under that name, or allow runtime loading (vLLM:"
                " --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True; SGLang: --enable-lora)"
            )
        return Adapter(self._server, served, gate)
