"""Choose the engine, then serve until a signal says otherwise."""

from __future__ import annotations

import logging
import socket

from helpers.records import WorkbookError
from helpers.serve import llamacpp
from helpers.serve.engines import Engine, Loaded
from helpers.serve.local import LocalEngine
from helpers.serve.served import Served
from helpers.serve.settings import Settings, bracketed, checked_keys
from helpers.serve.upstream import UrlEngine

GRACE = 30  # seconds that SIGTERM leaves for what was asked before
EXTRA = 'the gateway needs starlette, uvicorn and prometheus-client: pip install -e ".[serve]"'
_log = logging.getLogger(__name__)


class AutoEngine:
    """llama.cpp where it is installed and knows the model's family, else our own models."""

    name = "auto"

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout

    def load(self, served: Served) -> Loaded:
        """The version by the faster of the two that can load it."""
        if llamacpp.is_installed():
            try:
                loaded = llamacpp.LlamaEngine(self._timeout).load(served)
            except WorkbookError as error:
                _log.warning("llama.cpp is left out: %s", error)
            else:
                self.name = llamacpp.LlamaEngine.name
                return loaded
        self.name = LocalEngine.name
        return LocalEngine().load(served)


def engine_of(name: str, timeout: float = 120.0, connections: int = 64) -> Engine:
    """The engine that the command line names."""
    if name == "auto":
        return AutoEngine(timeout)
    if name == "local":
        return LocalEngine()
    if name == "llamacpp":
        return llamacpp.LlamaEngine(timeout)
    return UrlEngine(name, timeout, connections)


def serve(settings: Settings) -> int:
    """Answer until SIGTERM or ctrl-C; what was asked before is answered, and the log written."""
    keys = checked_keys(settings)
    try:
        import uvicorn

        from helpers.serve.gateway import Gateway
    except ImportError as error:
        raise WorkbookError(f"{EXTRA} ({error.name} is missing)") from None
    engine = engine_of(settings.engine, settings.timeout, settings.most_waiting)
    gateway = Gateway(settings, keys, engine)
    listener = listen(settings)
    host, port = listener.getsockname()[:2]
    address = f"http://{bracketed(host)}:{port}"
    _log.info("listening at %s (page), %s/v1 (base_url for clients)", address, address)
    config = uvicorn.Config(
        gateway.app(),
        log_level="warning",
        access_log=False,  # paths and callers are nobody's business
        server_header=False,
        timeout_graceful_shutdown=GRACE,
        timeout_keep_alive=30,
    )
    uvicorn.Server(config).run(sockets=[listener])
    return 0


def listen(settings: Settings) -> socket.socket:
    """The listening socket; port 0 is any free one."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        # said to be TCP, since asyncio sends small pieces at once only where it knows that
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
    except OSError as error:
        raise WorkbookError(
            f"port {settings.port} on {settings.host}: {error.strerror}; choose another --port"
            " (0: any free one)"
        ) from None
    return listener
