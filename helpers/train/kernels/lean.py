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
import functools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from helpers.models import FrozenLayer, FrozenLinear, product
from helpers.train.kernels.attention import register

HEAD_ROWS = 64  # positions whose logits are in memory at once
COMPUTES = (torch.float32, torch.bfloat16)
DRAWS = 2**16  # steps of the dropout's probability: four masks from one random 64-bit number
SDPA = "TRANSFORMERS_SDPA_FORCE_GQA"  # keys and values are not repeated for the heads that share
TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # layers of one input


class Adapter(NamedTuple):
    """What is fixed about an adapter."""

    scaling: float
    dropout: float


class AdaptedLinear(torch.autograd.Function):
    """x W' + bias + scaling (dropout(x) A') B' with W and bias frozen.

    x (..., in), W (out, in), bias (out,), A (rank, in), B (out, rank). A and B are fp32; where x is
    bf16 so are their products, added up in fp32 and rounded once, and their gradients are fp32.
    """

    @staticmethod
    def forward(ctx: Any, x: Any, base: FrozenLayer, a: Any, b: Any, how: Adapter) -> Any:
        rows = x.reshape(-1, x.shape[-1])
        a, b = a.to(x.dtype), b.to(x.dtype)
        dropped = dropout_mask(rows, how.dropout) if how.dropout else None
        scaling = how.scaling / (1 - how.dropout)
        inner = _without(rows, dropped) @ a.t()
        out = base.times(rows)
        out.addmm_(inner, b.t(), alpha=scaling)
        ctx.save_for_backward(rows, dropped, inner, a, b)
        ctx.base = base
        ctx.scaling = scaling
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        rows, dropped, inner, a, b = ctx.saved_tensors
        flat = gradient.reshape(-1, gradient.shape[-1])
        inside = (flat @ b).mul_(ctx.scaling)
        to_a = (inside.t() @ _without(rows, dropped)).float()
        to_b = (flat.t() @ inner).float().mul_(ctx.scaling)
        to_input = None
        if ctx.needs_input_grad[0]:
            to_input = ctx.base.back(flat)
            if dropped is None:
                to_input = to_input.addmm_(inside, a)
            else:
                to_input = to_input.add_(_without(inside @ a, dropped))
            to_input = to_input.view(*gradient.shape[:-1], -1)
        return to_input, None, to_a, to_b, None


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

    x (..., hidden), weight (hidden,). Computed in fp32 also where x is bf16.
    """

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, epsilon: float) -> Any:
        wide = x.float()
        inverse = torch.linalg.vecdot(wide, wide).unsqueeze(-1).div_(x.shape[-1])
        inverse = inverse.add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, inverse, weight)
        return (wide * inverse).mul_(weight).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        x, inverse, weight = ctx.saved_tensors
        wide = x.float()
        inward = gradient.float() * weight
        along = torch.linalg.vecdot(inward, wide).unsqueeze(-1)
        along = along.mul_(inverse**3).div_(-x.shape[-1])
        return inward.mul_(inverse).addcmul_(wide, along).to(x.dtype), None, None


class HeadLoss(torch.autograd.Function):
    """Sum of the cross entropies of hidden W' against targets, W frozen, in fp32.

    hidden (positions, hidden), W (words, hidden), targets (positions,). The gradient is ready with
    the loss.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Any, weight: Any, targets: Any) -> Any:
        total = torch.zeros(())
        to_hidden = torch.empty_like(hidden)
        chunks = math.ceil(len(hidden) / HEAD_ROWS) or 1
        chunked = (tensor.chunk(chunks) for tensor in (hidden, targets, to_hidden))
        for rows, words, out in zip(*chunked, strict=True):
            words = words[:, None]
            logits = _logits(rows, weight)
            logits.sub_(logits.amax(1, keepdim=True))
            picked = logits.gather(1, words)
            sums = logits.exp_().sum(1, keepdim=True)
            total += (sums.log() - picked).sum()
            if ctx.needs_input_grad[0]:
                chances = logits.div_(sums)
                chances.scatter_add_(1, words, torch.full_like(picked, -1.0))
                out.copy_(chances.to(weight.dtype) @ weight)
        ctx.save_for_backward(to_hidden)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        (to_hidden,) = ctx.saved_tensors
        return to_hidden * gradient.to(to_hidden.dtype), None, None


