"""The training program: what happens between job.json and result.json, in one process or in several.

Started by helpers/train/launch.py, by torchrun, or by `accelerate launch -m helpers.train job.json`. It goes on from the
checkpoint that job.json names, halves the rows per pass when memory runs out, and ends with a look at what it made.
"""

from __future__ import annotations

import gc
import json
import re
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from helpers.models.tokens import load_tokenizer
from helpers.records import NO_MEMORY, WorkbookError
from helpers.train.after import look_back
from helpers.train.config import SHARES
from helpers.train.launch import COMPLETE, last_checkpoint
from helpers.train.trainer import WorkbookTrainer

Tell = Callable[..., None]
Parts = dict[str, list[dict[str, Any]]]


def train(job: dict[str, Any]) -> None:
    """Train one adapter as job.json says."""
    transformers_logging.set_verbosity_error()
    assert_processes(job["config"])
    folder, resume = Path(job["folder"]), Path(job["resume"]) if job.get("resume") else None
    done = _reached(resume)
    parts, tell = store.read_json(Path(job["rows"])), _teller(folder)
    tell(event="loading", base=job["base_path"], rows=len(parts["train"]))
    if resume:
        tell(event="resumed", step=done["step"])
    trainer, schedule, started = None, dict(job["schedule"]), time.monotonic()
    while trainer is None:
        trainer = build_trainer(job | {"schedule": schedule}, parts, tell)
        trainer.best, trainer._total_train_tokens = done.get("best", trainer.best), done["tokens"]
        try:
            fallback = settle(trainer, parts)
            tell(
                event="started", path=trainer.path, fallback=fallback, steps=trainer.args.max_steps
            )
            started = time.monotonic()
            if done["step"] < trainer.args.max_steps and not done["stopped"]:
                trainer.train(resume_from_checkpoint=resume and str(resume))
            else:  # it died after its last step
                trainer._load_from_checkpoint(str(resume))
                trainer.state = TrainerState.load_from_json(str(resume / "trainer_state.json"))
        except (MemoryError, RuntimeError) as error:
            smaller = halved(schedule)
            if (
                not out_of_memory(error)
                or smaller is None
                or job["config"]["processes"] * job["config"]["machines"] > 1
            ):
                raise  # other processes would wait for this one for ever
            schedule, trainer, resume = smaller, None, last_checkpoint(folder)
            done = _reached(resume)
            tell(
                event="smaller",
                **{name: smaller[name] for name in ("batch_size", "gradient_accumulation")},
            )
        if trainer is None:  # outside of `except`, whose traceback holds the tensors
            gc.collect()
            torch.cuda.empty_cache()
    seconds = time.monotonic() - started
    if not parts["validation"]:
        trainer.keep_adapter()
    if trainer.is_world_process_zero():
        _finish(
            trainer,
            job | {"schedule": schedule},
            parts,
            tell,
            {"fallback": fallback, "seconds": seconds, "from": done},
        )


def _reached(checkpoint: Path | None) -> dict[str, Any]:
    return (
        store.read_json(checkpoint / COMPLETE)
        if checkpoint
        else {"step": 0, "tokens": 0, "stopped": False}
    )


