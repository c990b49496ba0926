"""The trainer of the training process: trl's SFTTrainer with less arithmetic, and checkpoints that survive a kill.

Four things change, none of them the mathematics: the LM head runs only where a label is; the prompt that all rows
of a batch begin with is computed once (its keys and values are handed to every row, and autograd adds up what flows
back); rows of similar length share a batch; on a CPU the layers keep less (lean.py). `settle` compares the loss with
the stock one on a real batch and steps back to the stock path where an architecture does not agree.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch.nn import functional
from torch.utils.data import Sampler
from trl import SFTTrainer

from helpers import store
from helpers.records import WorkbookError
from helpers.train.launch import COMPLETE
from helpers.train.lean import HeadLoss, InPieces, last_mlp_at, slim
from helpers.train.rows import IGNORED

PIECE = 480  # tokens on a CPU: matrix products are near their full speed, memory near that of trl with recomputation
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
    stops = torch.cat(
        [differs | labelled.roll(-1), torch.ones(1, dtype=torch.bool, device=differs.device)]
    )
    return min(int(stops.int().argmax()), input_ids.shape[1] - 1)


def supervised_loss(
    causal: Any, input_ids: torch.Tensor, labels: torch.Tensor, share_prefix: bool, at_once: int = 0
) -> torch.Tensor:
    """Sum of the token losses of a right-padded batch, whose padding no causal model can look at: it needs no mask.

    `at_once` > 0 computes rows in pieces of about so many tokens and keeps one piece's intermediate results at a time.
    With dropout, the rows of a batch see one mask over the shared prefix: the expected gradient is unchanged.
    """
    backbone, prefix = causal.base_model, shared_prefix(input_ids, labels) if share_prefix else 0
    prefix *= prefix >= SHORTEST_PREFIX
    begun = (
        backbone(input_ids=input_ids[:1, :prefix], use_cache=True).past_key_values
        if prefix
        else None
    )

    def loss(rows: list[int], start: list[torch.Tensor]) -> torch.Tensor:
        ids, goals = input_ids[rows, prefix:], labels[rows, prefix:]
        end = max(lengths[row] for row in rows)  # what follows the last label matters to nothing
        cache = _repeated(begun, start, len(ids)) if prefix else None
        kept = functional.pad(
            goals[:, 1:end] != IGNORED, (0, 1)
        )  # positions that predict a label; the last one none
        with last_mlp_at(backbone, kept) if at_once else contextlib.nullcontext():
            hidden = backbone(
                input_ids=ids[:, :end], past_key_values=cache, use_cache=bool(prefix)
            ).last_hidden_state
        return _head_loss(causal, hidden[kept], goals[:, :end].roll(-1, 1)[kept])

    start = (
        [state for layer in begun.layers for state in (layer.keys, layer.values)] if prefix else []
    )
    labelled = (labels[:, prefix:] != IGNORED).cpu()
    lengths = [int(row.nonzero().max()) + 1 if row.any() else 0 for row in labelled]
    rows = _pieces(lengths, at_once)
    if len(rows) == 1 or not torch.is_grad_enabled():
        return sum((loss(part, start) for part in rows), labels.new_zeros((), dtype=torch.float32))
    weights = [weight for weight in causal.parameters() if weight.requires_grad]
    return InPieces.apply([functools.partial(loss, part) for part in rows], start, *weights)


def _pieces(lengths: Sequence[int], at_once: int) -> list[list[int]]:
    """Row numbers in as few even pieces as `at_once` padded tokens allow (0: one), longest first, without rows of length 0.

    The first piece is the largest: glibc does not reuse what it freed for an aligned request of the very same size.
    """
    order = sorted(
        (row for row, length in enumerate(lengths) if length), key=lambda row: -lengths[row]
    )

    def pack(limit: int) -> list[list[int]]:
        parts, rest = [], order
        while rest:
            size = max(1, limit // lengths[rest[0]])
            limit = limit if parts else min(limit, size * lengths[rest[0]] - 1)
            parts.append(rest[:size])
            rest = rest[size:]
        return parts

    if not at_once or not order:
        return [order] if order else []
    fewest = len(pack(at_once))
    return next(parts for limit in range(1, at_once + 1) if len(parts := pack(limit)) == fewest)


def _repeated(cache: Any, states: list[torch.Tensor], rows: int) -> Any:
    """A copy of the prefix's key-value cache for `rows` rows, made of `states` (keys, values, keys, ...)."""
    found = copy.copy(cache)
    found.layers = [copy.copy(layer) for layer in cache.layers]
    for number, layer in enumerate(found.layers):
        layer.keys, layer.values = (
            state.expand(rows, -1, -1, -1) for state in states[2 * number : 2 * number + 2]
        )
    return found


