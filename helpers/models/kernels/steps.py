"""The forward pass of a Llama-like model for answering on a CPU, without the modules around it.

At one token a row most of the time of transformers' own modules goes into calls, masks and small
tensors. Here a layer is seven products, with what stands beside them (bias, activation, product of
the two halves, residual sum) done by the product itself. `lean_steps` compares it with the model's
own logits once, and is not used where they differ. docs/kernels.md explains it with shapes.
"""

from __future__ import annotations

import functools
import logging
import math
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from helpers.models.decoding import buffers
from helpers.models.kernels.one_token import OneToken
from helpers.models.kernels.products import FrozenLayer, has_onednn

KNOWN = ("llama", "mistral", "qwen2")  # RMS norm, rotary positions, silu gates; biases or none
ROTATIONS = ("default", "linear", "llama3", "yarn")  # whose angles do not depend on the length
PROBE = (5, 11, 7, 3, 19, 2, 13, 8)  # token ids on which both ways are compared
# How far the logits may differ, as a share of their norm. In bf16 the modules round after each
# small step and are themselves 0.05 off fp32, further than the lean steps; a fault is about 1.
CLOSE = {torch.float32: 1e-4, torch.bfloat16: 0.2}
NOTHING = torch.zeros(())
_log = logging.getLogger(__name__)


