"""A toy HTTP server answers while a test runs, and nothing of it is left afterwards."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import HTTPServer
from typing import TypeVar

Toy = TypeVar("Toy", bound=HTTPServer)


@contextmanager
def serving(server: Toy) -> Iterator[Toy]:
    """The server, answering in a thread of its own."""
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
