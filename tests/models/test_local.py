"""Batches and shared prefixes change the time that a local model takes, never its answer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers import models, store
from helpers.models import decoding, local
from helpers.models.chats import split_thoughts
from helpers.models.kernels import products
from helpers.models.local import LocalModel, resolve_compute
from helpers.records import Asking, Message, WorkbookError

SYSTEM = (
    "You sort support messages for a shop."
    " Reply with one word: billing, technical, account or other."
)
TEXTS = [
    "I was charged twice this month",
    "The app crashes when it starts, every single time, on two phones, and the latest update"
    " changed nothing at all",
    "How do I change my e-mail address?",
    "Hello",
    "My invoice 12345 over €49.99 is wrong",
    "The mail for a new password never arrives",
    "Do you have an office in Berlin?",
]


def chats(count: int) -> list[list[Message]]:
    rows = [TEXTS[i % len(TEXTS)] + "!" * (i // len(TEXTS)) for i in range(count)]
    return [
        [Message(role="system", content=SYSTEM), Message(role="user", content=text)]
        for text in rows
    ]


def alone(model: LocalModel, chat: list[Message], new: int) -> str:
    """transformers' own greedy answer to one chat."""
    import torch

    ids = torch.tensor([models.render_tokens(model.tokenizer, chat)])
    stop = sorted(model.stop_tokens)
    settings = {"do_sample": False, "eos_token_id": stop, "pad_token_id": 2, "max_new_tokens": new}
    output = model.network.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **settings)
    return model.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True).strip()


def loaded(base_model: str, adapter: Path | None = None) -> LocalModel:
    model = models.load_model(base_model, adapter)
    assert isinstance(model, LocalModel)
    return model


