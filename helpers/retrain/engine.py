"""Execute one notebook headless: papermill with a small engine of our own, in a fresh kernel that surely ends.

Three things differ from bare papermill. Widget messages are not answered: nbclient's imitation of the Output widget
can wait for ever. The kernel is this interpreter, whatever a kernelspec elsewhere says. A watcher ends the kernel when
the time is up or a signal came, so that nothing depends on an exception surviving an event loop.
"""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers import store
from helpers.retrain import processes

GRACE = 5.0  # seconds between asking a kernel to stop and killing it
LONGEST_LINE = 160  # of what a notebook prints: longer lines are tables or texts, and stay in the executed copy


@dataclass
class Stop:
    """Why a notebook must end now: a signal, or its deadline."""

    signal: int = 0
    deadline: float = float("inf")
    timed_out: bool = False

    def due(self) -> bool:
        """Whether to stop; remembers that it was the deadline."""
        self.timed_out = self.timed_out or time.monotonic() > self.deadline
        return bool(self.signal) or self.timed_out


@dataclass
class Outcome:
    """How one notebook ended. `error` is "" when every cell ran; `kernel_exit` is negative for a signal."""

    error: str = ""
    message: str = ""
    cell: int | None = None
    kernel_exit: int | None = None
    ran: bool = False


@dataclass
class Job:
    """One notebook to execute."""

    notebook: Path
    output: Path  # the executed copy
    parameters: dict[str, Any]
    env: dict[str, str]
    pid_file: Path
    stop: Stop
    tell: Callable[[str], None]
    process: Any = None

    @property
    def log(self) -> Path:
        """Where the kernel's own messages go; removed when all went well."""
        return self.output.with_suffix(".log")

    def write(self, text: str) -> None:
        """What a cell prints: short whole lines go to the terminal as well."""
        for line in text.splitlines():
            if line.strip() and len(line) <= LONGEST_LINE:
                self.tell(store.redact(line.rstrip()))

    def flush(self) -> None:
        """Nothing is held back."""


def execute(job: Job) -> Outcome:
    """Run all cells; the executed copy appears under its own name only when it is complete."""
    import papermill
    from jupyter_client.kernelspec import NoSuchKernel
    from nbclient.exceptions import CellControlSignal, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    _register()
    partial = job.output.with_name(f"{job.output.stem}.partial.ipynb")
    outcome = Outcome()
    try:
        with _watched(job):
            done = papermill.execute_notebook(
                str(job.notebook),
                str(partial),
                parameters=job.parameters,
                engine_name="workbook",
                kernel_name="python3",
                progress_bar=False,
                cwd=str(job.notebook.parent),
                start_timeout=120,
                job=job,
            )
        outcome.ran = _all_cells_ran(done)
        if not outcome.ran:
            outcome.error, outcome.message = "Unfinished", "a cell ended the notebook early (SystemExit)"
    except PapermillExecutionError as error:
        outcome.error, outcome.message, outcome.cell = error.ename, error.evalue, error.exec_count
    except (DeadKernelError, RuntimeError) as error:
        outcome.error, outcome.message = "DeadKernelError", str(error)
    except NoSuchKernel as error:
        outcome.error, outcome.message = "NoSuchKernel", f"{error}; run `workbook doctor`"
    except CellControlSignal as error:
        outcome.error, outcome.message = type(error).__name__, str(error).splitlines()[0]
    except OSError as error:
        outcome.error, outcome.message = "OSError", str(error)
    finally:
        outcome.kernel_exit = job.process.poll() if job.process else None
        with contextlib.suppress(OSError):  # the disk is full: what went wrong is already known
            _publish(partial, job.output)
            if outcome.ran:
                job.log.unlink(missing_ok=True)
    return outcome


def _all_cells_ran(notebook: Any) -> bool:
    """Every code cell was executed; papermill's own status fields say `completed` for cells that were not."""
    return all(c.execution_count for c in notebook.cells if c.cell_type == "code" and c.source.strip())


def _publish(partial: Path, output: Path) -> None:
    """Give the executed copy its name, without keys that an output may have shown."""
    if partial.exists():
        text = partial.read_text(encoding="utf-8")
        clean = store.redact(text)
        if clean != text:
            store.write_text(partial, clean)
        partial.replace(output)


@contextlib.contextmanager
def _watched(job: Job) -> Iterator[None]:
    """Watch a running notebook from a thread: interrupt its kernel when it must stop, kill it when it does not."""
    finished = threading.Event()

    def watch() -> None:
        asked = None
        while not finished.wait(0.2):
            if job.process is None or not job.stop.due():
                continue
            if asked is None:
                asked = time.monotonic()
                processes.signal_group(job.process.pid, signal.SIGINT)
            elif time.monotonic() - asked > GRACE:
                processes.signal_group(job.process.pid, signal.SIGKILL)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
        if job.process is not None and job.process.poll() is None:
            processes.signal_group(job.process.pid, signal.SIGKILL)
        job.pid_file.unlink(missing_ok=True)


def _register() -> None:
    """Make the engine known to papermill (its classes need papermill, which takes a second to import)."""
    import zmq
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpecManager
    from nbclient.util import run_sync
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import NBClientEngine, papermill_engines

    class HeadlessClient(PapermillNotebookClient):
        job: Job

        def create_kernel_manager(self) -> Any:
            # no folders to search: the native kernel, which is sys.executable
            specs = KernelSpecManager(kernel_dirs=[])
            encryption = "auto" if zmq.has("curve") else "disabled"
            self.km = AsyncKernelManager(
                kernel_name="python3", kernel_spec_manager=specs, transport_encryption=encryption
            )
            return self.km

        async def async_start_new_kernel_client(self) -> Any:
            self.job.process = self.km.provisioner.process
            processes.record(self.job.pid_file, self.job.process.pid)
            return await super().async_start_new_kernel_client()

        start_new_kernel_client = run_sync(async_start_new_kernel_client)

    class HeadlessEngine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, job: Job, **kwargs: Any) -> Any:
            client = HeadlessClient(
                nb_man,
                kernel_name=kernel_name,
                startup_timeout=kwargs["start_timeout"],
                iopub_timeout=60,  # nbclient's 4 s fail on a busy machine
                store_widget_state=False,
                stdout_file=job,
            )
            client.comm_open_handlers = {}
            client.job = job
            with open(job.log, "ab") as log:  # what the kernel itself says, above all when it crashes
                return client.execute(env=job.env, stderr=log)

    papermill_engines.register("workbook", HeadlessEngine)


def artifact_problem(path: Path, before: tuple[int, int] | None, keys: tuple[str, ...]) -> str:
    """What is wrong with a notebook's artifact after its run, or "": it must be new, valid JSON, and say its main facts."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"all cells ran, but {path} was not written"
    except (OSError, ValueError) as error:
        return f"{path} is not valid JSON ({error})"
    if stamp(path) == before:
        return f"all cells ran, but {path} is still the one from before"
    missing = [key for key in keys if not isinstance(value, dict) or key not in value]
    return f"{path} lacks {', '.join(missing)}" if missing else ""


def stamp(path: Path) -> tuple[int, int] | None:
    """What changes when a file is replaced (a clock that jumps cannot fool it: the two are compared, not ordered)."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino
