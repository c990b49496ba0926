"""The forward pass of a Llama-like model for answering on a CPU, without the modules around it.

At one token a row most of the time of transformers' own modules goes into calls, masks and small
tensors. Here a layer is seven products, with what stands beside them (bias, activation, product of
the two halves, residual sum) done by the product itself. `lean_steps` compares it with the model's
own logits once, and is not used where they differ. docs/kernels.md explains it with shapes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch.nn import functional

from helpers.models.kernels.products import has_onednn, prefers_onednn

KNOWN = ("llama", "mistral", "qwen2")  # RMS norm, rotary positions, silu gates; biases or none
ROTATIONS = ("default", "linear", "llama3", "yarn")  # whose angles do not depend on the length
PROBE = (5, 11, 7, 3, 19, 2, 13, 8)  # token ids on which both ways are compared
# How far the logits may differ, as a share of their norm. In bf16 the modules round after each
# small step and are themselves 0.05 off fp32, further than the lean steps; a fault is about 1.
CLOSE = {torch.float32: 1e-4, torch.bfloat16: 0.2}
NO_ATTRIBUTES = ([], "")  # of oneDNN's operations after a product: neither scalars nor an algorithm
_log = logging.getLogger(__name__)


class Linear(NamedTuple):
    """A matrix (out, in), laid out by oneDNN where that pays, and its bias."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    @classmethod
    def of(cls, *modules: Any) -> Linear:
        """One layer, or several with one input as one."""
        weight = torch.cat([module.weight.detach() for module in modules])
        if len(modules) == 1:
            weight = modules[0].weight.detach()
        biases = [module.bias.detach() for module in modules if module.bias is not None]
        if weight.dtype == torch.bfloat16:
            weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
        return cls(weight, torch.cat(biases) if biases else None)

    @property
    def is_torchs(self) -> bool:
        """Whether MKL multiplies it, which does nothing beside."""
        return self.weight.dtype == torch.float32 and not prefers_onednn()

    def of_x(self, x: torch.Tensor, after: Literal["none", "swish"] = "none") -> torch.Tensor:
        """x W' + bias, then `after`."""
        if self.is_torchs:
            out = functional.linear(x, self.weight, self.bias)
            return functional.silu(out, inplace=True) if after == "swish" else out
        pointwise = torch.ops.mkldnn._linear_pointwise
        return pointwise(x, self.weight, self.bias, after, *NO_ATTRIBUTES)

    def with_other(
        self, x: torch.Tensor, other: torch.Tensor, how: Literal["add", "mul"]
    ) -> torch.Tensor:
        """x W' + bias, then `how` with `other`."""
        if self.is_torchs:
            out = functional.linear(x, self.weight, self.bias)
            return out.add_(other) if how == "add" else out.mul_(other)
        pointwise = torch.ops.mkldnn._linear_pointwise.binary
        return pointwise(x, other, self.weight, self.bias, how)


class Layer(NamedTuple):
    """What a decoder layer computes with."""

    norm: Any
    qkv: Linear
    o: Linear
    mlp_norm: Any
    gate: Linear
    up: Linear
    down: Linear


