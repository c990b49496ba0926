"""Greedy decoding of many prompts on few cores: what all prompts begin with is computed once, and rows leave when done.

transformers' own `generate` does neither; it is asked for architectures without plain causal attention.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

BATCH_ROWS = 16
BATCH_TOKENS = 16_384  # rows x padded length: bounds the memory of a batch of long prompts
MIN_PREFIX = 16  # a shorter common beginning is not worth a forward pass of its own
KNOWN = ("llama", "qwen2", "qwen3", "mistral", "olmo2", "granite", "smollm3")


class Decoded(NamedTuple):
    """The new tokens of one row (stop token included), whether it stopped, its seconds since its batch began."""

    tokens: list[int]
    stopped: bool
    seconds: float


def decode(
    model: Any, prompts: Sequence[list[int]], max_new_tokens: int, stop: set[int], pad_id: int
) -> tuple[list[Decoded], int]:
    """(the greedy continuation of every prompt, in order; how many leading tokens were computed once for all)."""
    own_loop = supported(model)
    shared = common_prefix(prompts) if own_loop else 0
    shared *= shared >= MIN_PREFIX
    prefix = compute_prefix(model, prompts[0][:shared]) if shared else None
    found: dict[int, Decoded] = {}
    for batch in in_batches([len(p) + max_new_tokens for p in prompts], BATCH_ROWS, BATCH_TOKENS):
        rows, last = [prompts[i][shared:] for i in batch], prefix if own_loop else pad_id
        decoded = (decode_batch if own_loop else generate_batch)(
            model, rows, max_new_tokens, stop, last
        )
        found |= dict(zip(batch, decoded, strict=True))
    return [found[i] for i in range(len(prompts))], shared


def supported(model: Any) -> bool:
    """Whether the loop below knows this architecture: full causal attention in every layer, one key-value cache."""
    config = model.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    windowed = getattr(config, "sliding_window", None) and getattr(
        config, "use_sliding_window", True
    )
    return config.model_type in KNOWN and kinds == {"full_attention"} and not windowed


def common_prefix(prompts: Sequence[list[int]]) -> int:
    """How many leading tokens all prompts share, leaving each at least one of its own."""
    if len(prompts) < 2:
        return 0
    return min(len(os.path.commonprefix(prompts)), min(map(len, prompts)) - 1)  # noqa: RUF071 (of lists, not of paths)


def in_batches(lengths: Sequence[int], rows: int, tokens: int) -> Iterator[list[int]]:
    """Indices of one batch after another: like lengths together, longest first."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    while order:
        size = max(1, min(rows, tokens // lengths[order[0]]))
        yield order[:size]
        order = order[size:]


def _cache(model: Any, rows: int, capacity: int, prefix: Any = None) -> Any:
    """A key-value cache with room for `capacity` tokens that is written in place, beginning with `prefix`."""
    from transformers.cache_utils import Cache, DynamicLayer

    class Buffer(DynamicLayer):
        length = 0

        def update(
            self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any
        ) -> tuple[Any, Any]:
            if not self.is_initialized:
                shape = (rows, key_states.shape[1], capacity, key_states.shape[3])
                self.keys, self.values = key_states.new_empty(shape), value_states.new_empty(shape)
                self.is_initialized = True
            start, self.length = self.length, self.length + key_states.shape[2]
            self.keys[:, :, start : self.length] = key_states
            self.values[:, :, start : self.length] = value_states
            return self.keys[:, :, : self.length], self.values[:, :, : self.length]

        def get_seq_length(self) -> int:
            return self.length

    layers = [Buffer() for _ in range(model.config.num_hidden_layers)]
    for buffer, known in zip(layers, prefix.layers if prefix else [], strict=False):
        buffer.update(known.keys.expand(rows, -1, -1, -1), known.values.expand(rows, -1, -1, -1))
    return Cache(layers=layers)


def compute_prefix(model: Any, tokens: Sequence[int]) -> Any:
    """The key-value cache of the shared beginning, for one row."""
    import torch

    cache = _cache(model, 1, len(tokens))
    with torch.inference_mode():
        ids = torch.tensor([list(tokens)], device=model.device)
        model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return cache


def decode_batch(
    model: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop: set[int],
    prefix: Any = None,
) -> list[Decoded]:
    """Greedy continuation of `prompts` (without the prefix's tokens), padded on the left and decoded together."""
    import torch

    started, device = time.perf_counter(), model.device
    rows, width = len(prompts), max(len(p) for p in prompts)
    shared = prefix.get_seq_length() if prefix else 0
    pad = torch.tensor([width - len(p) for p in prompts], device=device)
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=device)
    columns = torch.arange(shared + width + max_new_tokens, device=device)
    # A key counts when it is in the prefix or right of the row's padding. Every query sees at least itself, or the
    # softmax of a padding row would be NaN and spread.
    seen = (columns[None] < shared) | (columns[None] >= shared + pad[:, None])
    query, key = columns[shared : shared + width, None], columns[None, : shared + width]
    mask = ((seen[:, None, : shared + width] & (key <= query)[None]) | (key == query)[None])[
        :, None
    ]
    positions = (columns[None, shared : shared + width] - pad[:, None]).clamp(min=shared)
    cache = _cache(model, rows, len(columns), prefix)
    alive, new, done = list(range(rows)), [[] for _ in range(rows)], {}
    with torch.inference_mode():
        for step in range(max_new_tokens):
            state = {"attention_mask": mask, "position_ids": positions, "past_key_values": cache}
            chosen = (
                model(input_ids=ids, **state, use_cache=True, logits_to_keep=1)
                .logits[:, -1]
                .argmax(-1)
            )
            seconds = time.perf_counter() - started
            for row, token in zip(alive, chosen.tolist(), strict=True):
                if row in done:
                    continue
                new[row].append(token)
                if token in stop or step + 1 == max_new_tokens:
                    done[row] = Decoded(new[row], token in stop, seconds)
            if len(done) == rows:
                break
            keep = [place for place, row in enumerate(alive) if row not in done]
            if len(keep) <= 0.75 * len(
                alive
            ):  # dropping rows copies the cache, so not for every single one
                index = torch.tensor(keep, device=device)
                cache.batch_select_indices(index)
                alive = [alive[place] for place in keep]
                chosen, seen, positions = chosen[index], seen[index], positions[index]
            ids, positions = chosen[:, None], positions[:, -1:] + 1
            mask = seen[:, None, None, : shared + width + step + 1]
    return [done[row] for row in range(rows)]


def generate_batch(
    model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop: set[int], pad_id: int
) -> list[Decoded]:
    """The same by transformers' own `generate`: for architectures that the loop above does not know."""
    import torch

    started, width = time.perf_counter(), max(len(p) for p in prompts)
    ids = torch.tensor(
        [[pad_id] * (width - len(p)) + list(p) for p in prompts], device=model.device
    )
    mask = torch.tensor(
        [[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device
    )
    settings = {
        "do_sample": False,
        "num_beams": 1,
        "repetition_penalty": 1.0,
        "max_new_tokens": max_new_tokens,
    }
    settings |= {"eos_token_id": sorted(stop), "pad_token_id": pad_id}
    with torch.inference_mode():
        output = model.generate(input_ids=ids, attention_mask=mask, **settings)
    seconds, rows = time.perf_counter() - started, []
    for tokens in output[:, width:].tolist():
        end = next((i + 1 for i, token in enumerate(tokens) if token in stop), None)
        rows.append(Decoded(tokens[:end], end is not None, seconds))
    return rows
