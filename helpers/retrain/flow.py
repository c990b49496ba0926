"""`workbook run`: one profile, one lock, one folder; each notebook in a fresh kernel; one exit code at the end."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers import store
from helpers.records import WorkbookError
from helpers.retrain import ending, engine, parameters, processes, resume
from helpers.retrain.ending import Ending

Tell = Callable[[str], None]
PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "openai",
    "papermill",
    "jupyterlab",
    "pandas",
    "fine-tuning-workbook",
)


@dataclass
class Book:
    """A run in progress: what it does, and run.json, which always says how far it is."""

    run: store.Run
    record: dict[str, Any]
    values: dict[str, Any]
    task_folder: Path
    tell: Tell
    resume: str
    stop: engine.Stop = field(default_factory=engine.Stop)

    def save(self) -> None:
        """Bring run.json up to date."""
        store.write_json(self.run.path("run.json"), self.record)

    def entry(self, name: str) -> dict[str, Any]:
        """The line of one notebook in run.json."""
        return next(e for e in self.record["notebooks"] if e["name"] == name)


def run(
    profile: str,
    only: str = "",
    from_: str = "",
    run_id: str = "",
    overrides: Sequence[str] = (),
    tell: Tell = lambda line: None,
) -> dict[str, Any]:
    """Execute a profile's notebooks and return run.json; bad settings raise before anything is written."""
    with store.lock():
        loaded = parameters.load_profile(profile)
        values = parameters.settle(loaded, overrides)
        chosen = parameters.select(values.get("notebooks", parameters.RUN_LEVEL["notebooks"]), only, from_)
        values["run_id"] = run_id or values.get("run_id") or f"{loaded.name}-{store.now():%Y%m%dT%H%M%SZ}"
        os.environ.update(_offline(values))
        task_folder = _check_task(values, chosen)
        end_dead_runs(tell)
        again = ["workbook", "run", profile, "--run-id", values["run_id"]]
        again += [word for text in overrides for word in ("-p", text)]
        again += ["--only", only] if only else ["--from", from_] if from_ else []
        book = Book(store.open_run(values["run_id"]), {}, values, task_folder, tell, shlex.join(again))
        _open(book, loaded.name, chosen)
        with _signals(book.stop):
            _finish(book, _go_safely(book, chosen, stops=not (only or from_)))
        return book.record


def _offline(values: dict[str, Any]) -> dict[str, str]:
    from helpers import models

    return models.offline_env(values.get("base_model", "embedded"))


def _check_task(values: dict[str, Any], chosen: list[str]) -> Path:
    """Read the task and its verified rows before a kernel starts: what is wrong there is said at once."""
    from helpers import tasks

    task = tasks.load_task(values.get("task", parameters.RUN_LEVEL["task"]))
    if {"01_decide", "02_curate"} & set(chosen):
        tasks.load_examples(task, source="human")
    return task.folder


def _open(book: Book, profile: str, chosen: list[str]) -> None:
    """The first run.json; of a run that exists it keeps what is not to be done now, and the counts."""
    before = book.run.read("run.json") if book.run.has("run.json") else {}
    old = {entry["name"]: entry for entry in before.get("notebooks", [])}
    params = {**parameters.RUN_LEVEL, **book.values}
    entries = [
        {"name": name, "status": "pending", "seconds": None, "attempts": 0}
        | old.get(name, {})
        | ({"status": "pending"} if name in chosen else {})
        for name in params["notebooks"]
    ]
    book.record |= {
        "run_id": book.run.id,
        "profile": profile,
        "params": json.loads(store.redact(store.dumps(params))),
        "status": "running",
        "reason": "",
        "verdict": None,
        "exit_code": None,
        "started_at": store.now().isoformat(),
        "finished_at": None,
        "notebooks": entries,
        "versions": versions(),
    }
    book.save()


