"""What runs in the training process: trl's SFTTrainer with less arithmetic, fed from job.json.

Three things change, none of them the mathematics: the LM head runs only where a label is; the prompt that all rows
of a batch begin with is computed once (its keys and values are handed to every row, and autograd adds up what flows
back); rows of similar length share a batch. `settle` compares the loss with the stock one on a real batch and steps
back to the stock path where an architecture does not agree.
"""

from __future__ import annotations

import functools
import json
import math
import random
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset
from peft import LoraConfig, prepare_model_for_kbit_training
from torch.utils.data import Sampler
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PrinterCallback, set_seed
from transformers.utils import logging as transformers_logging
from trl import SFTConfig, SFTTrainer

from helpers import store
from helpers.models.tokens import load_tokenizer
from helpers.records import WorkbookError
from helpers.train.config import SHARES
from helpers.train.rows import IGNORED

SHORTEST_PREFIX = 8  # tokens; below this a second pass through the layers costs more than it saves
MEGA_BATCHES = 20  # how many batches are sorted by length together
Way = Literal["prefix", "head", "stock"]
LOGGED = {"loss": "loss", "eval_loss": "eval_loss", "learning_rate": "lr", "num_tokens": "tokens"}


def shared_prefix(input_ids: torch.Tensor, labels: torch.Tensor) -> int:
    """Leading tokens that all rows share and whose hidden states predict no label."""
    if input_ids.shape[0] < 2:
        return 0
    differs = (input_ids != input_ids[:1]).any(dim=0)
    labelled = (labels != IGNORED).any(dim=0)
    stops = torch.cat([differs | labelled.roll(-1), torch.ones(1, dtype=torch.bool, device=differs.device)])
    return min(int(stops.int().argmax()), input_ids.shape[1] - 1)


def supervised_loss(causal: Any, input_ids: torch.Tensor, labels: torch.Tensor, share_prefix: bool) -> torch.Tensor:
    """Sum of the token losses of a right-padded batch, whose padding no causal model can look at: it needs no mask.

    With dropout, the rows of a batch see one mask over the shared prefix: the expected gradient is unchanged.
    """
    backbone, head = causal.base_model, causal.get_output_embeddings()
    prefix = shared_prefix(input_ids, labels) if share_prefix else 0
    if prefix >= SHORTEST_PREFIX:
        begun = backbone(input_ids=input_ids[:1, :prefix], use_cache=True).past_key_values
        begun.batch_repeat_interleave(input_ids.shape[0])
        hidden = backbone(input_ids=input_ids[:, prefix:], past_key_values=begun, use_cache=True).last_hidden_state
    else:
        prefix = 0
        hidden = backbone(input_ids=input_ids, use_cache=False).last_hidden_state
    targets = labels[:, prefix + 1 :]
    kept = targets != IGNORED
    logits = head(hidden[:, :-1][kept]).float()
    cap = getattr(causal.config.get_text_config(), "final_logit_softcapping", None)
    if cap:
        logits = torch.tanh(logits / cap) * cap
    return torch.nn.functional.cross_entropy(logits, targets[kept], reduction="sum")


class LengthGrouped(Sampler[int]):
    """Row order of an epoch, a pure function of (seed, epoch): shuffled, then sorted by length within some batches."""

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        self.lengths, self.batch, self.seed, self.epoch = lengths, batch, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        rng, size = random.Random(f"{self.seed}:{self.epoch}"), self.batch * MEGA_BATCHES
        order = rng.sample(range(len(self)), len(self))
        for start in range(0, len(self), size):
            order[start : start + size] = sorted(order[start : start + size], key=lambda i: -self.lengths[i])
        batches = [order[n : n + self.batch] for n in range(0, len(self), self.batch)]
        rest = [batches.pop()] if len(batches[-1]) < self.batch else []  # an incomplete batch stays the last
        rng.shuffle(batches)
        return iter([row for batch in batches + rest for row in batch])


