"""Greedy decoding of many prompts on few cores.

What all prompts begin with is computed once, and rows leave when they are done. transformers' own
`generate` does neither; it is asked for architectures without plain causal attention.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

MANY_ROWS = 64  # of one batch: more are no faster
BLOCK = 64  # words
MEMORY_SHARE = 1 / 32  # of this machine's memory: what the keys and values of a batch may take
MIN_PREFIX = 16  # a shorter common beginning is not worth a forward pass of its own
LONG_PREFIX = 128  # from here on it is quicker to ask it once for all rows
KNOWN = ("llama", "qwen2", "qwen3", "mistral", "olmo2", "granite", "smollm3")
_on_rows: ContextVar[Callable[[int], None]] = ContextVar("on_rows", default=lambda rows: None)
MOST_ALIVE = 0.75  # dropping rows copies the cache: at this share of rows left, not for every one


@contextlib.contextmanager
def follow_rows(tell: Callable[[int], None]) -> Iterator[None]:
    """Within it, `tell` hears how many more rows have their answer, long before a call returns."""
    before = _on_rows.set(tell)
    try:
        yield
    finally:
        _on_rows.reset(before)


class Decoded(NamedTuple):
    """What followed one prompt."""

    tokens: list[int]  # the stop token included
    stopped: bool
    seconds: float  # since its batch began, with what the shared beginning took
    log_probability: float = math.nan  # of the tokens together; nan: it was not asked for


def decode(
    model: Any,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    stop: set[int],
    pad_id: int,
    probable: bool = False,
    begins: int = 0,
) -> tuple[list[Decoded], int]:
    """The greedy continuation of every prompt, in order; how many of its tokens were known.

    These are what all prompts begin with. `probable`: how probable each is, as far as our own loop
    decodes it. `begins`: so many tokens of a single prompt are kept for the next one.
    """
    started = time.perf_counter()
    own_loop = supported(model)
    shared = common_prefix(prompts) if len(prompts) > 1 else begins
    prefix, known = None, 0
    if own_loop and shared >= MIN_PREFIX:
        prefix, known = _beginning(model, prompts[0][:shared], keep=len(prompts) == 1)
    else:
        shared = 0
    waited = time.perf_counter() - started
    decoded: dict[int, Decoded] = {}
    once = shared if _is_apart(model, shared) else 0
    lengths = [len(prompt) - once + max_new_tokens for prompt in prompts]
    for batch in in_batches(lengths, *_batch_size(model)):
        rows = [prompts[i][shared:] for i in batch]
        if own_loop:
            results = decode_batch(model, rows, max_new_tokens, stop, prefix, probable)
        else:
            results = generate_batch(model, rows, max_new_tokens, stop, pad_id)
        results = [row._replace(seconds=row.seconds + waited) for row in results]
        decoded |= dict(zip(batch, results, strict=True))
    return [decoded[i] for i in range(len(prompts))], known


def supported(model: Any) -> bool:
    """Whether the loop below knows this architecture.

    It needs full causal attention in every layer and one key-value cache.
    """
    config = model.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None)
    windowed = bool(window) and getattr(config, "use_sliding_window", True)
    return config.model_type in KNOWN and kinds == {"full_attention"} and not windowed


def common_prefix(prompts: Sequence[list[int]]) -> int:
    """How many leading tokens all prompts share, leaving each at least one of its own."""
    if len(prompts) < 2:
        return 0
    common = len(os.path.commonprefix(prompts))  # noqa: RUF071 (of lists, not of paths)
    return min(common, min(map(len, prompts)) - 1)


def in_batches(lengths: Sequence[int], rows: int, tokens: int) -> Iterator[list[int]]:
    """Indices of one batch after another: like lengths together, longest first."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    while order:
        size = max(1, min(rows, tokens // lengths[order[0]]))
        yield order[:size]
        order = order[size:]


def _batch_size(model: Any) -> tuple[int, int]:
    """(rows, rows x padded length) of a batch: whatever the machine's memory holds easily."""
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    per_token = 2 * config.num_hidden_layers * heads * size * 4  # bytes: fp32 at most
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return MANY_ROWS, int(MEMORY_SHARE * memory / per_token)


def buffers(layers: int, rows: int, capacity: int, prefix: Any = None) -> Any:
    """A key-value cache for `capacity` tokens, written in place; `prefix` stands before all rows'.

    Only the lean steps look at a prefix there.
    """
    from transformers.cache_utils import Cache, DynamicLayer

    class Buffer(DynamicLayer):
        length = 0

        def update(
            self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any
        ) -> tuple[Any, Any]:
            if not self.is_initialized:
                shape = (rows, key_states.shape[1], capacity, key_states.shape[3])
                self.keys = key_states.new_empty(shape)
                self.values = value_states.new_empty(shape)
                self.is_initialized = True
            start, new = self.length, key_states.shape[2]
            self.length += new
            self.keys.narrow(2, start, new).copy_(key_states)
            self.values.narrow(2, start, new).copy_(value_states)
            return self.keys.narrow(2, 0, self.length), self.values.narrow(2, 0, self.length)

        def get_seq_length(self) -> int:
            return self.length

    cache = Cache(layers=[Buffer() for _ in range(layers)])
    cache.prefix = prefix
    return cache


def _is_apart(model: Any, shared: int) -> bool:
    """Whether so long a shared beginning is held once, and not in each row."""
    return shared >= LONG_PREFIX and getattr(model, "lean_steps", None) is not None


def _cache(model: Any, rows: int, capacity: int, prefix: Any = None) -> Any:
    """The buffers for a batch; a short prefix, and any of one row or of modules, is copied."""
    layers = model.config.num_hidden_layers
    if prefix and rows > 1 and _is_apart(model, prefix.get_seq_length()):
        return buffers(layers, rows, capacity, prefix)
    cache = buffers(layers, rows, capacity)
    for buffer, known in zip(cache.layers, prefix.layers if prefix else (), strict=False):
        buffer.update(known.keys.expand(rows, -1, -1, -1), known.values.expand(rows, -1, -1, -1))
    return cache


def _logits(model: Any, ids: Any, positions: Any, cache: Any, mask: Any = None) -> Any:
    """Of the last token of each row (rows, words); the cache then holds these tokens too."""
    lean = getattr(model, "lean_steps", None)  # made when the model was loaded, where it fits
    if lean is not None:
        return lean.logits(ids, positions, cache, mask)
    output = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return output.logits[:, -1]


def _beginning(model: Any, tokens: list[int], keep: bool) -> tuple[Any, int]:
    """`compute_prefix` of these tokens; how many of them a row has not to compute itself.

    Of a single prompt, which is to `keep` them, those that were kept before; of many, all. What a
    single prompt begins with is computed apart in either case: an answer must not depend on what
    was asked before.
    """
    kept, prefix = getattr(model, "kept_beginning", (None, None))
    if tokens == kept:
        return prefix, len(tokens)
    prefix = compute_prefix(model, tokens)
    if keep:
        model.kept_beginning = (tokens, prefix)
    return prefix, 0 if keep else len(tokens)


def compute_prefix(model: Any, tokens: Sequence[int]) -> Any:
    """The key-value cache of the shared beginning, for one row."""
    import torch

    cache = _cache(model, 1, len(tokens))
    with torch.inference_mode():
        ids = torch.tensor([list(tokens)], device=model.device)
        places = torch.arange(len(tokens), device=model.device)
        seen = torch.ones_like(ids, dtype=torch.bool)
        _logits(model, ids, places[None], cache, _mask(seen, places, 0, len(tokens)))
    return cache


def decode_batch(
    model: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop: set[int],
    prefix: Any = None,
    probable: bool = False,
) -> list[Decoded]:
    """Greedy continuation of `prompts` (without the prefix's tokens), decoded together."""
    import torch

    started = time.perf_counter()
    shared = prefix.get_seq_length() if prefix else 0
    ids, pads = _padded_left(model, prompts, 0)
    rows, width = ids.shape
    columns = torch.arange(shared + width + max_new_tokens, device=model.device)
    # seen (rows, columns): a key counts when it is in the prefix or right of the row's padding
    seen = (columns[None] < shared) | (columns[None] >= shared + pads[:, None])
    mask = _mask(seen, columns, shared, width)
    positions = (columns[None, shared : shared + width] - pads[:, None]).clamp(min=shared)
    cache = _cache(model, rows, len(columns), prefix)
    alive = list(range(rows))  # which prompt each row of the batch continues
    new: list[list[int]] = [[] for _ in prompts]
    sums = [0.0] * rows  # of the log probabilities of what was chosen
    done: dict[int, Decoded] = {}
    with torch.inference_mode():
        for step in range(max_new_tokens):
            logits = _logits(model, ids, positions, cache, mask).float()
            best = _largest(logits)
            logs = _log_probabilities(logits, best, probable)
            seconds = time.perf_counter() - started
            before = len(done)
            for row, token, logarithm in zip(alive, best.tolist(), logs, strict=True):
                if row in done:
                    continue
                new[row].append(token)
                sums[row] += logarithm
                if token in stop or step + 1 == max_new_tokens:
                    done[row] = Decoded(new[row], token in stop, seconds, sums[row])
            _on_rows.get()(len(done) - before)
            if len(done) == rows:
                break
            keep = [place for place, row in enumerate(alive) if row not in done]
            if len(keep) <= MOST_ALIVE * len(alive):
                index = torch.tensor(keep, device=model.device)
                cache.batch_select_indices(index)
                alive = [alive[place] for place in keep]
                best, seen, positions = best[index], seen[index], positions[index]
            ids = best[:, None]
            positions = positions[:, -1:] + 1
            mask = _mask(seen, columns, shared + width + step, 1)
    return [done[row] for row in range(rows)]


def _largest(logits: Any) -> Any:
    """argmax of (rows, words): of blocks, then in the best one, since torch's own is slow."""
    if logits.shape[1] % BLOCK:
        return logits.argmax(-1)
    blocks = logits.view(len(logits), -1, BLOCK)
    best = blocks.amax(-1).argmax(-1, keepdim=True)
    inside = blocks.take_along_dim(best[..., None], 1)[:, 0].argmax(-1)
    return best[:, 0] * BLOCK + inside


def _log_probabilities(logits: Any, tokens: Any, probable: bool) -> list[float]:
    """Of one token a row, from logits (rows, words); nan where nobody asks."""
    if not probable:
        return [math.nan] * len(tokens)
    chosen = logits.gather(-1, tokens[:, None])[:, 0]
    return (chosen - logits.logsumexp(-1)).clamp(max=0.0).tolist()


def _padded_left(model: Any, prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[Any, Any]:
    """The prompts as one tensor (rows, longest), and how many columns of each row are padding."""
    import torch

    width = max(map(len, prompts))
    pads = [width - len(prompt) for prompt in prompts]
    padded = [[pad_id] * pad + list(prompt) for pad, prompt in zip(pads, prompts, strict=True)]
    return torch.tensor(padded, device=model.device), torch.tensor(pads, device=model.device)


def _mask(seen: Any, columns: Any, start: int, width: int) -> Any:
    """The causal mask of the `width` tokens from a column on, (rows, 1, width, start + width).

    Every query sees at least itself, or the softmax of a padding row would be NaN and spread. None:
    it is one token a row, and nothing is hidden from it.
    """
    if width == 1 and bool(seen[:, : start + 1].all()):
        return None
    query = columns[start : start + width, None]
    key = columns[None, : start + width]
    causal = seen[:, None, : start + width] & (key <= query)[None]
    return (causal | (key == query)[None])[:, None]


def generate_batch(
    model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop: set[int], pad_id: int
) -> list[Decoded]:
    """The same by transformers' own `generate`, for architectures that our loop does not know."""
    import torch

    started = time.perf_counter()
    ids, pads = _padded_left(model, prompts, pad_id)
    width = ids.shape[1]
    mask = (torch.arange(width, device=model.device)[None] >= pads[:, None]).long()
    with torch.inference_mode():
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            max_new_tokens=max_new_tokens,
            eos_token_id=sorted(stop),
            pad_token_id=pad_id,
        )
    seconds = time.perf_counter() - started
    decoded = []
    for tokens in output[:, width:].tolist():
        ends = [place for place, token in enumerate(tokens, 1) if token in stop]
        length = ends[0] if ends else len(tokens)
        decoded.append(Decoded(tokens[:length], bool(ends), seconds))
    _on_rows.get()(len(decoded))
    return decoded
