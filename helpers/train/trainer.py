"""The trainer of the training process: trl's SFTTrainer with less arithmetic.

Three things change, none of them the mathematics: the loss is that of kernels/loss.py; rows of
similar length share a batch; on a CPU the layers keep less (kernels/lean.py). `choose_path`
compares the loss with the stock one on a real batch and steps back to the stock path where an
architecture does not agree.
"""

from __future__ import annotations

import functools
import math
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import Sampler
from trl import SFTTrainer

from helpers import store
from helpers.records import WorkbookError
from helpers.train.job import COMPLETE, Progress
from helpers.train.kernels.beside import Beside, processes_for
from helpers.train.kernels.lean import slim
from helpers.train.kernels.loss import supervised_loss
from helpers.train.rows import IGNORED

# Tokens of a micro-batch on a CPU: matrix products are near their full speed, memory is near that
# of trl with recomputation.
MICRO_BATCH = 480
BESIDE = 256  # the same where several processes hold one each
EVAL_ROWS = 16  # at least, of a pass with lean layers: without gradients more fit
MEGA_BATCHES = 20  # how many batches are sorted by length together
BF16_TOLERANCE = 5e-3  # of the loss, on a CPU; the embedded model's differs by 0.0006
LossPath = Literal["prefix", "head", "stock"]
Probes = Sequence[tuple[Any, float]]  # a batch and its stock loss
LOGGED = {"loss": "loss", "eval_loss": "eval_loss", "learning_rate": "lr", "num_tokens": "tokens"}


