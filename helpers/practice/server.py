"""The practice API over HTTP (tornado's, which Jupyter brings): on this machine alone unless asked.

Connections wait in one thread, however many and slow they are; only a request that came whole gets
a thread of its own. Who asks is looked at before anything of the body is read.
"""

from __future__ import annotations

import asyncio
import os
import re
import resource
import secrets
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

from tornado.httpserver import HTTPServer
from tornado.web import Application, HTTPError, RequestHandler, stream_request_body

from helpers import store
from helpers.models import is_loopback
from helpers.practice.endpoints import Practice, Settings
from helpers.practice.scenarios import SCENARIOS
from helpers.practice.storage import Clock, Storage
from helpers.practice.wire import ApiError, HttpRequest, document, refusal_of
from helpers.records import WorkbookError

REAL_KEY = re.compile(
    r"sk-(proj|live|svcacct|admin|ant|or)-|sk-[A-Za-z0-9_-]{24,}|[A-Za-z0-9_.-]{60,}"
)
MOST_BYTES = 512 * 2**20  # of one body, and of all bodies that are being read
TOO_LARGE = f"Larger than {MOST_BYTES // 2**20} MB, which is the most."
MOST_AT_ONCE = 64  # requests that are being answered
MOST_CONNECTIONS = min(2000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)  # half our files
HEAD_SECONDS, BODY_SECONDS = 75.0, 600.0
OPEN = ("/", "/openapi.json")  # nothing of anybody stands there


def serve(
    folder: Path,
    port: int = 8099,
    settings: Settings = Settings(),
    clock: Clock | None = None,
    host: str = "127.0.0.1",
    anywhere: bool = False,
) -> Server:
    """A server, bound and ready; its `url` is the base_url for clients."""
    if not is_loopback(f"http://{host}") and not anywhere:
        raise WorkbookError(
            f"{host} can be reached from other machines; add --anywhere if that is meant"
        )
    if settings.scenario not in SCENARIOS:
        raise WorkbookError(
            f"unknown scenario {settings.scenario!r}; known are {', '.join(SCENARIOS)}"
        )
    storage = Storage(folder)
    try:
        listening = socket.create_server((host, port), backlog=512)
    except (OSError, OverflowError) as error:
        storage.close()
        raise WorkbookError(
            f"port {port} on {host}: {error}; choose another --port (0: any free one)"
        ) from None
    listening.setblocking(False)
    return Server(Practice(storage, clock or Clock(), settings), listening, anywhere)


class Server:
    """The listening socket, its endpoints, and the note that tells this home where it is."""

    def __init__(self, practice: Practice, listening: socket.socket, anywhere: bool) -> None:
        self.practice = practice
        self.anywhere = anywhere
        self.unanswered = 0  # bytes of bodies that are being read, or answered
        self._listening = listening
        host, port = listening.getsockname()[:2]
        self.url = f"http://{host}:{port}/v1"
        note = {"url": self.url, "pid": os.getpid()}
        self._note = store.write_json(practice.storage.folder / "server.json", note)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._ready = threading.Event()

    def __enter__(self) -> Server:
        """Answer in a thread of its own until the `with` block ends."""
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
            self._note.unlink(missing_ok=True)
            self.practice.storage.close()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self.turns = asyncio.Semaphore(MOST_AT_ONCE)
        server = Bounded(
            Application([(".*", Endpoint, {"server": self})], log_function=lambda _: None),
            idle_connection_timeout=HEAD_SECONDS,
            body_timeout=BODY_SECONDS,
            max_body_size=2**62,  # told and counted below
        )
        server.add_socket(self._listening)
        self._ready.set()
        await self._stop.wait()
        server.stop()
        await server.close_all_connections()


class Bounded(HTTPServer):
    """It closes at once what comes beyond its share, before this process can open no more files."""

    def handle_stream(self, stream: Any, address: Any) -> None:
        """One more connection."""
        if len(self._connections) >= MOST_CONNECTIONS:
            stream.close()
        else:
            super().handle_stream(stream, address)