class WorkbookTrainer(SFTTrainer):
    """SFTTrainer with our loss and batching; `path` says how much of it is in use ("stock": none).

    The adapter of the lowest validation loss so far stands in `adapter`; every logged step is told to `tell`.
    """

    def __init__(self, *args: Any, adapter: Path, tell: Callable[..., None], **kwargs: Any) -> None:
        self.path: Way = "stock"
        self.adapter, self._tell = adapter, tell
        self.best: dict[str, Any] = {"eval": None, "best_step": None}
        super().__init__(*args, **kwargs)
        if not self.args.bf16:  # trl makes the adapter of a quantised base bf16, on hardware without bf16 too
            for weight in self.model.parameters():
                weight.data = weight.data.float() if weight.requires_grad else weight.data
        self._add_supervised_loss()

    def _add_supervised_loss(self) -> None:
        """Give the model's forward a second mode, so that wrappers (PEFT, DDP) see every step as a forward call."""
        causal = self.accelerator.unwrap_model(self.model).get_base_model()
        stock = causal.forward

        @functools.wraps(stock)
        def forward(*args: Any, supervised: Way | None = None, **kwargs: Any) -> Any:
            if supervised is None:
                return stock(*args, **kwargs)
            return {"loss": supervised_loss(causal, kwargs["input_ids"], kwargs["labels"], supervised == "prefix")}

        causal.forward = forward

    def settle(self, rows: Sequence[dict[str, Any]]) -> str:
        """Choose the fastest path whose loss agrees with the stock loss on `rows`; return why others were not taken."""
        batch = self._prepare_inputs(self.data_collator(list(rows)))
        tolerance = 2e-2 if self.args.bf16 or getattr(self.model, "is_loaded_in_4bit", False) else 1e-4
        wanted: tuple[Way, ...] = ("head",) if self.args.gradient_checkpointing else ("prefix", "head")
        found = []
        self.model.eval()
        with torch.no_grad(), self.compute_loss_context_manager():
            stock = float(super().compute_loss(self.model, dict(batch)))
            for path in wanted:
                try:
                    ours = float(self._supervised(self.model, batch, path) / (batch["labels"] != IGNORED).sum())
                except (AttributeError, TypeError, ValueError, RuntimeError) as error:
                    found.append(f"{path}: {type(error).__name__}")
                    continue
                if abs(ours - stock) <= tolerance * max(1.0, abs(stock)):
                    self.path = path
                    break
                found.append(f"{path}: loss {ours:.5f}, stock {stock:.5f}")
        self._metrics["eval"].clear()
        return "; ".join(found)

    def _supervised(self, model: Any, inputs: dict[str, Any], path: Way) -> torch.Tensor:
        return model(input_ids=inputs["input_ids"], labels=inputs["labels"], supervised=path)["loss"]

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean loss per supervised token, as trl computes it."""
        if self.path == "stock" or return_outputs or self.aux_loss_enabled:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        total = self._supervised(model, inputs, self.path)
        tokens = (inputs["labels"] != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        loss = total / torch.as_tensor(tokens).clamp(min=1)
        if model.training:
            self._total_train_tokens += int(inputs["attention_mask"].sum())
        self._metrics["train" if model.training else "eval"]["num_tokens"] = [self._total_train_tokens]
        return loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        lengths = [len(ids) for ids in (train_dataset or self.train_dataset)["input_ids"]]
        batch = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
        return LengthGrouped(lengths, batch, self.args.seed)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate, and keep the adapter when none before it was better."""
        metrics = super().evaluate(*args, **kwargs)
        if self.best["eval"] is None or metrics["eval_loss"] < self.best["eval"]:
            self.best = {"eval": metrics["eval_loss"], "best_step": self.state.global_step}
            self.keep_adapter()
        return metrics

    def keep_adapter(self) -> None:
        """Write the adapter as it is now; without embedding layers, whose check would ask the hub."""
        self.model.save_pretrained(str(self.adapter), save_embedding_layers=False)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Tell the numbers that a curve needs, and stop at one that is not finite."""
        super().log(logs, start_time)
        values = {short: float(logs[name]) for name, short in LOGGED.items() if name in logs}
        if bad := [name for name, value in values.items() if not math.isfinite(value)]:
            raise WorkbookError(f"{bad[0]} is not finite at step {self.state.global_step}; lower learning_rate")
        if "loss" in values or "eval_loss" in values:
            self._tell(step=self.state.global_step, steps=self.args.max_steps, **values)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """No model card per checkpoint: it would ask the hub for the base model's."""


