"""The training program: from job.json to result.json, in one process or in several.

Started by launch.py, by torchrun, or by `accelerate launch -m helpers.train job.json`. It goes on
from the checkpoint that job.json names, halves the rows per pass when memory runs out, and ends
with a look at what it made.
"""

from __future__ import annotations

import contextlib
import gc
import json
import re
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import PartialState
from datasets import Dataset
from peft import LoraConfig, prepare_model_for_kbit_training
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PrinterCallback,
    TrainerState,
    set_seed,
)
from transformers.utils import logging as transformers_logging
from trl import SFTConfig

from helpers import store
from helpers.models import load_tokenizer
from helpers.records import NO_MEMORY, WorkbookError
from helpers.train.after import look_back
from helpers.train.config import SHARES, LoraTrainingConfig
from helpers.train.job import TrainingJob, TrainingResult, last_checkpoint, progress_of
from helpers.train.trainer import WorkbookTrainer

Tell = Callable[..., None]
Rows = list[dict[str, Any]]  # {input_ids, labels}
BATCH = ("batch_size", "gradient_accumulation")
FSDP = {
    "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
    "activation_checkpointing": True,
    "state_dict_type": "FULL_STATE_DICT",
}
PROBES = 4  # rows on which adapter and merged weights are compared


def train(job: TrainingJob) -> None:
    """Train one adapter as job.json says."""
    transformers_logging.set_verbosity_error()
    assert_processes(job.config)
    parts: dict[str, Rows] = store.read_json(job.rows)
    tell = _teller(job.folder)
    tell(event="loading", base=job.base_path, rows=len(parts["train"]))
    if job.resume:
        tell(event="resumed", step=progress_of(job.resume).step)
    attempt = Attempt(job, parts, tell)
    while not attempt.succeeds():
        job = attempt.smaller_job()
        del attempt  # its tensors go before those of the next one come
        gc.collect()
        torch.cuda.empty_cache()
        attempt = Attempt(job, parts, tell)
    if not parts["validation"]:
        attempt.trainer.keep_adapter()
    if attempt.trainer.is_world_process_zero():
        attempt.finish()


class Attempt:
    """One try to train to the end, from the job's checkpoint on."""

    def __init__(self, job: TrainingJob, parts: dict[str, Rows], tell: Tell) -> None:
        self.job = job
        self.parts = parts
        self.tell = tell
        self.start = progress_of(job.resume)
        self.fallback = ""  # why a faster path was not taken
        self.seconds = 0.0
        self.trainer = build_trainer(job, parts, tell)
        self.trainer.best = dict(self.start.best)
        self.trainer._total_train_tokens = self.start.tokens
        self.trainer.processes = self.start.processes

    def succeeds(self) -> bool:
        """Train; False when memory ran out and a smaller batch could help."""
        try:
            self.tell(event="choosing")
            self.fallback = choose_path(self.trainer, self.parts["train"])
            self._train()
        except (MemoryError, RuntimeError) as error:
            others_wait = self.job.config.world > 1  # for this process, and would do so for ever
            if others_wait or not out_of_memory(error) or halved(self.job.schedule) is None:
                raise
            return False
        return True

    def _train(self) -> None:
        trainer = self.trainer
        steps = trainer.args.max_steps
        self.tell(event="started", path=trainer.path, fallback=self.fallback, steps=steps)
        began = time.monotonic()
        checkpoint = self.job.resume
        if checkpoint and (self.start.step >= steps or self.start.stopped):
            trainer._load_from_checkpoint(str(checkpoint))  # it died after its last step
            trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        else:
            trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
        self.seconds = time.monotonic() - began

    def smaller_job(self) -> TrainingJob:
        """The same job with half the rows a pass, from the last checkpoint on."""
        schedule = halved(self.job.schedule) or self.job.schedule
        batch = {name: schedule[name] for name in BATCH}
        self.tell(event="smaller", **batch)
        resume = last_checkpoint(self.job.folder)
        return self.job.model_copy(update={"schedule": schedule, "resume": resume})

    def finish(self) -> None:
        """Write result.json, last of all; the checks of the adapter come before it."""
        trainer = self.trainer
        tokens = int(trainer._total_train_tokens)
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        steps = trainer.state.global_step or self.start.step
        new = tokens - self.start.tokens
        peak = peak_memory()
        if trainer.beside:
            trainer.beside.close()
        if torch.cuda.is_available():
            peak = torch.cuda.max_memory_allocated()
        details = {
            "steps": steps,
            "device": str(trainer.args.device),
            "compute": self.job.config.compute,
            "path": trainer.path,
            "fallback": self.fallback,
            "processes": trainer.processes,
            "resumed_at": self.start.step,
            "training_seconds": round(self.seconds, 2),
            "tokens_per_second": round(new / self.seconds, 1) if new else None,
            "memory_mb": peak // 2**20,
            "used": {name: self.job.schedule[name] for name in BATCH},
        }
        self.tell(event="checking")
        probes = sorted(self.parts["validation"] or self.parts["train"], key=_length)[:PROBES]
        details |= look_back(trainer, self.job.folder / "adapter", probes, self.tell)
        curve_ends = {"train": losses[-1] if losses else None, **trainer.best}
        result = TrainingResult(tokens=tokens, losses=curve_ends, details=details)
        store.write_json(self.job.folder / "result.json", result)
        self.tell(event="finished", tokens=tokens, steps=steps, best=trainer.best["best_step"])


