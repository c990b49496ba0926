"""The practice API over HTTP: a thread per request, on this machine alone unless asked for more."""

from __future__ import annotations

import logging
import os
import re
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from helpers import store
from helpers.models import is_loopback
from helpers.practice.endpoints import Practice, Settings
from helpers.practice.scenarios import SCENARIOS
from helpers.practice.storage import Clock, Storage
from helpers.practice.wire import ApiError, HttpRequest
from helpers.records import WorkbookError

REAL_KEY = re.compile(
    r"sk-(proj|live|svcacct|admin|ant|or)-|sk-[A-Za-z0-9_-]{24,}|[A-Za-z0-9_.-]{60,}"
)
MOST_BYTES = 512 * 2**20
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
        server = Server((host, port), Handler)
    except OSError as error:
        storage.close()
        raise WorkbookError(
            f"port {port} on {host}: {error.strerror}; choose another --port (0: any free one)"
        ) from None
    server.begin(Practice(storage, clock or Clock(), settings))
    return server


class Server(ThreadingHTTPServer):
    """The listening socket, its endpoints, and the note that tells this home where it is."""

    daemon_threads = True
    practice: Practice

    def begin(self, practice: Practice) -> None:
        """Take up work."""
        self.practice = practice
        self.url = f"http://{self.server_address[0]}:{self.server_port}/v1"
        note = {"url": self.url, "pid": os.getpid()}
        self._note = store.write_json(practice.storage.folder / "server.json", note)

    def server_close(self) -> None:
        """Stop listening and let go of the storage."""
        super().server_close()
        self._note.unlink(missing_ok=True)
        self.practice.storage.close()

    def __enter__(self) -> Server:
        """Answer in a thread of its own until the `with` block ends."""
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: Any) -> None:
        """No access log: paths hold model names, and nobody reads them."""

    def _answer(self) -> None:
        """One request: read it whole, find who answers it, and send that as OpenAI would."""
        try:
            length = int(self.headers.get("content-length") or 0)
            if length > MOST_BYTES:
                raise ApiError(413, "Larger than 512 MB.")
            self._send(200, self._answer_to(self.rfile.read(length)))
            return
        except ApiError as error:
            refusal = error
        except WorkbookError as error:
            refusal = ApiError(400, store.redact(str(error)), "practice_api")
        except Exception as error:
            _log.exception("%s", self.path)
            refusal = ApiError(500, f"The practice API failed ({type(error).__name__}).")
        self._send(refusal.status, {"error": refusal.body})

    do_GET = do_POST = do_DELETE = _answer

    def _answer_to(self, body: bytes) -> Any:
        url = urlsplit(self.path)
        practice = self.server.practice
        if url.path == "/":
            return practice.about()
        self._check_key()
        path = url.path.removeprefix("/v1")
        for method, pattern, answer in practice.routes():
            match = re.fullmatch(pattern, path)
            if match and method == self.command:
                content_type = self.headers.get("content-type", "")
                request = HttpRequest(dict(parse_qsl(url.query)), body, content_type)
                return answer(request, *map(unquote, match.groups()))
        raise ApiError(404, f"The practice API has no {self.command} {url.path}.", "unknown_url")

    def _check_key(self) -> None:
        """Some key must be there, as at OpenAI; one that looks real is refused, and never kept."""
        key = (self.headers.get("authorization") or "").removeprefix("Bearer ").strip()
        if not key:
            message = "You didn't provide an API key. Any short word will do, such as sk-practice."
            raise ApiError(401, message, "missing_api_key")
        if REAL_KEY.match(key):
            message = (
                "This looks like a real API key, and this is a practice API. Use a word such as"
                " sk-practice instead; if others could have read that key, revoke it."
            )
            raise ApiError(401, message, "real_key_refused")

    def _send(self, status: int, value: Any) -> None:
        if isinstance(value, bytes):
            kind, data = "application/octet-stream", value
        else:
            kind, data = "application/json", store.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.send_header("x-request-id", f"req_{secrets.token_hex(8)}")
        self.end_headers()
        try:
            self.wfile.write(data)
        except (BrokenPipeError, ConnectionResetError):
            # the client lost patience; what it asked for has happened
            self.close_connection = True
