"""Greedy decoding of many prompts on few cores: what all prompts begin with is computed once, and rows leave when done.

transformers' own `generate` computes every prompt in full, grows its cache by copying it at every token and keeps
finished rows in the batch. For models with plain causal attention this loop gives the same answers for less work; for
any other architecture `generate_batch` asks transformers itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

MIN_PREFIX = 16  # a shorter common beginning is not worth a forward pass of its own
TIE = 1e-4  # logits closer than this may swap places when the batch's shape changes
KNOWN = ("llama", "qwen2", "qwen3", "mistral", "olmo2", "granite", "smollm3")


class Decoded(NamedTuple):
    """The new tokens of one row (stop token included), whether it stopped, its seconds, its close calls."""

    tokens: list[int]
    stopped: bool
    seconds: float
    ties: int


def supported(model: Any) -> bool:
    """Whether the loop below knows this architecture: full causal attention in every layer, one key-value cache."""
    config = model.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return config.model_type in KNOWN and kinds == {"full_attention"} and not windowed


def common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """How many leading tokens all prompts share, leaving each at least one of its own."""
    if len(prompts) < 2:
        return 0
    first, last = min(prompts), max(prompts)
    limit = min(len(p) for p in prompts) - 1
    shared = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), limit)
    return min(shared, limit)


def _cache(layers: Sequence[tuple[Any, Any]] | int, rows: int, capacity: int) -> Any:
    """A key-value cache with room for `capacity` tokens that is written in place; `layers` is the shared prefix."""
    from transformers.cache_utils import Cache, DynamicLayer

    class Buffer(DynamicLayer):
        length = 0

        def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
            if not self.is_initialized:
                shape = (rows, key_states.shape[1], capacity, key_states.shape[3])
                self.keys, self.values = key_states.new_empty(shape), value_states.new_empty(shape)
                self.is_initialized = True
            end = self.length + key_states.shape[2]
            self.keys[:, :, self.length : end] = key_states
            self.values[:, :, self.length : end] = value_states
            self.length = end
            return self.keys[:, :, :end], self.values[:, :, :end]

        def get_seq_length(self) -> int:
            return self.length

    if isinstance(layers, int):
        return Cache(layers=[Buffer() for _ in range(layers)])
    cache = Cache(layers=[Buffer() for _ in layers])
    for buffer, (keys, values) in zip(cache.layers, layers, strict=True):
        buffer.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1))
    return cache


def compute_prefix(model: Any, tokens: Sequence[int]) -> list[tuple[Any, Any]]:
    """Keys and values of the shared beginning, one pair a layer ([] for no prefix)."""
    import torch

    if not tokens:
        return []
    cache = _cache(model.config.num_hidden_layers, 1, len(tokens))
    with torch.inference_mode():
        ids = torch.tensor([list(tokens)], device=model.device)
        model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return [(layer.keys, layer.values) for layer in cache.layers]


def decode_batch(
    model: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop: set[int],
    prefix: Sequence[tuple[Any, Any]] = (),
) -> list[Decoded]:
    """Greedy continuation of `prompts` (without the prefix's tokens), padded on the left and decoded together."""
    import torch

    started = time.perf_counter()
    rows, width = len(prompts), max(len(p) for p in prompts)
    shared = prefix[0][0].shape[2] if prefix else 0
    device = model.device
    pad = torch.tensor([width - len(p) for p in prompts], device=device)
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=device)
    columns = torch.arange(shared + width + max_new_tokens, device=device)
    # A key counts when it is in the prefix or right of the row's padding. Every query sees at least itself, or the
    # softmax of a padding row would be NaN and spread.
    seen = (columns[None] < shared) | (columns[None] >= shared + pad[:, None])
    query, key = columns[shared : shared + width, None], columns[None, : shared + width]
    mask = (seen[:, None, : shared + width] & (key <= query)[None]) | (key == query)[None]
    positions = (columns[None, shared : shared + width] - pad[:, None]).clamp(min=shared)
    cache = _cache(prefix or model.config.num_hidden_layers, rows, shared + width + max_new_tokens)
    alive = list(range(rows))
    new: list[list[int]] = [[] for _ in range(rows)]
    ties = [0] * rows
    done: dict[int, Decoded] = {}
    with torch.inference_mode():
        mask = mask[:, None]
        for step in range(max_new_tokens):
            logits = model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            best = logits.topk(2, dim=-1)
            chosen = best.indices[:, 0]
            margins = (best.values[:, 0] - best.values[:, 1]).tolist()
            seconds = time.perf_counter() - started
            for place, (row, token) in enumerate(zip(alive, chosen.tolist(), strict=True)):
                if row in done:
                    continue
                new[row].append(token)
                ties[row] += margins[place] <= TIE
                if token in stop or step + 1 == max_new_tokens:
                    done[row] = Decoded(new[row], token in stop, seconds, ties[row])
            if len(done) == rows:
                break
            keep = [place for place, row in enumerate(alive) if row not in done]
            if len(keep) <= 0.75 * len(alive):  # dropping rows copies the cache, so not for every single one
                index = torch.tensor(keep, device=device)
                cache.batch_select_indices(index)
                alive = [alive[place] for place in keep]
                chosen, seen, positions = chosen[index], seen[index], positions[index]
            ids = chosen[:, None]
            positions = positions[:, -1:] + 1
            mask = seen[:, None, None, : shared + width + step + 1]
    return [done[row] for row in range(rows)]


def generate_batch(
    model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop: set[int], pad_id: int
) -> list[Decoded]:
    """The same by transformers' own `generate`: for architectures that the loop above does not know."""
    import torch

    started = time.perf_counter()
    width = max(len(p) for p in prompts)
    ids = torch.tensor([[pad_id] * (width - len(p)) + list(p) for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    with torch.inference_mode():
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            eos_token_id=sorted(stop),
            pad_token_id=pad_id,
        )
    seconds = time.perf_counter() - started
    rows = []
    for tokens in output[:, width:].tolist():
        end = next((i + 1 for i, token in enumerate(tokens) if token in stop), None)
        rows.append(Decoded(tokens[:end], end is not None, seconds, 0))
    return rows


def in_batches(lengths: Sequence[int], rows: int, tokens: int, run: Callable[[list[int]], None]) -> None:
    """Call `run` with the indices of one batch after another: like lengths together, longest first."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    while order:
        size = max(1, min(rows, tokens // max(1, lengths[order[0]])))
        run(order[:size])
        order = order[size:]
