"""Several processes and machines train what one process trains with the same global batch."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
from test_launch import rows
from test_rows import TASK

from helpers import models, processes, store
from helpers.records import WorkbookError
from helpers.train import LoraTrainingConfig, preflight
from helpers.train.job import TrainingResult, prepare_job
from helpers.train.launch import command

ONE = LoraTrainingConfig(
    base_model="tiny",
    epochs=1,
    batch_size=8,
    gradient_accumulation=1,
    lora_dropout=0.0,
    max_train_tokens=0,
    logging_steps=1,
)


def environment() -> dict[str, str]:
    changes = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return processes.child_environment(models.offline_env() | changes)


def train(name: str, config: LoraTrainingConfig) -> tuple[list[float], TrainingResult]:
    """The program on each of the machines, which share the home: its losses and its result."""
    folder = prepare_job(store.open_run(name), config, preflight(rows(), TASK, config)).folder
    with open(folder / "log", "wb") as log:
        children = [
            subprocess.Popen(
                command(config, folder / "job.json", machine),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment(),
            )
            for machine in range(config.machines)
        ]
        codes = [child.wait(timeout=500) for child in children]
    assert not any(codes), (folder / "log").read_text()[-3000:]
    lines = store.read_jsonl(folder / "training.jsonl")
    losses = [line["loss"] for line in lines if "loss" in line]
    return losses, TrainingResult(**store.read_json(folder / "result.json"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """(losses, result) of one process."""
    home = tmp_path_factory.mktemp("processes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBOOK_HOME", str(home))
        yield train("one", ONE)


@pytest.mark.parametrize("kind", ["processes", "machines"])
def test_two_of_them_give_the_loss_of_one_process(alone, kind):
    expected, whole = alone
    config = ONE.model_copy(
        update={"batch_size": 4, kind: 2, "main_address": f"127.0.0.1:{free_port()}"}
    )
    losses, result = train(kind, config)
    assert len(expected) == 4 and losses == pytest.approx(expected, abs=1e-3)
    assert result.tokens == whole.tokens


def test_fewer_processes_than_asked_are_refused_at_the_start():
    from helpers.train.program import assert_processes

    assert_processes(ONE)
    with pytest.raises(WorkbookError, match="1 processes of type NO instead of 2"):
        assert_processes(ONE.model_copy(update={"processes": 2}))
    with pytest.raises(WorkbookError, match="fsdp"):
        assert_processes(ONE.model_copy(update={"sharding": "fsdp"}))


def test_several_machines_need_an_address(tmp_path):
    with pytest.raises(WorkbookError, match="main_address"):
        command(ONE.model_copy(update={"machines": 2}), tmp_path)
    assert command(ONE, tmp_path)[:3] == [sys.executable, "-m", "helpers.train"]
