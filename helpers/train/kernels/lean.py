"""Adapted layers that keep and compute less on a CPU: peft's and transformers' mathematics.

Autograd keeps every intermediate result of a layer for the backward pass, and each costs a trip
through memory. Here an adapted linear layer keeps its input and the mask of its dropout (a byte per
value), a gated MLP its two halves, the LM head nothing but the gradient of its input. The trainer's
`choose_path` holds them against the stock loss. docs/kernels.md explains them with shapes.
"""

# ruff: noqa: D102 (forward and backward of each function are what its class says)
from __future__ import annotations

import contextlib
import ctypes
import math
import os
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from helpers.models import frozen_linear, product

HEAD_ROWS = 128  # positions whose logits are in memory at once
DRAWS = 2**16  # steps of the dropout's probability: four masks from one random 64-bit number
SDPA = "TRANSFORMERS_SDPA_FORCE_GQA"  # keys and values are not repeated for the heads that share
Forward = Callable[..., Any]


class AdaptedLinear(torch.autograd.Function):
    """x W' + bias + scaling (dropout(x) A') B' with W and bias frozen.

    x (..., in), W (out, in), bias (out,), A (rank, in), B (out, rank).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Any, weight: Any, bias: Any, a: Any, b: Any, scaling: float, dropout: float
    ) -> Any:
        rows = x.reshape(-1, x.shape[-1])
        dropped = dropout_mask(rows, dropout) if dropout else None
        scaling /= 1 - dropout
        inner = _without(rows, dropped) @ a.t()
        out = product(rows, weight)
        if bias is not None:
            out = out.add_(bias)
        out.addmm_(inner, b.t(), alpha=scaling)
        ctx.save_for_backward(rows, dropped, inner, weight, a, b)
        ctx.scaling = scaling
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        rows, dropped, inner, weight, a, b = ctx.saved_tensors
        flat = gradient.reshape(-1, gradient.shape[-1])
        inside = (flat @ b).mul_(ctx.scaling)
        to_a = inside.t() @ _without(rows, dropped)
        to_b = (flat.t() @ inner).mul_(ctx.scaling)
        to_input = None
        if ctx.needs_input_grad[0]:
            to_input = product(flat, weight.t())
            if dropped is None:
                to_input = to_input.addmm_(inside, a)
            else:
                to_input = to_input.add_(_without(inside @ a, dropped))
            to_input = to_input.view(*gradient.shape[:-1], -1)
        return to_input, None, None, to_a, to_b, None, None


def dropout_mask(rows: torch.Tensor, dropout: float) -> torch.Tensor:
    """True where a value is dropped; a third of the time of bernoulli.

    Drawn from torch's generator, so that a resumed training draws the same.
    """
    count = rows.numel()
    drawn = torch.randint(-(2**63), 2**63 - 1, ((count + 3) // 4,)).view(torch.int16)
    return (drawn[:count] < round(dropout * DRAWS) - DRAWS // 2).view(rows.shape)


def _without(values: torch.Tensor, dropped: torch.Tensor | None) -> torch.Tensor:
    if dropped is None:
        return values
    return torch.where(dropped, values.new_zeros(()), values)  # half the time of masked_fill


class GatedProduct(torch.autograd.Function):
    """silu(gate) * up, which keeps the two factors and computes silu again; all (..., inner)."""

    @staticmethod
    def forward(ctx: Any, gate: Any, up: Any) -> Any:
        ctx.save_for_backward(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        gate, up = ctx.saved_tensors
        to_gate = torch.ops.aten.silu_backward(gradient * up, gate)
        return to_gate, functional.silu(gate).mul_(gradient)


class Normed(torch.autograd.Function):
    """x / root mean square of x, times the frozen weight, in half the passes over memory.

    x (..., hidden), weight (hidden,).
    """

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, epsilon: float) -> Any:
        inverse = torch.linalg.vecdot(x, x).unsqueeze(-1).div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, inverse, weight)
        return (x * inverse).mul_(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        x, inverse, weight = ctx.saved_tensors
        inward = gradient * weight
        along = torch.linalg.vecdot(inward, x).unsqueeze(-1).mul_(inverse**3).div_(-x.shape[-1])
        return inward.mul_(inverse).addcmul_(x, along), None, None


class HeadLoss(torch.autograd.Function):
    """Sum of the cross entropies of hidden W' against targets, W frozen.

    hidden (positions, hidden), W (words, hidden), targets (positions,). The gradient is ready with
    the loss.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Any, weight: Any, targets: Any) -> Any:
        total = hidden.new_zeros(())
        to_hidden = torch.empty_like(hidden)
        chunks = math.ceil(len(hidden) / HEAD_ROWS) or 1
        chunked = (tensor.chunk(chunks) for tensor in (hidden, targets, to_hidden))
        for rows, words, out in zip(*chunked, strict=True):
            words = words[None]
            logits = product(weight, rows)  # (words, rows): half the time of (rows, words)
            logits.sub_(logits.amax(0))
            picked = logits.gather(0, words)
            sums = logits.exp_().sum(0, keepdim=True)
            total += (sums.log() - picked).sum()
            if ctx.needs_input_grad[0]:
                chances = logits.div_(sums)
                chances.scatter_add_(0, words, torch.full_like(picked, -1.0))
                out.copy_(chances.t() @ weight)
        ctx.save_for_backward(to_hidden)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return ctx.saved_tensors[0] * gradient, None, None


