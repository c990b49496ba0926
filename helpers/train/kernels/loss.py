"""The loss of a batch with less arithmetic, computed in micro-batches where memory is the limit.

Three things are left out that change nothing: the LM head where no label is; the prompt that all
rows of a batch begin with, but once; padding, and what follows a row's last label. docs/kernels.md
explains them with shapes.
"""

# ruff: noqa: D102 (forward and backward of a function are what its class says)
from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from helpers.train.kernels.lean import HeadLoss
from helpers.train.rows import IGNORED

SHORTEST_PREFIX = 8  # tokens; below this a second pass through the layers costs more than it saves
Gradients = Sequence[torch.Tensor | None]


def shared_prefix(input_ids: torch.Tensor, labels: torch.Tensor) -> int:
    """Leading tokens that all rows share and whose hidden states predict no label.

    Both (rows, length).
    """
    if input_ids.shape[0] < 2:
        return 0
    differs = (input_ids != input_ids[:1]).any(dim=0)
    labelled = (labels != IGNORED).any(dim=0)
    end = torch.ones(1, dtype=torch.bool, device=differs.device)
    stops = torch.cat([differs | labelled.roll(-1), end])
    return min(int(stops.int().argmax()), input_ids.shape[1] - 1)


def supervised_loss(
    causal: Any,
    input_ids: torch.Tensor,
    labels: torch.Tensor,
    share_prefix: bool,
    most_tokens: int = 0,
) -> torch.Tensor:
    """Sum of the token losses of a right-padded batch; both (rows, length).

    No causal model can look at padding on the right: it needs no mask. `most_tokens` > 0 computes
    micro-batches of about so many and keeps the intermediate results of one at a time. With
    dropout, the rows of a batch see one mask over the shared prefix: the expected gradient is
    unchanged.
    """
    prefix = shared_prefix(input_ids, labels) if share_prefix else 0
    if prefix < SHORTEST_PREFIX:
        prefix = 0
    cache = None
    states: list[torch.Tensor] = []
    if prefix:
        cache = causal.base_model(input_ids=input_ids[:1, :prefix], use_cache=True).past_key_values
        for layer in cache.layers:
            states += [layer.keys, layer.values]
    labels = labels[:, prefix:]
    lengths = labelled_lengths(labels)
    batch = _Batch(causal, input_ids[:, prefix:], labels, lengths, cache, most_tokens > 0)
    losses = [functools.partial(batch.loss, rows) for rows in micro_batches(lengths, most_tokens)]
    if len(losses) == 1 or not torch.is_grad_enabled():
        total = labels.new_zeros((), dtype=torch.float32)
        for loss in losses:
            total = total + loss(states)
        return total
    weights = [weight for weight in causal.parameters() if weight.requires_grad]
    return SumOfLosses.apply(losses, states, *weights)


def labelled_lengths(labels: torch.Tensor) -> list[int]:
    """Up to and including its last label, the tokens of every row; 0 for one without a label."""
    lengths = []
    for row in (labels != IGNORED).cpu():
        lengths.append(int(row.nonzero().max()) + 1 if row.any() else 0)
    return lengths


class _Batch(NamedTuple):
    """The rows of a batch behind their shared prefix."""

    causal: Any
    input_ids: torch.Tensor  # (rows, length)
    labels: torch.Tensor  # (rows, length)
    lengths: list[int]  # what follows the last label matters to nothing
    cache: Any  # the prefix's keys and values, or None
    lean: bool

    def loss(self, rows: list[int], states: list[torch.Tensor]) -> torch.Tensor:
        """Sum of the token losses of these rows, whose prefix has these keys and values."""
        end = max(self.lengths[row] for row in rows)
        labels = self.labels[rows, :end]
        predicts = functional.pad(labels[:, 1:] != IGNORED, (0, 1))  # the last position: nothing
        cache = None
        if self.cache is not None:
            cache = _repeated(self.cache, states, len(rows))
        backbone = self.causal.base_model
        with last_mlp_at(backbone, predicts) if self.lean else contextlib.nullcontext():
            out = backbone(
                input_ids=self.input_ids[rows, :end],
                past_key_values=cache,
                use_cache=cache is not None,
            )
        targets = labels.roll(-1, 1)[predicts]
        return _head_loss(self.causal, out.last_hidden_state[predicts], targets)


