"""`base_url: practice` is this home's practice API, a child of the process that first needs it.

The child ends when its stdin closes, that is with its parent, however that ends; it belongs to its
parent's process group, which `workbook run` has on record. Its port changes from start to start;
what it remembers stays in the home.
"""

from __future__ import annotations

import http.client
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from helpers import processes, store
from helpers.records import WorkbookError

PRACTICE = "practice"
HERE = ("127.0.0.1", "::1", "localhost")
PATIENCE = 180.0  # seconds for the child to start; it may have to wait for one that is just ending
COMMAND = [sys.executable, "-m", "helpers.practice", "--port", "0", "--with-parent"]
SECRETS = ("_KEY", "_TOKEN", "_URL")  # endings of names that the child need not know
_children: list[subprocess.Popen[bytes]] = []  # referenced, so that their pipes stay open


def resolve_base_url(base_url: str) -> str:
    """The address behind a base_url: itself, or that of the practice API (started if need be)."""
    if base_url != PRACTICE:
        return base_url
    folder = store.home() / PRACTICE
    url = _listening(folder)
    if url:
        return url
    child = _start(folder)
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        ended = child.poll() is not None
        url = _listening(folder)
        if url:
            return url
        if ended:
            break
        time.sleep(0.1)
    raise WorkbookError(f"the practice API did not start; {folder / 'server.log'} says why")


def _start(folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(folder / "server.log", "ab") as log:
        child = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=processes.child_environment(without=SECRETS),
        )
    _children.append(child)
    return child


def _listening(folder: Path) -> str:
    """Where a practice API serves this folder now, or ""."""
    errors = (WorkbookError, OSError, http.client.HTTPException, LookupError, TypeError, ValueError)
    with suppress(*errors):
        url = str(store.read_json(folder / "server.json")["url"])
        if urlsplit(url).hostname not in HERE:  # a file is no reason to talk to another machine
            return ""
        # asked directly: no proxy of the environment stands between
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=5)
        connection.request("GET", "/")
        if b"practice API" in connection.getresponse().read():
            return url
    return ""
