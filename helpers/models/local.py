"""Causal language models of transformers, with or without an adapter, on this machine.

What `latency_ms` means. Answers are made in batches, so the time of one answer includes its neighbours': it runs from
the start of the batch to the answer's last token, and is fit for totals only. `latency_probe` asks rows alone, without
any shared work: p50 and p95 come from there.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from helpers import store
from helpers.models import decoding
from helpers.models.chat import Answer, Progress, Provider, render_tokens
from helpers.models.tokens import load_tokenizer
from helpers.records import Message, WorkbookError

BATCH_ROWS = 16
BATCH_TOKENS = 16_384  # rows x padded length: bounds the memory of a batch of long prompts
END_TOKENS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")

log = logging.getLogger(__name__)


class LocalModel:
    """A model in a folder or from the hub; weights are loaded at the first answer."""

    is_loopback = True

    def __init__(self, base_model: str, path: str, adapter: Path | None = None) -> None:
        self.provider: Provider = "embedded" if base_model == "embedded" else "local"
        self.path = path
        self.adapter = adapter
        self.name = base_model if adapter is None else f"{base_model}+{adapter.parent.name}"
        self.share_prefix = True
        self.near_ties = 0  # tokens chosen so far by less than decoding.TIE

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, with its chat template."""
        return load_tokenizer(self.path)

    @cached_property
    def network(self) -> Any:
        """The transformers model, adapter merged in, ready to answer."""
        return load_network(self.path, self.adapter)

    @cached_property
    def stop_tokens(self) -> set[int]:
        """Tokens that end an answer: what the model's configuration, tokenizer and chat format say."""
        configured = getattr(self.network.generation_config, "eos_token_id", None)
        ids = set(configured if isinstance(configured, list) else [configured])
        ids.add(self.tokenizer.eos_token_id)
        special = self.tokenizer.get_added_vocab()
        ids |= {special[token] for token in END_TOKENS if token in special}
        return ids - {None}

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over weights, adapter, chat template and tokenizer."""
        parts = {"weights": _folder_hash(self.path), "template": self.tokenizer.chat_template}
        parts["adapter"] = _folder_hash(str(self.adapter)) if self.adapter else None
        return store.fingerprint(parts)

    def count_tokens(self, chat: list[Message]) -> int:
        """Tokens of the rendered prompt, generation prompt included."""
        return len(render_tokens(self.tokenizer, chat))

    def answer(
        self,
        chats: Sequence[list[Message]],
        max_new_tokens: int,
        schema: dict[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> list[Answer]:
        """Greedy answers in the order of `chats`. `schema` is not enforced: what the model says is what is scored."""
        prompts = [render_tokens(self.tokenizer, chat) for chat in chats]
        self._check_lengths(prompts, max_new_tokens)
        own_loop = decoding.supported(self.network)
        shared = decoding.common_prefix(prompts) if own_loop and self.share_prefix else 0
        shared = shared if shared >= decoding.MIN_PREFIX else 0
        prefix = decoding.compute_prefix(self.network, prompts[0][:shared]) if shared else []
        answers: dict[int, Answer] = {}

        def run(batch: list[int]) -> None:
            rows = [prompts[i][shared:] for i in batch]
            if own_loop:
                decoded = decoding.decode_batch(self.network, rows, max_new_tokens, self.stop_tokens, prefix)
            else:
                pad = self.tokenizer.pad_token_id
                decoded = decoding.generate_batch(self.network, rows, max_new_tokens, self.stop_tokens, pad)
            for i, row in zip(batch, decoded, strict=True):
                answers[i] = self._answer(row, len(prompts[i]), shared)
            if progress:
                progress(len(answers), len(prompts))

        try:
            decoding.in_batches([len(p) + max_new_tokens for p in prompts], BATCH_ROWS, BATCH_TOKENS, run)
        except (MemoryError, RuntimeError) as error:
            raise _memory_error(error, self.name) from error
        return [answers[i] for i in range(len(prompts))]

    def latency_probe(self, chats: Sequence[list[Message]], max_new_tokens: int) -> list[float]:
        """Milliseconds of each chat asked alone, nothing shared, weights loaded and warmed up before the clock starts."""
        sharing, self.share_prefix = self.share_prefix, False
        try:
            self.answer(chats[:1], min(2, max_new_tokens))
            times = []
            for chat in chats:
                started = time.perf_counter()
                self.answer([chat], max_new_tokens)
                times.append(1000 * (time.perf_counter() - started))
        finally:
            self.share_prefix = sharing
        return times

    def _answer(self, row: decoding.Decoded, tokens_in: int, shared: int) -> Answer:
        self.near_ties += row.ties
        return Answer(
            text=self.tokenizer.decode(row.tokens, skip_special_tokens=True).strip(),
            tokens_in=tokens_in,
            tokens_out=len(row.tokens),
            tokens_cached=shared,
            latency_ms=1000 * row.seconds,
            finish="stop" if row.stopped else "length",
        )

    def _check_lengths(self, prompts: list[list[int]], max_new_tokens: int) -> None:
        limit = getattr(self.network.config, "max_position_embeddings", None)
        longest = max((len(p) for p in prompts), default=0)
        if limit and longest + max_new_tokens > limit:
            raise WorkbookError(
                f"a prompt of {longest} tokens plus {max_new_tokens} new ones exceeds the {limit} that {self.name} can"
                " read; shorten the instructions, lower few_shot_k, rag_k or max_new_tokens"
            )


def device_and_dtype() -> tuple[str, Any]:
    """Where to compute and in which precision: bfloat16 only where the hardware has it, float32 on CPU and Apple."""
    import torch

    if torch.cuda.is_available():
        return "cuda", torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return ("mps" if torch.backends.mps.is_available() else "cpu"), torch.float32


def load_network(path: str, adapter: Path | None = None) -> Any:
    """The transformers model on the best device, its adapter merged; from the disk alone unless `path` is a hub id."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    device, dtype = device_and_dtype()
    started = time.perf_counter()
    offline = Path(path).is_dir() or os.environ.get("HF_HUB_OFFLINE") == "1"
    try:
        network = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=dtype, local_files_only=offline)
        if adapter is not None:
            from peft import PeftModel

            network = PeftModel.from_pretrained(network, str(adapter)).merge_and_unload()
    except (OSError, ValueError) as error:
        raise WorkbookError(f"{adapter or path} could not be loaded: {str(error).splitlines()[0]}") from error
    except (MemoryError, RuntimeError) as error:
        if adapter is not None and "size mismatch" in str(error):
            raise WorkbookError(f"the adapter {adapter} was trained on another base model than {path}") from error
        raise _memory_error(error, path) from error
    network = network.to(device).eval()
    log.info("loaded %s in %.1f s on %s", path, time.perf_counter() - started, device)
    return network


