"""Causal attention in bf16 for rows of some hundred tokens (docs/kernels.md).

torch's own kernel for a CPU never holds the scores in memory, which pays at thousands of tokens. Of
short rows its backward pass takes several times as long as four products and a softmax.
"""

# ruff: noqa: D102 (forward and backward of the function are what its class says)
from __future__ import annotations

import functools
from typing import Any

import torch

OWN_ATTENTION = "short_rows"
MOST_SCORES = 2**18  # of a row and head: 512 tokens that look at 512
SPECIAL = ("softcap", "s_aux", "sliding_window", "position_bias")  # what torch's own has to do


class Attention(torch.autograd.Function):
    """softmax(scaling Q K' + mask) V, which keeps the chances.

    Q (rows, heads, queries, size), K and V (rows, key heads, keys, size). Heads that share keys are
    asked as more queries: mask (those heads x queries, keys). A product adds up in fp32 and rounds
    once.
    """

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float) -> Any:
        rows, _, _, size = query.shape
        key_heads, keys = key.shape[1:3]
        q = query.reshape(rows * key_heads, -1, size)
        k, v = key.reshape(-1, keys, size), value.reshape(-1, keys, size)
        scores = torch.baddbmm(mask.expand(len(q), -1, -1), q, k.transpose(1, 2), alpha=scaling)
        chances = torch.softmax(scores, -1)
        ctx.save_for_backward(q, k, v, chances)
        ctx.scaling, ctx.shapes = scaling, (query.shape, key.shape)
        return (chances @ v).view(query.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        q, k, v, chances = ctx.saved_tensors
        gradient = gradient.reshape(q.shape)
        to_chances = gradient @ v.transpose(1, 2)
        to_scores = torch._softmax_backward_data(to_chances, chances, -1, q.dtype)
        to_query = (to_scores @ k).mul_(ctx.scaling).view(ctx.shapes[0])
        to_key = (to_scores.transpose(1, 2) @ q).mul_(ctx.scaling).view(ctx.shapes[1])
        to_value = (chances.transpose(1, 2) @ gradient).view(ctx.shapes[1])
        return to_query, to_key, to_value, None, None


@functools.lru_cache(maxsize=16)
def causal_mask(together: int, queries: int, keys: int) -> torch.Tensor:
    """0 where a query may look, else minus infinity: (heads that share keys x queries, keys)."""
    hidden = torch.ones(queries, keys, dtype=torch.bool).triu(keys - queries + 1)
    mask = torch.zeros(queries, keys, dtype=torch.bfloat16).masked_fill_(hidden, -torch.inf)
    return mask.repeat(together, 1)


def attend(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    """What transformers asks for each layer: (rows, queries, heads, size).

    What is added to the scores is a mask of ours (loss.py). Any other is left to torch's own
    kernel: rows of a training are padded on the right alone.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    special = kwargs.get("dropout") or any(kwargs.get(name) is not None for name in SPECIAL)
    scores = query.shape[2] * key.shape[2]
    if special or query.dtype != torch.bfloat16 or scores > MOST_SCORES:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    together = query.shape[1] // key.shape[1]
    if attention_mask is not None and attention_mask.is_floating_point():
        mask = attention_mask[0, 0].repeat(together, 1)
    else:
        mask = causal_mask(together, query.shape[2], key.shape[2])
    return Attention.apply(query, key, value, mask, kwargs["scaling"]).transpose(1, 2), None


def register() -> str:
    """Make it known to transformers; the name to ask for it by."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(OWN_ATTENTION, attend)
    AttentionMaskInterface.register(OWN_ATTENTION, sdpa_mask)
    return OWN_ATTENTION