class Buffers:
    """Keys and values of all layers: (layers, rows, heads, capacity, head size), written in place.

    They may begin with those of a shared prefix, which is one row.
    """

    def __init__(self, shape: Sequence[int], dtype: Any, prefix: Buffers | None = None) -> None:
        self.keys = torch.empty(shape, dtype=dtype)
        self.values = torch.empty(shape, dtype=dtype)
        self.length = 0
        if prefix is not None:
            self.length = prefix.length
            self.keys[:, :, :, : self.length] = prefix.keys[:, :, :, : self.length]
            self.values[:, :, :, : self.length] = prefix.values[:, :, :, : self.length]

    def get_seq_length(self) -> int:
        """How many tokens are in them."""
        return self.length

    def batch_select_indices(self, rows: torch.Tensor) -> None:
        """Keep these rows alone."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]


class Steps:
    """The forward pass of one model, for tokens that follow what the buffers hold."""

    def __init__(self, model: Any) -> None:
        config = model.config
        backbone = model.model
        self.heads = config.num_attention_heads
        self.key_heads = config.num_key_value_heads
        self.size = backbone.layers[0].self_attn.head_dim
        self.embedding = backbone.embed_tokens.weight.detach()
        self.layers = [_layer(module) for module in backbone.layers]
        self.norm = _norm(backbone.norm)
        self.head = Linear.of(model.lm_head)
        self._rotary = backbone.rotary_emb
        half = torch.arange(self.size).roll(self.size // 2)
        self._halves = half  # of a head's values, changed over
        self._angles = (torch.empty(0), torch.empty(0))

    def buffers(self, rows: int, capacity: int, prefix: Buffers | None = None) -> Buffers:
        """Empty ones, or those that begin with a prefix."""
        shape = (len(self.layers), rows, self.key_heads, capacity, self.size)
        return Buffers(shape, self.embedding.dtype, prefix)

    def angles(self, capacity: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and signed sines of every position, (positions, head size)."""
        if len(self._angles[0]) < capacity:
            positions = torch.arange(max(512, 2 * capacity))[None]
            cosines, sines = self._rotary(self.embedding[:1], positions)
            signs = torch.ones(self.size, dtype=sines.dtype)
            signs[: self.size // 2] = -1
            self._angles = cosines[0], sines[0] * signs
        return self._angles

    def logits(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        buffers: Buffers,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Of the last token of each row (rows, words), for ids (rows, tokens) at these positions.

        `mask` (rows, 1, tokens, keys) is True where a token may look; without one it is causal.
        """
        rows, tokens = ids.shape
        start, end = buffers.length, buffers.length + tokens
        together = self.heads // self.key_heads  # heads that share keys are asked as more tokens
        if mask is None and tokens > 1:
            mask = torch.ones(tokens, end, dtype=torch.bool).tril(start)[None, None]
        if tokens > 1:
            mask = mask.repeat(1, 1, together, 1)
        cosines, sines = self.angles(int(end))
        cosines, sines = cosines[positions].unsqueeze(2), sines[positions].unsqueeze(2)
        turned = self.heads + self.key_heads
        x = functional.embedding(ids, self.embedding).view(rows * tokens, -1)
        for number, layer in enumerate(self.layers):
            qkv = layer.qkv.of_x(layer.norm(x)).view(rows, tokens, -1, self.size)
            qk = qkv[:, :, :turned]
            qk = (qk * cosines).addcmul_(qk.index_select(3, self._halves), sines)
            keys, values = buffers.keys[number], buffers.values[number]
            keys[:, :, start:end] = qk[:, :, self.heads :].transpose(1, 2)
            values[:, :, start:end] = qkv[:, :, turned:].transpose(1, 2)
            queries = qk[:, :, : self.heads].view(rows, tokens, self.key_heads, together, self.size)
            queries = queries.permute(0, 2, 3, 1, 4).reshape(rows, self.key_heads, -1, self.size)
            seen = functional.scaled_dot_product_attention(
                queries, keys[:, :, :end], values[:, :, :end], attn_mask=mask
            )
            seen = seen.view(rows, self.heads, tokens, self.size)
            seen = seen.transpose(1, 2).reshape(rows * tokens, -1)
            x = layer.o.with_other(seen, x, "add")
            inside = layer.mlp_norm(x)
            gated = layer.gate.of_x(inside, "swish")
            x = layer.down.with_other(layer.up.with_other(inside, gated, "mul"), x, "add")
        buffers.length = end
        last = x.view(rows, tokens, -1)[:, -1]
        return self.head.of_x(self.norm(last))


def _layer(module: Any) -> Layer:
    attention, mlp = module.self_attn, module.mlp
    return Layer(
        norm=_norm(module.input_layernorm),
        qkv=Linear.of(attention.q_proj, attention.k_proj, attention.v_proj),
        o=Linear.of(attention.o_proj),
        mlp_norm=_norm(module.post_attention_layernorm),
        gate=Linear.of(mlp.gate_proj),
        up=Linear.of(mlp.up_proj),
        down=Linear.of(mlp.down_proj),
    )


def _norm(module: Any) -> Any:
    weight, epsilon = module.weight.detach().float(), module.variance_epsilon

    def norm(x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        inverse = torch.linalg.vecdot(wide, wide).div_(wide.shape[-1]).add_(epsilon).rsqrt_()
        return (wide * inverse.unsqueeze(-1)).mul_(weight).to(x.dtype)

    return norm


def lean_steps(model: Any) -> Steps | None:
    """The lean forward pass of a model; None where it does not fit, or differs from the model's."""
    config = model.config
    fits = (
        config.model_type in KNOWN
        and str(model.device) == "cpu"
        and model.dtype in CLOSE
        and has_onednn()
        and config.hidden_act == "silu"
        and (config.rope_parameters or {}).get("rope_type", "default") in ROTATIONS
    )
    if not fits:
        return None
    with torch.inference_mode():
        steps = Steps(model)
        ids = torch.tensor([PROBE])
        own = model(input_ids=ids, logits_to_keep=1).logits[0, -1].float()
        lean = steps.logits(ids, torch.arange(len(PROBE))[None], steps.buffers(1, len(PROBE)))[0]
    difference = float((lean.float() - own).norm() / own.norm())
    if difference <= CLOSE[model.dtype]:
        return steps
    _log.warning("the lean steps differ from %s by %.3g: not used", config.model_type, difference)
    return None
