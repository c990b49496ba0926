"""Products with frozen weights on a CPU, by the faster of the two libraries that torch comes with.

torch multiplies fp32 matrices with Intel's MKL, which leaves AVX-512 unused on AMD's processors;
oneDNN uses it. The choice is the processor's and never a timing's, since a machine has to compute
the same on every run.
"""

# ruff: noqa: D102 (forward and backward are what the class says)
from __future__ import annotations

import contextlib
import functools
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

# What oneDNN remembers, half a megabyte each: every number of rows has kernels of its own, and a
# stack of layers eight.
KERNELS = 32


@functools.cache
def prefers_onednn() -> bool:
    """Whether this processor multiplies fp32 matrices faster with oneDNN.

    The first question bounds what oneDNN keeps.
    """
    for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(cache, str(KERNELS))
    processor = platform.processor()
    with contextlib.suppress(OSError):
        processor += Path("/proc/cpuinfo").read_text(encoding="utf-8")
    amd = "AuthenticAMD" in processor and "AVX512" in torch.backends.cpu.get_cpu_capability()
    offered = hasattr(torch.ops.mkldnn, "_linear_pointwise")  # a private operation of torch
    return amd and torch.backends.mkldnn.is_available() and offered


def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x W' of a (rows, in) and an (out, in) matrix on the CPU."""
    if x.dtype == weight.dtype == torch.float32 and x.numel() and prefers_onednn():
        return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return x @ weight.t()


class FrozenLinear(torch.autograd.Function):
    """x W' + bias, both frozen: x is (…, in), W (out, in), the result (…, out)."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any) -> Any:
        ctx.save_for_backward(weight)
        out = product(x.reshape(-1, x.shape[-1]), weight)
        if bias is not None:
            out.add_(bias)
        return out.view(*x.shape[:-1], len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        (weight,) = ctx.saved_tensors
        flat = gradient.reshape(-1, gradient.shape[-1])
        return product(flat, weight.t()).view(*gradient.shape[:-1], weight.shape[1]), None, None


def frozen_linear(module: Any) -> Callable[[Any], Any]:
    """Another forward pass for a linear layer that does not learn."""
    return lambda x: FrozenLinear.apply(x, module.weight, module.bias)
