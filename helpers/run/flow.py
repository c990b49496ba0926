"""`workbook run`: one profile, one lock, one folder, one exit code; a new kernel per notebook."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import time
import uuid
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from helpers import parameters, processes, store
from helpers.records import (
    Evaluation,
    NotebookEntry,
    Promotion,
    RunRecord,
    RunStatus,
    Verdict,
    WorkbookError,
)
from helpers.run import ending, report, resume
from helpers.run.advice import is_other_trainer, reason_to_stop
from helpers.run.doctor import check_commit, versions
from helpers.run.ending import Ending, Stop
from helpers.run.history import Book, Tell, end_dead_runs

SHIPPED = store.PROJECT / "helpers" / "tasks"
FINISHED = (ending.OK, ending.NEEDS_PERSON, *ending.VERDICT_CODE.values())
STATUS: dict[int, RunStatus] = dict.fromkeys(FINISHED, "finished")
STATUS |= dict.fromkeys((ending.INTERRUPTED, ending.TERMINATED), "interrupted")


def run(
    profile: str,
    only: str = "",
    from_: str = "",
    run_id: str = "",
    overrides: Sequence[str] = (),
    tell: Tell = lambda line: None,
) -> RunRecord:
    """Execute a profile's notebooks; bad settings raise before anything is written."""
    with report.heartbeat(profile) as beat, store.lock():
        check_commit()
        ending.check_address_space()
        loaded = parameters.load_profile(profile)
        values = parameters.RUN_LEVEL | parameters.resolve(loaded, overrides)
        queue = parameters.select(values["notebooks"], only, from_)
        made_up_id = f"{report.name_of(profile)}-{store.now():%Y%m%dT%H%M%SZ}"
        values["run_id"] = run_id or values["run_id"] or made_up_id
        task_folder = _check_task(values, queue)
        for dead in end_dead_runs(tell):
            report.publish(dead)
        processes.sweep(store.home().glob(".*.partial"))
        folder = store.open_run(values["run_id"])
        for path in sorted(folder.folder.rglob(".*.partial")):  # of this run, killed before
            processes.discard(path)
        options = [*(("-p", text) for text in overrides), ("--only", only), ("--from", from_)]
        given = chain.from_iterable(option for option in options if option[1])
        command = ["workbook", "run", profile, "--run-id", folder.id, *given]
        book = Book(
            run=folder,
            values=values,
            task_folder=task_folder,
            queue=queue,
            may_stop=not (only or from_),
            tell=report.logged(folder, tell),
            record=_first_record(folder, values, loaded.path.stem, queue, shlex.join(command)),
        )
        folder.save(book.record)
        with _signals(book.stop):
            _finish(book, _run_to_an_end(book))
        report.publish(book.record)
        beat.append(book.record.exit_code)
        return book.record


def _check_task(values: dict[str, Any], queue: Sequence[str]) -> Path:
    """Read the task and its verified rows before a kernel starts; return its folder.

    Paths in `values` become absolute: kernels work elsewhere.
    """
    from helpers import models, tasks

    task = tasks.load_task(values["task"])
    if not task.shipped:
        values["task"] = str(task.folder)
    for name in values.keys() & resume.PLACES:
        values[name] = _absolute(values[name])
    os.environ.update(models.offline_env(values.get("base_model", "embedded")))
    if {"01_decide", "02_curate"} & set(queue):
        tasks.load_examples(task, source="human")
    return task.folder


def _absolute(place: Any) -> Any:
    """The path of what is there, of each in a list; what is no path stays as it is."""
    if isinstance(place, list):
        return [_absolute(each) for each in place]
    if place in ("", "embedded", "tiny") or not Path(place).exists():
        return place
    return str(Path(place).resolve())


