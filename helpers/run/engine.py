"""Execute one notebook headless: papermill with a small engine of our own, in a fresh kernel.

Four things differ from bare papermill. Widget messages are not answered: nbclient's imitation of
the Output widget can wait for ever. The kernel is this interpreter, whatever a kernelspec elsewhere
says. A watcher ends the kernel when the time is up or a signal came, so that nothing depends on an
exception surviving an event loop. Every save of the executed copy is atomic and without keys and
addresses, so that a kill leaves neither half a file nor a secret.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import papermill
import zmq
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from nbclient.exceptions import DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from papermill.iorw import papermill_io

from helpers import processes, store
from helpers.records import WorkbookError
from helpers.run.ending import Outcome, Stop

COPY = "workbook-copy:"  # an output path that begins so is written by CopyWriter
GRACE = 5.0  # seconds between asking a kernel to stop and killing it
LONGEST_LINE = 160  # longer lines that a notebook prints stay in its copy: they are tables or texts
MOST_TEXT = 200_000  # characters that an output may add to the copy
STARTUP_SECONDS = 120
IOPUB_SECONDS = 60  # nbclient's own 4 s fail on a busy machine


@dataclass
class Execution:
    """One notebook to execute; also the stream that its cells print to."""

    run: store.Run
    notebook: Path
    copy: Path  # the executed copy
    parameters: dict[str, Any]
    environment: dict[str, str]
    stop: Stop
    tell: Callable[[str], None]
    manager: AsyncKernelManager | None = None
    process: Any = None  # the kernel's, once it runs

    def write(self, text: str) -> None:
        """Short whole lines go to the terminal as well."""
        for line in text.splitlines():
            if line.strip() and len(line) <= LONGEST_LINE:
                self.tell("      " + store.printable(store.without_secrets(line.rstrip())))

    def flush(self) -> None:
        """Nothing is held back."""


def execute(execution: Execution) -> Outcome:
    """Run all cells and keep the executed copy, without keys that an output may have shown."""
    try:
        with _watched(execution):
            document = papermill.execute_notebook(
                _as_it_stands(str(execution.notebook)),
                _as_it_stands(f"{COPY}{execution.copy}"),
                execution.parameters,
                cwd=str(execution.notebook.parent),
                engine_name="workbook",
                kernel_name="python3",
                progress_bar=False,
                execution=execution,
            )
    except PapermillExecutionError as error:
        return Outcome(error.ename, error.evalue, error.exec_count)
    except (DeadKernelError, RuntimeError) as error:
        code = execution.process.poll() if execution.process else None
        return Outcome("DeadKernelError", str(error), kernel_exit=code)
    except NoSuchKernel:
        problem = f"the Python kernel is not installed beside {sys.executable}; `make setup`"
        return Outcome("WorkbookError", problem)
    except (WorkbookError, OSError) as error:  # the copy could not be written
        return Outcome(type(error).__name__, str(error))
    for cell in document.cells:
        # papermill's own status fields say `completed` for cells that were not
        if cell.cell_type == "code" and cell.source.strip() and not cell.execution_count:
            return Outcome("Unfinished", "a cell ended the notebook early (SystemExit)")
    return Outcome()


def _as_it_stands(path: str) -> str:
    """For papermill, which puts parameters into a path's braces."""
    return path.replace("{", "{{").replace("}", "}}")


@contextlib.contextmanager
def _watched(execution: Execution) -> Iterator[None]:
    """Put the kernel on record, interrupt it when it must stop, and end it at last: by a thread."""
    finished = threading.Event()

    def watch() -> None:
        while not finished.wait(0.1):
            if execution.process is None:
                _record_kernel(execution)
            elif execution.stop.due():
                processes.signal_group(execution.process.pid, signal.SIGINT)
                if not finished.wait(GRACE):
                    processes.end_recorded(execution.run.folder)
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
        processes.end_recorded(execution.run.folder)


def _record_kernel(execution: Execution) -> None:
    provisioner = getattr(execution.manager, "provisioner", None)
    execution.process = getattr(provisioner, "process", None)
    if execution.process is not None:
        mark = execution.environment.get(processes.MARK, "")
        processes.record(execution.run.path(processes.KERNEL), execution.process.pid, mark)


class CopyWriter:
    """Where papermill sends the executed copy, once a cell: replaced whole, and without keys."""

    @classmethod
    def write(cls, text: str, path: str) -> None:
        """Write the notebook's JSON; its texts are cleaned as values, so that it stays JSON."""
        store.write_json(Path(path.removeprefix(COPY)), store.clean(json.loads(text)))

    @classmethod
    def pretty_path(cls, path: str) -> str:
        """The path for a message."""
        return path.removeprefix(COPY)


class BoundedClient(PapermillNotebookClient):
    """nbclient's client, which keeps of a cell's outputs what a person may read."""

    def process_message(self, message: Any, cell: Any, cell_index: int) -> Any:
        """Cut texts that are too long, and leave out what comes when a cell has said enough."""
        content = message["content"]
        kind = message["header"]["msg_type"]
        if kind == "stream":
            so_far = sum(len(output.get("text", "")) for output in cell.outputs)
            if so_far > MOST_TEXT:
                return None
            content["text"] = _cut(content["text"])
        elif "data" in content:
            content["data"] = {mime: _cut(text, mime) for mime, text in content["data"].items()}
        elif kind == "error":
            content["evalue"] = _cut(content["evalue"])
            content["traceback"] = [_cut(line) for line in content["traceback"]]
        return super().process_message(message, cell, cell_index)


def _cut(text: Any, mime: str = "text/plain") -> Any:
    if not isinstance(text, str) or len(text) <= MOST_TEXT or mime.startswith("image/"):
        return text
    return f"{text[:MOST_TEXT]}\n[{len(text) - MOST_TEXT:,} more characters are left out]\n"


class HeadlessEngine(NBClientEngine):
    """papermill's engine with the kernel of this interpreter, and without widgets."""

    @classmethod
    def execute_managed_notebook(
        cls, nb_man: Any, kernel_name: str, execution: Execution, **kwargs: Any
    ) -> Any:
        """Run the cells in a new kernel."""
        native_alone = KernelSpecManager(kernel_dirs=[])  # none to search: it is sys.executable's
        execution.manager = AsyncKernelManager(
            kernel_name=kernel_name,
            kernel_spec_manager=native_alone,
            transport_encryption="auto" if zmq.has("curve") else "disabled",
        )
        client = BoundedClient(
            nb_man,
            km=execution.manager,
            startup_timeout=STARTUP_SECONDS,
            iopub_timeout=IOPUB_SECONDS,
            store_widget_state=False,
            stdout_file=execution,
            shutdown_kernel="immediate",  # torch takes seconds to leave, and nothing waits for it
        )
        client.comm_open_handlers = {}
        # what the kernel says itself, above all when it crashes
        with open(execution.run.private / "kernel.log", "ab") as log:
            return client.execute(env=execution.environment, stderr=log, cleanup_kc=True)


papermill_engines.register("workbook", HeadlessEngine)
papermill_io.register(COPY, CopyWriter)
