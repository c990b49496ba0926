"""Causal language models of transformers, with or without an adapter, on this machine."""

from __future__ import annotations

import contextlib
import copy
import logging
import re
import warnings
from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from helpers import store
from helpers.models import decoding
from helpers.models.answers import Answer, probability
from helpers.models.chats import read_answer
from helpers.models.tokens import load_tokenizer, render_tokens, tools_of
from helpers.records import NO_MEMORY, Asking, Message, WorkbookError

# <|end|> ends a part of a turn where <|return|> ends the turn (gpt-oss)
END_TOKENS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<turn|>", "<|return|>", "<|call|>")
WEIGHT_FILES = (".safetensors", ".bin", ".json", ".jinja", ".model")
Precision = Literal["fp32", "bf16"]
# adapter_config.json of an adapter that is B A times alpha / r, and what does not change that
PLAIN_LORA = {"peft_type": "LORA", "bias": "none", "init_lora_weights": True}
HARMLESS = {
    *("base_model_name_or_path", "inference_mode", "lora_alpha", "lora_dropout", "megatron_core"),
    *("peft_version", "qalora_group_size", "r", "target_modules", "task_type"),
}


class LocalModel:
    """A model in a folder or from the hub; weights are loaded at the first answer."""

    is_loopback = True

    def __init__(self, base_model: str, path: str, adapter: Path | None = None) -> None:
        self.provider = "embedded" if base_model == "embedded" else "local"
        self.path = path
        self.adapter = adapter
        self.name = base_model
        self.spec = base_model
        if adapter is not None:
            self.spec = adapter.parent.name  # the version's id
            self.name = f"{base_model}+{self.spec}"
        self.template_args: dict[str, Any] = {}
        self.stop: list[str] = []
        self.compute: Precision = "fp32"
        self._networks: dict[Precision, Any] = {}  # of this model, whatever it is told

    def with_asking(self, asking: Asking) -> LocalModel:
        """The same model, told what an Asking says beside the chat."""
        compute = resolve_compute(asking.compute)
        if not asking.template_args and not asking.stop and compute == self.compute:
            return self
        other = copy.copy(self)
        other.compute = compute
        other.template_args = asking.template_args
        other.stop = asking.stop
        return other

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, with its chat template."""
        return load_tokenizer(self.path)

    @property
    def network(self) -> Any:
        """The transformers model in its precision, adapter merged in, ready to answer."""
        if self.compute not in self._networks:
            self._networks[self.compute] = load_network(self.path, self.adapter, self.compute)
        return self._networks[self.compute]

    @cached_property
    def stop_tokens(self) -> set[int]:
        """Tokens that end an answer, by the model's configuration, tokenizer and chat format."""
        configured = self.network.generation_config.eos_token_id
        ids = set(configured) if isinstance(configured, list) else {configured}
        ids.add(self.tokenizer.eos_token_id)
        special = self.tokenizer.get_added_vocab()
        ends = END_TOKENS if "<|return|>" in special else (*END_TOKENS, "<|end|>")
        ids.update(special[token] for token in ends if token in special)
        return ids - {None}

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over weights, adapter, chat template and tokenizer."""
        folders = (self.path, self.adapter)
        return store.fingerprint([_folder_hash(str(folder)) for folder in folders if folder])

    def count_tokens(self, chat: list[Message]) -> int:
        """Tokens of the rendered prompt, generation prompt included."""
        return len(self._prompt(chat))

    def _prompt(self, chat: list[Message]) -> list[int]:
        return render_tokens(self.tokenizer, chat, template_args=self.template_args)

    def warm_up(self, chat: list[Message]) -> None:
        """Load the weights, and the kernels for one row: two tokens do, once."""
        if self.compute in self._networks:
            return
        with decoding.follow_rows(lambda rows: None):
            self.answer([chat], 2)

    def answer(self, chats: Sequence[list[Message]], max_new_tokens: int) -> list[Answer]:
        """Greedy answers in the order of `chats`, decoded in batches of like length."""
        prompts = [self._prompt(chat) for chat in chats]
        self._check_lengths(prompts, max_new_tokens)
        begins = self._begins(chats[0], prompts[0]) if len(chats) == 1 else 0
        try:
            rows, shared = decoding.decode(
                self.network,
                prompts,
                max_new_tokens,
                self.stop_tokens,
                self.tokenizer.pad_token_id,
                probable=self.adapter is not None,
                begins=begins,
            )
        except (MemoryError, RuntimeError) as error:
            raise _memory_error(error, self.name) from error
        answers = []
        for chat, prompt, row in zip(chats, prompts, rows, strict=True):
            text, thoughts = read_answer(self.tokenizer, prompt, row.tokens, tools_of(chat))
            has_ended = row.stopped or any(stop in text for stop in self.stop)
            for stop in self.stop:
                text = text.partition(stop)[0].strip()
            answer = Answer(
                text=text,
                thoughts=thoughts,
                tokens_in=len(prompt),
                tokens_out=len(row.tokens),
                tokens_cached=shared,
                confidence=None if thoughts else probability(row.log_probability),
                latency_ms=1000 * row.seconds,
                finish="stop" if has_ended else "length",
            )
            answers.append(answer)
        return answers

    def _begins(self, chat: list[Message], prompt: list[int]) -> int:
        """The tokens of a prompt before what its last message says."""
        other = [*chat[:-1], chat[-1].model_copy(update={"content": "?"})]
        with contextlib.suppress(WorkbookError):  # a template may refuse it
            return decoding.common_prefix([prompt, self._prompt(other)])
        return 0

    def _check_lengths(self, prompts: list[list[int]], max_new_tokens: int) -> None:
        limit = getattr(self.network.config, "max_position_embeddings", None)
        longest = max(map(len, prompts), default=0)
        if limit and longest + max_new_tokens > limit:
            raise WorkbookError(
                f"a prompt of {longest} tokens plus {max_new_tokens} new ones exceeds the {limit}"
                f" that {self.name} can read; shorten the instructions, lower few_shot_k, rag_k or"
                " max_new_tokens"
            )


def resolve_compute(compute: str) -> Precision:
    """The precision that `auto` is on this machine: bf16 where the hardware has it, else fp32.

    A processor is asked for its instructions, never timed; what else was asked for stays.
    """
    if compute != "auto":
        return "bf16" if compute == "bf16" else "fp32"
    import torch

    from helpers.models.kernels.products import has_native_bf16

    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = not torch.backends.mps.is_available() and has_native_bf16()
    return "bf16" if native else "fp32"


def device() -> str:
    """Where to compute."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def load_network(path: str, adapter: Path | None = None, compute: Precision = "fp32") -> Any:
    """The transformers model on the best device, its adapter merged in fp32, then in `compute`.

    It comes from the disk alone unless `path` is a hub id.
    """
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    merges = adapter is not None and device() == "cpu"
    dtype = torch.bfloat16 if compute == "bf16" and not merges else torch.float32
    try:
        network = transformers.AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, local_files_only=Path(path).is_dir(), trust_remote_code=False
        )
        if adapter is not None:
            network = _merged(network, adapter)
        if compute == "bf16":
            for weight in network.parameters():  # alone: the angles of positions stay fp32
                weight.data = weight.data.bfloat16()
        network = network.to(device()).eval()
        if device() == "cpu":
            _speed_up(network)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise WorkbookError(f"{adapter or path} could not be loaded: {reason}") from error
    except (MemoryError, RuntimeError) as error:
        if "size mismatch" in str(error):
            raise WorkbookError(
                f"the adapter {adapter} was trained on another base model than {path}"
            ) from error
        raise _memory_error(error, path) from error
    return network


