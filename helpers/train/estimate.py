"""How long a training will take here: from earlier trainings on this machine, else from a short matmul probe."""

from __future__ import annotations

import json
import platform
import time
from pathlib import Path
from typing import Any, Literal

from helpers import models, store
from helpers.records import Record
from helpers.tasks import Task
from helpers.train.config import LoraTrainingConfig
from helpers.train.rows import Preflight

REACHED = 0.5  # share of the matmul rate that a training step reaches, before there is a measurement
START_SECONDS = 25.0  # imports and loading, before there is a measurement


class TrainingEstimate(Record):
    """Steps and tokens are exact, minutes and cost a forecast on the stated basis."""

    steps: int
    tokens: int
    tokens_per_second: float
    minutes: float
    cost_usd: float
    basis: Literal["earlier trainings on this machine", "a matmul probe"]


def estimate(report: Preflight, config: LoraTrainingConfig, task: Task) -> TrainingEstimate:
    """Forecast the training that `report` describes."""
    known = _read().get(_key(config.base_model))
    rate = known["tokens_per_second"] if known else _probe_rate(report, config)
    seconds = (known["start_seconds"] if known else START_SECONDS) + report.tokens / rate
    return TrainingEstimate(
        steps=report.schedule.steps,
        tokens=report.tokens,
        tokens_per_second=round(rate, 1),
        minutes=round(seconds / 60, 1),
        cost_usd=round(seconds / 3600 * float(task.prices.get("hardware_usd_per_hour", 0)), 6),
        basis="earlier trainings on this machine" if known else "a matmul probe",
    )


def remember_throughput(base_model: str, tokens: int, seconds: float, start_seconds: float) -> None:
    """Keep what a training reached, as the next one's forecast."""
    if tokens and seconds:
        entry = {"tokens_per_second": tokens / seconds, "start_seconds": start_seconds}
        store.write_json(_path(), _read() | {_key(base_model): entry})


def _path() -> Path:
    return store.cache() / "throughput.json"


def _read() -> dict[str, Any]:
    return store.read_json(_path()) if _path().exists() else {}


def _key(base_model: str) -> str:
    return f"{platform.node()}:{base_model}"


def _probe_rate(report: Preflight, config: LoraTrainingConfig) -> float:
    """Tokens per second = matmul rate x REACHED / FLOPs per token.

    A frozen layer costs 2 FLOPs per parameter forward and 2 backward (input gradients alone); the LM head costs
    the same on supervised positions only.
    """
    config_file = Path(models.base_path(config.base_model)) / "config.json"
    if not config_file.is_file():
        return 100.0
    shape = json.loads(config_file.read_text(encoding="utf-8"))
    hidden, layers = shape["hidden_size"], shape["num_hidden_layers"]
    kv = hidden * shape.get("num_key_value_heads", shape["num_attention_heads"]) // shape["num_attention_heads"]
    block = layers * hidden * (2 * hidden + 2 * kv + 3 * shape["intermediate_size"])
    share = sum(r.trained for r in report.train) / sum(len(r.input_ids) for r in report.train)
    return _matmul_rate() * REACHED / (4 * (block + hidden * shape["vocab_size"] * share))


def _matmul_rate() -> float:
    """FLOPs per second of an fp32 matmul of a small model's shape, best of a few."""
    import torch

    a, b = torch.rand(1024, 576), torch.rand(576, 1536)
    times = []
    for _ in range(20):
        started = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - started)
    return 2 * 1024 * 576 * 1536 / min(times)
