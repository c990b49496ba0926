"""The practice API over HTTP: on this machine alone unless asked for more.

Connections wait in one thread, however many and slow they are; only a request that came whole gets
a thread of its own. Who asks is looked at before anything of the body is read.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from helpers import store
from helpers.models import is_loopback
from helpers.practice import openapi
from helpers.practice.endpoints import Practice, Settings
from helpers.practice.scenarios import SCENARIOS
from helpers.practice.storage import Clock, Storage
from helpers.practice.wire import ApiError, HttpRequest, refusal_of
from helpers.records import WorkbookError

REAL_KEY = re.compile(
    r"sk-(proj|live|svcacct|admin|ant|or)-|sk-[A-Za-z0-9_-]{24,}|[A-Za-z0-9_.-]{60,}"
)
MOST_BYTES = 512 * 2**20  # of one body, and of all bodies that are being read
MOST_HEAD = 64 * 2**10
MOST_CONNECTIONS = 2000
MOST_AT_ONCE = 64  # requests that are being answered
HEAD_SECONDS, BODY_SECONDS, SEND_SECONDS = 75.0, 600.0, 60.0
OPEN = ("/", "/openapi.json")  # nothing of anybody stands there
CHUNK = 64 * 2**10
_log = logging.getLogger(__name__)


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
    return Server(Practice(storage, clock or Clock(), settings), listening, anywhere)


class Head(NamedTuple):
    """A request before its body."""

    method: str
    target: str
    version: str
    headers: dict[str, str]

    @classmethod
    def of(cls, data: bytes) -> Head:
        """What the bytes up to the empty line say; ApiError for what is no HTTP."""
        first, *lines = data.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        words = first.split(" ")
        headers: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            name = name.lower()
            if not colon or not re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name):
                raise ApiError(400, "A header line is no `name: value`.")
            if name in headers and name in ("host", "content-length", "authorization"):
                raise ApiError(400, f"The header {name} came twice.")
            headers[name] = value.strip()
        if len(words) != 3 or not words[2].startswith("HTTP/1.") or not words[1].startswith("/"):
            raise ApiError(400, "The first line is no `METHOD /path HTTP/1.1`.")
        return cls(*words, headers)

    @property
    def url(self) -> Any:
        """Its path and query."""
        return urlsplit(f"http://practice{self.target}")

    @property
    def length(self) -> int:
        """The bytes of its body."""
        if "transfer-encoding" in self.headers:
            raise ApiError(411, "Send a content-length, and no transfer-encoding.")
        text = self.headers.get("content-length", "0")
        if not re.fullmatch("[0-9]{1,15}", text):
            raise ApiError(400, "The content-length is no number.")
        if int(text) > MOST_BYTES:
            raise ApiError(413, "Larger than 512 MB.")
        return int(text)


class Server:
    """The listening socket, its endpoints, and the note that tells this home where it is."""

    def __init__(self, practice: Practice, listening: socket.socket, anywhere: bool) -> None:
        self.practice = practice
        self._listening = listening
        self._anywhere = anywhere
        host, port = listening.getsockname()[:2]
        self.url = f"http://{host}:{port}/v1"
        note = {"url": self.url, "pid": os.getpid()}
        self._note = store.write_json(practice.storage.folder / "server.json", note)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._ready = threading.Event()
        self._connections = 0
        self._buffered = 0  # bytes of bodies that are being read, or answered

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
        self._turns = asyncio.Semaphore(MOST_AT_ONCE)
        server = await asyncio.start_server(
            self._connection, sock=self._listening, limit=MOST_HEAD, backlog=512
        )
        self._ready.set()
        await self._stop.wait()
        server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            while self._connections <= MOST_CONNECTIONS:
                async with asyncio.timeout(HEAD_SECONDS):
                    data = await reader.readuntil(b"\r\n\r\n")
                if not await self._request(data, reader, writer):
                    return
        except (OSError, EOFError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass  # it went away, was too slow, or is no HTTP; or the server ends
        finally:
            self._connections -= 1
            writer.close()

    async def _request(
        self, data: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer one request; whether the connection may carry another one."""
        body = bytearray()
        try:
            head = Head.of(data)
            self._admit(head)
            length = head.length
            if head.headers.get("expect", "").lower() == "100-continue":
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            async with asyncio.timeout(BODY_SECONDS):
                while len(body) < length:
                    chunk = await reader.read(min(CHUNK, length - len(body)))
                    if not chunk:
                        return False
                    body += chunk
                    self._buffered += len(chunk)
                    if self._buffered > MOST_BYTES:
                        raise ApiError(503, "Too much is being uploaded at once; try again.")
            async with self._turns:
                status, value = await self._in_thread(head, bytes(body))
            keep = head.version != "HTTP/1.0" and head.headers.get("connection", "") != "close"
        except ApiError as error:  # its body was not read: nothing more can come
            status, value, keep = error.status, {"error": error.body}, False
        finally:
            self._buffered -= len(body)
        writer.write(_reply(status, value, keep))
        async with asyncio.timeout(SEND_SECONDS):
            await writer.drain()
        return keep

    def _admit(self, head: Head) -> None:
        """Refuse pages of other sites, and whoever shows no key or a real one."""
        host = head.headers.get("host", "")
        if not self._anywhere and not is_loopback(f"http://{host}"):
            raise ApiError(421, "This is a server of this machine alone.", "wrong_host")
        if head.url.path in OPEN:
            return
        key = head.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if not key:
            message = "You didn't provide an API key. Any short word will do, such as sk-practice."
            raise ApiError(401, message, "missing_api_key")
        if REAL_KEY.match(key):
            message = (
                "This looks like a real API key, and this is a practice API. Use a word such as"
                " sk-practice instead; if others could have read that key, revoke it."
            )
            raise ApiError(401, message, "real_key_refused")

    async def _in_thread(self, head: Head, body: bytes) -> tuple[int, Any]:
        """The answer, by a thread that need not end before the server does."""
        answered = self._loop.create_future()

        def tell(result: tuple[int, Any]) -> None:
            if not answered.done():
                answered.set_result(result)

        def work() -> None:
            result = self._answer(head, body)
            with suppress(RuntimeError):  # the server has ended
                self._loop.call_soon_threadsafe(tell, result)

        threading.Thread(target=work, daemon=True).start()
        return await answered

    def _answer(self, head: Head, body: bytes) -> tuple[int, Any]:
        """Find who answers, as OpenAI would."""
        try:
            return 200, self._answer_to(head, body)
        except Exception as error:  # whatever it is, the caller is told
            refusal = refusal_of(error)
            return refusal.status, {"error": refusal.body}

    def _answer_to(self, head: Head, body: bytes) -> Any:
        url = head.url
        if url.path in OPEN:
            routes = self.practice.routes()
            return self.practice.about() if url.path == "/" else openapi.document(routes)
        path = url.path.removeprefix("/v1")
        for method, pattern, answer in self.practice.routes():
            match = re.fullmatch(pattern, path)
            if match and method == head.method:
                query = dict(parse_qsl(url.query, errors="replace"))
                request = HttpRequest(query, body, head.headers.get("content-type", ""))
                return answer(request, *map(unquote, match.groups()))
        message = f"The practice API has no {head.method[:20]} {url.path[:200]}."
        raise ApiError(404, message, "unknown_url")


def _reply(status: int, value: Any, keep: bool) -> bytes:
    kind, data = "application/octet-stream", value
    if not isinstance(value, bytes):
        kind, data = "application/json", store.dumps(value).encode(errors="backslashreplace")
    head = (
        f"HTTP/1.1 {status} {'OK' if status == 200 else 'Refused'}\r\n"
        f"content-type: {kind}\r\ncontent-length: {len(data)}\r\n"
        f"x-content-type-options: nosniff\r\nx-request-id: req_{secrets.token_hex(8)}\r\n"
        f"connection: {'keep-alive' if keep else 'close'}\r\n\r\n"
    )
    return head.encode() + data
