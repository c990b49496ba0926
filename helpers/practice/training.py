"""The real work behind the practice API: an adapter by the program of train/, and its answers."""

from __future__ import annotations

import json
import math
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from helpers import models, store
from helpers import train as trainer
from helpers.models import Answer
from helpers.practice.storage import TuningJob
from helpers.records import Message

# learning rate at multiplier 1 (docs/decisions.md: chosen for the tutorial)
RATE = {"embedded": 1.5e-3, "tiny": 5e-3}
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
MAX_TOKENS = 1024  # longer rows are cut at their end, as OpenAI cuts them at its own limit
MOST_POINTS = 250  # of a curve: every event is on disk before the next
CHECKPOINTS = 3  # of the last epochs are kept
LOADING = threading.Lock()  # transformers may not be imported by two threads at once
ADAPTER = ("adapter_model.safetensors", "adapter_config.json")


class Trained(NamedTuple):
    """What a training made: its tokens, and the steps of the checkpoints that were kept."""

    tokens: int
    steps: list[int]


def in_numbers(chosen: dict[str, Any], rows: int) -> dict[str, Any]:
    """The hyperparameters in numbers: "auto" as OpenAI is known to choose."""
    numbers = {
        "n_epochs": trainer.auto_epochs(rows),
        "batch_size": 4,
        "learning_rate_multiplier": 1.0,
    }
    return numbers | {name: value for name, value in chosen.items() if value != "auto"}


def chats(data: bytes | None) -> list[list[Message]]:
    """The conversations of a training file, each up to an answer whose weight is not 0."""
    conversations = []
    for line in (data or b"").splitlines():
        row = json.loads(line)
        turns: list[Message] = []
        for turn in row["messages"]:
            fields = {name: turn.get(name) for name in ("tool_calls", "tool_call_id", "weight")}
            turns.append(Message(role=turn["role"], content=turn.get("content") or "", **fields))
        if row.get("tools"):
            turns[0] = turns[0].model_copy(update={"tools": row["tools"]})
        for number, turn in enumerate(turns, 1):
            if turn.role == "assistant" and turn.weight != 0:
                conversations.append(turns[:number])
    return conversations


def _training_rows(base: str, data: bytes | None) -> list[dict[str, list[int]]]:
    with LOADING:
        tokenizer = models.tokenizer_of(base)
    rows = []
    for chat in chats(data):
        prompt, answer = trainer.encode(tokenizer, chat[:-1], chat[-1])
        rows.append(trainer.token_row(prompt, answer, MAX_TOKENS))
    return rows


def train(
    tuning: TuningJob, data: dict[str, bytes | None], on_line: Callable[[dict[str, Any]], None]
) -> Trained:
    """Train the job's adapter in a process of its own; `data` holds the file of each part."""
    used = tuning.job["hyperparameters"]
    rows = {part: _training_rows(tuning.base, content) for part, content in data.items()}
    config = trainer.LoraTrainingConfig(
        base_model=tuning.base,
        learning_rate=RATE[tuning.base] * used["learning_rate_multiplier"],
        epochs=used["n_epochs"],
        batch_size=used["batch_size"],
        gradient_accumulation=1,
        lora_dropout=0.0,
        target_modules=LAYERS,
        seed=tuning.job["seed"],
    )
    schedule = trainer.plan_schedule(config, [len(row["input_ids"]) for row in rows["train"]])
    epoch = math.ceil(len(rows["train"]) / used["batch_size"])
    schedule["logging_steps"] = math.ceil(schedule["steps"] / MOST_POINTS)
    schedule["eval_steps"] = epoch
    schedule["save_steps"] = epoch
    run = store.Run(tuning.id)
    run.folder = tuning.folder  # a job's folder here has the form of a run's
    folder = run.path("training")
    shutil.rmtree(folder, ignore_errors=True)
    job = trainer.TrainingJob(
        folder=folder,
        rows=store.write_text(folder / "rows.json", store.dumps(rows)),
        base_path=models.base_path(tuning.base),
        config=config,
        schedule=schedule,
        keep_checkpoints=CHECKPOINTS,
    )
    path = store.write_json(folder / "job.json", job)
    command = [sys.executable, "-m", "helpers.train", str(path)]
    trainer.run_program(command, run, tuning.base, on_line)
    steps = _keep_adapters(folder, tuning.folder)
    result = trainer.TrainingResult(**store.read_json(folder / "result.json"))
    shutil.rmtree(folder / "checkpoints")
    return Trained(result.tokens, steps)


def _keep_adapters(folder: Path, target: Path) -> list[int]:
    """Copy the adapter of every checkpoint to `target`/step-N; the steps, in order."""
    checkpoints = folder.glob("checkpoints/checkpoint-*")
    steps = sorted(int(checkpoint.name.rpartition("-")[2]) for checkpoint in checkpoints)
    for step in steps:
        adapter = target / f"step-{step}"
        adapter.mkdir(exist_ok=True)
        for name in ADAPTER:
            shutil.copy(folder / f"checkpoints/checkpoint-{step}" / name, adapter / name)
    trainer.check_adapter(target / f"step-{steps[-1]}")
    return steps


class Answering:
    """Answers of base and tuned models; the two that were used last stay in memory."""

    def __init__(self) -> None:
        self._models: dict[tuple[str, Path | None], models.Batched] = {}

    def answer(self, base: str, adapter: Path | None, chat: list[Message], most: int) -> Answer:
        """One greedy answer of at most so many tokens."""
        key = (base, adapter)
        with LOADING:
            model = self._models.pop(key, None)
            if model is None:
                loaded = models.load_model(base, adapter)
                loaded.answer([chat], 1)  # loads what is loaded late
                model = models.Batched(loaded)
            self._models[key] = model  # the one used last
            for old in list(self._models)[:-2]:
                self._models.pop(old).close()
            answer = model.submit(chat, most)
        return answer.result()
