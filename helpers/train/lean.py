"""Adapted layers that keep and compute less on a CPU: the mathematics of peft's and transformers', in fewer tensors.

Autograd keeps every intermediate result of a layer for the backward pass, and each costs a trip through memory. Here an
adapted linear layer keeps its input and the mask of its dropout (a byte per value), a gated MLP its two halves, the LM
head nothing but the gradient of its input. The trainer's `settle` holds them against the stock loss.
"""

# ruff: noqa: D102 (forward and backward of each function are what its class says)
from __future__ import annotations

import contextlib
import ctypes
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn import functional

from helpers.models.products import frozen_linear, product

HEAD_ROWS = 128  # positions whose logits are in memory at once
DRAWS = (
    2**16
)  # steps of the dropout's probability: four masks from one random 64-bit number cost a third of bernoulli


class AdaptedLinear(torch.autograd.Function):
    """x W' + bias + scaling (dropout(x) A') B' with W and bias frozen."""

    @staticmethod
    def forward(
        ctx: Any, x: Any, weight: Any, bias: Any, a: Any, b: Any, scaling: float, dropout: float
    ) -> Any:
        rows = x.reshape(-1, x.shape[-1])
        lost = _lost(rows, dropout) if dropout else None
        scaling /= 1 - dropout
        inner = _without(rows, lost) @ a.t()
        out = product(rows, weight)
        out = out if bias is None else out.add_(bias)
        out.addmm_(inner, b.t(), alpha=scaling)
        ctx.save_for_backward(rows, lost, inner, weight, a, b)
        ctx.scaling = scaling
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        rows, lost, inner, weight, a, b = ctx.saved_tensors
        flat = gradient.reshape(-1, gradient.shape[-1])
        inside, to_input = (flat @ b).mul_(ctx.scaling), None
        to_a, to_b = inside.t() @ _without(rows, lost), (flat.t() @ inner).mul_(ctx.scaling)
        if ctx.needs_input_grad[0]:
            to_input = product(flat, weight.t())
            to_input = (
                to_input.addmm_(inside, a)
                if lost is None
                else to_input.add_(_without(inside @ a, lost))
            )
            to_input = to_input.view(*gradient.shape[:-1], -1)
        return to_input, None, None, to_a, to_b, None, None


