"""The practice API over HTTP: one thread per request, on this machine alone unless told otherwise."""

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
from helpers.models.api import is_loopback
from helpers.practice.endpoints import Practice, Request, Settings, routes
from helpers.practice.scenarios import SCENARIOS, ApiError
from helpers.practice.state import Clock, State
from helpers.records import WorkbookError

REAL_KEY = re.compile(
    r"sk-(proj|live|svcacct|admin|ant|or)-|sk-[A-Za-z0-9_-]{24,}|[A-Za-z0-9_.-]{60,}"
)
MOST_BYTES = 512 * 2**20
_log = logging.getLogger(__name__)


def serve(
    folder: Path, port: int = 8099, settings: Settings = Settings(), clock: Clock | None = None, host: str = "127.0.0.1",
    anywhere: bool = False,
) -> ThreadingHTTPServer:  # fmt: skip
    """A server, bound and ready; its `url` is the base_url for clients, `serve_forever()` answers them."""
    if not is_loopback(f"http://{host}") and not anywhere:
        raise WorkbookError(
            f"{host} can be reached from other machines; add --anywhere if that is meant"
        )
    if settings.scenario not in SCENARIOS:
        raise WorkbookError(
            f"unknown scenario {settings.scenario!r}; known are {', '.join(SCENARIOS)}"
        )
    state = State(folder)
    try:
        server = Server((host, port), Handler)
    except OSError as error:
        state.close()
        raise WorkbookError(
            f"port {port} on {host}: {error.strerror}; choose another --port (0: any free one)"
        ) from None
    server.begin(Practice(state, clock or Clock(), settings), folder)
    return server


class Server(ThreadingHTTPServer):
    """The listening socket, the endpoints behind it, and the note that tells this home's notebooks where it is."""

    daemon_threads = True
    practice: Practice

    def begin(self, practice: Practice, folder: Path) -> None:
        """Take up work."""
        self.practice, self.url = practice, f"http://{self.server_address[0]}:{self.server_port}/v1"
        self.routes = [
            (method, re.compile(path), answer) for method, path, answer in routes(practice)
        ]
        self._note = store.write_json(folder / "server.json", {"url": self.url, "pid": os.getpid()})

    def server_close(self) -> None:
        """Stop listening and let go of the state."""
        super().server_close()
        self._note.unlink(missing_ok=True)
        self.practice.state.close()

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
        length = int(self.headers.get("content-length") or 0)
        try:
            if length > MOST_BYTES:
                raise ApiError(413, "Larger than 512 MB.")
            body = self.rfile.read(length)
            status, value = 200, self._find(body)
        except ApiError as error:
            status, value = error.status, {"error": error.body}
        except WorkbookError as error:
            status, value = (
                400,
                {"error": ApiError(400, store.redact(str(error)), "practice_api").body},
            )
        except Exception as error:
            _log.exception("%s", self.path)
            status, value = (
                500,
                {"error": ApiError(500, f"The practice API failed ({type(error).__name__}).").body},
            )
        self._send(status, value)

    do_GET = do_POST = do_DELETE = _answer

    def _find(self, body: bytes) -> Any:
        url = urlsplit(self.path)
        if url.path == "/":
            return self.server.practice.about()
        self._check_key()
        for method, pattern, answer in self.server.routes:
            found = pattern.fullmatch(url.path.removeprefix("/v1"))
            if found and method == self.command:
                request = Request(
                    dict(parse_qsl(url.query)), body, self.headers.get("content-type", "")
                )
                return answer(request, *map(unquote, found.groups()))
        raise ApiError(404, f"The practice API has no {self.command} {url.path}.", "unknown_url")

    def _check_key(self) -> None:
        """Some key must be there, as at OpenAI; one that looks real is refused, and never kept."""
        key = (self.headers.get("authorization") or "").removeprefix("Bearer ").strip()
        if not key:
            raise ApiError(
                401,
                "You didn't provide an API key. Any short word will do, such as sk-practice.",
                "missing_api_key",
            )
        if REAL_KEY.match(key):
            said = "This looks like a real API key, and this is a practice API. Use a word such as sk-practice instead"
            raise ApiError(
                401, f"{said}; if others could have read that key, revoke it.", "real_key_refused"
            )

    def _send(self, status: int, value: Any) -> None:
        data = value if isinstance(value, bytes) else store.dumps(value).encode()
        self.send_response(status)
        self.send_header(
            "content-type",
            "application/octet-stream" if isinstance(value, bytes) else "application/json",
        )
        self.send_header("content-length", str(len(data)))
        self.send_header("x-request-id", f"req_{secrets.token_hex(8)}")
        self.end_headers()
        try:
            self.wfile.write(data)
        except (
            BrokenPipeError,
            ConnectionResetError,
        ):  # the client lost patience; what it asked for has happened
            self.close_connection = True