def slim(model: torch.nn.Module) -> Callable[[], None]:
    """Give the layers of a peft model on the CPU the forward passes above where they fit.

    Returns how to undo it.
    """
    changed = []
    for module in model.modules():
        forward = _lean_forward(module)
        if forward is not None:
            module.forward = forward
            changed.append(module)
    _keep_freed_memory()
    os.environ[SDPA] = "1"

    def undo() -> None:
        os.environ.pop(SDPA, None)
        for module in changed:
            del module.forward

    return undo


def _lean_forward(module: Any) -> Forward | None:
    """Another forward pass for this layer, or None where none of ours fits."""
    from peft.tuners.lora import Linear

    if isinstance(module, Linear):
        fits = type(module.base_layer) is torch.nn.Linear and not module.lora_variant
        return _adapted(module, module.forward) if fits else None
    if type(module) is torch.nn.Linear:
        learns = any(weight.requires_grad for weight in module.parameters())
        return None if learns else frozen_linear(module)
    if _is_gated_mlp(module):
        return _gated(module)
    if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
        return _normed(module, module.forward)  # Llama's kind, not Gemma's
    return None


def _keep_freed_memory() -> None:
    """Let glibc keep what a micro-batch frees for the next one.

    Pages handed back would have to be zeroed anew each time.
    """
    with contextlib.suppress(AttributeError, OSError):  # another C library has no mallopt
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        mallopt(-3, 2**30)  # M_MMAP_THRESHOLD


def _is_gated_mlp(module: Any) -> bool:
    """Three projections with silu between them."""
    if not all(hasattr(module, f"{name}_proj") for name in ("gate", "up", "down")):
        return False
    act = getattr(module, "act_fn", None)
    return isinstance(act, torch.nn.SiLU) or type(act).__name__ == "SiLUActivation"


def _adapted(module: Any, stock: Forward) -> Forward:
    def forward(x: Any, *args: Any, **kwargs: Any) -> Any:
        active = module.active_adapters
        if module.disable_adapters or module.merged or len(active) != 1 or args or kwargs:
            return stock(x, *args, **kwargs)
        name = active[0]
        base = module.base_layer
        a, b = module.lora_A[name].weight, module.lora_B[name].weight
        dropout = getattr(module.lora_dropout[name], "p", 0.0) if module.training else 0.0
        return AdaptedLinear.apply(x, base.weight, base.bias, a, b, module.scaling[name], dropout)

    return forward


def _normed(module: Any, stock: Forward) -> Forward:
    def forward(x: Any) -> Any:
        if x.dtype != torch.float32:
            return stock(x)
        return Normed.apply(x, module.weight, module.variance_epsilon)

    return forward


def _gated(module: Any) -> Forward:
    return lambda x: module.down_proj(GatedProduct.apply(module.gate_proj(x), module.up_proj(x)))