def _lost(rows: torch.Tensor, dropout: float) -> torch.Tensor:
    """True where a value is dropped; drawn from torch's generator, so that a resumed training draws the same."""
    drawn = torch.randint(-(2**63), 2**63 - 1, ((rows.numel() + 3) // 4,)).view(torch.int16)[
        : rows.numel()
    ]
    return (drawn < round(dropout * DRAWS) - DRAWS // 2).view(rows.shape)


def _without(values: torch.Tensor, lost: torch.Tensor | None) -> torch.Tensor:
    return (
        values if lost is None else torch.where(lost, values.new_zeros(()), values)
    )  # half the time of masked_fill


class GatedProduct(torch.autograd.Function):
    """silu(gate) * up, which keeps the two factors and computes silu again."""

    @staticmethod
    def forward(ctx: Any, gate: Any, up: Any) -> Any:
        ctx.save_for_backward(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(gradient * up, gate), functional.silu(gate).mul_(
            gradient
        )


class Normed(torch.autograd.Function):
    """x / root mean square of x, times the frozen weight, in half the passes over memory."""

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
    """Sum of the cross entropies of hidden W' against `targets`, W frozen: the gradient is ready with the loss."""

    @staticmethod
    def forward(ctx: Any, hidden: Any, weight: Any, targets: Any) -> Any:
        total, to_hidden = hidden.new_zeros(()), torch.empty_like(hidden)
        parts = math.ceil(len(hidden) / HEAD_ROWS) or 1
        for rows, goal, out in zip(
            *(t.chunk(parts) for t in (hidden, targets, to_hidden)), strict=True
        ):
            logits, goal = (
                product(weight, rows),
                goal[None],
            )  # (words, rows): half the time of (rows, words)
            logits.sub_(logits.amax(0))
            picked = logits.gather(0, goal)
            parts = logits.exp_().sum(0, keepdim=True)
            total += (parts.log() - picked).sum()
            if ctx.needs_input_grad[0]:
                chances = logits.div_(parts)
                out.copy_(chances.scatter_add_(0, goal, torch.full_like(picked, -1.0)).t() @ weight)
        ctx.save_for_backward(to_hidden)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return ctx.saved_tensors[0] * gradient, None, None


class InPieces(torch.autograd.Function):
    """The sum of several losses that begin with the same `states`, whose intermediate results are dropped one by one.

    `pieces` are functions of the states; `states` may depend on `weights`. All gradients of the weights are found in the
    forward pass, so that the backward pass (once, as a distributed wrapper expects it) has only to hand them out.
    """

    @staticmethod
    def forward(ctx: Any, pieces: Any, states: Any, *weights: Any) -> Any:
        count, total = len(weights), weights[0].new_zeros(())
        with torch.enable_grad():
            leaves = [state.detach().requires_grad_(state.requires_grad) for state in states]
            asked = [*weights, *(leaf for leaf in leaves if leaf.requires_grad)]
            found: list[Any] = [None] * len(asked)
            for piece in pieces:
                loss = piece(leaves)
                found = _sums(found, torch.autograd.grad(loss, asked, allow_unused=True))
                total += loss.detach()
            begun = [state for state in states if state.requires_grad]
            found, inward = found[:count], found[count:]
            if begun:
                found = _sums(found, torch.autograd.grad(begun, weights, inward, allow_unused=True))
        ctx.found = found
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return None, None, *(found if found is None else found * gradient for found in ctx.found)


def _sums(one: Any, other: Any) -> list[Any]:
    return [b if a is None else a if b is None else a + b for a, b in zip(one, other, strict=True)]


@contextlib.contextmanager
def last_mlp_at(backbone: Any, wanted: torch.Tensor) -> Iterator[None]:
    """Meanwhile the last layer's MLP answers at the `wanted` (rows, length) positions, and 0 where no head looks."""
    mlp = backbone.layers[-1].mlp
    before, whole = vars(mlp).get("forward"), mlp.forward
    mlp.forward = lambda x: x.new_zeros(x.shape).index_put((wanted,), whole(x[wanted]))
    try:
        yield
    finally:
        del mlp.forward
        if before:
            mlp.forward = before


def slim(model: torch.nn.Module) -> Callable[[], None]:
    """Give the layers of a peft model on the CPU the forward passes above where they fit; returns how to undo it."""
    from peft.tuners.lora import Linear

    changed = []
    for module in model.modules():
        new = None
        if (
            isinstance(module, Linear)
            and type(module.base_layer) is torch.nn.Linear
            and not module.lora_variant
        ):
            new = _adapted(module, module.forward)
        elif type(module) is torch.nn.Linear and not any(
            p.requires_grad for p in module.parameters()
        ):
            new = frozen_linear(module)
        elif all(hasattr(module, f"{name}_proj") for name in ("gate", "up", "down")) and _is_silu(
            module
        ):
            new = _gated(module)
        elif type(module).__name__.endswith("RMSNorm") and hasattr(
            module, "variance_epsilon"
        ):  # Llama's kind, not Gemma's
            new = _normed(module, module.forward)
        if new:
            module.forward = new
            changed.append(module)
    _keep_freed_memory()
    os.environ["TRANSFORMERS_SDPA_FORCE_GQA"] = (
        "1"  # keys and values are not repeated for each head that reads them
    )

    def undo() -> None:
        os.environ.pop("TRANSFORMERS_SDPA_FORCE_GQA", None)
        for module in changed:
            del module.forward

    return undo


def _keep_freed_memory() -> None:
    """Let glibc keep what a piece frees for the next one: pages handed back would have to be zeroed anew each time."""
    with contextlib.suppress(AttributeError, OSError):  # another C library has no mallopt
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        mallopt(-3, 2**30)  # M_MMAP_THRESHOLD


def _is_silu(module: Any) -> bool:
    act = getattr(module, "act_fn", None)
    return isinstance(act, torch.nn.SiLU) or type(act).__name__ == "SiLUActivation"


def _adapted(module: Any, stock: Callable[..., Any]) -> Callable[..., Any]:
    def forward(x: Any, *args: Any, **kwargs: Any) -> Any:
        active = module.active_adapters
        if module.disable_adapters or module.merged or len(active) != 1 or args or kwargs:
            return stock(x, *args, **kwargs)
        base, dropout = module.base_layer, module.lora_dropout[active[0]]
        a, b, scaling = (
            module.lora_A[active[0]].weight,
            module.lora_B[active[0]].weight,
            module.scaling[active[0]],
        )
        lost = getattr(dropout, "p", 0.0) if module.training else 0.0
        return AdaptedLinear.apply(x, base.weight, base.bias, a, b, scaling, lost)

    return forward


def _normed(module: Any, stock: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: (
        Normed.apply(x, module.weight, module.variance_epsilon)
        if x.dtype == torch.float32
        else stock(x)
    )


def _gated(module: Any) -> Callable[[Any], Any]:
    return lambda x: module.down_proj(GatedProduct.apply(module.gate_proj(x), module.up_proj(x)))
