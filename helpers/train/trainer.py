"""trl's SFTTrainer with less arithmetic: the same loss and gradients from fewer operations.

Three things change, none of them the mathematics: the LM head runs only where a label is; the prompt that all rows
of a batch begin with is computed once (its keys and values are handed to every row, and autograd adds up what flows
back); rows of similar length share a batch. `settle` compares the loss with the stock one on a real batch and steps
back to the stock path where an architecture does not agree.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch.utils.data import Sampler
from trl import SFTTrainer

IGNORED = -100
SHORTEST_PREFIX = 8  # tokens; below this a second pass through the layers costs more than it saves
MEGA_BATCHES = 20  # how many batches are sorted by length together
Path = Literal["prefix", "head", "stock"]


def shared_prefix(input_ids: torch.Tensor, labels: torch.Tensor) -> int:
    """Leading tokens that all rows share and whose hidden states predict no label."""
    if input_ids.shape[0] < 2:
        return 0
    differs = (input_ids != input_ids[:1]).any(dim=0)
    labelled = (labels != IGNORED).any(dim=0)
    stops = torch.cat([differs | labelled.roll(-1), torch.ones(1, dtype=torch.bool, device=differs.device)])
    return min(int(stops.int().argmax()), input_ids.shape[1] - 1)


def supervised_loss(causal: Any, input_ids: torch.Tensor, labels: torch.Tensor, share_prefix: bool) -> torch.Tensor:
    """Sum of the token losses of a right-padded batch.

    Padding needs no mask: it stands to the right of everything that a causal model can look at. With dropout, the
    rows of a batch see one mask over the shared prefix instead of one each: every row's own distribution, and so the
    expected gradient, is unchanged.
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
    """Row order of an epoch: shuffled, then sorted by length within windows of some batches.

    A pure function of (seed, epoch), so that a resumed run sees the rows that an uninterrupted one would have seen.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        self.lengths, self.batch, self.seed, self.epoch = lengths, batch, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        rng = random.Random(f"{self.seed}:{self.epoch}")
        order = rng.sample(range(len(self.lengths)), len(self.lengths))
        window = self.batch * MEGA_BATCHES
        batches = []
        for start in range(0, len(order), window):
            by_length = sorted(order[start : start + window], key=lambda i: -self.lengths[i])
            batches += [by_length[n : n + self.batch] for n in range(0, len(by_length), self.batch)]
        whole = [b for b in batches if len(b) == self.batch]
        rng.shuffle(whole)
        return iter([i for b in whole + [b for b in batches if len(b) < self.batch] for i in b])


class WorkbookTrainer(SFTTrainer):
    """SFTTrainer with our loss and batching; `path` says how much of it is in use ("stock": none)."""

    def __init__(self, *args: Any, tell: Callable[[dict[str, Any]], None], **kwargs: Any) -> None:
        self.path: Path = "stock"
        self._tell = tell
        super().__init__(*args, **kwargs)
        if not self.args.bf16:  # trl makes the adapter of a quantised base bf16, on hardware without bf16 too
            for weight in self.model.parameters():
                weight.data = weight.data.float() if weight.requires_grad else weight.data
        self._add_supervised_loss()

    def _causal(self) -> Any:
        model = self.accelerator.unwrap_model(self.model)
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    def _add_supervised_loss(self) -> None:
        """Give the model's forward a second mode, so that wrappers (PEFT, DDP) see every step as a forward call."""
        causal = self._causal()
        stock = causal.forward

        @functools.wraps(stock)
        def forward(*args: Any, supervised: Path | None = None, **kwargs: Any) -> Any:
            if supervised is None:
                return stock(*args, **kwargs)
            return {"loss": supervised_loss(causal, kwargs["input_ids"], kwargs["labels"], supervised == "prefix")}

        causal.forward = forward

    def settle(self, rows: Sequence[dict[str, Any]], tolerance: float) -> str:
        """Choose the fastest path whose loss agrees with the stock loss on `rows`; return what was found."""
        batch = self._prepare_inputs(self.data_collator(list(rows)))
        was_training, found = self.model.training, []
        self.model.eval()
        with torch.no_grad(), self.compute_loss_context_manager():
            stock = float(super().compute_loss(self.model, dict(batch)))
            wanted: tuple[Path, ...] = ("head",) if self.args.gradient_checkpointing else ("prefix", "head")
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
        self.model.train(was_training)
        self._metrics["eval"].clear()
        return "; ".join(found)

    def _supervised(self, model: Any, inputs: dict[str, Any], path: Path) -> torch.Tensor:
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
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes
        if model.training:
            self._total_train_tokens += int(inputs["attention_mask"].sum()) * self.accelerator.num_processes
        self._metrics["train" if model.training else "eval"]["num_tokens"] = [self._total_train_tokens]
        return loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        lengths = [len(ids) for ids in (train_dataset or self.train_dataset)["input_ids"]]
        batch = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
        return LengthGrouped(lengths, batch, self.args.data_seed or self.args.seed)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Hand every metric to the program instead of printing it."""
        super().log(logs, start_time)
        self._tell(logs)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """No model card per checkpoint: it would ask the hub for the base model's."""
