"""Products with frozen weights on a CPU, by the faster of the two libraries that torch comes with.

torch multiplies fp32 matrices with Intel's MKL, which leaves AVX-512 unused on AMD's processors;
oneDNN uses it. In bf16 oneDNN is asked everywhere, with weights that it has laid out for itself.
The choice is the processor's and never a timing's, since a machine has to compute the same on every
run.
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
# Instructions for bf16, as /proc/cpuinfo calls them: both were measured to pay (docs/decisions.md).
NATIVE_BF16 = ("avx512_bf16", "amx_bf16")


@functools.cache
def _processor() -> str:
    described = platform.processor()
    with contextlib.suppress(OSError):
        described += Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return described


@functools.cache
def prefers_onednn() -> bool:
    """Whether this processor multiplies fp32 matrices faster with oneDNN.

    The first question bounds what oneDNN keeps.
    """
    for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(cache, str(KERNELS))
    amd = "AuthenticAMD" in _processor() and "AVX512" in torch.backends.cpu.get_cpu_capability()
    return amd and has_onednn()


def has_onednn() -> bool:
    """Whether torch offers oneDNN's linear layer, a private operation of torch."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def has_native_bf16() -> bool:
    """Whether this processor multiplies bf16 matrices by instructions of its own."""
    flags = _processor().split()
    return has_onednn() and any(flag in flags for flag in NATIVE_BF16)


def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x W' of a (rows, in) and an (out, in) matrix on the CPU."""
    if x.dtype == weight.dtype == torch.float32 and x.numel() and prefers_onednn():
        return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return x @ weight.t()


class FrozenLayer:
    """x W' + bias, neither of which learns, and its gradient; W is (out, in).

    Several modules with one input are as one. In bf16 oneDNN lays W out anew for each direction, at
    the first product: at few rows that is twice as fast, and the result does not depend on the
    number of rows it was laid out for.
    """

    def __init__(self, *modules: Any) -> None:
        self.weight, self.bias = modules[0].weight, modules[0].bias
        if len(modules) > 1:
            self.weight = torch.cat([module.weight.detach() for module in modules])
            if self.bias is not None:
                self.bias = torch.cat([module.bias.detach() for module in modules])

    @functools.cached_property
    def _forward(self) -> torch.Tensor | None:
        return _laid_out(self.weight)

    @functools.cached_property
    def _backward(self) -> torch.Tensor | None:
        return _laid_out(self.weight.t())

    def release(self) -> bool:
        """Hold W only as it was laid out, where it was; whether it is so. `whole` gives it back."""
        if self._forward is None or self._backward is None:
            return False
        self.weight = None
        return True

    def whole(self) -> torch.Tensor:
        """W, bit for bit."""
        return self._forward.to_dense() if self.weight is None else self.weight

    def times(self, x: torch.Tensor) -> torch.Tensor:
        """x W' + bias: (rows, in) to (rows, out)."""
        if self._forward is None or not x.numel():
            out = product(x, self.whole())
        else:
            out = torch.ops.mkldnn._linear_pointwise(x, self._forward, None, "none", [], "")
        return out if self.bias is None else out.add_(self.bias)

    def back(self, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient of the input, G W: (rows, out) to (rows, in)."""
        if self._backward is None or not gradient.numel():
            return product(gradient, self.whole().t())
        return torch.ops.mkldnn._linear_pointwise(gradient, self._backward, None, "none", [], "")

    def then(self, x: torch.Tensor, what: str, other: torch.Tensor | None = None) -> torch.Tensor:
        """x W' + bias, and in the same go `none` or `swish`, or `add` or `mul` with `other`.

        By oneDNN, without a gradient.
        """
        weight = self.weight if self._forward is None else self._forward
        pointwise = torch.ops.mkldnn._linear_pointwise
        if other is None:
            return pointwise(x, weight, self.bias, what, [], "")
        return pointwise.binary(x, other, weight, self.bias, what)


def _laid_out(weight: torch.Tensor) -> torch.Tensor | None:
    """A bf16 matrix as oneDNN likes it best; None where it is used as it is."""
    if weight.dtype != torch.bfloat16 or not has_onednn():
        return None
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())


class FrozenLinear(torch.autograd.Function):
    """The layer as a step of autograd: x is (…, in), the result (…, out)."""

    @staticmethod
    def forward(ctx: Any, x: Any, layer: FrozenLayer) -> Any:
        ctx.layer = layer
        out = layer.times(x.reshape(-1, x.shape[-1]))
        return out.view(*x.shape[:-1], out.shape[-1])

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        to_input = ctx.layer.back(gradient.reshape(-1, gradient.shape[-1]))
        return to_input.view(*gradient.shape[:-1], to_input.shape[-1]), None


def frozen_linear(module: Any) -> Callable[[Any], Any]:
    """Another forward pass for a linear layer that does not learn."""
    layer = FrozenLayer(module)
    return lambda x: FrozenLinear.apply(x, layer)
