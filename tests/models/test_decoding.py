"""The decoding loop: same tokens as transformers' own greedy generation, one prompt at a time."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from helpers.models import decoding
from helpers.models.kernels import one_token, products, steps

STOP = {2, 7}


def network(kind: str, **extra: Any) -> Any:
    """A small random network of an architecture, large enough in its logits for clear choices."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(3)
    sizes = {
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "vocab_size": 60}
    config = AutoConfig.for_model(
        kind, **sizes, **ids, num_key_value_heads=2, head_dim=12, initializer_range=0.3, **extra
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def alone(model: Any, prompt: list[int], new: int) -> list[int]:
    """transformers' greedy answer to one prompt."""
    import torch

    ids = torch.tensor([prompt])
    output = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new,
        do_sample=False,
        eos_token_id=sorted(STOP),
        pad_token_id=0,
    )
    return output[0, len(prompt) :].tolist()


def probability_of(model: Any, prompt: list[int], tokens: list[int]) -> float:
    """The log probability of an answer, by one forward pass over all of it."""
    import torch

    ids = torch.tensor([prompt + tokens])
    with torch.inference_mode():
        logs = model(input_ids=ids).logits[0].log_softmax(-1)
    places = range(len(prompt) - 1, len(prompt) + len(tokens) - 1)
    return sum(float(logs[place, token]) for place, token in zip(places, tokens, strict=True))


def prompts_of(count: int, shared: int) -> list[list[int]]:
    toss = random.Random(1)
    head = [toss.randrange(8, 60) for _ in range(shared)]
    return [
        head + [toss.randrange(8, 60) for _ in range(toss.randrange(1, 30))] for _ in range(count)
    ]


@pytest.mark.parametrize("kind", decoding.KNOWN)
def test_known_architectures_answer_as_transformers_does_one_by_one(kind: str) -> None:
    model = network(kind, **({"sliding_window": None} if kind == "mistral" else {}))
    assert decoding.supported(model)
    prompts = prompts_of(12, shared=20)
    expected = [alone(model, prompt, 12) for prompt in prompts]
    assert len({len(tokens) for tokens in expected}) > 1, "the toy should stop early in some rows"
    prefix = decoding.compute_prefix(model, prompts[0][:20])
    with_prefix = decoding.decode_batch(model, [p[20:] for p in prompts], 12, STOP, prefix)
    without = decoding.decode_batch(model, prompts, 12, STOP, probable=True)
    assert [row.tokens for row in with_prefix] == expected
    assert [row.tokens for row in without] == expected
    assert [row.stopped for row in without] == [tokens[-1] in STOP for tokens in expected]
    assert all(math.isnan(row.log_probability) for row in with_prefix), "nobody asked for it"
    for prompt, tokens, row in zip(prompts, expected, without, strict=True):
        assert row.log_probability == pytest.approx(probability_of(model, prompt, tokens), abs=1e-3)


@pytest.mark.parametrize("kind", steps.KNOWN)
def test_lean_steps_give_the_tokens_of_the_modules_alone_in_a_batch_and_after_a_prefix(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not products.has_onednn():
        pytest.skip("this torch has no oneDNN")
    model = network(kind, **({"sliding_window": None} if kind == "mistral" else {}))
    prompts = prompts_of(12, shared=20)
    expected = [row.tokens for row in decoding.decode_batch(model, prompts, 12, STOP)]
    model.lean_steps = steps.lean_steps(model)
    assert model.lean_steps is not None
    prefix = decoding.compute_prefix(model, prompts[0][:20])
    with_prefix = decoding.decode_batch(model, [p[20:] for p in prompts], 12, STOP, prefix)
    alone = [decoding.decode_batch(model, [prompt], 12, STOP)[0] for prompt in prompts]
    assert [row.tokens for row in with_prefix] == expected
    assert [row.tokens for row in alone] == expected
    monkeypatch.setattr(decoding, "LONG_PREFIX", 8)  # asked once for all rows
    with_prefix = decoding.decode_batch(model, [p[20:] for p in prompts], 12, STOP, prefix)
    assert [row.tokens for row in with_prefix] == expected


def logits_of_the_next(model: Any, prompt: list[int], halves: bool) -> tuple[Any, int]:
    """What the lean steps say after a prompt and one more token; tokens in the cache then."""
    import torch

    lean = model.lean_steps
    lean.reads_halves = halves
    cache = decoding.buffers(model.config.num_hidden_layers, 1, len(prompt) + 1)
    places = torch.arange(len(prompt) + 1)[None]
    with torch.inference_mode():
        sees = (places[:, :-1] <= places[:, :-1].t())[None, None]
        lean.logits(torch.tensor([prompt]), places[:, :-1], cache, sees)
        logits = lean.logits(torch.tensor([[7]]), places[:, -1:], cache, None)[0].float()
    return logits, cache.get_seq_length()


@pytest.mark.parametrize("kind", steps.KNOWN)
def test_one_row_in_bf16_reads_weights_in_fp16_to_the_same_logits(kind: str) -> None:
    import torch

    if not products.has_onednn():
        pytest.skip("this torch has no oneDNN")
    model = network(kind, **({"sliding_window": None} if kind == "mistral" else {}))
    model = model.to(torch.bfloat16)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight)
    model.lean_steps = steps.lean_steps(model)
    for prompt in prompts_of(6, shared=5):
        expected, length = logits_of_the_next(model, prompt, halves=False)
        logits, same_length = logits_of_the_next(model, prompt, halves=True)
        assert length == same_length == len(prompt) + 1
        assert not torch.equal(logits, expected), "another way of computing"
        assert (logits - expected).norm() < 0.05 * expected.norm()


