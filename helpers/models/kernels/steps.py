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

from helpers.models.kernels.products import FrozenLayer, has_onednn

KNOWN = ("llama", "mistral", "qwen2")  # RMS norm, rotary positions, silu gates; biases or none
ROTATIONS = ("default", "linear", "llama3", "yarn")  # whose angles do not depend on the length
PROBE = (5, 11, 7, 3, 19, 2, 13, 8)  # token ids on which both ways are compared
# How far the logits may differ, as a share of their norm. In bf16 the modules round after each
# small step and are themselves 0.05 off fp32, further than the lean steps; a fault is about 1.
CLOSE = {torch.float32: 1e-4, torch.bfloat16: 0.2}
_log = logging.getLogger(__name__)


class Steps:
    """The forward pass of one model, for tokens that follow what the buffers hold."""

    def __init__(self, model: Any) -> None:
        backbone = model.model
        self.heads = model.config.num_attention_heads
        self.key_heads = model.config.num_key_value_heads
        self.size = backbone.layers[0].self_attn.head_dim
        self.embedding = backbone.embed_tokens.weight
        self.layers = [Layer(module) for module in backbone.layers]
        self.norm = _norm(backbone.norm)
        self.head = FrozenLayer(model.lm_head)
        self._rotary = backbone.rotary_emb
        self._halves = torch.arange(self.size).roll(self.size // 2)  # of a head, changed over
        self._angles = (torch.empty(0), torch.empty(0))

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
        self, ids: torch.Tensor, positions: torch.Tensor, cache: Any, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Of the last token of each row (rows, words), for ids (rows, tokens) at these positions.

        They follow what `cache` holds, and are in it then. `mask` (rows, 1, tokens, keys) is True
        where a token may look; without one it is causal.
        """
        rows, tokens = ids.shape
        start = cache.get_seq_length()
        together = self.heads // self.key_heads  # heads that share keys are asked as more tokens
        if mask is None and tokens > 1:
            mask = torch.ones(tokens, start + tokens, dtype=torch.bool).tril(start)[None, None]
        if tokens > 1:
            mask = mask.repeat(1, 1, together, 1)
        cosines, sines = (table[positions, None] for table in self.angles(start + tokens))
        turned = self.heads + self.key_heads
        x = functional.embedding(ids, self.embedding).view(rows * tokens, -1)
        for number, layer in enumerate(self.layers):
            qkv = layer.qkv.then(layer.norm(x), "none").view(rows, tokens, -1, self.size)
            qk = qkv[:, :, :turned]
            qk = (qk * cosines).addcmul_(qk.index_select(3, self._halves), sines)
            new = qk[:, :, self.heads :].transpose(1, 2), qkv[:, :, turned:].transpose(1, 2)
            keys, values = cache.update(*new, number)
            queries = qk[:, :, : self.heads].view(rows, tokens, self.key_heads, together, self.size)
            queries = queries.permute(0, 2, 3, 1, 4).reshape(rows, self.key_heads, -1, self.size)
            seen = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
            seen = seen.view(rows, self.heads, tokens, self.size).transpose(1, 2)
            x = layer.o.then(seen.reshape(rows * tokens, -1), "add", x)
            inside = layer.mlp_norm(x)
            gated = layer.up.then(inside, "mul", layer.gate.then(inside, "swish"))
            x = layer.down.then(gated, "add", x)
        return self.head.then(self.norm(x.view(rows, tokens, -1)[:, -1]), "none")


class Layer:
    """What a decoder layer computes with."""

    def __init__(self, module: Any) -> None:
        attention, mlp = module.self_attn, module.mlp
        self.norm = _norm(module.input_layernorm)
        self.qkv = FrozenLayer(attention.q_proj, attention.k_proj, attention.v_proj)
        self.o = FrozenLayer(attention.o_proj)
        self.mlp_norm = _norm(module.post_attention_layernorm)
        self.gate, self.up, self.down = map(
            FrozenLayer, (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
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
    from transformers import DynamicCache

    with torch.inference_mode():
        steps = Steps(model)
        ids = torch.tensor([PROBE])
        own = model(input_ids=ids, logits_to_keep=1).logits[0, -1].float()
        lean = steps.logits(ids, torch.arange(len(PROBE))[None], DynamicCache(), None)[0]
    difference = float((lean.float() - own).norm() / own.norm())
    if difference <= CLOSE[model.dtype]:
        return steps
    _log.warning("the lean steps differ from %s by %.3g: not used", config.model_type, difference)
    return None
