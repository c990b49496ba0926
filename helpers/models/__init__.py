"""Anything that answers a chat: the embedded model, local folders and adapters, OpenAI-compatible endpoints."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from helpers import store
from helpers.models import embedded
from helpers.models.tokens import plain as plain
from helpers.models.tokens import render_tokens as render_tokens
from helpers.models.tokens import tokenizer_of
from helpers.records import Message, Record, WorkbookError

if TYPE_CHECKING:
    from helpers.tasks import Task

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


class Answer(Record):
    """One answer and what it took. `latency_ms` of a batched local answer runs from the start of its batch."""

    text: str
    tokens_in: int
    tokens_out: int
    tokens_cached: int = (
        0  # prompt tokens that were not computed again (shared prefix, provider's cache)
    )
    latency_ms: float
    finish: Literal["stop", "length", "error"]
    error: str | None = None


class Model(Protocol):
    """Anything that answers a chat; `fingerprint` is the sha256 of all that decides its answers."""

    name: str
    provider: Literal["embedded", "local", "api"]
    is_loopback: bool
    fingerprint: str

    def answer(self, chats: Sequence[list[Message]], max_new_tokens: int) -> list[Answer]:
        """Greedy answers in the order of `chats`."""
        ...

    def count_tokens(self, chat: list[Message]) -> int:
        """Tokens of the rendered prompt, generation prompt included."""
        ...


def base_path(base_model: str) -> str:
    """The folder to load weights from (embedded and tiny are converted on demand), or the hub id."""
    if base_model in ("embedded", "tiny"):
        return str(embedded.ensure() if base_model == "embedded" else embedded.ensure_tiny())
    folder = Path(base_model).expanduser()
    if (folder / "config.json").is_file():
        return str(folder.resolve())
    if _HUB_ID.fullmatch(base_model) and not folder.is_dir():
        return base_model
    raise WorkbookError(
        f"base_model {base_model!r} is neither embedded, tiny, a folder with config.json, nor a hub id (owner/name)"
    )


def offline_env(base_model: str = "embedded") -> dict[str, str]:
    """Environment for the CLI, kernels and children: no hub access unless the base model must come from there."""
    hub = _HUB_ID.fullmatch(base_model) and not Path(base_model).is_dir()
    return _QUIET if hub else _QUIET | _OFFLINE


def load_model(base_model: str, adapter: Path | None = None, base_url: str = "") -> Model:
    """A model that answers chats; weights are loaded at its first answer.

    With `base_url`, `base_model` is the name under which that endpoint serves the model.
    """
    if base_url:
        from helpers.models.api import ApiModel

        return ApiModel(base_model, base_url)
    from helpers.models.local import LocalModel

    if adapter is not None and not (adapter / "adapter_config.json").is_file():
        raise WorkbookError(
            f"{adapter} holds no adapter (adapter_config.json is missing); train again or restore it"
        )
    return LocalModel(base_model, base_path(base_model), adapter)


def check_may_send(task: Task, model: Model) -> None:
    """Refuse to send a task's text off this machine unless its task.yaml allows that."""
    if not model.is_loopback and not task.data_may_leave:
        raise WorkbookError(
            f"task {task.name}: data_may_leave is false, so its text may not go to {model.name}; use a local model or"
            " a loopback base_url, or set `data_may_leave: true` in task.yaml if that is allowed"
        )


def template_fingerprints(
    base_model: str, task: Task, prompt_style: str = "short"
) -> dict[str, str]:
    """sha256 of what must not change between training and serving: chat template, tokenizer, system prompt."""
    tokenizer = tokenizer_of(base_model)
    texts = {
        "template": str(tokenizer.chat_template),
        "tokenizer": tokenizer.backend_tokenizer.to_str()
        if tokenizer.is_fast
        else store.canonical(tokenizer.get_vocab()),
        "system_prompt": task.instructions_short
        if prompt_style == "short"
        else task.instructions_full,
    }
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