def train(job: dict[str, Any]) -> None:
    """Train one adapter as job.json says."""
    transformers_logging.set_verbosity_error()
    folder = Path(job["folder"])
    log, begun = open(folder / "training.jsonl", "a", encoding="utf-8"), time.monotonic()  # noqa: SIM115

    def tell(**values: Any) -> None:
        line = {"seconds": round(time.monotonic() - begun, 2)} | values
        log.write(json.dumps(line, allow_nan=False) + "\n")
        log.flush()

    parts = store.read_json(Path(job["rows"]))
    tell(event="loading", base=job["base_path"], rows=len(parts["train"]))
    trainer = build_trainer(job, parts, tell)
    by_length = sorted(parts["train"], key=lambda r: len(r["input_ids"]))
    fallback = trainer.settle(by_length[:: max(1, len(by_length) // 3)][:4])  # both padding and prefix occur
    tell(event="started", path=trainer.path, fallback=fallback, steps=trainer.args.max_steps)
    started = time.monotonic()
    trainer.train()
    training_seconds = round(time.monotonic() - started, 2)
    if not parts["validation"]:
        trainer.keep_adapter()
    last = next((entry["loss"] for entry in reversed(trainer.state.log_history) if "loss" in entry), None)
    result = {
        "tokens": int(trainer._total_train_tokens),
        "losses": {"train": last, **trainer.best},
        "details": {
            "steps": trainer.state.global_step,
            "path": trainer.path,
            "fallback": fallback,
            "training_seconds": training_seconds,
            "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        },
    }
    store.write_json(folder / "result.json", result)
    tell(event="finished", tokens=result["tokens"], steps=trainer.state.global_step, best=trainer.best["best_step"])


def load_base(job: dict[str, Any]) -> Any:
    """The frozen base model: bf16 only where the hardware has it, nf4 when asked for, fp32 otherwise."""
    dtype = torch.bfloat16 if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else torch.float32
    nf4 = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": dtype}
    quantised = BitsAndBytesConfig(load_in_4bit=True, **nf4) if job["config"]["load_in_4bit"] else None
    model = AutoModelForCausalLM.from_pretrained(job["base_path"], dtype=dtype, quantization_config=quantised)
    return prepare_model_for_kbit_training(model, torch.cuda.is_available()) if quantised else model


def build_trainer(job: dict[str, Any], parts: dict[str, list[dict[str, Any]]], tell: Callable[..., None]) -> Any:
    """peft's LoRA on the base, in trl's SFTTrainer with our loss and batching."""
    config, schedule, gpu = job["config"], job["schedule"], torch.cuda.is_available()
    set_seed(config["seed"])
    strength = {"r": config["lora_r"], "lora_alpha": config["lora_alpha"], "lora_dropout": config["lora_dropout"]}
    lora = LoraConfig(task_type="CAUSAL_LM", target_modules=config["target_modules"], **strength)
    validation = sorted(parts["validation"], key=lambda r: len(r["input_ids"]))
    arguments = SFTConfig(
        output_dir=str(Path(job["folder"]) / "checkpoints"),
        max_steps=schedule["steps"],
        per_device_train_batch_size=schedule["batch_size"],
        per_device_eval_batch_size=schedule["batch_size"],
        gradient_accumulation_steps=schedule["gradient_accumulation"],
        learning_rate=config["learning_rate"],
        **{name: schedule[name] for name in SHARES},
        eval_strategy="steps" if validation else "no",
        save_total_limit=job.get("keep_checkpoints", 2),
        gradient_checkpointing=gpu,
        bf16=gpu and torch.cuda.is_bf16_supported(),
        seed=config["seed"],
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        dataloader_pin_memory=gpu,
        report_to="none",
        disable_tqdm=True,
        logging_nan_inf_filter=False,
    )
    trainer = WorkbookTrainer(
        model=load_base(job),
        args=arguments,
        train_dataset=Dataset.from_list(parts["train"]),
        eval_dataset=Dataset.from_list(validation) if validation else None,
        processing_class=load_tokenizer(job["base_path"]),
        peft_config=lora,
        adapter=Path(job["folder"]) / "adapter",
        tell=tell,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer
