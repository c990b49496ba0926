"""kill -9 of the training program at a random moment, then the same call again: the same adapter bytes.

2 points by default; `N=20 pytest tests/faults -k train` runs and records more.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from helpers import store
from helpers.records import WorkbookError
from helpers.train import LoraTrainingConfig, fine_tune_lora, launch

sys.path.insert(0, str(store.PROJECT / "tests" / "train"))
from test_launch import rows
from test_rows import TASK

SEED = 18  # its first points fall in the middle and near the end
N = int(os.environ.get("N") or 2)
CONFIG = LoraTrainingConfig(base_model="tiny", epochs=12, learning_rate=5e-3, max_train_tokens=0, logging_steps=1)
pytestmark = pytest.mark.skipif(os.environ.get("ROOM", "train") != "train", reason="another room's faults were asked for")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home in which run "whole" trained without a fault."""
    home = tmp_path_factory.mktemp("faults")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBOOK_HOME", str(home))
        patch.setenv("OMP_NUM_THREADS", "1")
        fine_tune_lora(rows(), CONFIG, TASK, store.open_run("whole"))
        yield home


def adapter_of(home: Path, run_id: str) -> str:
    model = store.read_json(home / "runs" / run_id / "model.json")
    return store.sha256_file(home / model["adapter"] / "adapter_model.safetensors")


def kill_when(folder: Path, lines: int, delay: float, ended: threading.Event) -> None:
    """kill -9 the program of this run as soon as it has written so many lines, and a moment more."""
    path, children = folder / "training/training.jsonl", folder / "children.json"
    while not ended.is_set():
        if path.exists() and path.read_bytes().count(b"\n") >= lines and children.exists():
            time.sleep(delay)
            with contextlib.suppress(OSError, ValueError):  # it was quicker
                os.kill(json.loads(children.read_text())[0]["pid"], signal.SIGKILL)
            return
        time.sleep(0.002)


@pytest.mark.parametrize("point", range(N))
def test_a_killed_training_goes_on_to_the_same_adapter(home, point):
    rng, run = random.Random(f"{SEED}:{point}"), store.open_run(f"killed-{point}")
    lines, delay, ended, died = rng.randint(1, 33), rng.random() * 0.05, threading.Event(), False
    killer = threading.Thread(target=kill_when, args=(run.folder, lines, delay, ended))
    killer.start()
    try:
        fine_tune_lora(rows(), CONFIG, TASK, run)
    except WorkbookError as error:
        died = error.exit_code == 6
    ended.set()
    killer.join()
    seen = []
    model = fine_tune_lora(rows(), CONFIG, TASK, run, on_line=seen.append)
    assert adapter_of(home, run.id) == adapter_of(home, "whole"), f"killed after line {lines} + {delay:.3f} s (died: {died})"
    whole = store.read_json(home / "runs/whole/model.json")
    assert (model.tokens, model.losses["best_step"]) == (whole["tokens"], whole["losses"]["best_step"])
    steps = [line["step"] for line in store.read_jsonl(run.path("training/training.jsonl")) if "loss" in line]
    assert steps == sorted(set(steps)), "the curve holds every step once"
    print(f"point {point}: killed after line {lines}, died {died}, resumed at step {model.details['resumed_at']}")


def test_a_training_that_died_after_its_last_step_is_finished_without_a_step(home, monkeypatch):
    run = store.open_run("late")
    with monkeypatch.context() as patch:
        patch.setattr(launch, "check_adapter", lambda folder: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fine_tune_lora(rows(), CONFIG, TASK, run)
    model = fine_tune_lora(rows(), CONFIG, TASK, run)
    assert model.details["resumed_at"] == model.details["steps"] and model.losses["train"] > 0
    assert adapter_of(home, run.id) == adapter_of(home, "whole")


def test_the_points_are_on_record(home, request):
    if not os.environ.get("N"):
        return
    failed = request.session.testsfailed
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=store.PROJECT, capture_output=True, text=True).stdout.strip()
    found = {
        "n": N,
        "failures": failed,
        "seed": SEED,
        "commit": commit,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    store.write_json(store.PROJECT / "docs/measured/train_resume.json", found)
