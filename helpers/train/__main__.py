"""`python -m helpers.train job.json`: the training program, run as a process of its own.

It reads token rows and numbers, writes `training.jsonl` line by line and `result.json` last, and knows nothing of
notebooks. Exit codes: 0 trained, 2 wrong input, 6 out of memory or disk, 1 anything else.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from helpers import store
from helpers.records import WorkbookError


def main(argv: list[str]) -> int:
    """Run the job and turn what went wrong into an exit code."""
    job = store.read_json(Path(argv[0]))
    if job.get("end_with_parent"):
        threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        train(job)
    except WorkbookError as error:
        print(store.redact(str(error)), file=sys.stderr)
        return error.exit_code
    except ValueError as error:
        if "target modules" not in str(error).lower():
            raise
        print(f"target_modules {job['config']['target_modules']} are not in the base model: {error}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError, OSError) as error:
        if not _out_of_room(error):
            raise
        print(f"out of memory or disk: {str(error).splitlines()[0]}", file=sys.stderr)
        return 6
    return 0


def _end_with_parent() -> None:
    """The parent holds our stdin open; when it dies, however it dies, so do we."""
    while os.read(0, 4096):
        pass
    os._exit(143)


def _out_of_room(error: Exception) -> bool:
    text = str(error).lower()
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM)
    return full or isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text


class Log:
    """training.jsonl: one JSON line per event, flushed at once."""

    def __init__(self, path: Path) -> None:
        self.file, self.started, self.last = open(path, "a", encoding="utf-8"), time.monotonic(), {}  # noqa: SIM115

    def write(self, **values: Any) -> None:
        """Append one line, stamped with the seconds since the start."""
        self.last |= values
        line = {"seconds": round(time.monotonic() - self.started, 2)} | values
        self.file.write(json.dumps(line, allow_nan=False) + "\n")
        self.file.flush()


def train(job: dict[str, Any]) -> None:
    """Train one adapter as job.json says; `adapter/` and `result.json` in its folder are the outcome."""
    folder = Path(job["folder"])
    log = Log(folder / "training.jsonl")
    rows = [json.loads(line) for line in Path(job["rows"]).read_text(encoding="utf-8").splitlines()]
    parts = {part: [_columns(r) for r in rows if r["part"] == part] for part in ("train", "validation")}
    log.write(event="loading", base=job["base_path"], rows=len(parts["train"]))
    trainer = build_trainer(job, parts, log)
    fallback = trainer.settle(
        _probe(parts["train"]), 2e-2 if job["config"]["load_in_4bit"] or trainer.args.bf16 else 1e-4
    )
    log.write(event="started", path=trainer.path, fallback=fallback, steps=trainer.args.max_steps)
    keep = _Best(folder / "best", log)
    trainer.add_callback(keep.callback())
    started = time.monotonic()
    trainer.train()
    seconds = time.monotonic() - started
    if parts["validation"] and keep.last_step != trainer.state.global_step:
        trainer.evaluate()
    keep.restore(trainer.model)
    finite = all(bool(p.isfinite().all()) for p in trainer.model.parameters() if p.requires_grad)
    if not finite:
        raise WorkbookError("the adapter holds values that are not finite; lower learning_rate and train again")
    trainer.model.save_pretrained(str(folder / "adapter"), save_embedding_layers=False)
    result = {
        "seconds": round(seconds, 2),
        "tokens": int(trainer._total_train_tokens),
        "steps": trainer.state.global_step,
        "path": trainer.path,
        "fallback": fallback,
        "losses": {"train": log.last.get("loss"), "eval": keep.best, "best_step": keep.best_step},
        "memory_mb": _peak_memory_mb(),
    }
    store.write_json(folder / "result.json", result)
    log.write(event="finished", tokens=result["tokens"], steps=result["steps"])


def _columns(row: dict[str, Any]) -> dict[str, Any]:
    return {"input_ids": row["input_ids"], "labels": row["labels"]}


def _probe(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Four rows of different lengths: padding and prefix both occur."""
    by_length = sorted(rows, key=lambda r: len(r["input_ids"]))
    return by_length[:: max(1, len(by_length) // 3)][:4]


def _peak_memory_mb() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


class _Best:
    """Keeps the adapter of the lowest validation loss seen so far."""

    def __init__(self, folder: Path, log: Log) -> None:
        self.folder, self.log, self.best, self.best_step, self.last_step = folder, log, None, None, -1

    def callback(self) -> Any:
        """The trainer's callback that feeds this."""
        from transformers import TrainerCallback

        keep = self

        class Keep(TrainerCallback):
            def on_evaluate(
                self, args: Any, state: Any, control: Any, metrics: Any = None, model: Any = None, **_: Any
            ) -> None:
                keep.last_step, loss = state.global_step, metrics["eval_loss"]
                if keep.best is None or loss < keep.best:
                    keep.best, keep.best_step = loss, state.global_step
                    model.save_pretrained(str(keep.folder), save_embedding_layers=False)

        return Keep()

    def restore(self, model: Any) -> None:
        """Put the best adapter back when a later one was worse."""
        if self.best_step is None or self.best_step == self.last_step:
            return
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        set_peft_model_state_dict(model, load_file(self.folder / "adapter_model.safetensors"))
        self.log.write(event="restored", step=self.best_step, eval_loss=self.best)


def load_base(job: dict[str, Any]) -> Any:
    """The frozen base model: bf16 only where the hardware has it, nf4 when asked for, fp32 otherwise."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    dtype = torch.bfloat16 if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else torch.float32
    quantised = {}
    if job["config"]["load_in_4bit"]:
        settings = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": dtype}
        quantised["quantization_config"] = BitsAndBytesConfig(load_in_4bit=True, **settings)
    model = AutoModelForCausalLM.from_pretrained(job["base_path"], dtype=dtype, **quantised)
    if quantised:
        from peft import prepare_model_for_kbit_training

        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=torch.cuda.is_available())
    return model


def build_trainer(job: dict[str, Any], parts: dict[str, list[dict[str, Any]]], log: Log) -> Any:
    """peft's LoRA on the base, in trl's SFTTrainer with our loss and batching."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer, PrinterCallback, set_seed
    from transformers.utils import logging as transformers_logging

    from helpers.train.trainer import WorkbookTrainer

    transformers_logging.set_verbosity_error()
    config = job["config"]
    set_seed(config["seed"])
    tokenizer = AutoTokenizer.from_pretrained(job["base_path"])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    lora = LoraConfig(
        r=config["lora_r"],
        lora_alpha=config["lora_alpha"],
        lora_dropout=config["lora_dropout"],
        target_modules=config["target_modules"],
        task_type="CAUSAL_LM",
    )
    validation = sorted(parts["validation"], key=lambda r: len(r["input_ids"]))
    trainer = WorkbookTrainer(
        model=load_base(job),
        args=_arguments(job, bool(validation), torch.cuda.is_available()),
        train_dataset=Dataset.from_list(parts["train"]),
        eval_dataset=Dataset.from_list(validation) if validation else None,
        processing_class=tokenizer,
        peft_config=lora,
        tell=lambda logs: _tell(log, trainer, logs),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _arguments(job: dict[str, Any], evaluate: bool, gpu: bool) -> Any:
    import torch
    from trl import SFTConfig

    config, schedule = job["config"], job["schedule"]
    return SFTConfig(
        output_dir=str(Path(job["folder"]) / "checkpoints"),
        max_steps=schedule["steps"],
        per_device_train_batch_size=schedule["rows_at_once"],
        per_device_eval_batch_size=schedule["rows_at_once"],
        gradient_accumulation_steps=schedule["accumulation"],
        learning_rate=config["learning_rate"],
        warmup_steps=schedule["warmup_steps"],
        logging_steps=schedule["logging_steps"],
        eval_strategy="steps" if evaluate else "no",
        eval_steps=schedule["eval_steps"],
        save_steps=schedule["save_steps"],
        save_total_limit=2,
        gradient_checkpointing=gpu,
        bf16=gpu and torch.cuda.is_bf16_supported(),
        seed=config["seed"],
        data_seed=config["seed"],
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        dataloader_pin_memory=gpu,
        report_to="none",
        push_to_hub=False,
        disable_tqdm=True,
        logging_nan_inf_filter=False,
    )


def _tell(log: Log, trainer: Any, logs: dict[str, Any]) -> None:
    """One line of training.jsonl per logged step; the numbers that a curve needs, under short names."""
    names = {
        "loss": "loss",
        "learning_rate": "lr",
        "num_tokens": "tokens",
        "eval_loss": "eval_loss",
        "grad_norm": "grad_norm",
    }
    values = {short: float(logs[name]) for name, short in names.items() if name in logs}
    bad = [name for name, value in values.items() if value != value or value in (float("inf"), float("-inf"))]
    if bad:
        raise WorkbookError(f"{bad[0]} is not finite at step {trainer.state.global_step}; lower learning_rate")
    if "loss" in values or "eval_loss" in values:
        log.write(step=trainer.state.global_step, steps=trainer.args.max_steps, **values)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main(sys.argv[1:]))