def test_a_token_that_fp16_cannot_hold_is_asked_again_in_bf16() -> None:
    import torch

    if not products.has_onednn():
        pytest.skip("this torch has no oneDNN")
    model = network("llama").to(torch.bfloat16)
    with torch.inference_mode():
        model.model.layers[0].mlp.down_proj.weight.mul_(1e6)
    model.lean_steps = steps.Steps(model)
    prompt = prompts_of(1, shared=5)[0]
    expected, length = logits_of_the_next(model, prompt, halves=False)
    logits, same_length = logits_of_the_next(model, prompt, halves=True)
    assert expected.isfinite().all() and torch.equal(logits, expected)
    assert length == same_length == len(prompt) + 1
    assert model.lean_steps.reads_halves  # one such token may be an odd one
    while model.lean_steps.may_overflow:
        logits_of_the_next(model, prompt, halves=True)
    assert not model.lean_steps.reads_halves


def test_one_row_needs_no_large_pages_and_too_little_memory_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import mmap

    import torch

    if not products.has_onednn():
        pytest.skip("this torch has no oneDNN")
    lean = steps.Steps(network("llama").to(torch.bfloat16))
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", 10**6, raising=False)  # the kernel refuses it
    with torch.inference_mode():
        assert one_token.OneToken(lean).layers

    def refused(*args: Any) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refused)
    with torch.inference_mode(), pytest.raises(MemoryError, match="allocate memory"):
        one_token.OneToken(lean)


def test_lean_steps_are_used_only_where_they_agree_with_the_modules() -> None:
    import torch

    model = network("llama")
    agrees = steps.lean_steps(model) is not None
    assert agrees == products.has_onednn()
    assert steps.lean_steps(network("qwen3")) is None, "norms of queries and keys are not known"
    half = model.to(torch.bfloat16)
    assert (steps.lean_steps(half) is not None) == products.has_onednn()
    stock = model.model.layers[0].mlp.forward
    model.model.layers[0].mlp.forward = lambda x: 1.5 * stock(x)
    assert steps.lean_steps(model.float()) is None


def test_a_sliding_window_or_an_unknown_architecture_goes_to_transformers() -> None:
    assert not decoding.supported(network("mistral", sliding_window=8))
    model = network("gpt2", n_embd=48, n_head=4, n_layer=2)
    assert not decoding.supported(model)
    prompts = prompts_of(8, shared=0)
    rows = decoding.generate_batch(model, prompts, 10, STOP, 0)
    assert [row.tokens for row in rows] == [alone(model, prompt, 10) for prompt in prompts]


def test_the_common_prefix_leaves_every_prompt_a_token_of_its_own() -> None:
    assert decoding.common_prefix([[1, 2, 3, 4], [1, 2, 3, 5]]) == 3
    assert decoding.common_prefix([[1, 2], [1, 2, 3]]) == 1
    assert decoding.common_prefix([[1, 2], [1, 2]]) == 1
    assert decoding.common_prefix([[1], [2]]) == 0
    assert decoding.common_prefix([[1, 2, 3]]) == 0


def test_batches_hold_like_lengths_and_bounded_tokens() -> None:
    lengths = [5, 100, 7, 90, 6, 400]
    assert list(decoding.in_batches(lengths, rows=3, tokens=300)) == [[5], [1, 3, 2], [4, 0]]