def _speed_up(network: Any) -> None:
    """Give a network on the CPU the lean steps, or our products where these do not fit."""
    import torch

    from helpers.models.kernels.products import frozen_linear
    from helpers.models.kernels.steps import lean_steps

    network.lean_steps = lean_steps(network)
    for module in network.modules() if network.lean_steps is None else ():
        if type(module) is torch.nn.Linear:
            module.forward = frozen_linear(module)


def _merged(network: Any, adapter: Path) -> Any:
    if _adds_plain_lora(network, adapter):
        return network
    # bitsandbytes, which peft loads, warns of kernels for 4-bit weights that nothing here uses
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    from peft import PeftModel

    with warnings.catch_warnings():
        # peft 0.21 asks a property that transformers 5.23 renames
        warnings.simplefilter("ignore", FutureWarning)
        return PeftModel.from_pretrained(network, str(adapter)).merge_and_unload()


def _adds_plain_lora(network: Any, adapter: Path) -> bool:
    """Add an adapter as 03a makes them, as peft would: to import peft takes seconds.

    False, with nothing changed, where there is more to it or it does not fit.
    """
    import torch
    from safetensors.torch import load_file

    settings = store.read_json(adapter / "adapter_config.json")
    special = {name: value for name, value in settings.items() if value and name not in HARMLESS}
    path = adapter / "adapter_model.safetensors"
    if special != PLAIN_LORA or not path.exists():
        return False
    adapters = load_file(path)
    layers = {f"base_model.model.{name}": each for name, each in network.named_modules()}
    changes = []
    for name, a in adapters.items():
        layer = layers.get(name.removesuffix(".lora_A.weight"))
        b = adapters.get(name.replace("lora_A", "lora_B"))
        if type(layer) is torch.nn.Linear and b is not None:
            changes.append((layer.weight.data, b, a))
    fits = {(w.shape, w.dtype) == ((len(b), a.shape[1]), a.dtype) for w, b, a in changes}
    if fits != {True} or 2 * len(changes) != len(adapters):
        return False
    for weight, b, a in changes:
        weight += (b @ a) * (settings["lora_alpha"] / settings["r"])
    return True


def _memory_error(error: Exception, name: str) -> Exception:
    """Out of memory is exit 6 with a remedy; any other error stays what it is."""
    if isinstance(error, MemoryError) or re.search(NO_MEMORY, str(error), re.IGNORECASE):
        return WorkbookError(
            f"{name} does not fit into memory; use a smaller base_model or shorter prompts", 6
        )
    return error


@cache
def _folder_hash(path: str) -> str:
    """sha256 over the files of a model folder (hub ids: of their cached snapshot)."""
    folder = Path(path)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(path, local_files_only=True))
    if (folder / "complete.json").is_file():  # our own conversion, which wrote down its hashes
        return store.sha256_file(folder / "complete.json")
    files = sorted(file for file in folder.rglob("*") if file.suffix in WEIGHT_FILES)
    return store.fingerprint({str(f.relative_to(folder)): store.sha256_file(f) for f in files})