def micro_batches(lengths: Sequence[int], most_tokens: int) -> list[list[int]]:
    """Row numbers in as few even batches as `most_tokens` padded tokens allow (0: one).

    The longest come first, rows of length 0 not at all. The first is the largest: glibc does not
    reuse what it freed for an aligned request of the very same size.
    """
    order = [row for row, length in enumerate(lengths) if length]
    order.sort(key=lambda row: -lengths[row])
    if not order:
        return []
    if not most_tokens:
        return [order]
    fewest = _pack(order, lengths, most_tokens)
    for limit in range(1, most_tokens):
        batches = _pack(order, lengths, limit)
        if len(batches) == len(fewest):
            return batches
    return fewest


def _pack(order: list[int], lengths: Sequence[int], limit: int) -> list[list[int]]:
    batches: list[list[int]] = []
    while order:
        longest = lengths[order[0]]
        size = max(1, limit // longest)
        if not batches:
            limit = min(limit, size * longest - 1)
        batches.append(order[:size])
        order = order[size:]
    return batches


class SumOfLosses(torch.autograd.Function):
    """The sum of several losses that begin with the same `states`.

    `losses` are functions of the states; the states may depend on the weights. The intermediate
    results of one loss are dropped before the next. All gradients of the weights are found in the
    forward pass, so that the backward pass (once, as a distributed wrapper expects it) has only to
    hand them out.
    """

    @staticmethod
    def forward(ctx: Any, losses: Any, states: Any, *weights: Any) -> Any:
        total = weights[0].new_zeros(())
        with torch.enable_grad():
            leaves = [state.detach().requires_grad_(state.requires_grad) for state in states]
            sources = [*weights, *(leaf for leaf in leaves if leaf.requires_grad)]
            gradients: Gradients = [None] * len(sources)
            for loss_of in losses:
                loss = loss_of(leaves)
                new = torch.autograd.grad(loss, sources, allow_unused=True)
                gradients = _sums(gradients, new)
                total += loss.detach()
            to_weights = gradients[: len(weights)]
            to_states = gradients[len(weights) :]
            learnt = [state for state in states if state.requires_grad]
            if learnt:
                new = torch.autograd.grad(learnt, weights, to_states, allow_unused=True)
                to_weights = _sums(to_weights, new)
        ctx.gradients = to_weights
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        scaled = []
        for weight_gradient in ctx.gradients:
            scaled.append(None if weight_gradient is None else weight_gradient * gradient)
        return None, None, *scaled


def _sums(some: Gradients, others: Gradients) -> Gradients:
    """Pairwise sums, where None is nothing."""
    sums = []
    for one, other in zip(some, others, strict=True):
        if one is None or other is None:
            sums.append(other if one is None else one)
        else:
            sums.append(one + other)
    return sums


@contextlib.contextmanager
def last_mlp_at(backbone: Any, positions: torch.Tensor) -> Iterator[None]:
    """Meanwhile the last layer's MLP answers at these (rows, length) positions alone.

    It is 0 where no head looks.
    """
    mlp = backbone.layers[-1].mlp
    before = vars(mlp).get("forward")
    whole: Callable[[Any], Any] = mlp.forward
    mlp.forward = lambda x: x.new_zeros(x.shape).index_put((positions,), whole(x[positions]))
    try:
        yield
    finally:
        del mlp.forward
        if before:
            mlp.forward = before


def _repeated(cache: Any, states: list[torch.Tensor], rows: int) -> Any:
    """A copy of the prefix's key-value cache for so many rows, made of `states`.

    States are keys, values, keys, ...; each (1, heads, prefix, head size).
    """
    repeated = copy.copy(cache)
    repeated.layers = []
    for number, layer in enumerate(cache.layers):
        layer = copy.copy(layer)
        layer.keys = states[2 * number].expand(rows, -1, -1, -1)
        layer.values = states[2 * number + 1].expand(rows, -1, -1, -1)
        repeated.layers.append(layer)
    return repeated


def _head_loss(causal: Any, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Sum of the losses of these positions: hidden (positions, hidden), targets (positions,)."""
    head = causal.get_output_embeddings()
    cap = getattr(causal.config.get_text_config(), "final_logit_softcapping", None)
    frozen = type(head) is torch.nn.Linear and head.bias is None and not head.weight.requires_grad
    if frozen and head.weight.dtype == torch.float32 and not cap:
        return HeadLoss.apply(hidden, head.weight, targets)
    logits = head(hidden).float()
    if cap:
        logits = torch.tanh(logits / cap) * cap
    return functional.cross_entropy(logits, targets, reduction="sum")
