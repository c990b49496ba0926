"""The loss of a batch with less arithmetic, computed in micro-batches where memory is the limit.

Three things are left out that change nothing: the LM head where no label is; the prompt that all
rows of a batch begin with, but once; padding, and what follows a row's last label. A few tokens
are one row, whatever rows they come from. docs/kernels.md explains them with shapes.
"""

# ruff: noqa: D102 (forward and backward of a function are what its class says)
from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from helpers.models import supported
from helpers.train.kernels.lean import COMPUTES, HeadLoss
from helpers.train.rows import IGNORED

Loss = Callable[[Sequence[torch.Tensor]], torch.Tensor]  # of the prefix's states
Gradients = Sequence[torch.Tensor]
SAVED_TOKENS = 40  # fewer are not worth a pass of their own through the layers
ONE_ROW = 256  # tokens: of more, too many scores would be of tokens that may not see each other


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
    if prefix and most_tokens and _is_short(causal, input_ids, labels, shared):
        row = as_one_row(input_ids, labels, shared)
        mask = row.mask.to(causal.get_input_embeddings().weight.dtype)
        inputs = {"position_ids": row.positions, "attention_mask": mask, "use_cache": False}
        hidden = backbone(input_ids=row.ids, **inputs).last_hidden_state[0]
        predicts = row.goals != IGNORED
        return _head_loss(causal, hidden[predicts], row.goals[predicts])
    cache, states = None, []
    if shared * (len(labels) - 1) >= SAVED_TOKENS:
        cache = backbone(input_ids=input_ids[:1, :shared], use_cache=True).past_key_values
        states = [state for layer in cache.layers for state in (layer.keys, layer.values)]
        input_ids = input_ids[:, shared:]
        labels = labels[:, shared:]
    lengths = labelled_lengths(labels)

    def loss(rows: list[int], states: Sequence[torch.Tensor]) -> torch.Tensor:
        end = max(lengths[row] for row in rows)  # what follows the last label matters to nothing
        goals = labels[rows, :end]
        predicts = functional.pad(goals[:, 1:] != IGNORED, (0, 1))  # the last position: nothing
        inputs = {"input_ids": input_ids[rows, :end], "use_cache": cache is not None}
        if cache is not None:
            inputs["past_key_values"] = _repeated(cache, states, len(rows))
        hidden = backbone(**inputs).last_hidden_state
        return _head_loss(causal, hidden[predicts], goals.roll(-1, 1)[predicts])

    losses = [functools.partial(loss, rows) for rows in micro_batches(lengths, most_tokens)]
    if not torch.is_grad_enabled():
        zero = torch.zeros((), device=labels.device)
        return sum((loss_of(states) for loss_of in losses), zero)
    if len(losses) == 1:
        return losses[0](states)
    return sum_of_losses(losses, states, trainable(causal))


class OneRow(NamedTuple):
    """A batch as one row: what all rows begin with, then what follows of each up to its end."""

    ids: torch.Tensor  # (1, tokens)
    positions: torch.Tensor  # (1, tokens): places in the rows that they come from
    mask: torch.Tensor  # (1, 1, tokens, tokens): minus infinity where a token may not look
    goals: torch.Tensor  # (tokens,): the label that each predicts, or IGNORED


def as_one_row(input_ids: torch.Tensor, labels: torch.Tensor, shared: int) -> OneRow:
    """Rows (rows, length) of which the first `shared` tokens are the same.

    A token sees those before it in its own row, and the shared ones.
    """
    places = torch.arange(input_ids.shape[1])
    taken = places[None] < torch.tensor(labelled_lengths(labels))[:, None]
    taken &= places >= shared
    taken[0, :shared] = True
    row, place = taken.nonzero(as_tuple=True)
    sees = (row[:, None] == row) | (place < shared)
    sees &= place <= place[:, None]
    mask = torch.zeros(sees.shape).masked_fill_(~sees, -torch.inf)
    goals = functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
    return OneRow(input_ids[taken][None], place[None], mask[None, None], goals[taken])


def _is_short(causal: Any, input_ids: torch.Tensor, labels: torch.Tensor, shared: int) -> bool:
    """Whether a batch in bf16 on a CPU is few tokens, and fewer as one row than with padding.

    And full attention is all that tokens learn of each other: a convolution would read on.
    """
    weight = causal.get_input_embeddings().weight
    if weight.dtype != torch.bfloat16 or weight.device.type != "cpu" or not supported(causal):
        return False
    lengths = [length for length in labelled_lengths(labels) if length]
    tokens = shared + sum(length - shared for length in lengths)
    padded = len(lengths) * max(lengths, default=0)
    return tokens < padded and tokens <= ONE_ROW


