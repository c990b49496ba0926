"""`workbook run`: one profile, one lock, one folder; each notebook in a fresh kernel; one exit code at the end."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers import store
from helpers.records import WorkbookError
from helpers.run import ending, machine, parameters, processes, report, resume
from helpers.run.ending import Ending, Stop

Tell = Callable[[str], None]


@dataclass
class Book:
    """A run in progress: what it does, and run.json, which always says how far it is."""

    run: store.Run
    values: dict[str, Any]  # run-level values, and what the profile and the command line set
    task_folder: Path
    tell: Tell
    resume: str
    record: dict[str, Any] = field(default_factory=dict)
    stop: Stop = field(default_factory=Stop)

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
    with store.lock(), report.heartbeat() as beat:
        machine.check_commit()
        loaded = parameters.load_profile(profile)
        values = parameters.RUN_LEVEL | parameters.settle(loaded, overrides)
        chosen = parameters.select(values["notebooks"], only, from_)
        values["run_id"] = (
            run_id or values["run_id"] or f"{loaded.path.stem}-{store.now():%Y%m%dT%H%M%SZ}"
        )
        task_folder = _check(values, chosen)
        end_dead_runs(tell)
        processes.sweep(store.home().glob(".*.partial"))
        again = ["workbook", "run", profile, "--run-id", values["run_id"]]
        again += [word for text in overrides for word in ("-p", text)]
        again += ["--only", only] if only else ["--from", from_] if from_ else []
        opened = store.open_run(values["run_id"])
        processes.sweep(opened.folder.rglob(".*.partial"))
        book = Book(opened, values, task_folder, report.logged(opened, tell), shlex.join(again))
        _open(book, loaded.path.stem, chosen)
        with _signals(book.stop):
            try:
                end = _go(book, chosen, stops=not (only or from_))
            except WorkbookError as error:  # what a user can mend: a full disk, a torn artifact
                end = Ending(error.exit_code, ending.plain(error))
            except Exception as error:  # a fault of ours: run.json must not say `running` for ever
                _finish(
                    book,
                    Ending(
                        ending.UNEXPECTED,
                        f"the runner itself failed ({type(error).__name__}); please report it",
                    ),
                )
                raise
            _finish(book, end)
        report.publish(book.record, book.resume)
        beat.append(end.code)
        return book.record


def _check(values: dict[str, Any], chosen: list[str]) -> Path:
    """Read the task and its verified rows before a kernel starts, and make paths absolute: kernels work elsewhere."""
    from helpers import models, tasks

    task = tasks.load_task(values["task"])
    if not task.shipped:
        values["task"] = str(task.folder)
    for name in {"base_model", "live_path"} & set(values):
        if values[name] not in ("", "embedded", "tiny") and Path(values[name]).exists():
            values[name] = str(Path(values[name]).resolve())
    os.environ.update(models.offline_env(values.get("base_model", "embedded")))
    if {"01_decide", "02_curate"} & set(chosen):
        tasks.load_examples(task, source="human")
    return task.folder


def _open(book: Book, profile: str, chosen: list[str]) -> None:
    """The first run.json; of a run that exists it keeps what is not to be done now, and the counts."""
    before = book.run.read("run.json") if book.run.has("run.json") else {}
    old = {entry["name"]: entry for entry in before.get("notebooks", [])}
    params = json.loads(store.redact(store.dumps(book.values)))
    book.record |= {"run_id": book.run.id, "profile": profile, "params": params}
    book.record |= {"status": "running", "reason": "", "verdict": None, "exit_code": None}
    book.record |= {"started_at": store.now().isoformat(), "finished_at": None}
    names = parameters.select(book.values["notebooks"], "", "")
    book.record["notebooks"] = [_entry(name) | old.get(name, {}) for name in names]
    book.record["versions"] = machine.versions()
    for name in chosen:
        book.entry(name)["status"] = "pending"
    book.save()


def _entry(name: str) -> dict[str, Any]:
    return {"name": name, "status": "pending", "seconds": None, "attempts": 0}


def _go(book: Book, chosen: list[str], stops: bool) -> Ending:
    """Run the chosen notebooks in order, until one fails or there is nothing more to do."""
    because, number = book.values.get("train_anyway_because", "").strip(), 0
    while number < len(chosen):
        name, number = chosen[number], number + 1
        if book.stop.signal:
            return ending.interrupted(book.stop, book.resume)
        label = f"[{number}/{len(chosen)}] {name}"
        if _other_trainer(book, name, chosen):
            book.entry(name)["status"] = "skipped"
            book.tell(f"{label} skipped: the other trainer was chosen")
        elif failed := _one(book, name, label):
            return failed
        asks = name == "06_monitor" and stops and "02_curate" in chosen[number:]
        if asks and (no := _question(book, chosen, number, because)):
            return no
        if name == "01_decide" and stops and not because and (no := _advice(book)):
            return no
    if "05_registry" not in chosen:
        return Ending(ending.OK)
    promotion = book.run.read("promotion.json")
    code = ending.VERDICT_CODE.get(promotion["verdict"], ending.OK)
    return Ending(
        code,
        f"the gate says {promotion['verdict']}: {'; '.join(promotion['reasons'])}" if code else "",
    )


def _question(book: Book, chosen: list[str], number: int, because: str) -> Ending | None:
    """After an early 06: the reason not to retrain; else the last decision is put here, or 01 has to make a new one."""
    from helpers import tasks
    from helpers.run import again

    task, declared = tasks.load_task(book.values["task"]), {}
    for name in ("02_curate", "03a_train_lora", "06_monitor"):
        declared |= store.declared_parameters(store.NOTEBOOKS / f"{name}.ipynb")
    now = (
        {"max_age_days": 90, "min_feedback_score": 4.0, "base_model": "embedded"}
        | declared
        | book.values
    )
    answer = again.should_retrain(
        task, book.run, now["max_age_days"], now["min_new_rows"], now["min_feedback_score"]
    )
    if not answer.yes and not because:
        book.record["status"] = "nothing_to_do"
        return Ending(ending.OK, f"{answer.reason}; set train_anyway_because to train all the same")
    book.tell(answer.reason if answer.yes else f"retraining all the same: {because}")
    if "01_decide" not in chosen and not again.reuse_decision(
        task, book.run, now["base_model"], now["max_age_days"]
    ):
        chosen.insert(number, "01_decide")
        if "01_decide" not in book.values["notebooks"]:
            book.record["notebooks"].insert(number, _entry("01_decide"))
        book.save()
        return None
    return None if because or "01_decide" in chosen else _advice(book)


def _advice(book: Book) -> Ending | None:
    """Why nothing is to be trained, if that is what the run's decision says."""
    advice = book.run.read("decision.json")["recommendation"]
    if advice == "fine_tuning":
        return None
    book.record["status"] = "nothing_to_do"
    return Ending(
        ending.OK,
        f"01_decide advises {advice}, not fine-tuning; set train_anyway_because to train all the same",
    )


def _other_trainer(book: Book, name: str, chosen: list[str]) -> bool:
    """03a and 03b exclude each other: `trainer`, or what 01 chose, says which of them runs."""
    if not {"03a_train_lora", "03b_train_openai"} <= set(chosen) or not name.startswith("03"):
        return False
    trainer = book.values["trainer"]
    if trainer == "auto":
        decided = book.run.read("decision.json")["trainer"] if book.run.has("decision.json") else ""
        trainer = "openai" if decided == "openai" else "lora"
    return not name.endswith(trainer)


def _one(book: Book, name: str, label: str) -> Ending | None:
    """Run one notebook, or reuse what it wrote; None when its artifact is there and good."""
    entry, notebook = book.entry(name), store.NOTEBOOKS / f"{name}.ipynb"
    artifact = book.run.path(parameters.NOTEBOOKS[name].artifact)
    declared = store.declared_parameters(notebook)
    given = {key: value for key, value in book.values.items() if key in declared}
    names = [other["name"] for other in book.record["notebooks"]]
    key = resume.key_of(
        notebook, declared | given, book.run, book.task_folder, names[names.index(name) + 1 :]
    )
    if resume.finished_before(name, key, book.run):
        entry["status"] = "reused"
        book.save()
        book.tell(f"{label} reused: its parameters, inputs and code are unchanged")
        return None
    entry |= {"status": "running", "attempts": entry["attempts"] + 1}
    book.save()
    book.tell(f"{label} …")
    started, before = time.monotonic(), resume.stamp(artifact)
    failed = _execute(book, name, notebook, given)
    if failed is None and (problem := resume.artifact_problem(name, artifact, before)):
        failed = Ending(ending.UNEXPECTED, f"{name}: {problem}")
    if failed is None:
        resume.remember(name, key, book.run)
    entry |= {
        "status": "failed" if failed else "finished",
        "seconds": round(time.monotonic() - started, 1),
    }
    book.save()
    book.tell(f"{label} {'failed after' if failed else 'done in'} {entry['seconds']:.0f} s")
    return failed


def _execute(book: Book, name: str, notebook: Path, given: dict[str, Any]) -> Ending | None:
    from helpers.run import engine

    minutes = book.values["time_limits"].get(name, 0.0)
    book.stop.deadline = time.monotonic() + 60 * minutes if minutes else float("inf")
    copy = book.run.path(f"notebooks/{name}.ipynb")
    copy.parent.mkdir(parents=True, exist_ok=True)
    # headless, under our lock, with absolute folders (a kernel's working directory is another)
    env = os.environ | {
        "WORKBOOK_HEADLESS": "1",
        "WORKBOOK_HOME": str(store.home()),
        "WORKBOOK_CACHE": str(store.cache()),
        "WORKBOOK_LOCK_HELD": str(store.home() / ".lock"),
        "PYTHONPATH": os.pathsep.join(
            filter(None, [str(store.PROJECT), os.environ.get("PYTHONPATH")])
        ),
    }
    outcome = engine.execute(engine.Job(book.run, notebook, copy, given, env, book.stop, book.tell))
    return ending.of_outcome(name, outcome, book.stop, minutes, str(copy), book.resume)


def _finish(book: Book, end: Ending) -> None:
    """Write the last run.json; notebooks that were chosen or not, but never came to run, are `skipped`."""
    record, finished = book.record, end.code in (ending.OK, *ending.VERDICT_CODE.values())
    if record["status"] == "running":
        record["status"] = (
            "finished" if finished else "interrupted" if end.code in (130, 143) else "failed"
        )
    for entry in record["notebooks"]:
        if entry["status"] == "pending" and finished:
            entry["status"] = "skipped"
    for artifact in ("evaluation.json", "promotion.json"):
        if book.run.has(artifact) and record["status"] == "finished":
            record["verdict"] = book.run.read(artifact).get("verdict")
    record |= {"reason": end.message, "exit_code": end.code, "finished_at": store.now().isoformat()}
    book.save()


@contextlib.contextmanager
def _signals(stop: Stop) -> Iterator[None]:
    """Note the first signal; the watcher and the loop act on it. (A background shell makes us inherit SIGINT ignored.)"""

    def note(number: int, frame: object) -> None:
        stop.signal = stop.signal or number

    nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # which means: go on
    numbers = (
        (signal.SIGINT, signal.SIGTERM) if nohup else (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    )
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
        record |= {
            "status": "interrupted",
            "exit_code": 137,
            "reason": "the process that ran it was killed",
        }
        store.write_json(run.path("run.json"), record)
        tell(
            f"run {run.id} had been killed; {ended} of its processes were still alive and are ended"
        )


def past_runs() -> list[dict[str, Any]]:
    """run.json of every run, oldest first; a torn or foreign file is left out."""
    found = []
    for path in (store.home() / "runs").glob("*/run.json"):
        with contextlib.suppress(WorkbookError):
            found.append(store.read_json(path))
    return sorted(found, key=lambda record: record["started_at"])