def _go_safely(book: Book, chosen: list[str], stops: bool) -> Ending:
    """As `_go`; what a user can mend (a full disk, a torn artifact) ends the run like any other failure."""
    try:
        return _go(book, chosen, stops)
    except WorkbookError as error:
        return Ending(error.exit_code, ending.plain(error))
    finally:
        processes.end_recorded(book.run.folder)


def _go(book: Book, chosen: list[str], stops: bool) -> Ending:
    """Run the chosen notebooks in order, until one fails or there is nothing more to do."""
    declared = parameters.declared_by(chosen)
    for number, name in enumerate(chosen, 1):
        if book.stop.signal:
            return ending.interrupted(book.stop, book.resume)
        label = f"[{number}/{len(chosen)}] {name}"
        if _other_trainer(book, name, chosen):
            book.entry(name)["status"] = "skipped"
            book.tell(f"{label} skipped: the other trainer was chosen")
            continue
        given = parameters.for_notebook(declared[name], {"show_text": False} | book.values)
        failed = _one(book, name, declared[name] | given, given, label)
        if failed:
            return failed
        if name == "01_decide" and stops and (sentence := _no_training(book)):
            return Ending(ending.OK, sentence)
    return _gate(book, chosen)


def _other_trainer(book: Book, name: str, chosen: list[str]) -> bool:
    """03a and 03b exclude each other: `trainer`, or what 01 chose, says which of them runs."""
    if not {"03a_train_lora", "03b_train_openai"} <= set(chosen) or not name.startswith("03"):
        return False
    trainer = book.values.get("trainer", "auto")
    if trainer == "auto":
        decided = book.run.read("decision.json").get("trainer") if book.run.has("decision.json") else ""
        trainer = "openai" if decided == "openai" else "lora"
    return not name.endswith(trainer)


def _no_training(book: Book) -> str:
    """The sentence that ends a run after 01, or "" when training is advised or wanted anyway."""
    recommendation = book.run.read("decision.json")["recommendation"]
    if recommendation == "fine_tuning" or book.values.get("train_anyway_because", "").strip():
        return ""
    book.record["status"] = "nothing_to_do"
    return f"01_decide advises {recommendation}, not fine-tuning; set train_anyway_because to train all the same"


def _one(book: Book, name: str, full: dict[str, Any], given: dict[str, Any], label: str) -> Ending | None:
    """Run one notebook, or reuse what it wrote; None when its artifact is there and good."""
    entry, notebook, artifact = book.entry(name), store.NOTEBOOKS / f"{name}.ipynb", resume.ARTIFACT[name]
    key = resume.key_of(notebook, full, book.run, book.task_folder)
    if resume.finished_before(name, key, book.run):
        entry["status"] = "reused"
        book.save()
        book.tell(f"{label} reused: its parameters, inputs and code are unchanged")
        return None
    entry |= {"status": "running", "attempts": entry["attempts"] + 1}
    book.save()
    book.tell(f"{label} …")
    started, before = time.monotonic(), engine.stamp(book.run.path(artifact))
    failed = _execute(book, name, notebook, given)
    if failed is None and (
        problem := engine.artifact_problem(book.run.path(artifact), before, resume.FACTS.get(artifact, ()))
    ):
        failed = Ending(ending.UNEXPECTED, f"{name}: {problem}")
    entry |= {"status": "failed" if failed else "finished", "seconds": round(time.monotonic() - started, 1)}
    if failed is None:
        resume.remember(name, key, book.run)
    book.save()
    book.tell(f"{label} {'failed after' if failed else 'done in'} {entry['seconds']:.0f} s")
    return failed


def _execute(book: Book, name: str, notebook: Path, given: dict[str, Any]) -> Ending | None:
    minutes = book.values.get("time_limits", {}).get(name, 0.0)
    book.stop.deadline = time.monotonic() + 60 * minutes if minutes else float("inf")
    copy = book.run.path(f"notebooks/{name}.ipynb")
    copy.parent.mkdir(parents=True, exist_ok=True)
    job = engine.Job(
        notebook=notebook,
        output=copy,
        parameters=given,
        env=_kernel_env(),
        pid_file=book.run.path(processes.KERNEL),
        stop=book.stop,
        tell=lambda line: book.tell(f"      {line}"),
    )
    outcome = engine.execute(job)
    processes.end_recorded(book.run.folder)
    return ending.of_outcome(name, outcome, book.stop, minutes, str(copy), book.resume)