def labelled_lengths(labels: torch.Tensor) -> list[int]:
    """The tokens of every row up to and including its last label; 0 without a label."""
    labelled = (labels != IGNORED).cpu()
    return [int(row.nonzero().max()) + 1 if row.any() else 0 for row in labelled]


def micro_batches(lengths: Sequence[int], most_tokens: int) -> list[list[int]]:
    """Row numbers in as few even batches as `most_tokens` padded tokens allow (0: one).

    The longest come first, rows of length 0 not at all. The first is the largest: glibc does not
    reuse what it freed for an aligned request of the very same size.
    """
    order = [row for row, length in enumerate(lengths) if length]
    order.sort(key=lambda row: -lengths[row])
    if not most_tokens or not order:
        return [order] if order else []
    fewest = _pack(order, lengths, most_tokens)
    for limit in range(1, most_tokens):
        batches = _pack(order, lengths, limit)
        if len(batches) <= len(fewest):
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


def sum_of_losses(
    losses: Sequence[Loss], states: Sequence[torch.Tensor], weights: Sequence[torch.Tensor]
) -> torch.Tensor:
    """The sum of several losses that begin with the same `states`, its gradients found already.

    `losses` are functions of the states; the states may depend on the weights. The intermediate
    results of one loss are dropped before the next.
    """
    leaves = [state.detach().requires_grad_(state.requires_grad) for state in states]
    sources = [*weights, *(leaf for leaf in leaves if leaf.requires_grad)]
    total = weights[0].new_zeros(())
    gradients = [torch.zeros_like(source) for source in sources]
    for loss_of in losses:
        loss = loss_of(leaves)
        gradients = add(gradients, gradients_of(loss, sources))
        total += loss.detach()
    to_weights, to_states = gradients[: len(weights)], gradients[len(weights) :]
    depending = [state for state in states if state.requires_grad]
    if depending:
        to_weights = add(to_weights, gradients_of(depending, weights, to_states))
    return Known.apply(total, to_weights, *weights)


class Known(torch.autograd.Function):
    """A loss whose gradients by the weights are known already.

    A distributed wrapper sees one backward pass, as it expects; it has only to hand them out.
    """

    @staticmethod
    def forward(ctx: Any, total: Any, gradients: Gradients, *weights: Any) -> Any:
        ctx.gradients = gradients
        return total.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return None, None, *(known * gradient for known in ctx.gradients)


def trainable(causal: Any) -> list[torch.Tensor]:
    """The weights that learn."""
    return [weight for weight in causal.parameters() if weight.requires_grad]


def gradients_of(losses: Any, sources: Gradients, incoming: Any = None) -> Gradients:
    """By each source; 0 where nothing depends on it."""
    return torch.autograd.grad(losses, sources, incoming, materialize_grads=True)


def add(some: Gradients, others: Gradients) -> list[torch.Tensor]:
    """Sums of gradients, one by one."""
    return [one + other for one, other in zip(some, others, strict=True)]


def _repeated(cache: Any, states: Sequence[torch.Tensor], rows: int) -> Any:
    """A copy of the prefix's cache for so many rows, made of `states`: (1, heads, prefix, size)."""
    repeated = copy.copy(cache)
    repeated.layers = [copy.copy(layer) for layer in cache.layers]
    each = iter(states)
    for layer in repeated.layers:
        layer.keys = next(each).expand(rows, -1, -1, -1)
        layer.values = next(each).expand(rows, -1, -1, -1)
    return repeated


def _head_loss(causal: Any, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Sum of the losses of these positions: hidden (positions, hidden), targets (positions,)."""
    head = causal.get_output_embeddings()
    cap = getattr(causal.config.get_text_config(), "final_logit_softcapping", None)
    frozen = type(head) is torch.nn.Linear and head.bias is None and not head.weight.requires_grad
    if frozen and not cap and head.weight.dtype in COMPUTES and hidden.device.type == "cpu":
        return HeadLoss.apply(hidden, head.weight, targets)
    logits = head(hidden).float()
    if cap:
        logits = torch.tanh(logits / cap) * cap
    return functional.cross_entropy(logits, targets, reduction="sum")
