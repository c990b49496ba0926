"""Versions at an OpenAI-compatible server: one that lists them, or that loads adapters as it runs.

vLLM (with VLLM_ALLOW_RUNTIME_LORA_UPDATING) and SGLang load an adapter by its folder under a name.
The name is the version's id, and is never used for anything else: a server that is told to load
other weights under a known name may go on with the old ones. Written against their documented
endpoints and tested against a stand-in that speaks them.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from helpers import models
from helpers.models import Answer
from helpers.records import Message, WorkbookError
from helpers.serve.engines import Engine, Logprobs
from helpers.serve.served import Served
from helpers.serve.wire import Reply

# as vLLM, SGLang, llama.cpp and OpenAI say it
TOO_LONG = re.compile(rb"context[ _](length|size|window)|maximum context", re.IGNORECASE)


class Server:
    """HTTP to one server, over connections that stay open."""

    def __init__(self, base_url: str, timeout: float = 120.0, connections: int = 64) -> None:
        import urllib3

        self.base_url = base_url.rstrip("/")
        self._timeout = timeout
        self._headers = {"content-type": "application/json"}
        key = models.api_key(base_url)
        if key:
            self._headers["authorization"] = f"Bearer {key}"
        patience = urllib3.Timeout(timeout, connect=5.0)
        self._pool = urllib3.PoolManager(maxsize=connections, timeout=patience, retries=False)

    def ask(self, method: str, address: str, body: Any = None) -> tuple[int, bytes]:
        """Status and body of one answer; (0, why) where there was none, or no end of it."""
        import urllib3

        options = {"headers": self._headers, "redirect": False, "preload_content": False}
        if body is not None:
            options["body"] = json.dumps(body, ensure_ascii=False).encode()
        try:
            try:
                reply = self._pool.request(method, address, **options)
            except urllib3.exceptions.ProtocolError:  # it had closed what had stayed open
                reply = self._pool.request(method, address, **options)
            return reply.status, models.whole(reply, self._timeout)
        except models.Refused as endless:
            return 0, endless.message.encode()
        except urllib3.exceptions.HTTPError as error:
            return 0, f"no connection ({type(error).__name__})".encode()

    def models(self) -> dict[str, Mapping[str, Any]]:
        """The models that it lists, by id; WorkbookError where nobody answers."""
        status, data = self.ask("GET", f"{self.base_url}/models")
        try:
            return {str(model["id"]): model for model in json.loads(data)["data"]}
        except (ValueError, LookupError, TypeError):
            raise WorkbookError(
                f"{self.base_url} does not list its models (status {status}); start the server, or"
                " give another --engine"
            ) from None

    def call(self, path: str, body: dict[str, str]) -> bool:
        """Whether it took this, at vLLM's place for it or at SGLang's."""
        for root in (self.base_url, self.base_url.removesuffix("/v1")):
            status, data = self.ask("POST", f"{root}/{path}", body)
            if status == 200 and b'"success":false' not in data.replace(b" ", b""):
                return True
        return False


class Upstream:
    """One version at a server, asked as evaluation asks one.

    It is not held to a JSON Schema there, since it was measured without.
    """

    without: tuple[str, ...] = ()  # options that it is not asked with
    refused: tuple[str, ...] = ()  # nor with those: it refused them to ourselves

    def __init__(self, server: Server, served: Served) -> None:
        self._server = server
        self.engine = server.base_url
        self._adapter = served.adapter
        told = served.asking.model_copy(update={"response_format": None})
        self.model = models.ApiModel(served.id, server.base_url).with_asking(told)
        self.is_ours = False  # loaded into a running server, to leave it again
        self.others: Collection[str] = ()  # what else the server lists

    def answer(self, chat: list[Message], limit: int, logprobs: Logprobs = None) -> Answer:
        """One greedy answer; what goes wrong is told without the chat's words."""
        held_back = self.model.hold_back(chat)
        if held_back is not None:
            return held_back
        wanted = {} if self.refused else dict(logprobs or {})
        body = self.model.body_of(chat, limit, (*self.without, *self.refused)) | wanted
        started = time.perf_counter()
        status, data = self._ask(body)
        took = 1000 * (time.perf_counter() - started)
        if status in (400, 403, 422) and b"logprobs" in data and "logprobs" in body:
            self.refused = self.refused if wanted else ("logprobs",)  # a caller may want too much
            return self.answer(chat, limit)
        if status == 400 and TOO_LONG.search(data):
            return models.failed("the chat exceeds the engine's context", took)
        if status != 200:
            reason = f"{status} from the engine" if status else data.decode()
            return models.failed(reason, took)
        return self._read(data, took, bool(wanted))

    def _ask(self, body: dict[str, Any]) -> tuple[int, bytes]:
        """Status and answer; of a server that began anew, or was told to forget it, once more."""
        address = f"{self._server.base_url}/chat/completions"
        status, data = self._server.ask("POST", address, body)
        has_forgotten = status == 404 or (status == 400 and b"lora" in data.lower())
        if has_forgotten and self._adapter is not None:
            self.load_adapter()
            return self._server.ask("POST", address, body)
        return status, data

    def _read(self, data: bytes, took: float, with_logprobs: bool) -> Answer:
        answer = models.answer_of(data, took)
        if answer.finish == "error":
            return answer
        # an impossible token is -Infinity where it should be what OpenAI says
        reply = json.loads(data, parse_constant=lambda _: -9999.0)
        if reply.get("model") in self.others:  # a router fell back on it
            return models.failed(f"{reply['model']} answered in place of {self.model.name}", took)
        if with_logprobs:
            return Reply(**answer.model_dump(), logprobs=reply["choices"][0].get("logprobs"))
        return answer

    def load_adapter(self) -> None:
        """Have the adapter loaded under the version's id."""
        body = {"lora_name": self.model.name, "lora_path": str(self._adapter)}
        self.is_ours |= self._server.call("load_lora_adapter", body)

    def close(self) -> None:
        """Have it unloaded where it was loaded for us; what the server listed by itself stays."""
        if self.is_ours:
            self._server.call("unload_lora_adapter", {"lora_name": self.model.name})


def engine_at(base_url: str, timeout: float, connections: int) -> Engine:
    """A server that somebody else runs."""
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise WorkbookError(
            f"--engine {base_url!r}: give auto, local, llamacpp or an address such as"
            " http://127.0.0.1:8000/v1"
        )
    return partial(load, Server(base_url, timeout, connections))


def load(server: Server, served: Served) -> Upstream:
    """The version as the server lists it, else its adapter, loaded under the version's id."""
    upstream = Upstream(server, served)
    models.check_may_send(served.task, upstream.model)
    listed = server.models()
    if served.id not in listed and served.adapter is not None:
        upstream.load_adapter()
        listed = server.models()
    if served.id not in listed:
        raise WorkbookError(
            f"{server.base_url} serves no model {served.id} and loads no adapter while it runs;"
            " start it with that version under that name, or allow runtime loading (vLLM:"
            " --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True; SGLang: --enable-lora,"
            " --max-lora-rank and --lora-target-modules)"
        )
    row = listed[served.id]
    # one name of several for the same weights may answer under another
    weights = row.get("root") or served.id, row.get("parent")
    upstream.others = {
        name
        for name, other in listed.items()
        if (other.get("root") or name, other.get("parent")) != weights
    }
    if row.get("owned_by") == "sglang" and row.get("parent"):
        # its `model` names no adapter: the base would answer, and nothing would say so
        upstream.model = upstream.model.told({"lora_path": served.id})
    return upstream
