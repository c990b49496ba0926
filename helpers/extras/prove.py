"""`workbook doctor --gpu`: two real steps on the user's own GPU, and a race against stock trl.

That is what could not be run where this was written.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from helpers import models, store
from helpers.records import Finding, Message
from helpers.train import (
    LoraTrainingConfig,
    TrainingJob,
    TrainingResult,
    encode,
    plan_schedule,
    token_row,
)

PROBE = (
    "import torch;"
    "print(torch.cuda.is_available() and torch.cuda.get_device_name(0), torch.version.cuda)"
)
INDEX = "its index is on pytorch.org"


def prove_gpu() -> list[Finding]:
    """Is there a GPU for torch, and does a training by each way end well on it?"""
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True)
    name, _, built_for = done.stdout.strip().rpartition(" ")
    if name and name != "False":
        bf16 = prove("bf16 LoRA", False, "cuda")
        nf4 = prove("nf4 QLoRA", True, "cuda")
        races = [race("LoRA against trl"), race("QLoRA against trl", "--load-in-4bit")]
        return [Finding(name="gpu", verdict="pass", evidence=name), bf16, nf4, *races]
    remedy = f"install the driver, then torch for your CUDA version ({INDEX})"
    if built_for == "None":
        remedy = f"this torch is a CPU build: install the one for your CUDA version ({INDEX})"
    evidence = "no GPU that torch can use; LoRA and QLoRA on a GPU are not proven here"
    return [_failed("gpu training", evidence, remedy)]


def prove(way: str, load_in_4bit: bool, device: str) -> Finding:
    """Train the embedded model for two steps in a process of its own, on this device."""
    with tempfile.TemporaryDirectory() as folder:
        path = store.write_json(Path(folder) / "job.json", _two_steps(Path(folder), load_in_4bit))
        # its stdin stays open meanwhile: the program ends with it
        with subprocess.Popen(
            [sys.executable, "-m", "helpers.train", str(path)],
            cwd=store.PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as child:
            output = child.stdout.read()
        if child.returncode:
            lines = store.redact(output).strip().splitlines() or ["(no output)"]
            remedy = "update the driver, or torch to match it"
            if load_in_4bit:
                remedy = "install or update bitsandbytes (pip install -e '.[gpu]') and the driver"
            return _failed(way, f"failed: {lines[-1][:200]}", remedy)
        details = TrainingResult(**store.read_json(Path(folder) / "result.json")).details
    evidence = (
        f"{details['steps']} steps on {details['device']}, {details['path']} path,"
        f" {details['memory_mb']} MB"
    )
    if not details["device"].startswith(device):
        remedy = "torch did not use the GPU it sees; look at CUDA_VISIBLE_DEVICES"
        return _failed(way, evidence, remedy)
    return Finding(name=way, verdict="pass", evidence=evidence)


def race(way: str, *options: str, systems: str = "ours,stock_bf16") -> Finding:
    """Our tokens/s over stock trl's on this machine, the two taking turns in one run."""
    command = [sys.executable, "-m", "benchmarks.train", "--json", "--quiet-only", "--systems"]
    done = subprocess.run(
        [*command, systems, *options], cwd=store.PROJECT, capture_output=True, text=True
    )
    if done.returncode:
        lines = store.redact(done.stderr).strip().splitlines() or ["(no output)"]
        return _failed(way, f"failed: {lines[-1][:200]}", "run it from a checkout of the project")
    ratio = json.loads(done.stdout.splitlines()[-1])["stock_trl"]
    span = f"[{ratio['low']:.2f}, {ratio['high']:.2f}], n = {ratio['n']}"
    evidence = f"{ratio['value']:.2f}x the tokens/s of {ratio['peer']}, {span}"
    return Finding(name=way, verdict="pass", evidence=evidence)


def _two_steps(folder: Path, load_in_4bit: bool) -> TrainingJob:
    """A training of two steps on four short chats."""
    tokenizer = models.tokenizer_of("embedded")
    rows = []
    for word in ("one", "two", "three", "four"):
        prompt = [Message(role="user", content=f"Say {word}")]
        rows.append(token_row(*encode(tokenizer, prompt, word)))
    config = LoraTrainingConfig(
        load_in_4bit=load_in_4bit, batch_size=2, gradient_accumulation=1, epochs=1
    )
    schedule = plan_schedule(config, [len(row["input_ids"]) for row in rows])
    parts = {"train": rows, "validation": rows[:2]}
    return TrainingJob(
        folder=folder,
        rows=store.write_json(folder / "rows.json", parts),
        base_path=models.base_path("embedded"),
        config=config,
        schedule=schedule | {"batch_size": 2},
    )


def _failed(name: str, evidence: str, remedy: str) -> Finding:
    return Finding(name=name, verdict="fail", severity="warning", evidence=evidence, remedy=remedy)