def peak_memory() -> int:
    """Bytes: this process's most, and what its children hold for themselves."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # it has just ended, or is not ours to look at
            peak += child.memory_full_info().uss
    return peak


def _length(row: dict[str, Any]) -> int:
    return len(row["input_ids"])


def _teller(folder: Path) -> Tell:
    """Writes lines of training.jsonl, from the first process alone.

    Times go on where an earlier attempt stopped.
    """
    path = folder / "training.jsonl"
    began = time.monotonic()
    earlier = store.read_jsonl(path) if path.exists() else []
    if earlier:
        began -= earlier[-1]["seconds"]

    def tell(**values: Any) -> None:
        if PartialState().is_main_process:
            line = {"seconds": round(time.monotonic() - began, 2)} | values
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")

    return tell


def assert_processes(config: LoraTrainingConfig) -> None:
    """Launchers start fewer processes than asked, or do not shard, in silence: an error here."""
    state = PartialState(cpu=on_cpu())
    kind = state.distributed_type.value
    kinds = ("NO",) if config.world == 1 else ("MULTI_CPU", "MULTI_GPU")
    if state.num_processes != config.world or kind not in kinds:
        raise WorkbookError(
            f"training runs as {state.num_processes} processes of type {kind} instead of"
            f" {config.world}; start it with torchrun (docs/training.md)"
        )
    if config.sharding == "fsdp" and kind != "MULTI_GPU":
        raise WorkbookError(
            "sharding: fsdp needs several GPUs (torch would silently not shard); set sharding: none"
        )


def on_cpu() -> bool:
    """Whether there is nothing faster; untold, accelerate trains several processes as one each."""
    return not (torch.cuda.is_available() or torch.backends.mps.is_available())


def choose_path(trainer: WorkbookTrainer, rows: Rows) -> str:
    """The fastest path that agrees with the stock loss, on rows with padding and a prefix.

    And on the longest row whose stock logits take no more memory than theirs.
    """
    if trainer.is_fsdp_enabled:
        return "sharded: stock path"
    by_length = sorted(rows, key=_length)
    shorter = by_length[: len(rows) // 2 + 1]  # the stock path has logits of every token in memory
    few = shorter[:: max(1, len(shorter) // 3)][:4]
    tokens = len(few) * max(map(_length, few))
    longer = [row for row in by_length if _length(row) <= tokens]
    return trainer.choose_path([few, longer[-1:]])


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a smaller batch could help."""
    # torch's own kinds of it are known by what they say
    told = re.search(NO_MEMORY, str(error), re.IGNORECASE)
    return isinstance(error, MemoryError) or told is not None


def halved(schedule: dict[str, int]) -> dict[str, int] | None:
    """Half the rows a pass and twice the passes a step: the same gradient in less memory.

    None at one row.
    """
    step = schedule["batch_size"] * schedule["gradient_accumulation"]
    for rows in range(schedule["batch_size"] // 2, 0, -1):
        if step % rows == 0:
            return schedule | {"batch_size": rows, "gradient_accumulation": step // rows}
    return None


def load_base(path: str, config: LoraTrainingConfig) -> Any:
    """The frozen base model: nf4 when asked for, else in the precision that computes."""
    dtype = torch.bfloat16 if config.compute == "bf16" else torch.float32
    if not config.load_in_4bit:
        return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, trust_remote_code=False)
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    model = AutoModelForCausalLM.from_pretrained(
        path, dtype=dtype, quantization_config=nf4, trust_remote_code=False
    )
    return prepare_model_for_kbit_training(model, torch.cuda.is_available())


def arguments(job: TrainingJob, validates: bool, gpu: bool | None = None) -> SFTConfig:
    """trl's settings for this job; with `gpu` as on a GPU, whether or not there is one."""
    config = job.config
    schedule = job.schedule
    if gpu is None:
        gpu = torch.cuda.is_available()
    special: dict[str, Any] = {}
    if config.sharding == "fsdp":
        special = {"fsdp": True, "fsdp_config": FSDP}
    if gpu and config.load_in_4bit:
        special["optim"] = "paged_adamw_8bit"
    return SFTConfig(
        output_dir=str(job.folder / "checkpoints"),
        max_steps=schedule["steps"],
        per_device_train_batch_size=schedule["batch_size"],
        per_device_eval_batch_size=schedule["batch_size"],
        gradient_accumulation_steps=schedule["gradient_accumulation"],
        learning_rate=config.learning_rate,
        **{name: schedule[name] for name in SHARES},
        eval_strategy="steps" if validates else "no",
        save_total_limit=job.keep_checkpoints,
        gradient_checkpointing=gpu and config.sharding == "none",
        # trl's own mixed precision is for GPUs: on a CPU it casts every weight in every step
        bf16=torch.cuda.is_available() and config.compute == "bf16",
        seed=config.seed,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        dataloader_pin_memory=gpu,
        use_cpu=not gpu and on_cpu(),
        report_to="none",
        disable_tqdm=True,
        logging_nan_inf_filter=False,
        **special,
    )


def build_trainer(job: TrainingJob, parts: dict[str, Rows], tell: Tell) -> WorkbookTrainer:
    """peft's LoRA on the base, in trl's SFTTrainer with our loss and batching."""
    config = job.config
    set_seed(config.seed)
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        target_modules=config.target_modules,
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
    )
    validation = sorted(parts["validation"], key=_length)
    trainer = WorkbookTrainer(
        model=load_base(job.base_path, config),
        args=arguments(job, bool(validation)),
        train_dataset=Dataset.from_list(parts["train"]),
        eval_dataset=Dataset.from_list(validation) if validation else None,
        processing_class=load_tokenizer(job.base_path),
        peft_config=lora,
        adapter=job.folder / "adapter",
        tell=tell,
        patience=config.early_stop_after,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer
