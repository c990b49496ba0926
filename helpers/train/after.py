"""After training: does what will be served still behave as what was trained, and what else did the model forget?

Runs in the training program, on the weights it already holds; the adapter of the lowest validation loss is put back first.
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

from helpers.train.rows import IGNORED

# Nats per answer token. Merging only rounds. At the 0.25 measured for the embedded model in 4 bits one answer token in ten gets
# another likeliest word; in proportion 0.05 is one in fifty: beyond it the evaluation says little about the 4-bit model.
MERGED_BOUND, FOUR_BIT_BOUND = 1e-3, 0.05
FORGOT = 4  # questions lost, net; below that it is noise among 40
QUESTIONS = Path(__file__).with_name("general.jsonl")


def look_back(
    trainer: Any, adapter: Path, probes: list[dict[str, Any]], tell: Callable[..., None]
) -> dict[str, Any]:
    """Details for result.json: `agreement` of merged and 4-bit weights with the adapter, and the `general` guard.

    The model is used up by it: merged, then rounded to 4 bits.
    """
    model = trainer.accelerator.unwrap_model(trainer.model).eval()
    if trainer.is_fsdp_enabled or getattr(model, "is_loaded_in_4bit", False):
        return {}  # neither can be merged in place without loss; export checks its own merge
    set_peft_model_state_dict(
        model, load_file(adapter / "adapter_model.safetensors", device=str(model.device))
    )
    questions = [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]
    with torch.no_grad():
        with model.disable_adapter():
            before = right_answers(model, trainer.processing_class, questions)
        tuned, losses = (
            right_answers(model, trainer.processing_class, questions),
            [answer_losses(model, probes)],
        )
        merged = model.merge_and_unload()
        losses.append(answer_losses(merged, probes))
        round_to_4bit(merged)
        losses.append(answer_losses(merged, probes))
    lost, gained = (
        sum(b and not t for b, t in zip(before, tuned, strict=True)),
        sum(tuned) - sum(before),
    )
    general = {
        "questions": len(questions),
        "base": sum(before),
        "tuned": sum(tuned),
        "lost": lost,
        "gained": gained + lost,
    }
    agreement = {}
    for name, found, bound in (
        ("merged", losses[1], MERGED_BOUND),
        ("4bit", losses[2], FOUR_BIT_BOUND),
    ):
        difference = float((found - losses[0]).abs().mean())
        agreement[name] = {
            "nats_per_token": round(difference, 6),
            "bound": bound,
            "within": difference <= bound,
        }
    tell(event="checked", agreement=agreement, general=general)
    return {"agreement": agreement, "general": general | {"forgot": -gained >= FORGOT}}


def answer_losses(model: Any, rows: list[dict[str, Any]]) -> torch.Tensor:
    """Loss of every supervised token of these rows, one after another: (tokens,), in nats."""
    found = []
    for row in rows:
        ids, labels = (
            torch.tensor([row[name]], device=model.device) for name in ("input_ids", "labels")
        )
        logits = model(input_ids=ids).logits[0, :-1].float()
        kept = labels[0, 1:] != IGNORED
        found.append(cross_entropy(logits[kept], labels[0, 1:][kept], reduction="none"))
    return torch.cat(found)


def right_answers(model: Any, tokenizer: Any, questions: list[dict[str, Any]]) -> list[bool]:
    """For each question whether its right answer (the first) is the likeliest, by log-probability per character.

    All answers of a question go through the model as one right-padded batch, which needs no mask in a causal model.
    """
    found = []
    for question in questions:
        prompt = tokenizer(question["text"])["input_ids"]
        answers = [
            tokenizer(" " + text, add_special_tokens=False)["input_ids"]
            for text in question["answers"]
        ]
        width = max(map(len, answers))
        rows = torch.tensor(
            [prompt + ids + [0] * (width - len(ids)) for ids in answers], device=model.device
        )
        logits = model(input_ids=rows, logits_to_keep=width + 1).logits[:, :-1].float()
        losses = cross_entropy(logits.transpose(1, 2), rows[:, -width:], reduction="none")
        scores = [
            float(losses[n, : len(ids)].sum()) / len(question["answers"][n])
            for n, ids in enumerate(answers)
        ]
        found.append(min(range(len(scores)), key=scores.__getitem__) == 0)
    return found


def round_to_4bit(model: Any) -> None:
    """Give every linear layer but the head the values that bitsandbytes' nf4 would hold, in place."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    head = model.get_output_embeddings()
    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear) and layer is not head:
            layer.weight.data = dequantize_4bit(
                *quantize_4bit(layer.weight.data.contiguous(), quant_type="nf4")
            )