class LengthGrouped(Sampler[int]):
    """Row order of an epoch, a pure function of (seed, epoch).

    Shuffled, then sorted by length within some batches.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        self.lengths = lengths
        self.batch = batch
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        rng = random.Random(f"{self.seed}:{self.epoch}")
        order = rng.sample(range(len(self)), len(self))
        batches: list[list[int]] = []
        mega = self.batch * MEGA_BATCHES
        for start in range(0, len(order), mega):
            rows = sorted(order[start : start + mega], key=lambda row: -self.lengths[row])
            for first in range(0, len(rows), self.batch):
                batches.append(rows[first : first + self.batch])
        incomplete: list[int] = []
        if len(batches[-1]) < self.batch:
            incomplete = batches.pop()  # it stays the last
        rng.shuffle(batches)
        return chain(*batches, incomplete)


class WorkbookTrainer(SFTTrainer):
    """SFTTrainer with our loss and batching; `path` says how much of it is used ("stock": none).

    The adapter of the lowest validation loss so far stands in `adapter`; every logged step is told
    to `tell`. After `patience` evaluations without a lower one training stops (0: never).
    """

    def __init__(
        self, *args: Any, adapter: Path, tell: Callable[..., None], patience: int = 0, **kwargs: Any
    ) -> None:
        self.path: LossPath = "stock"
        self.lean = False
        self.undo_lean: Callable[[], None] = lambda: None
        self.beside: Beside | None = None  # processes that share every batch, where it pays
        self.processes = Progress().processes  # with this one; a resume is told the first number
        self.adapter = adapter
        self.patience = patience
        self.best = Progress().best
        self._tell = tell
        super().__init__(*args, **kwargs)
        for weight in self.model.parameters():
            if weight.requires_grad and not self.args.bf16:
                # trl makes the adapter of a quantised base bf16, on hardware without bf16 too
                weight.data = weight.data.float()
        self._add_supervised_loss()

    def _add_supervised_loss(self) -> None:
        """Give the model's forward a second mode: wrappers (PEFT, DDP) see every step as a call."""
        causal = self.accelerator.unwrap_model(self.model).get_base_model()
        stock = causal.forward

        @functools.wraps(stock)
        def forward(*args: Any, supervised: LossPath | None = None, **kwargs: Any) -> Any:
            if supervised is None:
                return stock(*args, **kwargs)
            batch = kwargs["input_ids"], kwargs["labels"], supervised == "prefix"
            if self.beside:
                return {"loss": self.beside.loss(*batch)}
            return {"loss": supervised_loss(causal, *batch, MICRO_BATCH if self.lean else 0)}

        causal.forward = forward

    def choose_path(self, batches: Sequence[Sequence[dict[str, Any]]]) -> str:
        """Take the fastest path whose loss agrees with the stock loss on each of `batches`.

        Returns why others were not taken.
        """
        probes: list[tuple[Any, float]] = []
        reasons: list[str] = []
        self.model.eval()
        with torch.no_grad(), self.compute_loss_context_manager():
            for rows in batches:
                batch = self._prepare_inputs(self.data_collator(list(rows)))
                probes.append((batch, float(super().compute_loss(self.model, dict(batch)))))
            if self.args.device.type == "cpu":
                self.lean = True
                self.undo_lean = slim(self.model)
                self.path = self._path_that_agrees(probes, reasons)
                if self.path == "stock":
                    self.undo_lean()
                    self.lean = False
            if self.path == "stock":
                self.path = self._path_that_agrees(probes, reasons)
            self._fork(probes, reasons)
        self._metrics["eval"].clear()
        return "; ".join(reasons)

    def _fork(self, probes: Probes, reasons: list[str]) -> None:
        """Share batches out over processes where that pays, is possible, and agrees as well."""
        causal = self.accelerator.unwrap_model(self.model).get_base_model()
        rows = self.args.per_device_train_batch_size
        if self.lean:
            self.args.per_device_eval_batch_size = max(EVAL_ROWS, rows)
        self.processes = processes_for(causal, rows, self.processes) if self.lean else 1
        if self.processes == 1:
            return
        try:
            self.beside = Beside(causal, self.processes - 1, BESIDE)
            reason = self._disagreement(self.path, probes)
        except OSError as error:
            reason = str(error)
        if reason:
            reasons.append(f"one process instead of {self.processes}: {reason}")
            if self.beside:
                self.beside.close()
            self.beside, self.processes = None, 1

    def _path_that_agrees(self, probes: Probes, reasons: list[str]) -> LossPath:
        paths: tuple[LossPath, ...] = ("prefix", "head")
        for path in paths[self.args.gradient_checkpointing :]:
            reason = self._disagreement(path, probes)
            if not reason:
                return path
            reasons.append(f"{'lean ' if self.lean else ''}{path}: {reason}")
        return "stock"

    def _disagreement(self, path: LossPath, probes: Probes) -> str:
        """How the loss of a path differs from the stock loss; "" when it does not."""
        coarse = self.args.bf16 or getattr(self.model, "is_loaded_in_4bit", False)
        half = self.model.get_input_embeddings().weight.dtype == torch.bfloat16
        tolerance = 2e-2 if coarse else BF16_TOLERANCE if half else 1e-4
        for batch, stock in probes:
            tokens = (batch["labels"] != IGNORED).sum()
            try:
                ours = float(self._supervised(self.model, batch, path) / tokens)
            except (AttributeError, TypeError, ValueError, RuntimeError) as error:
                return type(error).__name__
            if abs(ours - stock) > tolerance * max(1.0, abs(stock)):
                return f"loss {ours:.5f}, stock {stock:.5f}"
        return ""

    def _supervised(self, model: Any, inputs: dict[str, Any], path: LossPath) -> torch.Tensor:
        ids, labels = inputs["input_ids"], inputs["labels"]
        return model(input_ids=ids, labels=labels, supervised=path)["loss"]

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Mean loss per supervised token, as trl computes it."""
        if self.path == "stock" or return_outputs or self.aux_loss_enabled:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        tokens = num_items_in_batch
        if tokens is None:
            tokens = (inputs["labels"] != IGNORED).sum()
        loss = self._supervised(model, inputs, self.path) / torch.as_tensor(tokens).clamp(min=1)
        if num_items_in_batch is not None:
            # counted over all processes, whose gradients are then averaged
            loss = loss * self.accelerator.num_processes
        if model.training:
            tokens_seen = self.accelerator.gather(inputs["attention_mask"].sum())
            self._total_train_tokens += int(tokens_seen.sum())
        part = "train" if model.training else "eval"
        self._metrics[part]["num_tokens"] = [self._total_train_tokens]
        return loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        lengths = [len(ids) for ids in (train_dataset or self.train_dataset)["input_ids"]]
        batch = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
        return LengthGrouped(lengths, batch * self.args.world_size, self.args.seed)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate, and keep the adapter when none before it was better."""
        metrics = super().evaluate(*args, **kwargs)
        lowest, step = self.best["eval"], self.state.global_step
        if lowest is None or metrics["eval_loss"] < lowest:
            self.best = {"eval": metrics["eval_loss"], "best_step": step}
            self.keep_adapter()
        waited = step - self.best["best_step"]
        if self.patience and waited >= self.patience * self.args.eval_steps:
            self._tell(event="stopped", step=step, best=self.best["best_step"])
            self.control.should_training_stop = self.control.should_save = True
        return metrics

    def keep_adapter(self) -> None:
        """Write the adapter as it is now; without embedding layers, whose check asks the hub."""
        sharded = None
        if self.is_fsdp_enabled:
            sharded = self.accelerator.get_state_dict(self.model_wrapped)
        if self.is_world_process_zero():
            fresh = self.adapter.with_name("adapter.new")
            model = self.accelerator.unwrap_model(self.model)
            model.save_pretrained(str(fresh), state_dict=sharded, save_embedding_layers=False)
            shutil.rmtree(self.adapter, ignore_errors=True)
            fresh.rename(self.adapter)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """A checkpoint counts once its last file is there: a kill leaves half of one."""
        super()._save_checkpoint(*args, **kwargs)
        if self.is_world_process_zero():
            step = self.state.global_step
            progress = Progress(
                step=step,
                tokens=int(self._total_train_tokens),
                stopped=self.control.should_training_stop,
                processes=self.processes,
                best=self.best,
            )
            store.write_json(Path(self.args.output_dir) / f"checkpoint-{step}" / COMPLETE, progress)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Tell the numbers that a curve needs, and stop at one that is not finite."""
        super().log(logs, start_time)
        values = {short: float(logs[name]) for name, short in LOGGED.items() if name in logs}
        for name, value in values.items():
            if not math.isfinite(value):
                raise WorkbookError(
                    f"{name} is not finite at step {self.state.global_step}; lower learning_rate"
                )
        if "loss" in values or "eval_loss" in values:
            self._tell(step=self.state.global_step, steps=self.args.max_steps, **values)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """No model card per checkpoint: it would ask the hub for the base model's."""
