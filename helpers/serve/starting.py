"""Choose the engine, then serve until a signal says otherwise."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from helpers import models
from helpers.records import WorkbookError
from helpers.serve import llamacpp, local, upstream
from helpers.serve.engines import Engine, Loaded
from helpers.serve.served import Served
from helpers.serve.settings import Keys, Settings, bracketed, checked_keys

if TYPE_CHECKING:
    from helpers.serve.gateway import Gateway

GRACE = 30  # seconds that SIGTERM leaves for what was asked before
EXTRA = 'the gateway needs starlette, uvicorn and prometheus-client: pip install -e ".[serve]"'
_log = logging.getLogger(__name__)


def engine_of(name: str, timeout: float = 120.0, connections: int = 64) -> Engine:
    """The engine that the command line names."""
    if name == "auto":
        return partial(load_faster, timeout=timeout)
    if name == "local":
        return local.load
    if name != "llamacpp":
        return upstream.engine_at(name, timeout, connections)
    if not llamacpp.is_installed():
        raise WorkbookError("--engine llamacpp needs a package: pip install xllamacpp")
    return partial(llamacpp.Child, timeout=timeout)


def load_faster(served: Served, timeout: float) -> Loaded:
    """By llama.cpp where it is installed and knows the model's family, else by our own models."""
    if llamacpp.is_installed():
        try:
            return llamacpp.Child(served, timeout)
        except WorkbookError as error:
            _log.warning("llama.cpp is left out: %s", error)
    return local.load(served)


def ask_production(task: str, question: str, engine: str = "auto") -> dict[str, str]:
    """Ask what is in production as a user's program would, through a gateway that then ends.

    `task`: a shipped task or a task folder. The live log does not hold this: it is no traffic.
    """
    settings = Settings(tasks=(task,), port=0, engine=engine, keeps_log=False)
    import openai

    try:
        gateway = gateway_of(settings, Keys(""))
        with running(gateway.app(), settings) as address:
            client = models.openai_client(f"{address}/v1", timeout=settings.timeout)
            (name,) = gateway.folders
            reply = client.chat.completions.create(
                model=name, messages=[{"role": "user", "content": question}]
            )
    except openai.APIStatusError as error:
        lane = gateway.lanes.get(name)
        if lane is None:
            return {"skipped": f"nothing is in production for {name} yet"}
        return {"skipped": lane.problem or error.message}
    except (openai.APIError, WorkbookError, OSError) as error:  # the promotion stands all the same
        return {"skipped": str(error)}
    return {
        "asked": question,
        "answer": reply.choices[0].message.content or "",
        "version": reply.model,
        "route": reply.system_fingerprint or "",
        "request": reply.id,
    }


@contextlib.contextmanager
def running(app: Any, settings: Settings = Settings(port=0)) -> Iterator[str]:
    """Serve an app in a thread of this process; its address, until the block ends."""
    server, listener, address = _server_of(app, settings)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield address
    finally:
        server.should_exit = True
        thread.join()


def gateway_of(settings: Settings, keys: Keys) -> Gateway:
    """A gateway by its settings; WorkbookError where what it needs is not installed."""
    try:
        from helpers.serve.gateway import Gateway
    except ImportError as error:
        raise WorkbookError(f"{EXTRA} ({error.name} is missing)") from None
    engine = engine_of(settings.engine, settings.timeout, settings.most_waiting)
    return Gateway(settings, keys, engine)


def serve(settings: Settings) -> int:
    """Answer until SIGTERM or ctrl-C; what was asked before is answered, and the log written."""
    gateway = gateway_of(settings, checked_keys(settings))
    server, listener, address = _server_of(gateway.app(), settings)
    _log.info("listening at %s (page), %s/v1 (base_url for clients)", address, address)
    server.run(sockets=[listener])
    return 0


def _server_of(app: Any, settings: Settings) -> tuple[Any, socket.socket, str]:
    """uvicorn's server of an app, the socket where it is to listen, and its address."""
    import uvicorn

    from helpers.serve.guards import Bounded

    listener = listen(settings)
    host, port = listener.getsockname()[:2]
    config = uvicorn.Config(
        app,
        http=Bounded,
        ws="none",
        log_config=None,  # its lines go where ours do, and without what others must not see
        log_level="warning",
        access_log=False,  # paths and callers are nobody's business
        server_header=False,
        timeout_graceful_shutdown=GRACE,
        timeout_keep_alive=30,
    )
    return uvicorn.Server(config), listener, f"http://{bracketed(host)}:{port}"


def listen(settings: Settings) -> socket.socket:
    """The listening socket; port 0 is any free one."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        # said to be TCP, since asyncio sends small pieces at once only where it knows that
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
        listener.listen()  # who asks while models are loaded waits, and is not refused
    except OSError as error:
        raise WorkbookError(
            f"port {settings.port} on {settings.host}: {error.strerror}; choose another --port"
            " (0: any free one)"
        ) from None
    return listener
