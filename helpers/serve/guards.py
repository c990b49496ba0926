"""What stands before every request: keys, the size of a body, other sites' pages."""

from __future__ import annotations

import math
import resource
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from helpers.serve.settings import Keys, Settings
from helpers.serve.wire import ApiError

OPEN = ("/", "/healthz", "/readyz", "/openapi.json")  # nothing of anybody stands there
HEADERS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]
HEAD_SECONDS = 30.0  # for the head of a request, from the connection's first moment or an answer
MOST_HEAD = 2**16  # bytes of it
MOST_CONNECTIONS = min(2000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)  # half our files


class Bounded(HttpToolsProtocol):
    """uvicorn's HTTP, with the limits that have to hold before any key can be looked at."""

    def connection_made(self, transport: Any) -> None:
        """Who connects has to say something, and leaves some room for others."""
        super().connection_made(transport)
        self._head = 0.0  # bytes of it
        self._end = self.loop.call_later(HEAD_SECONDS, transport.abort)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.close()

    def _wait_again(self) -> None:
        self._end.cancel()  # close() would wait for whoever does not read
        self._end = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def on_message_begin(self) -> None:
        """A later request's head is counted, too."""
        super().on_message_begin()
        self._head = 0.0

    def on_headers_complete(self) -> None:
        """The rest has limits of its own."""
        super().on_headers_complete()
        self._head = -math.inf  # a body is not counted here, nor the rest of a refused one
        self._end.cancel()

    def on_response_complete(self) -> None:
        """Who was answered has to ask again: what else comes would keep the connection for ever."""
        super().on_response_complete()
        if self.cycle.response_complete:  # no request waits behind it
            self._wait_again()

    def pause_writing(self) -> None:
        """Answers have to be read."""
        super().pause_writing()
        self._wait_again()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is left to end."""
        super().connection_lost(exc)
        self._end.cancel()

    def data_received(self, data: bytes) -> None:
        """Count a head that does not end."""
        super().data_received(data)
        self._head += len(data)
        if self._head > MOST_HEAD:
            self.transport.close()


class Guard:
    """ASGI middleware; what it lets through carries the caller's name in the request's state."""

    def __init__(self, app: ASGIApp, settings: Settings, keys: Keys) -> None:
        self._app = app
        self._settings = settings
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        try:
            scope.setdefault("state", {})["caller"] = self._checked(scope)
        except ApiError as error:
            await JSONResponse(error.body, error.status)(scope, receive, send_safely)
            return
        await self._app(scope, receive, send_safely)

    def _checked(self, scope: Scope) -> str:
        """The caller's name; ApiError for a request that must not go on."""
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != headers.get("host"):
            raise ApiError(403, "Pages of other sites may not ask here.", "cross_origin")
        caller = self._keys.name_of(headers.get("authorization", ""))
        if caller is None and scope["path"] not in OPEN:
            raise ApiError(401, "A valid key is needed: Authorization: Bearer KEY.", "invalid_key")
        if scope["method"] == "POST":
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":  # a form of another page cannot say this
                raise ApiError(415, "Send application/json.", "unsupported_media_type")
            length = headers.get("content-length", "")
            if not length.isdecimal():
                raise ApiError(411, "Send a content-length.", "length_required")
            if int(length) > self._settings.most_bytes:
                raise ApiError(
                    413, f"The body is longer than {self._settings.most_bytes} bytes.", "too_large"
                )
        return caller or ""