def _kernel_env() -> dict[str, str]:
    """What kernels and their children see: headless, under our lock, with absolute folders (their cwd is another)."""
    path = os.pathsep.join(p for p in (str(store.PROJECT), os.environ.get("PYTHONPATH", "")) if p)
    return os.environ | {
        "WORKBOOK_HEADLESS": "1",
        "WORKBOOK_HOME": str(store.home()),
        "WORKBOOK_CACHE": str(store.cache()),
        "WORKBOOK_LOCK_HELD": str(store.home() / ".lock"),
        "PYTHONPATH": path,
    }


def _gate(book: Book, chosen: list[str]) -> Ending:
    """Every notebook is done: the gate's verdict is the exit code."""
    if "05_registry" not in chosen:
        return Ending(ending.OK, "")
    promotion = book.run.read("promotion.json")
    reasons = "; ".join(promotion.get("reasons", []))
    code = ending.VERDICT_CODE.get(promotion["verdict"], ending.OK)
    return Ending(code, f"the gate says {promotion['verdict']}: {reasons}" if code else "")


def _finish(book: Book, end: Ending) -> None:
    """Write the last run.json; notebooks that were chosen or not, but never came to run, are `skipped`."""
    record = book.record
    if record["status"] == "running":
        record["status"] = end.status
    for entry in record["notebooks"]:
        if entry["status"] == "pending" and end.status == "finished":
            entry["status"] = "skipped"
    for artifact in ("evaluation.json", "promotion.json"):
        if book.run.has(artifact) and record["status"] == "finished":
            record["verdict"] = book.run.read(artifact).get("verdict")
    record |= {"reason": end.message, "exit_code": end.code, "finished_at": store.now().isoformat()}
    book.save()


@contextlib.contextmanager
def _signals(stop: engine.Stop) -> Iterator[None]:
    """Note the first signal; the watcher and the loop act on it. (A background shell makes us inherit SIGINT ignored.)"""

    def note(number: int, frame: object) -> None:
        stop.signal = stop.signal or number

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup means: go on
        numbers.append(signal.SIGHUP)
    old = {number: signal.signal(number, note) for number in numbers}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def end_dead_runs(tell: Tell) -> None:
    """Runs that still say `running` while we hold the lock were killed: end what they left, and say so in run.json."""
    for record in past_runs():
        if record["status"] != "running":
            continue
        run = store.Run(record["run_id"])
        ended = processes.end_recorded(run.folder)
        record |= {"status": "interrupted", "exit_code": 137, "reason": "the process that ran it was killed"}
        store.write_json(run.path("run.json"), record)
        tell(f"run {run.id} had been killed; {ended} of its processes were still alive and are ended")


def past_runs() -> list[dict[str, Any]]:
    """run.json of every run, oldest first; a torn or foreign file is left out."""
    found = []
    for path in (store.home() / "runs").glob("*/run.json"):
        with contextlib.suppress(WorkbookError):
            found.append(store.read_json(path))
    return sorted(found, key=lambda record: record["started_at"])


def versions() -> dict[str, Any]:
    """Python, packages and commit: what one needs to repeat a run."""
    from importlib.metadata import PackageNotFoundError, version

    packages = {}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            packages[name] = version(name)
    return {"python": sys.version.split()[0], "packages": packages, "commit": _commit()}


def _commit() -> str | None:
    """The git commit, with "+changes" when files differ from it; None outside a checkout."""
    git = ["git", "-C", str(store.PROJECT)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() + ("+changes" if changed.stdout.strip() else "") if head.returncode == 0 else None