@stream_request_body
class Endpoint(RequestHandler):
    """One request: let in by its head, read within limits, answered by a thread."""

    def initialize(self, server: Server) -> None:
        """What tornado does instead of __init__."""
        self._server = server
        self._body = bytearray()

    def set_default_headers(self) -> None:
        """Of every answer."""
        self.set_header("x-content-type-options", "nosniff")
        self.set_header("x-request-id", f"req_{secrets.token_hex(8)}")

    def prepare(self) -> None:
        """Refuse pages of other sites, and whoever shows no key or a real one."""
        if not self._server.anywhere and not is_loopback(f"http://{self.request.host}"):
            raise ApiError(421, "This is a server of this machine alone.", "wrong_host")
        if self.request.path in OPEN:
            return
        key = self.request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if not key:
            raise ApiError(
                401,
                "You didn't provide an API key. Any short word will do, such as sk-practice.",
                "missing_api_key",
            )
        if REAL_KEY.match(key):
            raise ApiError(
                401,
                "This looks like a real API key, and this is a practice API. Use a word such as"
                " sk-practice instead; if others could have read that key, revoke it.",
                "real_key_refused",
            )
        length = self.request.headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > MOST_BYTES:
            raise ApiError(413, TOO_LARGE)

    def data_received(self, chunk: bytes) -> None:
        """Keep a piece of the body."""
        self._body += chunk
        self._server.unanswered += len(chunk)
        if len(self._body) > MOST_BYTES:  # in chunks, which nobody announced
            self._refuse(ApiError(413, TOO_LARGE))
        elif self._server.unanswered > MOST_BYTES:
            self._refuse(ApiError(503, "Too much is being uploaded at once; try again."))

    def on_finish(self) -> None:
        """Let go of the body."""
        self._server.unanswered -= len(self._body)
        self._body.clear()

    def on_connection_close(self) -> None:
        """Who asked went away, or says what is no HTTP."""
        super().on_connection_close()
        self.on_finish()

    async def _answer(self) -> None:
        async with self._server.turns:
            value = await in_thread(self._find_answer)
        self._send(value)

    get = post = delete = put = patch = options = head = _answer

    def _find_answer(self) -> Any:
        """What the endpoint of this method and path says."""
        practice = self._server.practice
        if self.request.path in OPEN:
            return practice.about() if self.request.path == "/" else document()
        path = self.request.path.removeprefix("/v1")
        for method, pattern, answer in practice.routes():
            match = re.fullmatch(pattern, path)
            if match and method == self.request.method:
                request = HttpRequest(
                    query=dict(parse_qsl(self.request.query, errors="replace")),
                    body=bytes(self._body),
                    content_type=self.request.headers.get("content-type", ""),
                )
                return answer(request, *map(unquote, match.groups()))
        raise ApiError(
            404,
            f"The practice API has no {self.request.method} {self.request.path[:200]}.",
            "unknown_url",
        )

    def _send(self, value: Any) -> None:
        self.set_header("content-type", "application/octet-stream")
        if not isinstance(value, bytes):
            self.set_header("content-type", "application/json")
            value = store.dumps(value).encode(errors="backslashreplace")
        self.finish(value)

    def write_error(self, status_code: int, **more: Any) -> None:
        """As OpenAI spells it; `exc_info` has what was raised."""
        _, error, _ = more.get("exc_info", (None, None, None))
        if error is None or isinstance(error, HTTPError):  # tornado's own: the server ends, or
            error = ApiError(status_code, "The practice API has no such method.")
        self._refuse(refusal_of(error))

    def _refuse(self, refusal: ApiError) -> None:
        self.set_status(refusal.status, "Refused")
        self._send({"error": refusal.body})

    def log_exception(self, *_: Any) -> None:
        """`refusal_of` has logged what is a fault of ours."""


async def in_thread(work: Callable[[], Any]) -> Any:
    """What `work` returns, by a thread that need not end before the server does."""
    answer: Future[Any] = Future()
    answer.set_running_or_notify_cancel()  # who goes away does not end it

    def run() -> None:
        try:
            answer.set_result(work())
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return await asyncio.wrap_future(answer)
