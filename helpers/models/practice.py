"""`base_url: practice` is this home's practice API, started as a child of the process that first needs it.

The child ends when its stdin closes, that is with its parent, however that ends; it belongs to its parent's process
group, which `workbook run` has on record. Its port changes from start to start; what it remembers stays in the home.
"""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from helpers import store
from helpers.records import WorkbookError

PRACTICE = "practice"
PATIENCE = 180.0  # seconds for the child to start; it may have to wait for one that is just ending
COMMAND = [sys.executable, "-m", "helpers.practice", "--port", "0", "--with-parent"]
_children: list[subprocess.Popen[bytes]] = []  # referenced, so that their pipes stay open


def resolve(base_url: str) -> str:
    """The address behind a base_url: itself, or where the practice API listens."""
    if base_url != PRACTICE:
        return base_url
    folder = store.home() / PRACTICE
    if url := _listening(folder):
        return url
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = os.pathsep.join(filter(None, [str(store.PROJECT), os.environ.get("PYTHONPATH")]))
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.endswith(("_KEY", "_TOKEN", "_URL"))
    }
    with open(folder / "server.log", "ab") as log:
        child = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment | {"PYTHONPATH": path},
        )
    _children.append(child)
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        ended = child.poll() is not None
        if url := _listening(folder):
            return url
        if ended:
            break
        time.sleep(0.1)
    raise WorkbookError(f"the practice API did not start; {folder / 'server.log'} says why")


def _listening(folder: Path) -> str:
    """Where a practice API serves this folder now, or ""."""
    with suppress(WorkbookError, OSError, http.client.HTTPException, KeyError):
        url = store.read_json(folder / "server.json")["url"]
        connection = http.client.HTTPConnection(
            str(urlsplit(url).netloc), timeout=5
        )  # no proxy is asked
        connection.request("GET", "/")
        if b"practice API" in connection.getresponse().read():
            return str(url)
    return ""
