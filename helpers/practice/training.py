"""The real work behind the practice API: a LoRA adapter by the program of `train/`, and answers of what came out."""

from __future__ import annotations

import json
import math
import shutil
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers import models, store
from helpers.models import Answer, Model
from helpers.models.tokens import tokenizer_of
from helpers.practice.state import Entry
from helpers.records import Message
from helpers.train import LoraTrainingConfig, encode
from helpers.train.config import plan_schedule
from helpers.train.launch import check_adapter, run_child

RATE = {
    "embedded": 1.5e-3,
    "tiny": 5e-3,
}  # learning rate at multiplier 1 (docs/decisions.md: chosen for the tutorial)
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
MAX_TOKENS = 1024  # longer rows are cut at their end, as OpenAI cuts them at its own limit
MOST_POINTS = 250  # of a curve: every event is on disk before the next
KEPT = 3  # checkpoints of the last epochs
LOADING = threading.Lock()  # transformers may not be imported by two threads at once
ADAPTER = ("adapter_model.safetensors", "adapter_config.json")


def settled(asked: dict[str, Any], rows: int) -> dict[str, Any]:
    """The hyperparameters in numbers; "auto" epochs as OpenAI chooses them: three, more on very few rows."""
    auto = {
        "n_epochs": min(25, 100 // rows) if rows < 34 else 3,
        "batch_size": 4,
        "learning_rate_multiplier": 1.0,
    }
    return {
        name: value if asked.get(name, "auto") == "auto" else asked[name]
        for name, value in auto.items()
    }


def chats(data: bytes | None) -> list[list[Message]]:
    """The conversations of a training file, each up to its last answer: the one that is learnt."""
    found = []
    for line in (data or b"").splitlines():
        turns = [
            Message(role=m["role"], content=m.get("content") or "")
            for m in json.loads(line)["messages"]
        ]
        last = max(n for n, turn in enumerate(turns) if turn.role == "assistant")
        found.append(turns[: last + 1])
    return found


def train(
    entry: Entry, data: dict[str, bytes | None], on_line: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Train the job's adapter in a process of its own; {"tokens", "steps": [of the kept checkpoints]}."""
    used, base = entry.job["hyperparameters"], entry.base
    with LOADING:
        tokenizer = tokenizer_of(base)
    rows: dict[str, list[dict[str, Any]]] = {}
    for part, content in data.items():
        pairs = [encode(tokenizer, chat[:-1], chat[-1].content or "") for chat in chats(content)]
        made = [
            {"input_ids": given + learnt, "labels": [-100] * len(given) + learnt}
            for given, learnt in pairs
        ]
        rows[part] = [{name: ids[:MAX_TOKENS] for name, ids in row.items()} for row in made]
    fixed = {"gradient_accumulation": 1, "lora_dropout": 0.0, "target_modules": LAYERS}
    fixed |= {
        "epochs": used["n_epochs"],
        "batch_size": used["batch_size"],
        "seed": entry.job["seed"],
    }
    rate = RATE[base] * used["learning_rate_multiplier"]
    config = LoraTrainingConfig(base_model=base, learning_rate=rate, **fixed)
    epoch = math.ceil(len(rows["train"]) / used["batch_size"])
    schedule = plan_schedule(config, [len(row["input_ids"]) for row in rows["train"]])
    schedule |= {
        "logging_steps": math.ceil(schedule["steps"] / MOST_POINTS),
        "eval_steps": epoch,
        "save_steps": epoch,
    }
    run = store.Run(entry.id)
    run.folder = entry.folder  # a job's folder here has the form of a run's
    folder = run.path("training")
    shutil.rmtree(folder, ignore_errors=True)
    job = {
        "folder": str(folder),
        "base_path": models.base_path(base),
        "config": config.model_dump(),
    }
    job |= {"schedule": schedule, "keep_checkpoints": KEPT}
    job["rows"] = str(
        store.write_text(folder / "rows.json", store.dumps({"validation": []} | rows))
    )
    path = store.write_json(folder / "job.json", job)
    run_child([sys.executable, "-m", "helpers.train", str(path)], run, base, on_line)
    steps = sorted(
        int(each.name.rpartition("-")[2]) for each in folder.glob("checkpoints/checkpoint-*")
    )
    for step in steps:
        target = entry.folder / f"step-{step}"
        target.mkdir(exist_ok=True)
        for name in ADAPTER:
            shutil.copy(folder / f"checkpoints/checkpoint-{step}" / name, target / name)
    check_adapter(entry.folder / f"step-{steps[-1]}")
    tokens = store.read_json(folder / "result.json")["tokens"]
    shutil.rmtree(folder / "checkpoints")
    return {"tokens": tokens, "steps": steps}


@dataclass
class Request:
    """One chat that waits for its answer."""

    key: tuple[str, Path | None]
    chat: list[Message]
    most: int
    answer: Answer | None = None


class Answering:
    """Answers of base and tuned models; requests that wait at the same time are answered together, as servers do.

    The two models used last stay in memory.
    """

    def __init__(self) -> None:
        self._models: dict[tuple[str, Path | None], Model] = {}
        self._lock, self._waiting = threading.Lock(), deque[Request]()

    def answer(self, base: str, adapter: Path | None, chat: list[Message], most: int) -> Answer:
        """One greedy answer."""
        mine = Request((base, adapter), chat, most)
        self._waiting.append(mine)
        with (
            self._lock
        ):  # who gets it answers for all that wait for the same model, the others find theirs done
            if mine.answer is None:
                self._waiting.remove(mine)
                others = [r for r in list(self._waiting) if (r.key, r.most) == (mine.key, most)]
                for request in others:
                    self._waiting.remove(request)
                try:
                    self._answer_all([mine, *others])
                finally:  # after an error every one of them tries for itself
                    self._waiting.extend(r for r in others if r.answer is None)
        assert mine.answer is not None
        return mine.answer

    def _answer_all(self, requests: list[Request]) -> None:
        key, most = requests[0].key, requests[0].most
        with LOADING:
            self._models[key] = self._models.pop(key, None) or models.load_model(*key)
            self._models[key].count_tokens(requests[0].chat)  # loads what is loaded late
        for old in list(self._models)[:-2]:
            del self._models[old]
        for request, answer in zip(
            requests, self._models[key].answer([r.chat for r in requests], most), strict=True
        ):
            request.answer = answer
