"""Several processes and machines train what one process trains with the same global batch."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
from test_launch import rows
from test_rows import TASK

from helpers import models, store
from helpers.records import WorkbookError
from helpers.train import LoraTrainingConfig, preflight
from helpers.train.launch import command, prepare_job

ONE = LoraTrainingConfig(
    base_model="tiny", epochs=2, batch_size=8, gradient_accumulation=1, lora_dropout=0.0, max_train_tokens=0, logging_steps=1
)


def environment() -> dict[str, str]:
    return (
        os.environ | models.offline_env() | {"PYTHONPATH": str(store.PROJECT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    )


def start(config: LoraTrainingConfig, name: str, patch_home) -> list[subprocess.Popen]:
    """The program on each of the machines, which share the home."""
    report = preflight(rows(), TASK, config)
    folder = prepare_job(store.open_run(name), config, report)
    commands = [command(config, folder / "job.json", machine) for machine in range(config.machines)]
    log = open(folder / "log", "wb")  # noqa: SIM115
    return [subprocess.Popen(c, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment()) for c in commands]


def losses(home, name: str) -> list[float]:
    return [line["loss"] for line in store.read_jsonl(home / f"runs/{name}/training/training.jsonl") if "loss" in line]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_two_processes_and_two_machines_give_the_loss_of_one_process(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path))
    two = ONE.model_copy(update={"batch_size": 4, "processes": 2})
    apart = ONE.model_copy(update={"batch_size": 4, "machines": 2, "main_address": f"127.0.0.1:{free_port()}"})
    for name, config in (("one", ONE), ("two", two), ("apart", apart)):
        for child in start(config, name, tmp_path):
            assert child.wait(timeout=500) == 0, (tmp_path / f"runs/{name}/training/log").read_text()[-3000:]
    expected = losses(tmp_path, "one")
    assert len(expected) == 8
    for name in ("two", "apart"):
        assert losses(tmp_path, name) == pytest.approx(expected, abs=1e-3), name
        result = store.read_json(tmp_path / f"runs/{name}/training/result.json")
        assert result["tokens"] == store.read_json(tmp_path / "runs/one/training/result.json")["tokens"]


def test_fewer_processes_than_asked_are_refused_at_the_start(tmp_path, monkeypatch, capfd):
    from helpers.train.program import assert_processes

    assert_processes(ONE.model_dump())
    with pytest.raises(WorkbookError, match="1 processes of type NO instead of 2"):
        assert_processes(ONE.model_copy(update={"processes": 2}).model_dump())
    with pytest.raises(WorkbookError, match="fsdp"):
        assert_processes(ONE.model_copy(update={"sharding": "fsdp"}).model_dump())


def test_several_machines_need_an_address(tmp_path):
    with pytest.raises(WorkbookError, match="main_address"):
        command(ONE.model_copy(update={"machines": 2}), tmp_path)
    assert command(ONE, tmp_path)[:3] == [sys.executable, "-m", "helpers.train"]
