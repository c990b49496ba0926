"""Anything that answers a chat: the embedded model, local folders and adapters, OpenAI-compatible endpoints."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from helpers import store
from helpers.models import embedded
from helpers.models.chat import Answer, Model, Progress, Provider, plain, render_tokens
from helpers.records import WorkbookError

if TYPE_CHECKING:
    from helpers.tasks import Task

__all__ = [
    "Answer",
    "Model",
    "Progress",
    "Provider",
    "base_path",
    "check_may_send",
    "embedded",
    "is_hub_id",
    "load_model",
    "offline_env",
    "plain",
    "render_tokens",
    "template_fingerprints",
]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def is_hub_id(base_model: str) -> bool:
    """Whether `base_model` names a model on the hub rather than a local folder or a model that ships."""
    return (
        base_model not in ("embedded", "tiny")
        and not Path(base_model).expanduser().is_dir()
        and _HUB_ID.fullmatch(base_model) is not None
    )


def base_path(base_model: str) -> str:
    """The folder to load weights from (embedded and tiny are converted on demand), or the hub id."""
    if base_model == "embedded":
        return str(embedded.ensure())
    if base_model == "tiny":
        return str(embedded.ensure_tiny())
    folder = Path(base_model).expanduser()
    if (folder / "config.json").is_file():
        return str(folder.resolve())
    if is_hub_id(base_model):
        return base_model
    raise WorkbookError(
        f"base_model {base_model!r} is neither embedded, tiny, a folder with config.json, nor a hub id (owner/name)"
    )


def offline_env(base_model: str = "embedded") -> dict[str, str]:
    """Environment for the CLI, kernels and children: no hub access unless the base model must come from there."""
    quiet = {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    if is_hub_id(base_model):
        return quiet
    return quiet | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


def load_model(base_model: str, adapter: Path | None = None, base_url: str = "") -> Model:
    """A model that answers chats; weights are loaded at its first answer.

    With `base_url`, `base_model` is the name under which that endpoint serves the model.
    """
    if base_url:
        from helpers.models.api import ApiModel

        return ApiModel(base_model, base_url)
    from helpers.models.local import LocalModel

    if adapter is not None and not (adapter / "adapter_config.json").is_file():
        raise WorkbookError(f"{adapter} holds no adapter (adapter_config.json is missing); train again or restore it")
    return LocalModel(base_model, base_path(base_model), adapter)


def check_may_send(task: Task, model: Model) -> None:
    """Refuse to send a task's text off this machine unless its task.yaml allows that."""
    if model.is_loopback or task.data_may_leave:
        return
    raise WorkbookError(
        f"task {task.name}: data_may_leave is false, so its text may not go to {model.name}; use a local model or a"
        " loopback base_url, or set `data_may_leave: true` in task.yaml if that is allowed"
    )


def template_fingerprints(base_model: str, task: Task, prompt_style: str = "short") -> dict[str, str]:
    """sha256 of what must not change between training and serving: chat template, tokenizer, system prompt."""
    from helpers.models.tokens import tokenizer_of

    tokenizer = tokenizer_of(base_model)
    system = task.instructions_short if prompt_style == "short" else task.instructions_full
    texts = {
        "template": str(tokenizer.chat_template or ""),
        "tokenizer": tokenizer.backend_tokenizer.to_str()
        if tokenizer.is_fast
        else store.canonical(tokenizer.get_vocab()),
        "system_prompt": system,
    }
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
