"""Toy notebooks under the real names: each writes its artifact in a second, without a model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import record_toys

from helpers import store
from helpers.parameters import NOTEBOOKS
from helpers.records import Artifact, DatasetPointer

PARAMETERS = """run_id: str = "dev"
task: str = "support_triage"
show_text: bool = True
base_model: str = "embedded"
rung_models: list[str] = []
epochs: float = 3.0
seed: int = 7
max_age_days: int = 90
min_feedback_score: float = 4.0
"""
TASK = """name: toy
instructions: {full: Answer briefly.}
output: {text: true}
targets: {accuracy: 0.5}
"""
# what each toy notebook writes when all goes well
ARTIFACTS: tuple[Artifact, ...] = (
    record_toys.environment(),
    record_toys.decision(),
    DatasetPointer(version="v1", fingerprint="f"),
    record_toys.trained_model(),
    record_toys.evaluation(),
    record_toys.promotion(),
    record_toys.health(),
)


TOY_CRONTAB = """#!/bin/sh
case "$1" in
-l) cat "$TAB" 2>/dev/null || { echo "no crontab for you" >&2; exit 1; } ;;
-) [ -z "$REFUSE" ] || { echo "$REFUSE" >&2; exit 1; }; cat > "$TAB" ;;
esac
"""


def toy_crontab(folder: Path) -> dict[str, str]:
    """The environment in which `crontab` is a toy, whose crontab is the file `tab`."""
    program = folder / "bin" / "crontab"
    program.parent.mkdir()
    program.write_text(TOY_CRONTAB)
    program.chmod(0o755)
    return {"PATH": f"{program.parent}:{os.environ['PATH']}", "TAB": str(folder / "tab")}


def writing(artifact: Artifact) -> str:
    """A cell that writes this artifact into its run."""
    kind = type(artifact).__name__
    content = artifact.model_dump(mode="json")
    lines = (
        "from helpers import store",
        f"from helpers.records import {kind}",
        f"store.open_run(run_id).save({kind}.model_validate({content!r}))",
    )
    return "\n".join(lines)


def notebook(cells: list[str], parameters: str = PARAMETERS) -> str:
    """The JSON of a notebook with a parameters cell and these code cells."""
    made = [
        {
            "cell_type": "code",
            "id": f"c{i}",
            "metadata": {"tags": ["parameters"]} if i == 0 else {},
            "source": source,
            "outputs": [],
            "execution_count": None,
        }
        for i, source in enumerate([parameters, *cells])
    ]
    spec = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return json.dumps({"cells": made, "metadata": spec, "nbformat": 4, "nbformat_minor": 5})


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Eight toy notebooks and a profile `toy`; call it to write some of them anew.

    `nbNAME=[cells]` changes what one does, `artifacts=[record, …]` what the others write.
    """
    folder, home = tmp_path / "notebooks", tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("WORKBOOK_HOME", str(home))
    monkeypatch.setattr(store, "NOTEBOOKS", folder)
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "task.yaml").write_text(TASK)
    (tmp_path / "task" / "human.jsonl").write_text(
        '{"prompt": "how are you?", "completion": "well"}\n'
    )
    (tmp_path / "toy.yaml").write_text(f"seed: 8  # a profile\ntask: {tmp_path}/task\n")

    def write(artifacts: Iterable[Artifact] = (), **changed: list[str]) -> None:
        versions = home / "datasets" / "v1"
        versions.mkdir(parents=True, exist_ok=True)
        (versions / "manifest.json").write_text("{}")
        to_write = {type(artifact): artifact for artifact in (*ARTIFACTS, *artifacts)}
        for name in NOTEBOOKS:
            short = "nb" + name[:3].rstrip("_")
            cells = changed.get(short, [writing(to_write[NOTEBOOKS[name].writes])])
            (folder / f"{name}.ipynb").write_text(notebook(cells))

    write()
    return write


@pytest.fixture
def driver(tmp_path: Path) -> Callable[..., subprocess.Popen]:
    """Start `workbook …` on the toy notebooks as a process of its own."""
    script = tmp_path / "driver.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom helpers import cli, store\n"
        f"store.NOTEBOOKS = Path({str(tmp_path / 'notebooks')!r})\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )

    def start(*arguments: str) -> subprocess.Popen:
        env = os.environ | {"PYTHONPATH": str(store.PROJECT)}
        command = [sys.executable, str(script), *arguments]
        return subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    return start
