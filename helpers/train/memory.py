"""How much memory a training takes, counted by part from the model's shape."""

from __future__ import annotations

from typing import Any, NamedTuple

from helpers.train.config import LoraTrainingConfig

CARDS = (8, 24, 40, 80)  # GB of a GPU
USABLE = 0.92  # of a memory; the rest is lost to fragments
PROGRAM = 1.0e9  # bytes of libraries on a CPU, of the context on a GPU
NF4 = 0.53  # bytes a weight: 4 bits and doubly quantised scales


class Shape(NamedTuple):
    """The widths of a decoder; `queries` and `keys` are those of all heads together."""

    hidden: int
    inner: int  # of the MLP
    layers: int
    queries: int
    keys: int
    vocabulary: int
    tied: bool  # is the head the embedding?

    @property
    def linear(self) -> dict[str, tuple[int, int]]:
        """Name -> (in, out) of a block's linear layers."""
        return {
            "q_proj": (self.hidden, self.queries),
            "k_proj": (self.hidden, self.keys),
            "v_proj": (self.hidden, self.keys),
            "o_proj": (self.queries, self.hidden),
            "gate_proj": (self.hidden, self.inner),
            "up_proj": (self.hidden, self.inner),
            "down_proj": (self.inner, self.hidden),
        }


KNOWN = {  # public shapes, for the table of what fits where
    "1B": Shape(2048, 8192, 16, 2048, 512, 128_256, True),
    "8B": Shape(4096, 14_336, 32, 4096, 1024, 128_256, False),
    "70B": Shape(8192, 28_672, 80, 8192, 1024, 128_256, False),
}


def shape_of(base_path: str) -> Shape:
    """Read from config.json, in the folder or on the hub."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(base_path, trust_remote_code=False).get_text_config()
    heads = config.num_attention_heads
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Shape(
        hidden=config.hidden_size,
        inner=config.intermediate_size,
        layers=config.num_hidden_layers,
        queries=heads * head_size,
        keys=key_heads * head_size,
        vocabulary=config.vocab_size,
        tied=config.tie_word_embeddings,
    )


def memory_parts(
    shape: Shape, config: LoraTrainingConfig, tokens: int, supervised: int, gpu: bool
) -> dict[str, float]:
    """Bytes by what they hold, for a pass over `tokens` of which `supervised` carry loss.

    Weights are bf16 on a GPU, fp32 elsewhere. Activations per token and layer: about 10 hidden and
    4 MLP widths are kept for the backward pass; with checkpointing (always on a GPU) the layer's
    input alone, and one layer at a time in full. Logits: raw, float, gradient.
    """
    size = 2 if gpu else 4
    block = sum(rows * columns for rows, columns in shape.linear.values())
    block *= NF4 if config.load_in_4bit else size
    embedding = size * shape.vocabulary * shape.hidden * (1 if shape.tied else 2)
    widths = [sum(shape.linear.get(name, (0, 0))) for name in config.target_modules]
    adapter = 4.0 * config.lora_r * shape.layers * sum(widths)
    eight_bit = gpu and config.load_in_4bit
    activations = tokens * (10 * shape.hidden + 4 * shape.inner) * size
    if gpu:
        activations += shape.layers * tokens * shape.hidden * size
    else:
        activations *= shape.layers
    shards = config.world if config.sharding == "fsdp" else 1
    return {
        "weights": (embedding + shape.layers * block) / shards,
        "adapter": adapter / shards,
        "gradients": adapter / shards,
        "optimiser": adapter * (0.5 if eight_bit else 2) / shards,
        "activations": activations,
        "logits": 12.0 * supervised * shape.vocabulary,
        "program": PROGRAM,
    }


def what_fits(config: LoraTrainingConfig, length: int = 512) -> list[dict[str, Any]]:
    """GB that known sizes take on one GPU, a row of `length` tokens at a time, and which fit."""
    table = []
    for name, shape in KNOWN.items():
        for method, four_bit in (("LoRA", False), ("QLoRA", True)):
            alone = config.model_copy(update={"load_in_4bit": four_bit, "sharding": "none"})
            parts = memory_parts(shape, alone, length, length // 4, gpu=True)
            total = sum(parts.values()) / 1e9
            cards = [f"{card} GB" for card in CARDS if total < USABLE * card]
            fits = ", ".join(cards) or "none"
            table.append({"model": name, "method": method, "GB": total, "fits on": fits})
    return table
