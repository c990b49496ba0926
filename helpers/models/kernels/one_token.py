"""The forward pass for one token of one row: a read of all weights, and little else.

Every product is a matrix by a vector. torch reads fp16 for that as fast as memory gives it, and
bf16 at a third of that speed. docs/kernels.md explains it with shapes.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from helpers.models.kernels.products import FrozenLayer

Vector = torch.Tensor
Product = Callable[[Vector], Vector]


class OneToken:
    """What `Steps` computes, for one token whose bf16 weights are held as fp16 as well.

    fp16 holds bf16 numbers as they are, below 65,504 and down to 2^-14; beyond is inf.
    """

    def __init__(self, steps: Any) -> None:
        groups = [
            group
            for layer in steps.layers
            for group in ([layer.qkv], [layer.o], [layer.gate, layer.up], [layer.down])
        ]
        *products, self.head = _products([*groups, [steps.head]])
        self.layers = [
            (layer.norm.of_one, layer.mlp_norm.of_one, *products[4 * n : 4 * n + 4])
            for n, layer in enumerate(steps.layers)
        ]
        self.norm = steps.norm.of_one

    def logits(self, x: Vector, seen: Callable[[Vector, int], Vector]) -> torch.Tensor:
        """(1, words) for an embedding (hidden,), in fp32 between the products.

        `seen` says what attention of a layer gives, of its queries, keys and values (heads x size).
        """
        for number, layer in enumerate(self.layers):
            norm, mlp_norm, to_qkv, to_output, to_halves, to_hidden = layer
            x += to_output(seen(to_qkv(norm(x)), number).half())
            gate, up = to_halves(mlp_norm(x)).chunk(2)
            x += to_hidden(functional.silu(gate).mul_(up))
        return self.head(self.norm(x)).float()[None]


def _products(groups: Sequence[Sequence[FrozenLayer]]) -> list[Product]:
    """Of each group its products with one input, behind each other, in fp16.

    All weights lie in one block, in pages of 2 MB where the system has them: to look up where so
    many small ones are takes a tenth of the time.
    """
    weights = [[layer.whole() for layer in group] for group in groups]
    size = 2 * sum(weight.numel() for group in weights for weight in group)
    try:
        memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(str(error)) from error
    with contextlib.suppress(AttributeError, OSError):  # a system without such pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    free = torch.frombuffer(memory, dtype=torch.float16)
    products = []
    for layers, group in zip(groups, weights, strict=True):
        rows = sum(map(len, group))
        half = free[: rows * group[0].shape[1]].view(rows, -1)
        free = free[half.numel() :]
        torch.cat(group, out=half) if len(group) > 1 else half.copy_(group[0])
        biases = [layer.bias for layer in layers if layer.bias is not None]
        product = partial(torch.addmv, torch.cat(biases).half(), half) if biases else half.mv
        products.append(product)
    return products