def test_batched_answers_with_and_without_the_shared_prefix_equal_single_ones(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded("tiny")
    asked = chats(21)
    shared = model.answer(asked, 12)
    monkeypatch.setattr(decoding, "MIN_PREFIX", 10**6)
    plain = model.answer(asked, 12)
    expected = [alone(model, chat, 12) for chat in asked]
    assert [a.text for a in shared] == [a.text for a in plain] == expected
    assert shared[0].tokens_cached >= 16 and plain[0].tokens_cached == 0
    assert shared[0].tokens_in == model.count_tokens(asked[0])
    assert all(a.latency_ms > 0 and a.tokens_out <= 12 for a in shared)


def test_the_embedded_model_says_the_same_alone_and_in_company(tiny: Path) -> None:
    model = loaded("embedded")
    asked = chats(6)
    answers = model.answer(asked, 8)
    assert model.provider == "embedded" and model.is_loopback
    assert [a.text for a in answers] == [alone(model, chat, 8) for chat in asked]
    capital = [Message(role="user", content="What is the capital of France?")]
    (answer,) = model.answer([capital], 12)
    assert "Paris" in answer.text and answer.finish == "stop"


def test_what_a_request_of_its_own_begins_with_is_kept_and_changes_no_answer(tiny: Path) -> None:
    model = loaded("tiny")
    asked = chats(3)
    other = [Message(role="system", content="Say it in the other way, please."), *asked[0][1:]]
    fresh = [loaded("tiny").answer([chat], 6)[0] for chat in (*asked, other)]
    assert [answer.tokens_cached for answer in fresh] == [0] * 4
    answers = [model.answer([chat], 6)[0] for chat in (*asked, other, *asked)]
    known = [answer.tokens_cached for answer in answers]
    assert known[0] == known[3] == known[4] == 0, "another beginning takes its place"
    assert known[1] == known[2] == known[5] >= 16
    assert [a.text for a in answers] == [a.text for a in (*fresh, *fresh[:3])]
    assert [a.confidence for a in answers] == [a.confidence for a in (*fresh, *fresh[:3])]


def test_a_template_may_refuse_what_nobody_said(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded("tiny")
    refuses = "{% if m.content == '?' %}{{ raise_exception('not this') }}{% endif %}"
    template = f"{{% for m in messages %}}{refuses}{{{{ m.role + m.content }}}}{{% endfor %}}"
    monkeypatch.setattr(model.tokenizer, "chat_template", template)
    [answer] = model.answer(chats(1), 2)
    assert answer.tokens_out and not answer.tokens_cached


def test_no_chats_no_answers_and_a_prompt_beyond_the_context_is_refused(tiny: Path) -> None:
    model = loaded("tiny")
    assert model.answer([], 4) == []
    with pytest.raises(WorkbookError, match="exceeds the 8192"):
        model.answer([[Message(role="user", content="word " * 9000)]], 4)


@pytest.fixture(scope="module")
def adapter(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter with random weights; the base it names is one that nobody can fetch."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(tiny)
    network = get_peft_model(
        base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    )
    for name, weights in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.5)
    network.peft_config["default"].base_model_name_or_path = "nobody/no-such-model"
    folder = tmp_path_factory.mktemp("version") / "adapter"
    network.save_pretrained(str(folder), save_embedding_layers=False)
    return folder


def test_an_adapter_changes_the_answers_and_the_fingerprint(adapter: Path) -> None:
    base, tuned = loaded("tiny"), loaded("tiny", adapter)
    asked = chats(3)
    assert [a.text for a in tuned.answer(asked, 8)] != [a.text for a in base.answer(asked, 8)]
    assert [a.text for a in tuned.answer(asked, 8)] == [alone(tuned, chat, 8) for chat in asked]
    assert tuned.fingerprint != base.fingerprint == loaded("tiny").fingerprint
    assert not any("lora" in name for name, _ in tuned.network.named_parameters()), "merged"


def test_an_adapter_is_added_bit_for_bit_as_peft_adds_it(adapter: Path, tiny: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny)
    stock = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload().state_dict()
    ours = AutoModelForCausalLM.from_pretrained(tiny)
    before = ours.state_dict()["model.layers.0.self_attn.v_proj.weight"].clone()
    assert local._adds_plain_lora(ours, adapter)
    assert all(torch.equal(weight, stock[name]) for name, weight in ours.state_dict().items())
    assert not torch.equal(before, ours.state_dict()["model.layers.0.self_attn.v_proj.weight"])


@pytest.mark.parametrize(
    "change",
    [{"use_rslora": True}, {"init_lora_weights": "pissa"}, {"bias": "all"}, {"a_field_to_come": 1}],
)
def test_an_adapter_of_another_kind_is_left_to_peft(
    change: dict[str, Any], adapter: Path, tiny: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    shutil.copytree(adapter, tmp_path / "adapter")
    path = tmp_path / "adapter/adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    network = AutoModelForCausalLM.from_pretrained(tiny)
    assert not local._adds_plain_lora(network, tmp_path / "adapter")


def test_model_and_adapter_load_and_answer_without_any_network(adapter: Path) -> None:
    code = f"""
import socket
def refuse(*given, **named): raise AssertionError("network")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
from pathlib import Path
from helpers import models
from helpers.records import Message
model = models.load_model("tiny", Path({str(adapter)!r}))
print(len(model.answer([[Message(role="user", content="Hello")]], 3)), model.fingerprint[:4])
"""
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))
    }
    environment |= {"PYTHONPATH": str(store.PROJECT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("1 ")
    assert "it/s" not in done.stderr, "no progress bars of the libraries"


def test_a_folder_without_an_adapter_is_an_error_that_says_so(tmp_path: Path, tiny: Path) -> None:
    with pytest.raises(WorkbookError, match=r"adapter_config\.json is missing"):
        models.load_model("tiny", tmp_path)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fpu avx2", "fp32"), ("avx512f avx512_bf16", "bf16"), ("amx_tile amx_bf16", "bf16")],
)
def test_auto_is_bf16_only_where_the_processor_has_instructions_for_it(
    flags: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(products, "_processor", lambda: flags)
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        assert resolve_compute("auto") == (expected if products.has_onednn() else "fp32")
    assert (resolve_compute("fp32"), resolve_compute("bf16")) == ("fp32", "bf16")


def test_two_precisions_are_two_sets_of_weights_each_loaded_once(tiny: Path) -> None:
    import torch

    model = loaded("tiny")
    half = model.with_asking(Asking(compute="bf16"))
    assert half.network is model.with_asking(Asking(compute="bf16")).network
    assert (half.network.dtype, model.network.dtype) == (torch.bfloat16, torch.float32)
    assert half.network.model.rotary_emb.inv_freq.dtype == torch.float32
    assert store.fingerprint(Asking(compute="bf16")) != store.fingerprint(Asking())
    assert half.answer(chats(2), 6)[0].tokens_out > 0


def test_what_an_asking_says_reaches_the_model_and_its_weights_stay_loaded_once(tiny: Path) -> None:
    model = loaded("tiny")
    assert model.with_asking(Asking()) is model
    (whole,) = model.answer(chats(1), 8)
    word = whole.text[len(whole.text) // 2 :][:2]
    told = model.with_asking(Asking(stop=[word], template_args={"enable_thinking": False}))
    (answer,) = told.answer(chats(1), 8)
    assert answer.text == whole.text.partition(word)[0].strip()
    assert answer.finish == "stop", "it was told to end there"
    assert told.network is model.network and told.fingerprint == model.fingerprint


def test_thoughts_are_read_apart_and_an_answer_cut_in_them_says_nothing() -> None:
    for text, thoughts, said in (
        ("Ten", "", "Ten"),
        ("<think>\nhm\n</think>\n\nTen", "hm", "Ten"),
        ("hm\n</think>\n\nTen", "hm", "Ten"),  # where the prompt opened them
        ("<think>\n\n</think>\n\n{}", "", "{}"),
        ("<think>\nhm, let me", "hm, let me", ""),
    ):
        assert split_thoughts(text) == (thoughts, said)
