"""Execute one notebook headless: papermill with a small engine of our own, in a fresh kernel that surely ends.

Four things differ from bare papermill. Widget messages are not answered: nbclient's imitation of the Output widget
can wait for ever. The kernel is this interpreter, whatever a kernelspec elsewhere says. A watcher ends the kernel when
the time is up or a signal came, so that nothing depends on an exception surviving an event loop. Every save of the
executed copy is atomic and without keys and addresses, so that a kill leaves neither half a file nor a secret.
"""

from __future__ import annotations

import contextlib
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

from helpers import store
from helpers.records import WorkbookError
from helpers import processes
from helpers.run.ending import Outcome, Stop, clean

COPY = "workbook-copy:"  # an output path that begins so is written by CopyWriter
GRACE = 5.0  # seconds between asking a kernel to stop and killing it
LONGEST_LINE = 160  # of what a notebook prints: longer lines are tables or texts, and stay in the executed copy


@dataclass
class Job:
    """One notebook to execute; also the stream that its cells print to."""

    run: store.Run
    notebook: Path
    copy: Path  # the executed copy
    parameters: dict[str, Any]
    env: dict[str, str]
    stop: Stop
    tell: Callable[[str], None]
    manager: AsyncKernelManager | None = None
    process: Any = None  # the kernel's, once it runs

    def write(self, text: str) -> None:
        """Short whole lines go to the terminal as well."""
        for line in text.splitlines():
            if line.strip() and len(line) <= LONGEST_LINE:
                self.tell("      " + clean(line.rstrip()))

    def flush(self) -> None:
        """Nothing is held back."""


def execute(job: Job) -> Outcome:
    """Run all cells and keep the executed copy, without keys that an output may have shown."""
    outcome = Outcome()
    try:
        with _watched(job):
            options = {
                "engine_name": "workbook",
                "kernel_name": "python3",
                "progress_bar": False,
                "job": job,
            }
            folder = str(job.notebook.parent)
            copy = f"{COPY}{job.copy}"
            done = papermill.execute_notebook(
                str(job.notebook), copy, job.parameters, cwd=folder, **options
            )
        # papermill's own status fields say `completed` for cells that were not
        if not all(
            c.execution_count for c in done.cells if c.cell_type == "code" and c.source.strip()
        ):
            outcome = Outcome("Unfinished", "a cell ended the notebook early (SystemExit)")
    except PapermillExecutionError as error:
        outcome = Outcome(error.ename, error.evalue, error.exec_count)
    except (DeadKernelError, RuntimeError) as error:
        outcome = Outcome(
            "DeadKernelError", str(error), kernel_exit=job.process.poll() if job.process else None
        )
    except NoSuchKernel:
        outcome = Outcome(
            "WorkbookError",
            f"the Python kernel is not installed beside {sys.executable}; `make setup` [exit 2]",
        )
    except WorkbookError as error:  # the copy could not be written
        outcome = Outcome("WorkbookError", str(error))
    except OSError as error:
        outcome = Outcome("OSError", str(error))
    return outcome


@contextlib.contextmanager
def _watched(job: Job) -> Iterator[None]:
    """Watch a notebook from a thread: put its kernel on record, interrupt it when it must stop, and end it at last."""
    finished = threading.Event()

    def watch() -> None:
        while not finished.wait(0.1):
            if job.process is None:
                job.process = getattr(getattr(job.manager, "provisioner", None), "process", None)
                if job.process is not None:
                    processes.record(job.run.path(processes.KERNEL), job.process.pid)
            elif job.stop.due():
                processes.signal_group(job.process.pid, signal.SIGINT)
                if not finished.wait(GRACE):
                    processes.end_recorded(job.run.folder)
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
        processes.end_recorded(job.run.folder)


class CopyWriter:
    """Where papermill sends the executed copy, once a cell: the file is replaced as a whole, and holds no key."""

    @classmethod
    def write(cls, text: str, path: str) -> None:
        """Write the notebook's JSON."""
        store.write_text(Path(path.removeprefix(COPY)), clean(text))

    @classmethod
    def pretty_path(cls, path: str) -> str:
        """The path for a message."""
        return path.removeprefix(COPY)


class HeadlessEngine(NBClientEngine):
    """papermill's engine with the kernel of this interpreter, and without widgets."""

    @classmethod
    def execute_managed_notebook(
        cls, nb_man: Any, kernel_name: str, job: Job, **kwargs: Any
    ) -> Any:
        """Run the cells in a new kernel."""
        job.manager = AsyncKernelManager(
            kernel_name=kernel_name,
            kernel_spec_manager=KernelSpecManager(
                kernel_dirs=[]
            ),  # none to search: the native one, sys.executable
            transport_encryption="auto" if zmq.has("curve") else "disabled",
        )
        waits = {
            "startup_timeout": 120,
            "iopub_timeout": 60,
        }  # nbclient's own 4 s fail on a busy machine
        client = PapermillNotebookClient(
            nb_man, km=job.manager, **waits, store_widget_state=False, stdout_file=job
        )
        client.comm_open_handlers = {}
        with open(
            job.run.private / "kernel.log", "ab"
        ) as log:  # what it says itself, above all when it crashes
            return client.execute(env=job.env, stderr=log, cleanup_kc=True)


papermill_engines.register("workbook", HeadlessEngine)
papermill_io.register(COPY, CopyWriter)