def _head_loss(causal: Any, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Sum of the losses of these positions."""
    head, cap = (
        causal.get_output_embeddings(),
        getattr(causal.config.get_text_config(), "final_logit_softcapping", None),
    )
    frozen = type(head) is torch.nn.Linear and head.bias is None and not head.weight.requires_grad
    if frozen and head.weight.dtype == torch.float32 and not cap:
        return HeadLoss.apply(hidden, head.weight, targets)
    logits = head(hidden).float()
    if cap:
        logits = torch.tanh(logits / cap) * cap
    return functional.cross_entropy(logits, targets, reduction="sum")


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
            order[start : start + size] = sorted(
                order[start : start + size], key=lambda i: -self.lengths[i]
            )
        batches = [order[n : n + self.batch] for n in range(0, len(self), self.batch)]
        rest = (
            [batches.pop()] if len(batches[-1]) < self.batch else []
        )  # an incomplete batch stays the last
        rng.shuffle(batches)
        return iter([row for batch in batches + rest for row in batch])


class WorkbookTrainer(SFTTrainer):
    """SFTTrainer with our loss and batching; `path` says how much of it is in use ("stock": none).

    The adapter of the lowest validation loss so far stands in `adapter`; every logged step is told to `tell`. After
    `patience` evaluations without a lower one training stops (0: never).
    """

    def __init__(
        self, *args: Any, adapter: Path, tell: Callable[..., None], patience: int = 0, **kwargs: Any
    ) -> None:
        self.path: Way = "stock"
        self.lean = False
        self.adapter, self._tell, self.patience = adapter, tell, patience
        self.best: dict[str, Any] = {"eval": None, "best_step": None}
        super().__init__(*args, **kwargs)
        if (
            not self.args.bf16
        ):  # trl makes the adapter of a quantised base bf16, on hardware without bf16 too
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
            at_once = PIECE if self.lean else 0
            return {
                "loss": supervised_loss(
                    causal, kwargs["input_ids"], kwargs["labels"], supervised == "prefix", at_once
                )
            }

        causal.forward = forward

    def settle(self, rows: Sequence[dict[str, Any]]) -> str:
        """Choose the fastest path whose loss agrees with the stock loss on `rows`; return why others were not taken."""
        batch = self._prepare_inputs(self.data_collator(list(rows)))
        tolerance = (
            2e-2 if self.args.bf16 or getattr(self.model, "is_loaded_in_4bit", False) else 1e-4
        )
        wanted: tuple[Way, ...] = (
            ("head",) if self.args.gradient_checkpointing else ("prefix", "head")
        )
        found = []
        self.model.eval()
        with torch.no_grad(), self.compute_loss_context_manager():
            stock = float(super().compute_loss(self.model, dict(batch)))
            for lean in (True, False) if self.args.device.type == "cpu" else (False,):
                undo, self.lean = slim(self.model) if lean else None, lean
                for path in wanted:
                    name = f"lean {path}" if lean else path
                    try:
                        ours = float(
                            self._supervised(self.model, batch, path)
                            / (batch["labels"] != IGNORED).sum()
                        )
                    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
                        found.append(f"{name}: {type(error).__name__}")
                        continue
                    if abs(ours - stock) <= tolerance * max(1.0, abs(stock)):
                        self.path = path
                        break
                    found.append(f"{name}: loss {ours:.5f}, stock {stock:.5f}")
                if self.path != "stock":
                    break
                if undo:
                    undo()
        self._metrics["eval"].clear()
        return "; ".join(found)

    def _supervised(self, model: Any, inputs: dict[str, Any], path: Way) -> torch.Tensor:
        return model(input_ids=inputs["input_ids"], labels=inputs["labels"], supervised=path)[
            "loss"
        ]

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
        total = self._supervised(model, inputs, self.path)
        tokens = (
            (inputs["labels"] != IGNORED).sum()
            if num_items_in_batch is None
            else num_items_in_batch
        )
        loss = total / torch.as_tensor(tokens).clamp(min=1)
        if (
            num_items_in_batch is not None
        ):  # counted over all processes, whose gradients are then averaged
            loss = loss * self.accelerator.num_processes
        if model.training:
            self._total_train_tokens += int(
                self.accelerator.gather(inputs["attention_mask"].sum()).sum()
            )
        self._metrics["train" if model.training else "eval"]["num_tokens"] = [
            self._total_train_tokens
        ]
        return loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        lengths = [len(ids) for ids in (train_dataset or self.train_dataset)["input_ids"]]
        batch = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
        return LengthGrouped(lengths, batch * self.args.world_size, self.args.seed)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate, and keep the adapter when none before it was better."""
        metrics, step = super().evaluate(*args, **kwargs), self.state.global_step
        if self.best["eval"] is None or metrics["eval_loss"] < self.best["eval"]:
            self.best = {"eval": metrics["eval_loss"], "best_step": step}
            self.keep_adapter()
        elif (
            self.patience and step - self.best["best_step"] >= self.patience * self.args.eval_steps
        ):
            self._tell(event="stopped", step=step, best=self.best["best_step"])
            self.control.should_training_stop = self.control.should_save = True
        return metrics

    def keep_adapter(self) -> None:
        """Write the adapter as it is now; without embedding layers, whose check would ask the hub."""
        sharded = (
            self.accelerator.get_state_dict(self.model_wrapped) if self.is_fsdp_enabled else None
        )
        if self.is_world_process_zero():
            fresh = self.adapter.with_name("adapter.new")
            model = self.accelerator.unwrap_model(self.model)
            model.save_pretrained(str(fresh), state_dict=sharded, save_embedding_layers=False)
            shutil.rmtree(self.adapter, ignore_errors=True)
            fresh.rename(self.adapter)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """A checkpoint counts once its last file is there: a program that is killed leaves half of one."""
        super()._save_checkpoint(*args, **kwargs)
        if self.is_world_process_zero():
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            state = {
                "step": self.state.global_step,
                "best": self.best,
                "tokens": self._total_train_tokens,
            }
            store.write_json(
                folder / COMPLETE, state | {"stopped": self.control.should_training_stop}
            )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Tell the numbers that a curve needs, and stop at one that is not finite."""
        super().log(logs, start_time)
        values = {short: float(logs[name]) for name, short in LOGGED.items() if name in logs}
        if bad := [name for name, value in values.items() if not math.isfinite(value)]:
            raise WorkbookError(
                f"{bad[0]} is not finite at step {self.state.global_step}; lower learning_rate"
            )
        if "loss" in values or "eval_loss" in values:
            self._tell(step=self.state.global_step, steps=self.args.max_steps, **values)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """No model card per checkpoint: it would ask the hub for the base model's."""
