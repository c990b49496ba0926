"""`workbook doctor --gpu`: two real steps on the user's own GPU, which is what could not be run where this was written."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from helpers import models, store
from helpers.models.tokens import tokenizer_of
from helpers.records import Message
from helpers.train.config import LoraTrainingConfig, plan_schedule
from helpers.train.rows import IGNORED, encode

PROBE = "import torch; print(torch.cuda.is_available() and torch.cuda.get_device_name(0), torch.version.cuda)"
WAYS = {"bf16 LoRA": False, "nf4 QLoRA": True}
Finding = tuple[str, str, bool, str]  # what, found, good, remedy


def prove_gpu() -> list[Finding]:
    """Findings about the GPU: is there one for torch, and does a training by each way end well on it."""
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True)
    name, _, built_for = done.stdout.strip().rpartition(" ")
    if not name or name == "False":
        remedy = (
            "install the driver, then torch for your CUDA version (its index is on pytorch.org)"
        )
        if built_for == "None":
            remedy = "this torch is a CPU build: install the one for your CUDA version (its index is on pytorch.org)"
        return [
            (
                "gpu training",
                "no GPU that torch can use; LoRA and QLoRA on a GPU are not proven here",
                False,
                remedy,
            )
        ]
    return [
        ("gpu", name, True, ""),
        *(prove(name, four_bit, "cuda") for name, four_bit in WAYS.items()),
    ]


def prove(way: str, load_in_4bit: bool, device: str) -> Finding:
    """Train the embedded model for two steps in a process of its own; good when it ended well, and on this device."""
    chats = [
        ([Message(role="user", content=f"Say {word}")], word)
        for word in ("one", "two", "three", "four")
    ]
    made = [encode(tokenizer_of("embedded"), prompt, answer) for prompt, answer in chats]
    rows = [
        {"input_ids": given + learnt, "labels": [IGNORED] * len(given) + learnt}
        for given, learnt in made
    ]
    config = LoraTrainingConfig(
        load_in_4bit=load_in_4bit, batch_size=2, gradient_accumulation=1, epochs=1
    )
    with tempfile.TemporaryDirectory() as home:
        job = {
            "folder": home,
            "base_path": models.base_path("embedded"),
            "config": config.model_dump(),
            "resume": None,
        }
        job["rows"] = str(
            store.write_json(Path(home) / "rows.json", {"train": rows, "validation": rows[:2]})
        )
        job["schedule"] = plan_schedule(config, [len(row["input_ids"]) for row in rows]) | {
            "batch_size": 2
        }
        program = [
            sys.executable,
            "-m",
            "helpers.train",
            str(store.write_json(Path(home) / "job.json", job)),
        ]
        with subprocess.Popen(
            program, cwd=store.PROJECT, stdin=subprocess.PIPE, stdout=-1, stderr=-2, text=True
        ) as child:
            said = child.stdout.read()  # its stdin stays open meanwhile: the program ends with it
        if child.returncode:
            lines = store.redact(said).strip().splitlines() or ["(no output)"]
            remedy = (
                "update bitsandbytes and the driver"
                if load_in_4bit
                else "update the driver, or torch to match it"
            )
            return way, f"failed: {lines[-1][:200]}", False, remedy
        details = store.read_json(Path(home) / "result.json")["details"]
    found = f"{details['steps']} steps on {details['device']}, {details['path']} path, {details['memory_mb']} MB"
    return (
        way,
        found,
        details["device"].startswith(device),
        "torch did not use the GPU it sees; look at CUDA_VISIBLE_DEVICES",
    )
