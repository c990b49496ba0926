"""Toy notebooks under the real names: each writes its artifact in a second, without a model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from retrain_toys import CONTENT

from helpers import store
from helpers.parameters import NOTEBOOKS

PARAMETERS = """run_id: str = "dev"
task: str = "support_triage"
show_text: bool = True
base_model: str = "embedded"
epochs: float = 3.0
seed: int = 7
"""
TASK = "name: toy\ninstructions: {full: Answer briefly.}\noutput: {text: true}\ntargets: {accuracy: 0.5}\n"


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
    """Eight toy notebooks and a profile `toy`; call it with NAME=[cells] to change some, or content={artifact: …}."""
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

    def write(content: dict[str, dict] | None = None, **changed: list[str]) -> None:
        versions = home / "datasets" / "v1"
        versions.mkdir(parents=True, exist_ok=True)
        (versions / "manifest.json").write_text("{}")
        for name in NOTEBOOKS:
            artifact = NOTEBOOKS[name].artifact
            value = (CONTENT | (content or {}))[artifact]
            done = (
                f"from helpers import store\nstore.open_run(run_id).write({artifact!r}, {value!r})"
            )
            (folder / f"{name}.ipynb").write_text(
                notebook(changed.get("nb" + name[:3].rstrip("_"), [done]))
            )

    write()
    return write


@pytest.fixture
def driver(tmp_path: Path) -> Callable[..., subprocess.Popen]:
    """Start `workbook …` on the toy notebooks as a process of its own."""
    script = tmp_path / "driver.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom helpers import cli, store\n"
        f"store.NOTEBOOKS = Path({str(tmp_path / 'notebooks')!r})\nsys.exit(cli.main(sys.argv[1:]))\n"
    )

    def start(*arguments: str) -> subprocess.Popen:
        env = os.environ | {"PYTHONPATH": str(store.PROJECT)}
        command = [sys.executable, str(script), *arguments]
        return subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    return start
