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
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch.nn import functional

from helpers.models import FrozenLayer
from helpers.train.kernels.lean import COMPUTES, HeadLoss, draw_from
from helpers.train.rows import IGNORED

Loss = Callable[[Sequence[torch.Tensor]], torch.Tensor]  # of the prefix's states
SHORTEST_PREFIX = 8  # tokens; below this a second pass through the layers costs more than it saves
BESIDE = 200  # tokens at most of a micro-batch with others beside it: all are held at once


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
    causal: Any, input_ids: torch.Tensor, labels: torch.Tensor, prefix: bool, most_tokens: int = 0
) -> torch.Tensor:
    """Sum of the token losses of a right-padded batch; both (rows, length).

    No causal model can look at padding on the right: it needs no mask. With `prefix` the tokens
    that all rows begin with are computed once; with dropout, the rows then see one mask over them:
    the expected gradient is unchanged. `most_tokens` > 0 computes micro-batches of about so many
    and keeps the intermediate results of one at a time.
    """
    backbone = causal.base_model
    shared = shared_prefix(input_ids, labels) if prefix else 0
    cache, states = None, []
    if shared >= SHORTEST_PREFIX:
        cache, states = _prefix_states(backbone, input_ids[:1, :shared])
        input_ids = input_ids[:, shared:]
        labels = labels[:, shared:]
    lengths = _labelled_lengths(labels)
    threads = threads_of(causal)

    def loss(rows: list[int], at: Any, states: Sequence[torch.Tensor]) -> torch.Tensor:
        end = max(lengths[row] for row in rows)  # what follows the last label matters to nothing
        goals = labels[rows, :end]
        predicts = functional.pad(goals[:, 1:] != IGNORED, (0, 1))  # the last position: nothing
        inputs = {"input_ids": input_ids[rows, :end], "use_cache": cache is not None}
        if cache is not None:
            inputs["past_key_values"] = _repeated(cache, states, len(rows))
        if at is not None:
            at.positions = predicts
        hidden = backbone(**inputs).last_hidden_state
        return _head_loss(causal, hidden[predicts], goals.roll(-1, 1)[predicts])

    with trimmed_mlp(backbone) if most_tokens else contextlib.nullcontext() as at:
        most = min(most_tokens, BESIDE) if threads > 1 else most_tokens
        batches = micro_batches(lengths, most, threads)
        losses = [functools.partial(loss, rows, at) for rows in batches]
        if not torch.is_grad_enabled():
            zero = torch.zeros((), device=labels.device)
            return sum(side_by_side(lambda loss_of: loss_of(states), losses, threads), zero)
        if len(losses) == 1:
            return losses[0](states)
        weights = [weight for weight in causal.parameters() if weight.requires_grad]
        return SumOfLosses.apply(losses, threads, states, *weights)


def _prefix_states(backbone: Any, input_ids: torch.Tensor) -> tuple[Any, list[torch.Tensor]]:
    """The cache of the tokens that all rows begin with, and its keys, values, keys, ..."""
    cache = backbone(input_ids=input_ids, use_cache=True).past_key_values
    return cache, [state for layer in cache.layers for state in (layer.keys, layer.values)]


def threads_of(causal: Any) -> int:
    """How many threads compute micro-batches side by side.

    One in fp32, where each product is shared out instead. In bf16 every thread computes its own
    micro-batch to the end: nobody waits after each small product, nor for a core that is busy.
    """
    weight = causal.get_input_embeddings().weight
    coarse = weight.dtype == torch.bfloat16 and weight.device.type == "cpu"
    return torch.get_num_threads() if coarse else 1


def side_by_side(
    task: Callable[[Loss], Any], losses: Sequence[Loss], threads: int
) -> Iterator[Any]:
    """The task's results for every loss, in their order whatever ended first.

    Each thread's dropout draws from a generator that is the micro-batch's own.
    """
    if threads == 1 or len(losses) < 2:
        yield from map(task, losses)
        return

    learning = torch.is_grad_enabled()  # which every thread decides for itself

    def alone(loss_of: Loss, seed: int) -> Any:
        draw_from(seed)
        with torch.set_grad_enabled(learning):
            return task(loss_of)

    seeds = torch.randint(2**62, (len(losses),)).tolist()
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # of each thread: products are not shared out again
    try:
        yield from list(_pool(threads).map(alone, losses, seeds))
    finally:
        torch.set_num_threads(before)


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "micro-batch")


