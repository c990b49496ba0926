"""kill -9 of the training program at any moment, then the same call again: the same adapter bytes.

2 points by default; `N=20 ROOM=train pytest tests/faults` runs and records more, with COMPUTE=fp32
in that precision.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from fault_points import every_point

from helpers import store
from helpers.records import TrainedModel, WorkbookError
from helpers.train import LoraTrainingConfig, fine_tune_lora, launch

sys.path.insert(0, str(store.PROJECT / "tests" / "train"))
from test_launch import rows
from test_rows import TASK

SEED = 18  # its first points fall in the middle and near the end
CONFIG = LoraTrainingConfig(
    base_model="tiny",
    epochs=12,
    learning_rate=5e-3,
    max_train_tokens=0,
    logging_steps=1,
    # bf16 on two cores has the more to go wrong: two processes, each with its own dropout
    compute=os.environ.get("COMPUTE", "bf16"),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home in which run "whole" trained without a fault."""
    home = tmp_path_factory.mktemp("faults")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBOOK_HOME", str(home))
        patch.setenv("OMP_NUM_THREADS", "2" if CONFIG.compute == "bf16" else "1")
        fine_tune_lora(rows(), CONFIG, TASK, store.open_run("whole"))
        yield home


def adapter_of(home: Path, run_id: str) -> str:
    model = store.Run(run_id).load(TrainedModel)
    return store.sha256_file(home / model.adapter / "adapter_model.safetensors")


def kill_in(run: store.Run, lines: int, delay: float, forked: bool = False) -> bool:
    """Train; kill -9 the program, or a process that it forked, a moment after so many lines.

    Whether the training died of it. None of its processes may live on.
    """
    path, children = run.folder / "training/training.jsonl", run.folder / "children.json"
    ended, family, died = threading.Event(), [], False

    def kill() -> None:
        while not ended.is_set():
            if path.exists() and path.read_bytes().count(b"\n") >= lines and children.exists():
                time.sleep(delay)
                with contextlib.suppress(OSError, ValueError, psutil.Error):  # it was quicker
                    program = psutil.Process(json.loads(children.read_text())[0]["pid"])
                    family.extend([program, *program.children(recursive=True)])
                    family[-1 if forked else 0].kill()
                return
            time.sleep(0.002)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        fine_tune_lora(rows(), CONFIG, TASK, run)
    except WorkbookError as error:
        died = error.exit_code == 6
    ended.set()
    killer.join()
    assert not psutil.wait_procs(family, 60)[1], "a process of the training lives on"
    return died


def kill_and_go_on(home: Path, point: int) -> str:
    """One point: what was wrong, or nothing."""
    rng, run = random.Random(f"{SEED}:{point}"), store.open_run(f"killed-{point}")
    lines, delay = rng.randint(1, 33), rng.random() * 0.05
    died = kill_in(run, lines, delay)
    model = fine_tune_lora(rows(), CONFIG, TASK, run)
    whole = store.Run("whole").load(TrainedModel)
    steps = [
        line["step"]
        for line in store.read_jsonl(run.path("training/training.jsonl"))
        if "loss" in line
    ]
    where = (
        f"killed after line {lines} + {delay:.3f} s (died: {died}),"
        f" resumed at step {model.details['resumed_at']}"
    )
    print(f"point {point}: {where}")
    wrong = {
        "the adapter differs": adapter_of(home, run.id) != adapter_of(home, "whole"),
        "tokens or best step differ": (model.tokens, model.losses["best_step"])
        != (whole.tokens, whole.losses["best_step"]),
        "a step is missing in the curve, or there twice": steps
        != list(range(1, model.details["steps"] + 1)),
    }
    return "; ".join(f"{what}: {where}" for what, broken in wrong.items() if broken)


def test_a_killed_training_goes_on_to_the_same_adapter(home):
    found = every_point(
        "train_resume",
        2,
        lambda point: kill_and_go_on(home, point),
        seed=SEED,
        compute=CONFIG.compute,
    )
    assert found == []


def test_a_training_whose_forked_process_is_killed_goes_on_to_its_end(home):
    run = store.open_run("forked")
    kill_in(run, 6, 0.0, forked=True)
    fine_tune_lora(rows(), CONFIG, TASK, run)
    steps = store.Run("whole").load(TrainedModel).details["steps"]
    assert run.load(TrainedModel).details["steps"] == steps


def test_a_training_that_died_after_its_last_step_is_finished_without_a_step(home, monkeypatch):
    run = store.open_run("late")
    with monkeypatch.context() as patch:
        patch.setattr(launch, "check_adapter", lambda folder: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fine_tune_lora(rows(), CONFIG, TASK, run)
    model = fine_tune_lora(rows(), CONFIG, TASK, run)
    assert model.details["resumed_at"] == model.details["steps"] and model.losses["train"] > 0
    own = model.details["training_seconds"] + model.details["other_seconds"]
    assert own + 1 < model.seconds, "the first attempt's time is told, and paid, too"
    assert adapter_of(home, run.id) == adapter_of(home, "whole")