def _first_record(
    run: store.Run, values: dict[str, Any], profile: str, queue: Sequence[str], command: str
) -> RunRecord:
    """run.json at the start; of a run that exists it keeps what is not to be done now."""
    entries: dict[str, NotebookEntry] = {}
    if run.has(RunRecord):
        entries = {entry.name: entry for entry in run.load(RunRecord).notebooks}
    record = RunRecord(
        run_id=run.id,
        profile=profile,
        params=store.clean(json.loads(store.dumps(values))),
        status="running",
        resume=store.without_secrets(command),
        started_at=store.now(),
        notebooks=[
            entries.get(name, NotebookEntry(name=name))
            for name in parameters.select(values["notebooks"], "", "")
        ],
        versions=versions(),
    )
    for name in queue:
        record = record.with_entry(name, status="pending")
    return record


def _run_to_an_end(book: Book) -> Ending:
    try:
        return _look_for_alarms(book, _run_queue(book))
    except WorkbookError as error:  # what a user can mend: a full disk, a torn artifact
        return Ending(error.exit_code, ending.message_for_person(error))
    except Exception as error:  # run.json must not say `running` for ever
        outcome = ending.Outcome(type(error).__name__, str(error))
        end = ending.of_outcome("the runner", outcome, book.record.resume, "its log")
        if end is not None and end.code == ending.OUT_OF_ROOM:
            return end
        problem = f"the runner itself failed ({type(error).__name__}); please report it"
        _finish(book, Ending(ending.UNEXPECTED, problem))
        report.publish(book.record)
        raise


def _look_for_alarms(book: Book, end: Ending) -> Ending:
    """A run that looked at production and went well needs a person while an alarm is open."""
    if end.code != ending.OK or "06_monitor" not in book.queue:
        return end
    from helpers import registry, tasks

    task = tasks.load_task(book.values["task"]).registry_name
    names = [alarm.name for alarm in registry.list_alarms(task, state="open")]
    if not names:
        return end
    message = f"open alarms: {', '.join(names)}; `workbook registry alarms` shows them"
    before = f"{end.message}; " if end.message else ""
    return end._replace(code=ending.NEEDS_PERSON, message=before + message)


def _run_queue(book: Book) -> Ending:
    """Run the notebooks in order, until one fails or there is nothing more to do."""
    for number, name in enumerate(book.queue, 1):  # which may grow
        if book.stop.signal:
            return ending.interrupted(book.stop, book.record.resume)
        label = f"[{number}/{len(book.queue)}] {name}"
        end = None
        if is_other_trainer(book, name):
            book.mark(name, status="skipped")
            book.tell(f"{label} skipped: the other trainer was chosen")
        else:
            end = _run_notebook(book, name, label)
        end = end or reason_to_stop(book, number)
        if end is not None:
            return end
    if "05_registry" not in book.queue:
        return Ending(ending.OK)
    promotion = book.run.load(Promotion)
    if promotion.verdict == "pass":
        return Ending(ending.OK)
    reasons = "; ".join(promotion.reasons)
    code = ending.VERDICT_CODE[promotion.verdict]
    return Ending(code, f"the gate says {promotion.verdict}: {reasons}")


def _run_notebook(book: Book, name: str, label: str) -> Ending | None:
    """Run one notebook, or reuse what it wrote; None when its artifact is there and good."""
    notebook = store.NOTEBOOKS / f"{name}.ipynb"
    declared = parameters.declared_parameters(notebook)
    values = declared | {key: value for key, value in book.values.items() if key in declared}
    if "profile" in declared:
        values["profile"] = book.record.profile
    names = [entry.name for entry in book.record.notebooks]
    later = names[names.index(name) + 1 :]
    key = resume.key_of(notebook, values, book.run, book.task_folder, later)
    if resume.finished_before(name, key, book.run):
        book.mark(name, status="reused")
        book.tell(f"{label} reused: its parameters, inputs and code are unchanged")
        return None
    book.mark(name, status="running", attempts=book.record.entry(name).attempts + 1)
    book.tell(f"{label} …")
    edits = parameters.edits(notebook)
    if edits:
        book.tell(
            f"      {notebook.name} was saved with {edits} in its parameters cell; this run takes"
            " the declared defaults (use a profile or -p to change them)"
        )
    started = time.monotonic()
    before = resume.stamp(name, book.run)
    failure = _execute(book, name, notebook, values)
    if failure is None:
        problem = resume.artifact_problem(name, book.run, before)
        if problem:
            failure = Ending(ending.UNEXPECTED, f"{name}: {problem}")
    seconds = round(time.monotonic() - started, 1)
    if failure is not None:
        book.mark(name, status="failed", seconds=seconds)
        book.tell(f"{label} failed after {seconds:.0f} s")
        return failure
    resume.remember(name, key, book.run)
    book.mark(name, status="finished", seconds=seconds)
    book.tell(f"{label} done in {seconds:.0f} s")
    return None


