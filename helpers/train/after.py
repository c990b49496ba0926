"""After training: does what will be served behave as what was trained, and what was forgotten?

Runs in the training program, on the weights it already holds; the adapter of the lowest validation
loss is put back first.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import set_peft_model_state_dict
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from helpers.train.kernels.loss import micro_batches
from helpers.train.rows import IGNORED, token_row

# Nats per answer token. Merging only rounds, in bf16 to 8 bits of each weight. At the 0.25 that was
# measured for the embedded model in 4 bits one answer token in ten gets another likeliest word; in
# proportion 0.05 is one in fifty: beyond it the evaluation says little about the 4-bit model.
MERGED_BOUND = {torch.float32: 1e-3, torch.bfloat16: 0.02}
FOUR_BIT_BOUND = 0.05
BLOCK = 64  # weights that share a scale
NF4 = (  # the quantiles of a normal distribution that Dettmers et al. 2023 give
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
)  # fmt: skip
TOKENS = 256  # of a pass: the logits of all of them are in memory
FORGOT = 4  # questions lost, net; below that it is noise among 40
QUESTIONS = Path(__file__).with_name("general.jsonl")


def look_back(
    trainer: Any, adapter: Path, probes: list[dict[str, Any]], tell: Callable[..., None]
) -> dict[str, Any]:
    """Details for result.json: the `agreement` of merged and 4-bit weights, the `general` guard.

    The model is used up by it: merged, then rounded to 4 bits.
    """
    model = trainer.accelerator.unwrap_model(trainer.model).eval()
    if trainer.is_fsdp_enabled or getattr(model, "is_loaded_in_4bit", False):
        return {}  # neither can be merged in place without loss; export checks its own merge
    weights = load_file(adapter / "adapter_model.safetensors", device=str(model.device))
    set_peft_model_state_dict(model, weights)
    tokenizer = trainer.processing_class
    questions = [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]
    asked = question_rows(tokenizer, questions)
    with torch.no_grad():
        with model.disable_adapter():
            base = right_answers(answer_losses(model, asked), questions)
        losses = answer_losses(model, asked + probes)
        tuned = right_answers(losses, questions)
        losses = losses[len(asked) :]
        tell(event="merging")
        trainer.undo_lean()  # in bf16 its layers hold the weights as they were laid out
        merged = model.merge_and_unload()
        merged_losses = answer_losses(merged, probes)
        round_to_4bit(merged)
        rounded_losses = answer_losses(merged, probes)
    agreement = {
        "merged": _agreement(losses, merged_losses, MERGED_BOUND.get(merged.dtype, 0.02)),
        "4bit": _agreement(losses, rounded_losses, FOUR_BIT_BOUND),
    }
    changes = [after - before for before, after in zip(base, tuned, strict=True)]
    general = {
        "questions": len(questions),
        "base": sum(base),
        "tuned": sum(tuned),
        "lost": changes.count(-1),
        "gained": changes.count(1),
    }
    tell(event="checked", agreement=agreement, general=general)
    forgot = general["lost"] - general["gained"] >= FORGOT
    return {"agreement": agreement, "general": general | {"forgot": forgot}}


def _agreement(
    losses: list[torch.Tensor], others: list[torch.Tensor], bound: float
) -> dict[str, Any]:
    difference = float((torch.cat(others) - torch.cat(losses)).abs().mean())
    within = difference <= bound
    return {"nats_per_token": round(difference, 6), "bound": bound, "within": within}


def answer_losses(model: Any, rows: list[dict[str, Any]]) -> list[torch.Tensor]:
    """For each row the losses of its supervised tokens, in nats: (tokens,).

    Rows of like length go through the model together, padded on the right: a causal model needs no
    mask for that.
    """
    losses: dict[int, torch.Tensor] = {}
    for batch in micro_batches([len(row["input_ids"]) for row in rows], TOKENS):
        ids = [torch.tensor(rows[number]["input_ids"]) for number in batch]
        ids = pad_sequence(ids, batch_first=True).to(model.device)
        labels = [torch.tensor(rows[number]["labels"][1:]) for number in batch]
        labels = pad_sequence(labels, True, IGNORED).to(model.device)
        supervised = labels != IGNORED
        logits = model(input_ids=ids).logits[:, :-1][supervised].float()
        each = cross_entropy(logits, labels[supervised], reduction="none")
        losses |= dict(zip(batch, each.split(supervised.sum(1).tolist()), strict=True))
    return [losses[number] for number in range(len(rows))]


def question_rows(tokenizer: Any, questions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for every answer of every question, with loss on the answer."""
    rows = []
    for question in questions:
        prompt = tokenizer(question["text"])["input_ids"]
        texts = [" " + text for text in question["answers"]]
        answers = tokenizer(texts, add_special_tokens=False)["input_ids"]
        rows += [token_row(prompt, ids) for ids in answers]
    return rows


def right_answers(losses: list[torch.Tensor], questions: list[dict[str, Any]]) -> list[bool]:
    """For each question whether its right answer, the first one, is the likeliest.

    By log-probability per character.
    """
    right = []
    each = iter(losses)
    for question in questions:
        scores = [float(next(each).sum()) / len(text) for text in question["answers"]]
        right.append(scores.index(min(scores)) == 0)
    return right


def round_to_4bit(model: Any) -> None:
    """Give every linear layer but the head the values that nf4 would hold."""
    head = model.get_output_embeddings()
    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear) and layer is not head:
            layer.weight.data = as_nf4(layer.weight.data)


def as_nf4(weights: torch.Tensor) -> torch.Tensor:
    """Each weight as its nearest NF4 level times the largest of its block (QLoRA, appendix E).

    Bit for bit what bitsandbytes gives, without its 130 MB, which only training in 4 bits needs.
    """
    levels = torch.tensor(NF4, device=weights.device)
    flat = weights.float().flatten()
    blocks = torch.nn.functional.pad(flat, (0, -len(flat) % BLOCK)).reshape(-1, BLOCK)
    largest = blocks.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    nearest = torch.bucketize(blocks / largest, (levels[1:] + levels[:-1]) / 2)
    rounded = (levels[nearest] * largest).flatten()[: len(flat)]
    return rounded.reshape(weights.shape).to(weights.dtype)