def _labelled_lengths(labels: torch.Tensor) -> list[int]:
    """The tokens of every row up to and including its last label; 0 without a label."""
    labelled = (labels != IGNORED).cpu()
    return [int(row.nonzero().max()) + 1 if row.any() else 0 for row in labelled]


def micro_batches(lengths: Sequence[int], most_tokens: int, threads: int = 1) -> list[list[int]]:
    """Row numbers in as few even batches as `most_tokens` padded tokens allow (0: one).

    Several threads get as many each. The longest come first, rows of length 0 not at all. The first
    is the largest: glibc does not reuse what it freed for an aligned request of the very same size.
    """
    order = [row for row, length in enumerate(lengths) if length]
    order.sort(key=lambda row: -lengths[row])
    if not most_tokens or not order:
        return [order] if order else []
    fewest = _pack(order, lengths, most_tokens)
    count = min(len(order), threads * math.ceil(len(fewest) / threads))
    for limit in range(1, most_tokens):
        batches = _pack(order, lengths, limit)
        if len(batches) <= count:
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
    def forward(ctx: Any, losses: Any, threads: int, states: Any, *weights: Any) -> Any:
        leaves = [state.detach().requires_grad_(state.requires_grad) for state in states]
        sources = [*weights, *(leaf for leaf in leaves if leaf.requires_grad)]

        def differentiate(loss_of: Loss) -> Any:
            with torch.enable_grad():
                loss = loss_of(leaves)
                return loss.detach(), torch.autograd.grad(loss, sources, allow_unused=True)

        total = weights[0].new_zeros(())
        gradients: list[Any] = [None] * len(sources)
        for loss, new in side_by_side(differentiate, losses, threads):
            gradients = list(map(_sum, gradients, new))
            total += loss
        to_weights, to_states = gradients[: len(weights)], gradients[len(weights) :]
        trainable = [state for state in states if state.requires_grad]
        if trainable:
            new = torch.autograd.grad(trainable, weights, to_states, allow_unused=True)
            to_weights = list(map(_sum, to_weights, new))
        ctx.gradients = to_weights
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        scaled = (None if known is None else known * gradient for known in ctx.gradients)
        return None, None, None, *scaled


def _sum(one: torch.Tensor | None, other: torch.Tensor | None) -> torch.Tensor | None:
    """None is nothing."""
    if one is None or other is None:
        return other if one is None else one
    return one + other


@contextlib.contextmanager
def trimmed_mlp(backbone: Any) -> Iterator[threading.local]:
    """Meanwhile the last layer's MLP answers at some positions alone, and is 0 where no head looks.

    What it yields holds this thread's `positions`, a (rows, length) mask.
    """
    mlp = backbone.layers[-1].mlp
    before = vars(mlp).get("forward")
    whole = mlp.forward
    at = threading.local()

    def trimmed(x: torch.Tensor) -> torch.Tensor:
        return x.new_zeros(x.shape).index_put((at.positions,), whole(x[at.positions]))

    mlp.forward = trimmed
    try:
        yield at
    finally:
        del mlp.forward
        if before:
            mlp.forward = before


def _repeated(cache: Any, states: Sequence[torch.Tensor], rows: int) -> Any:
    """A copy of the prefix's cache for so many rows, made of `states`: (1, heads, prefix, size)."""
    repeated = copy.copy(cache)
    repeated.layers = [copy.copy(layer) for layer in cache.layers]
    each = iter(states)
    for layer in repeated.layers:
        layer.keys = next(each).expand(rows, -1, -1, -1)
        layer.values = next(each).expand(rows, -1, -1, -1)
    return repeated


@functools.lru_cache(maxsize=1)
def _frozen_head(head: Any) -> FrozenLayer:
    """What is laid out for it is kept from one micro-batch to the next."""
    return FrozenLayer(head)


def _head_loss(causal: Any, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Sum of the losses of these positions: hidden (positions, hidden), targets (positions,)."""
    head = causal.get_output_embeddings()
    cap = getattr(causal.config.get_text_config(), "final_logit_softcapping", None)
    frozen = type(head) is torch.nn.Linear and head.bias is None and not head.weight.requires_grad
    if frozen and not cap and head.weight.dtype in COMPUTES and hidden.device.type == "cpu":
        return HeadLoss.apply(hidden, _frozen_head(head), targets)
    logits = head(hidden).float()
    if cap:
        logits = torch.tanh(logits / cap) * cap
    return functional.cross_entropy(logits, targets, reduction="sum")