def _execute(book: Book, name: str, notebook: Path, values: dict[str, Any]) -> Ending | None:
    """Run a notebook's cells in a kernel of its own; None when all of them ran."""
    from helpers.run import engine

    minutes = book.values["time_limits"].get(name, 0.0)
    book.stop.deadline = time.monotonic() + 60 * minutes if minutes else float("inf")
    copy = book.run.path(f"notebooks/{name}.ipynb")
    copy.parent.mkdir(parents=True, exist_ok=True)
    # headless, under our lock, with absolute folders (a kernel's working directory is another)
    environment = processes.child_environment(
        {
            "WORKBOOK_HEADLESS": "1",
            processes.MARK: uuid.uuid4().hex,
            "WORKBOOK_HOME": str(store.home()),
            "WORKBOOK_CACHE": str(store.cache()),
            "WORKBOOK_LOCK_HELD": str(store.home() / ".lock"),
            # its texts are made up, so that `show_text` may show them; those of no other task
            "WORKBOOK_SHIPPED_TASK": str(int(book.task_folder.is_relative_to(SHIPPED))),
        }
    )
    outcome = engine.execute(
        engine.Execution(
            run=book.run,
            notebook=notebook,
            copy=copy,
            parameters=values,
            environment=environment,
            stop=book.stop,
            tell=book.tell,
        )
    )
    again = book.record.resume
    if book.stop.signal:
        return ending.interrupted(book.stop, again)
    if book.stop.timed_out:
        problem = f"{name} was ended after {minutes:g} minutes (time_limits)"
        return Ending(ending.TIME_LIMIT, f"{problem}; raise its limit, then `{again}`")
    return ending.of_outcome(name, outcome, again, str(copy))


def _finish(book: Book, end: Ending) -> None:
    """The last run.json; notebooks that were chosen, but never came to run, are `skipped`."""
    entries = []
    for entry in book.record.notebooks:
        if entry.status == "pending" and end.code in FINISHED:
            entry = entry.model_copy(update={"status": "skipped"})
        entries.append(entry)
    status = "nothing_to_do" if end.nothing_to_do else STATUS.get(end.code, "failed")
    book.update(
        status=status,
        reason=end.message,
        verdict=_verdict(book.run) if status == "finished" else None,
        exit_code=end.code,
        finished_at=store.now(),
        notebooks=entries,
    )


def _verdict(run: store.Run) -> Verdict | None:
    """05's word, else 04's; one that cannot be read was no part of this run."""
    for kind in (Promotion, Evaluation):
        with contextlib.suppress(WorkbookError):  # or is not there
            return run.load(kind).verdict
    return None


@contextlib.contextmanager
def _signals(stop: Stop) -> Iterator[None]:
    """Note the first signal; the watcher and the loop act on it.

    (A background shell makes us inherit SIGINT ignored.)
    """

    def note(number: int, frame: object) -> None:
        stop.signal = stop.signal or number

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup means: go on
        numbers.append(signal.SIGHUP)
    handlers = {number: signal.signal(number, note) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
