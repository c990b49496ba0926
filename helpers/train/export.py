"""What leaves the workbook: the adapter as it is, the merged model as safetensors, or one GGUF file for llama.cpp.

GGUF is written for Llama-shaped models with the byte-level tokenizer of the SmolLM family, whose pre-tokenizer llama.cpp
knows by name; others are merged here and converted by llama.cpp's own script.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from helpers import models, store
from helpers.models.local import load_network
from helpers.models.tokens import load_tokenizer
from helpers.records import WorkbookError

KINDS = ("f32", "f16", "q8_0")  # of the matrices in a GGUF file; norms stay f32
ROLES = ("bos", "eos", "unk", "pad")


def export_model(model: dict[str, Any], form: str, kind: str = "f16") -> Path:
    """Write `form` (adapter, merged or gguf) of the version that model.json names; returns the folder or file.

    It appears by one rename beside the adapter, in models/<version>/.
    """
    if not model.get("adapter"):
        raise WorkbookError(f"{model['model_id']} lives at its provider; only what was trained here can be exported")
    adapter = store.home() / model["adapter"]
    if form == "adapter":
        return adapter
    if form not in ("merged", "gguf") or kind not in KINDS:
        raise WorkbookError(f"export takes adapter, merged or gguf, and for gguf {', '.join(KINDS)}; got {form}, {kind}")
    target = adapter.parent / ("merged" if form == "merged" else f"{model['version']}-{kind}.gguf")
    partial = target.with_name(f"{target.name}.partial")
    base = models.base_path(model["base_model"])
    network, tokenizer = load_network(base, adapter), load_tokenizer(base)
    try:
        if form == "merged":
            network.save_pretrained(str(partial))
            tokenizer.save_pretrained(str(partial))
            shutil.rmtree(target, ignore_errors=True)
        else:
            write_gguf(partial, network, tokenizer, kind, model["version"])
        partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True) if partial.is_dir() else partial.unlink(missing_ok=True)
    return target


def write_gguf(path: Path, network: Any, tokenizer: Any, kind: str, name: str) -> None:
    """All that llama.cpp asks of a Llama model: sizes, tokenizer, chat template, weights in its own order."""
    import gguf
    import numpy as np

    config, words = network.config, json.loads(tokenizer.backend_tokenizer.to_str())
    pretokenizers = [step["type"] for step in (words["pre_tokenizer"] or {}).get("pretokenizers", [])]
    if config.model_type != "llama" or pretokenizers != ["Digits", "ByteLevel"]:
        remedy = "export `merged` and run llama.cpp's convert_hf_to_gguf.py on that folder"
        raise WorkbookError(f"no GGUF writer here for {config.model_type} with this tokenizer; {remedy}")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_file_type({"f32": 0, "f16": 1, "q8_0": 7}[kind])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    vocabulary = {number: word for word, number in tokenizer.get_vocab().items()}
    special = {token["id"] for token in words["added_tokens"] if token["special"]}
    writer.add_token_list([vocabulary[n] for n in range(config.vocab_size)])
    writer.add_token_types([3 if n in special else 1 for n in range(config.vocab_size)])  # 3 = control token
    writer.add_token_merges([" ".join(m) if isinstance(m, list) else m for m in words["model"]["merges"]])
    for role in ROLES:
        if (number := getattr(tokenizer, f"{role}_token_id")) is not None:
            getattr(writer, f"add_{role}_token_id")(number)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(tokenizer.chat_template)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    weights = network.state_dict()
    if config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    for key, weight in weights.items():
        values = weight.float().cpu().numpy()
        if ".q_proj." in key or ".k_proj." in key:
            values = permute(values, config.head_dim)
        stored = gguf.GGMLQuantizationType[kind.upper() if values.ndim > 1 else "F32"]
        packed = gguf.quantize(np.ascontiguousarray(values), stored)
        writer.add_tensor(names.get_name(key, try_suffixes=(".weight",)) + ".weight", packed, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def permute(values: Any, head_size: int) -> Any:
    """llama.cpp's order of query and key rows: rotary halves interleaved (embedded.py undoes it)."""
    return values.reshape(-1, 2, head_size // 2, values.shape[1]).swapaxes(1, 2).reshape(values.shape)


def read_back(path: Path) -> dict[str, Any]:
    """What a reader finds in a GGUF file: sizes, tokens, template, number of tensors and of missing keys."""
    import gguf

    reader = gguf.GGUFReader(path)
    kept = ("general.architecture", "general.name", "llama.block_count", "llama.context_length", "tokenizer.ggml.pre")
    found = {key: reader.get_field(key).contents() for key in kept}
    template = reader.get_field("tokenizer.chat_template").contents()
    found |= {"tokens": len(reader.get_field("tokenizer.ggml.tokens").data), "tensors": len(reader.tensors)}
    return found | {"chat_template": f"{len(template)} characters", "MB": round(path.stat().st_size / 1e6, 1)}