def _finish(
    trainer: WorkbookTrainer, job: dict[str, Any], parts: Parts, tell: Tell, known: dict[str, Any]
) -> None:
    """result.json, last of all; the checks of the adapter come before it."""
    cuda = torch.cuda.is_available()
    peak = (
        torch.cuda.max_memory_allocated()
        if cuda
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    seconds, fresh = known["seconds"], int(trainer._total_train_tokens) - known["from"]["tokens"]
    last = next(
        (entry["loss"] for entry in reversed(trainer.state.log_history) if "loss" in entry), None
    )
    steps = trainer.state.global_step or known["from"]["step"]
    details = {
        "steps": steps,
        "device": str(trainer.args.device),
        "path": trainer.path,
        "fallback": known["fallback"],
        "resumed_at": known["from"]["step"],
        "training_seconds": round(seconds, 2),
        "tokens_per_second": round(fresh / seconds, 1) if fresh else None,
        "memory_mb": peak // 2**20,
        "used": {name: job["schedule"][name] for name in ("batch_size", "gradient_accumulation")},
    }
    probes = sorted(parts["validation"] or parts["train"], key=lambda row: len(row["input_ids"]))[
        :4
    ]
    details |= look_back(trainer, Path(job["folder"]) / "adapter", probes, tell)
    result = {
        "tokens": int(trainer._total_train_tokens),
        "losses": {"train": last, **trainer.best},
        "details": details,
    }
    store.write_json(Path(job["folder"]) / "result.json", result)
    tell(event="finished", tokens=result["tokens"], steps=steps, best=trainer.best["best_step"])


def _teller(folder: Path) -> Tell:
    """Writes lines of training.jsonl, from the first process alone; times go on where an earlier attempt stopped."""
    path, begun = folder / "training.jsonl", time.monotonic()
    before = store.read_jsonl(path)[-1]["seconds"] if path.exists() and path.stat().st_size else 0.0

    def tell(**values: Any) -> None:
        if PartialState().is_main_process:
            line = {"seconds": round(before + time.monotonic() - begun, 2)} | values
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")

    return tell


def assert_processes(config: dict[str, Any]) -> None:
    """Launchers start fewer processes than asked, or do not shard, without a word: that is an error here."""
    state, wanted = PartialState(cpu=on_cpu()), config["processes"] * config["machines"]
    kind = state.distributed_type.value
    fits = kind == "NO" if wanted == 1 else kind in ("MULTI_CPU", "MULTI_GPU")
    if state.num_processes != wanted or not fits:
        found = f"{state.num_processes} processes of type {kind}"
        raise WorkbookError(
            f"training runs as {found} instead of {wanted}; start it with torchrun (docs/training.md)"
        )
    if config["sharding"] == "fsdp" and (kind != "MULTI_GPU"):
        raise WorkbookError(
            "sharding: fsdp needs several GPUs (torch would silently not shard); set sharding: none"
        )


def on_cpu() -> bool:
    """Whether there is nothing faster; accelerate has to be told, or several processes train as one each."""
    return not (torch.cuda.is_available() or torch.backends.mps.is_available())


def settle(trainer: WorkbookTrainer, parts: Parts) -> str:
    """The fastest path that agrees with the stock loss, found on rows where padding and prefix occur."""
    if trainer.is_fsdp_enabled:
        return "sharded: stock path"
    by_length = sorted(parts["train"], key=lambda r: len(r["input_ids"]))
    return trainer.settle(by_length[:: max(1, len(by_length) // 3)][:4])


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a smaller batch could help."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or bool(
        re.search(NO_MEMORY, str(error), re.IGNORECASE)
    )


def halved(schedule: dict[str, int]) -> dict[str, int] | None:
    """Half the rows per pass and twice the passes per step: the same gradient in less memory. None at one row."""
    rows, passes = schedule["batch_size"], schedule["gradient_accumulation"]
    smaller = next((n for n in range(rows // 2, 0, -1) if rows * passes % n == 0), None)
    return smaller and schedule | {
        "batch_size": smaller,
        "gradient_accumulation": rows * passes // smaller,
    }


def load_base(path: str, load_in_4bit: bool) -> Any:
    """The frozen base model: bf16 only where the hardware has it, nf4 when asked for, fp32 otherwise."""
    dtype = (
        torch.bfloat16
        if torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        else torch.float32
    )
    nf4 = {
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": dtype,
    }
    quantised = BitsAndBytesConfig(load_in_4bit=True, **nf4) if load_in_4bit else None
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, quantization_config=quantised)
    return prepare_model_for_kbit_training(model, torch.cuda.is_available()) if quantised else model


def arguments(job: dict[str, Any], validates: bool, gpu: bool | None = None) -> SFTConfig:
    """trl's settings for this job; with `gpu` as on a GPU, whether or not there is one (None: look)."""
    config, schedule = job["config"], job["schedule"]
    gpu = torch.cuda.is_available() if gpu is None else gpu
    wraps = {
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "activation_checkpointing": True,
        "state_dict_type": "FULL_STATE_DICT",
    }
    special: dict[str, Any] = (
        {"fsdp": True, "fsdp_config": wraps} if config["sharding"] == "fsdp" else {}
    )
    if gpu and config["load_in_4bit"]:
        special["optim"] = "paged_adamw_8bit"
    return SFTConfig(
        output_dir=str(Path(job["folder"]) / "checkpoints"),
        max_steps=schedule["steps"],
        per_device_train_batch_size=schedule["batch_size"],
        per_device_eval_batch_size=schedule["batch_size"],
        gradient_accumulation_steps=schedule["gradient_accumulation"],
        learning_rate=config["learning_rate"],
        **{name: schedule[name] for name in SHARES},
        eval_strategy="steps" if validates else "no",
        save_total_limit=job.get("keep_checkpoints", 2),
        gradient_checkpointing=gpu and config["sharding"] == "none",
        bf16=torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
        seed=config["seed"],
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        dataloader_pin_memory=gpu,
        use_cpu=not gpu and on_cpu(),
        report_to="none",
        disable_tqdm=True,
        logging_nan_inf_filter=False,
        **special,
    )


def build_trainer(job: dict[str, Any], parts: Parts, tell: Tell) -> WorkbookTrainer:
    """peft's LoRA on the base, in trl's SFTTrainer with our loss and batching."""
    config = job["config"]
    set_seed(config["seed"])
    strength = {
        "r": config["lora_r"],
        "lora_alpha": config["lora_alpha"],
        "lora_dropout": config["lora_dropout"],
    }
    lora = LoraConfig(task_type="CAUSAL_LM", target_modules=config["target_modules"], **strength)
    validation = sorted(parts["validation"], key=lambda r: len(r["input_ids"]))
    trainer = WorkbookTrainer(
        model=load_base(job["base_path"], config["load_in_4bit"]),
        args=arguments(job, bool(validation)),
        train_dataset=Dataset.from_list(parts["train"]),
        eval_dataset=Dataset.from_list(validation) if validation else None,
        processing_class=load_tokenizer(job["base_path"]),
        peft_config=lora,
        adapter=Path(job["folder"]) / "adapter",
        tell=tell,
        patience=config["early_stop_after"],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer
