"""What a learner, or a whole class, has done: every exercise right, wrong, open or missing."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from helpers import processes
from helpers.learn.edition import course_notebooks
from helpers.learn.feedback import STUB
from helpers.records import WorkbookError

SECONDS = 20  # an exercise may take


class Result(NamedTuple):
    """One exercise of one learner."""

    learner: str
    notebook: str
    exercise: str
    state: str  # right, wrong, open, missing
    message: str


class Exercise(NamedTuple):
    """A function to write, and the cell that judges it."""

    name: str
    source: str
    check: str


def exercises(document: dict[str, Any]) -> Iterator[Exercise]:
    """The exercises of a notebook, in order: a cell with nbgrader's mark, then its checkpoint."""
    before = ""
    for cell in document["cells"]:
        mark = cell["metadata"].get("nbgrader", {})
        source = "".join(cell["source"])
        if mark.get("grade"):
            yield Exercise(mark["grade_id"].removeprefix("check-"), before, source)
        before = source


def check_folder(folder: Path) -> list[Result]:
    """Judge a learner's folder, or every folder of a class, by the checkpoints of this workbook.

    What learners wrote is run, as in nbgrader: in a program of its own, but with your rights.
    """
    if not folder.is_dir():
        raise WorkbookError(f"{folder} is no folder; `workbook learner {folder}` writes one")
    folders = [folder] if any(folder.glob("[0-9]*.ipynb")) else sorted(folder.iterdir())
    learners = [path for path in folders if any(path.glob("[0-9]*.ipynb"))]
    if not learners:
        raise WorkbookError(f"{folder} holds no notebook of the workbook, nor do its folders")
    results = []
    for learner, (path, document) in product(learners, course_notebooks().items()):
        results += _check_notebook(learner, path, document)
    return results


def _check_notebook(learner: Path, path: Path, document: dict[str, Any]) -> Iterator[Result]:
    mine: dict[str, list[str]] = {}  # grade_id -> its cell; several, once it was split or copied
    problem = "its cell is not there"
    try:
        for cell in json.loads((learner / path).read_text("utf-8"))["cells"]:
            mark = cell["metadata"].get("nbgrader", {})
            if mark.get("solution"):
                mine.setdefault(mark["grade_id"], []).append("".join(cell["source"]))
    except FileNotFoundError:
        problem = "its notebook is not there"
    except (ValueError, LookupError, TypeError, AttributeError):  # torn, or edited by hand
        problem = "its notebook cannot be read: take it from a copy, or begin it anew"
    tasks = []
    for exercise in exercises(document):
        written = mine.get(exercise.name, [])
        source = "\n".join(text for text in written if STUB not in text)
        if not source.strip():
            state = ("open", "") if written else ("missing", problem)
            yield Result(learner.name, path.stem, exercise.name, *state)
        else:
            tasks.append({"name": exercise.name, "source": source, "check": exercise.check})
    if tasks:
        for name, state, message in _run(
            {"imports": _imports(document), "tasks": tasks, "seconds": SECONDS}
        ):
            yield Result(learner.name, path.stem, name, state, message)


def _imports(document: dict[str, Any]) -> str:
    lines = []
    for cell in document["cells"]:
        if cell["cell_type"] == "code":
            for node in ast.parse("".join(cell["source"])).body:
                if isinstance(node, ast.Import | ast.ImportFrom):
                    lines.append(ast.unparse(node))
    return "\n".join(lines)


def _run(work: dict[str, Any]) -> list[list[str]]:
    """Judge in a program of its own: an endless loop or an exit ends only that."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", "from helpers.learn.grading import main; main()"],
            input=json.dumps(work),
            env=processes.child_environment({"WORKBOOK_HEADLESS": "1"}),
            capture_output=True,
            text=True,
            timeout=SECONDS * (2 + len(work["tasks"])),
        )
        return json.loads(done.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError):
        unfinished = ["wrong", "the notebook's exercises could not be run to their end"]
        return [[task["name"], *unfinished] for task in work["tasks"]]


def judge(imports: str, source: str, check: str, seconds: int = SECONDS) -> tuple[str, str]:
    """right or wrong, and why, of one answer."""
    space: dict[str, Any] = {}
    signal.alarm(seconds)
    try:
        for code in (imports, source, check):
            exec(code, space)
    except BaseException as error:  # SystemExit and the alarm too
        return "wrong", f"{type(error).__name__}: {error}".removeprefix("NotYet: ")
    finally:
        signal.alarm(0)
    return "right", ""


def _too_long(number: int, frame: Any) -> None:
    raise TimeoutError("it ran too long; does it ever end?")


def main() -> None:
    """Judge what stdin asks for; the results are the last line of stdout."""
    work = json.load(sys.stdin)
    signal.signal(signal.SIGALRM, _too_long)
    results = []
    for task in work["tasks"]:
        with contextlib.redirect_stdout(io.StringIO()):
            verdict = judge(work["imports"], task["source"], task["check"], work["seconds"])
        results.append([task["name"], *verdict])
    sys.stdout.write("\n" + json.dumps(results) + "\n")