def _logits(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """In fp32, (positions, words); fp32 products on their side take half the time."""
    if hidden.dtype == torch.float32:
        return product(weight, hidden).t()
    return (hidden @ weight.t()).float()


def slim(model: Any) -> Callable[[], None]:
    """Give the layers of a peft model on the CPU the forward passes above where they fit.

    Returns how to undo it; until then the weights of linear layers may be held as laid out alone.
    """
    changed: list[Any] = []
    together: list[Together] = []
    of_adapters = {getattr(module, "base_layer", None) for module in model.modules()}
    for module in [*model.modules()]:
        groups = [[getattr(module, name, None) for name in names] for names in TOGETHER]
        for group in [*groups, [module]]:
            known = {*changed, *of_adapters, model.get_output_embeddings()}
            if known.isdisjoint(group) and _fits(group):
                together.append(Together(group))
                changed += group
        forward = _lean_forward(module)
        if forward is not None:
            module.forward = forward
            changed.append(module)
    _keep_freed_memory()
    os.environ[SDPA] = "1"
    config = model.get_base_model().config
    attention = config._attn_implementation
    if attention == "sdpa":  # what has more to it comes with another
        config._attn_implementation = register()

    def undo() -> None:
        os.environ.pop(SDPA, None)
        config._attn_implementation = attention
        for layers in together:
            layers.restore()
        for module in changed:
            vars(module).pop("forward", None)
        together.clear()

    return undo


def _fits(modules: Sequence[Any]) -> bool:
    """Whether these are linear layers that do not learn, their adapters all of one kind."""
    from peft.tuners.lora import Linear

    layers = [getattr(module, "base_layer", module) for module in modules]
    if not all(type(layer) is torch.nn.Linear for layer in layers):
        return False
    adapted = [module for module in modules if isinstance(module, Linear)]
    alike = {_how(module) for module in adapted}
    biases = {layer.bias is None for layer in layers}
    special = any(module.lora_variant for module in adapted)
    learns = any(layer.weight.requires_grad for layer in layers)
    return len(alike) <= 1 and len(biases) == 1 and not special and not learns


def _lean_forward(module: Any) -> Callable[..., Any] | None:
    """For three projections with silu between them, and for Llama's kind of norm, not Gemma's."""
    act = getattr(module, "act_fn", None)
    is_silu = isinstance(act, torch.nn.SiLU) or type(act).__name__ == "SiLUActivation"
    if is_silu and all(hasattr(module, f"{name}_proj") for name in ("gate", "up", "down")):
        return lambda x: module.down_proj(
            GatedProduct.apply(module.gate_proj(x), module.up_proj(x))
        )
    if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
        return lambda x: Normed.apply(x, module.weight, module.variance_epsilon)
    return None


def _keep_freed_memory() -> None:
    """Let glibc keep what a micro-batch frees for the next one, but not what came before.

    Pages handed back would have to be zeroed anew each time.
    """
    with contextlib.suppress(AttributeError, OSError):  # another C library has no mallopt
        library = ctypes.CDLL(None)
        library.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        library.mallopt(-3, 2**30)  # M_MMAP_THRESHOLD
        library.malloc_trim(0)


class Together:
    """Layers of one input, with adapters or without: the first that is asked computes them all."""

    def __init__(self, modules: Sequence[Any]) -> None:
        self.modules = modules
        self.layers = [getattr(module, "base_layer", module) for module in modules]
        self.widths = [len(layer.weight) for layer in self.layers]
        self.base = FrozenLayer(*self.layers)
        if self.base.release():
            self._hold(torch.empty(sum(self.widths), 0))
        else:
            self._hold(self.base.weight)  # once in memory, not twice
        self._input: Any = None
        self._parts: dict[int, torch.Tensor] = {}
        for number, module in enumerate(modules):
            module.forward = functools.partial(self.part, number)

    def part(self, number: int, x: torch.Tensor) -> torch.Tensor:
        """What layer `number` makes of x."""
        if self._input is not x or number not in self._parts:
            self._input = x
            self._parts = dict(enumerate(self._all(x).split(self.widths, -1)))
        part = self._parts.pop(number)
        if not self._parts:
            self._input = None
        return part

    def _all(self, x: torch.Tensor) -> torch.Tensor:
        adapted = [module for module in self.modules if module not in self.layers]
        if not adapted or adapted[0].disable_adapters:
            return FrozenLinear.apply(x, self.base)
        inner = [module.lora_A[module.active_adapters[0]].weight for module in adapted]
        outer = [_outer(module) for module in self.modules]
        if len(outer) == 1:
            return AdaptedLinear.apply(x, self.base, inner[0], outer[0], _how(adapted[0]))
        a, b = torch.cat(inner), torch.block_diag(*outer)
        return AdaptedLinear.apply(x, self.base, a, b, _how(adapted[0]))

    def restore(self) -> None:
        """Give the layers their weights back."""
        self._hold(self.base.whole())

    def _hold(self, weights: torch.Tensor) -> None:
        for layer, weight in zip(self.layers, weights.split(self.widths), strict=True):
            layer.weight.data = weight.to(layer.weight.dtype)


def _how(module: Any) -> Adapter:
    """What is fixed about a layer's adapter."""
    name = module.active_adapters[0]
    dropout = getattr(module.lora_dropout[name], "p", 0.0) if module.training else 0.0
    return Adapter(module.scaling[name], dropout)


def _outer(module: Any) -> torch.Tensor:
    """B of a layer's adapter, (out, rank); of rank 0 where there is none."""
    if type(module) is torch.nn.Linear:
        return torch.zeros(module.out_features, 0)
    return module.lora_B[module.active_adapters[0]].weight
