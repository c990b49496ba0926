"""The forward pass of a Llama-like model for answering on a CPU, without the modules around it.

At one token a row most of the time of transformers' own modules goes into calls, masks and small
tensors. Here a layer is seven products, with what stands beside them (bias, activation, product of
the two halves, residual sum) done by the product itself. `lean_steps` compares it with the model's
own logits once, and is not used where they differ. docs/kernels.md explains it with shapes.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch.nn import functional

from helpers.models.decoding import buffers
from helpers.models.kernels.products import FrozenLayer, has_onednn

KNOWN = ("llama", "mistral", "qwen2")  # RMS norm, rotary positions, silu gates; biases or none
ROTATIONS = ("default", "linear", "llama3", "yarn")  # whose angles do not depend on the length
PROBE = (5, 11, 7, 3, 19, 2, 13, 8)  # token ids on which both ways are compared
# How far the logits may differ, as a share of their norm. In bf16 the modules round after each
# small step and are themselves 0.05 off fp32, further than the lean steps; a fault is about 1.
CLOSE = {torch.float32: 1e-4, torch.bfloat16: 0.2}
_log = logging.getLogger(__name__)


class Steps:
    """The forward pass of one model, for tokens that follow what the buffers hold.

    Attention is computed in fp32 in either precision, and so are keys and values held.
    """

    def __init__(self, model: Any) -> None:
        backbone = model.model
        self.heads = model.config.num_attention_heads
        self.key_heads = model.config.num_key_value_heads
        self.turned = self.heads + self.key_heads  # those of values are not
        self.size = backbone.layers[0].self_attn.head_dim
        self.embedding = backbone.embed_tokens.weight
        # of queries and keys the two halves that turn together stand beside each other: as a pair
        # they are one complex number
        rows = torch.arange(self.turned * self.size).view(-1, 2, self.size // 2)
        pairs = rows.transpose(1, 2).reshape(-1)
        self.layers = [Layer(module, pairs) for module in backbone.layers]
        self.norm = _norm(backbone.norm)
        self.head = FrozenLayer(model.lm_head)
        self.angles = backbone.rotary_emb

    def logits(
        self, ids: torch.Tensor, positions: torch.Tensor, cache: Any, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Of the last token of each row (rows, words), for ids (rows, tokens) at these positions.

        They follow what `cache` holds, and are in it then. `mask` (rows, 1, tokens, keys) is True
        where a token may look; without one it may look at all.
        """
        rows, tokens = ids.shape
        together = self.heads // self.key_heads  # heads that share keys are asked as more tokens
        shared = cache.prefix.get_seq_length() if cache.prefix else 0
        if mask is not None:  # what is added to scores, once for all layers
            hidden = mask[..., shared:].logical_not().repeat(1, 1, together, 1)
            mask = torch.zeros(hidden.shape).masked_fill_(hidden, -torch.inf)
        # what a position turns a pair by, complex (rows, tokens, 1, half a head)
        turns = torch.complex(*self.angles(torch.empty(0), positions))[:, :, None, : self.size // 2]
        x = functional.embedding(ids, self.embedding).view(rows * tokens, -1)
        for number, layer in enumerate(self.layers):
            qkv = layer.qkv.then(layer.norm(x), "none").float().view(rows, tokens, -1, self.size)
            pairs = torch.view_as_complex(qkv[:, :, : self.turned].unflatten(3, (-1, 2)))
            qk = torch.view_as_real(pairs * turns).flatten(3)
            new = qk[:, :, self.heads :].transpose(1, 2), qkv[:, :, self.turned :].transpose(1, 2)
            keys, values = cache.update(*new, number)
            queries = qk[:, :, : self.heads].unflatten(2, (self.key_heads, together))
            queries = queries.permute(0, 2, 3, 1, 4).flatten(2, 3)
            known = cache.prefix.layers[number] if cache.prefix else None
            seen = _attention(queries, keys, values, mask, known)
            seen = seen.view(rows, self.heads, tokens, self.size).transpose(1, 2)
            x = layer.o.then(seen.reshape(rows * tokens, -1).to(x.dtype), "add", x)
            inside = layer.mlp_norm(x)
            gated = layer.up.then(inside, "mul", layer.gate.then(inside, "swish"))
            x = layer.down.then(gated, "add", x)
        return self.head.then(self.norm(x.view(rows, tokens, -1)[:, -1]), "none")


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


def _norm(module: Any) -> Any:
    weight, epsilon = module.weight.detach().float(), torch.tensor([module.variance_epsilon])

    def norm(x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        size = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        inverse = torch.addcmul(epsilon, size, size, value=1 / len(weight)).rsqrt_()
        return (wide * inverse).mul_(weight).to(x.dtype)

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
        own = model(input_ids=torch.tensor([PROBE]), logits_to_keep=1).logits[0, -1].float()
        places = torch.arange(len(PROBE))[None]
        sees = (places <= places.t())[None, None]
        cache = buffers(config.num_hidden_layers, 1, len(PROBE))
        lean = steps.logits(torch.tensor([PROBE]), places, cache, sees)[0]
    difference = float((lean.float() - own).norm() / own.norm())
    if difference <= CLOSE[model.dtype]:
        return steps
    _log.warning("the lean steps differ from %s by %.3g: not used", config.model_type, difference)
    return None
