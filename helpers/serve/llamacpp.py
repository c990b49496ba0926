"""llama.cpp's server in a process of its own, from a GGUF file of the version.

`python -m helpers.serve.llamacpp FILE NAME` is that process (package xllamacpp, optional).
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

from helpers import processes, store, train
from helpers.models import Answer
from helpers.records import Message, WorkbookError
from helpers.serve.engines import Logprobs
from helpers.serve.served import Served
from helpers.serve.upstream import Server, Upstream

SLOTS = 4  # requests that it decodes side by side
CONTEXT = 4096  # tokens of each
KIND = "f16"  # of the file's matrices: its answers equal the evaluation's, smaller kinds drift


def is_installed() -> bool:
    """Whether this machine can do it."""
    return importlib.util.find_spec("xllamacpp") is not None


def gguf_of(served: Served) -> Path:
    """The version's GGUF file: the one that was made from its adapter, else a new one."""
    folder = served.adapter.parent if served.adapter else Path()
    path = folder / f"{served.id}-{KIND}.gguf"
    note = path.with_suffix(".json")
    facts = {"adapter": str(served.version.metadata.get("artifact_sha256", ""))}
    known = store.read_json(note) if path.exists() and note.exists() else None
    if known is None or known != facts | {"gguf": store.sha256_file(path)}:
        path = train.export_model(served.model, "gguf", KIND)
        store.write_json(note, facts | {"gguf": store.sha256_file(path)})
    return path


class Child(Upstream):
    """A version in a llama.cpp server that ends with this process."""

    engine = "llamacpp"
    without = ("logprobs",)  # it would rank twenty tokens at each step

    def __init__(self, served: Served, timeout: float) -> None:
        self._path = gguf_of(served)
        self._served = served
        self._timeout = timeout
        self._turn = threading.Lock()
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "helpers.serve.llamacpp", str(self._path)]
        process = subprocess.Popen(
            [*command, self._served.id],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=processes.child_environment(without=("_KEY", "_KEYS", "_TOKEN", "_URL")),
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise WorkbookError(
                f"llama.cpp could not load {self._path} (exit {process.wait()}); serve it with"
                " --engine local"
            )
        server = Server(json.loads(line)["address"] + "/v1", self._timeout, SLOTS)
        super().__init__(server, self._served)
        return process

    def answer(self, chat: list[Message], limit: int, logprobs: Logprobs = None) -> Answer:
        """One answer; a server that has died is started again first."""
        with self._turn:
            if self._process.poll() is not None:
                self._process = self._start()
        return super().answer(chat, limit, logprobs)

    def close(self) -> None:
        """End the server."""
        self._process.terminate()
        self._process.wait()


def main(path: str, name: str) -> None:
    """Serve one file until the parent is gone."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.model_alias = {name}
    params.n_parallel = SLOTS
    params.n_ctx = SLOTS * CONTEXT
    # its threads wait by spinning: one core is left for everything else
    cores = max(1, (os.cpu_count() or 2) - 1)
    params.cpuparams.n_threads = int(os.environ.get("OMP_NUM_THREADS") or cores)
    params.ui = False
    server = xllamacpp.Server(params)
    sys.stdout.write(json.dumps({"address": server.listening_address}) + "\n")
    sys.stdout.flush()
    processes.end_with_parent()


if __name__ == "__main__":
    main(*sys.argv[1:3])