class Steps:
    """The forward pass of one model, for tokens that follow what the buffers hold.

    Attention is computed in fp32 in either precision, and so are keys and values held.
    """

    def __init__(self, model: Any) -> None:
        backbone = model.model
        self.heads = model.config.num_attention_heads
        self.key_heads = model.config.num_key_value_heads
        self.split = self.heads, self.key_heads, self.key_heads
        self.turned = self.heads + self.key_heads  # those of values are not
        self.size = backbone.layers[0].self_attn.head_dim
        self.embedding = backbone.embed_tokens.weight
        self.reads_halves = self.embedding.dtype == torch.bfloat16
        self.may_overflow = 8  # tokens; then fp16 is given up
        # of queries and keys the two halves that turn together stand beside each other: as a pair
        # they are one complex number
        rows = torch.arange(self.turned * self.size).view(-1, 2, self.size // 2)
        pairs = rows.transpose(1, 2).reshape(-1)
        self.layers = [Layer(module, pairs) for module in backbone.layers]
        self.norm = _norm(backbone.norm)
        self.head = FrozenLayer(model.lm_head)
        self.angles = backbone.rotary_emb
        self.turns = torch.empty(0)  # by position, as far as was asked for: (positions, size / 2)

    def logits(
        self, ids: torch.Tensor, positions: torch.Tensor, cache: Any, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Of the last token of each row (rows, words), for ids (rows, tokens) at these positions.

        They follow what `cache` holds, and are in it then. `mask` (rows, 1, tokens, keys) is True
        where a token may look; without one it may look at all.
        """
        rows, tokens = ids.shape
        turns = self._turns(positions)
        x = functional.embedding(ids, self.embedding).view(rows * tokens, -1)
        if self.reads_halves and ids.numel() == 1 and mask is None and cache.prefix is None:
            logits = self.one_token.logits(
                x[0].float(),
                lambda qkv, number: self._seen(qkv.view(1, 1, -1, self.size), turns, cache, number)[
                    0
                ],
            )
            if logits.sum().isfinite():
                return logits
            for buffer in cache.layers:  # more than fp16 holds: the token is asked again
                buffer.length -= 1
            self.may_overflow -= 1
            self.reads_halves = self.may_overflow > 0
        if mask is not None:  # what is added to scores, once for all layers
            shared = cache.prefix.get_seq_length() if cache.prefix else 0
            hidden = mask[..., shared:].logical_not().repeat(1, 1, self.heads // self.key_heads, 1)
            mask = torch.zeros(hidden.shape).masked_fill_(hidden, -torch.inf)
        for number, layer in enumerate(self.layers):
            qkv = layer.qkv.then(layer.norm.of(x), "none").view(rows, tokens, -1, self.size)
            seen = self._seen(qkv, turns, cache, number, mask)
            x = layer.o.then(seen.to(x.dtype), "add", x)
            inside = layer.mlp_norm.of(x)
            gated = layer.up.then(inside, "mul", layer.gate.then(inside, "swish"))
            x = layer.down.then(gated, "add", x)
        return self.head.then(self.norm.of(x.view(rows, tokens, -1)[:, -1]), "none")

    def _turns(self, positions: torch.Tensor) -> torch.Tensor:
        """What positions (rows, tokens) turn pairs by, complex (rows, tokens, 1, size / 2)."""
        last, turns = int(positions.max()), self.turns  # which another thread may replace
        if last >= len(turns):
            places = torch.arange(2 * last + 1)[None]
            turns = torch.complex(*self.angles(torch.empty(0), places))[0, :, : self.size // 2]
            self.turns = turns
        return turns[positions][:, :, None]

    @functools.cached_property
    def one_token(self) -> OneToken:
        """The same for one token of one row."""
        return OneToken(self)

    def _seen(
        self, qkv: torch.Tensor, turns: torch.Tensor, cache: Any, number: int, mask: Any = None
    ) -> torch.Tensor:
        """What attention of a layer gives (rows x tokens, width), of (rows, tokens, heads, size).

        Heads are those of queries, keys and values.
        """
        rows, tokens = qkv.shape[:2]
        qkv = qkv.float()
        pairs = qkv[:, :, : self.turned].unflatten(3, (-1, 2))
        torch.view_as_complex(pairs).mul_(turns)
        queries, keys, values = qkv.transpose(1, 2).split(self.split, 1)
        keys, values = cache.update(keys, values, number)
        # heads that share keys are asked as more tokens
        queries = queries.reshape(rows, self.key_heads, -1, self.size)
        known = cache.prefix.layers[number] if cache.prefix else None
        seen = _attention(queries, keys, values, mask, known)
        seen = seen.view(rows, self.heads, tokens, self.size).transpose(1, 2)
        return seen.reshape(rows * tokens, -1)


def _attention(queries: Any, keys: Any, values: Any, mask: Any, known: Any) -> torch.Tensor:
    """Of queries (rows, heads, n, size); `known` keys and values stand before those of every row.

    These are asked once, by the queries of all rows as of one. Two softmaxes are one: each counts
    by the sum of its exponentials.
    """
    attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    own, own_sum = attend(queries, keys, values, attn_mask=mask)
    if known is None:
        return own.contiguous()
    rows, heads, n, size = queries.shape
    as_one = queries.transpose(0, 1).reshape(1, heads, rows * n, size)
    shared, shared_sum = attend(as_one, known.keys, known.values)
    shared = shared.view(heads, rows, n, size).transpose(0, 1)
    shared_sum = shared_sum.reshape(heads, rows, n).transpose(0, 1)
    return torch.lerp(own, shared, (shared_sum - own_sum).sigmoid_().unsqueeze(-1)).contiguous()


class Layer:
    """What a decoder layer computes with."""

    def __init__(self, module: Any, pairs: torch.Tensor) -> None:
        attention, mlp = module.self_attn, module.mlp
        self.norm = _norm(module.input_layernorm)
        self.qkv = FrozenLayer(attention.q_proj, attention.k_proj, attention.v_proj)
        for values in filter(torch.is_tensor, (self.qkv.weight, self.qkv.bias)):
            values[: len(pairs)] = values[pairs]
        self.o = FrozenLayer(attention.o_proj)
        self.mlp_norm = _norm(module.post_attention_layernorm)
        self.gate, self.up, self.down = map(
            FrozenLayer, (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
        )


class Norm(NamedTuple):
    """x / root mean square of x, times the weight (hidden,); computed in fp32."""

    weight: torch.Tensor
    epsilon: torch.Tensor

    def of(self, x: torch.Tensor) -> torch.Tensor:
        """For x (rows, hidden)."""
        wide = x.float()
        size = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        inverse = torch.addcmul(self.epsilon, size, size, value=1 / len(self.weight)).rsqrt_()
        return (wide * inverse).mul_(self.weight).to(x.dtype)

    def of_one(self, x: torch.Tensor) -> torch.Tensor:
        """For one x (hidden,) in fp32; in fp16."""
        inverse = 1 / math.sqrt(float(x.dot(x)) / len(x) + float(self.epsilon))
        return torch.addcmul(NOTHING, x, self.weight, value=inverse).half()


def _norm(module: Any) -> Norm:
    return Norm(module.weight.detach().float(), torch.tensor([module.variance_epsilon]))


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
        own = model(input_ids=torch.tensor([PROBE]), logits_to_keep=1).logits[0, -1].float()
        places = torch.arange(len(PROBE))[None]
        sees = (places <= places.t())[None, None, :-1, :-1]
        cache = buffers(config.num_hidden_layers, 1, len(PROBE))
        steps.logits(torch.tensor([PROBE[:-1]]), places[:, :-1], cache, sees)
        lean = steps.logits(torch.tensor([PROBE[-1:]]), places[:, -1:], cache, None)[0]
    difference = float((lean.float() - own).norm() / own.norm())
    if difference <= CLOSE[model.dtype]:
        return steps
    _log.warning("the lean steps differ from %s by %.3g: not used", config.model_type, difference)
    return None