def _memory_error(error: Exception, name: str) -> Exception:
    """Out of memory is exit 6 with a remedy; any other error stays what it is."""
    text = str(error).lower()
    if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
        return WorkbookError(f"{name} does not fit into memory; use a smaller base_model or shorter prompts", 6)
    return error


def _folder_hash(path: str) -> str:
    """sha256 over the files of a model folder (hub ids: of their cached snapshot); big files are hashed once."""
    folder = Path(path)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(path, local_files_only=True))
    kinds = (".safetensors", ".bin", ".json", ".jinja", ".model")
    files = sorted(f for f in folder.rglob("*") if f.suffix in kinds and f.name != "complete.json")
    return store.fingerprint({str(f.relative_to(folder)): _file_hash(f) for f in files})


def _file_hash(path: Path) -> str:
    """sha256 of a file, remembered under its path, size and time of change."""
    stat = path.stat()
    if stat.st_size < 50_000_000:
        return store.sha256_file(path)
    key = store.fingerprint([str(path.resolve()), stat.st_size, stat.st_mtime_ns])
    memory = store.cache() / "hashes" / f"{key[:32]}.json"
    if memory.is_file():
        return json.loads(memory.read_text())["sha256"]
    value = store.sha256_file(path)
    store.write_json(memory, {"sha256": value})
    return value
