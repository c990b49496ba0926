"""From what an Asking calls a model to the model itself."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.models.answers import Model
from helpers.models.api import AT, ApiModel, is_address
from helpers.models.leaving import permission_of
from helpers.models.local import LocalModel
from helpers.models.weights import base_path
from helpers.records import WorkbookError

if TYPE_CHECKING:
    from helpers.tasks import Task


def load_model(spec: str, adapter: Path | None = None, base_url: str = "") -> Model:
    """A model that answers chats; weights are loaded at its first answer.

    `spec` is embedded, tiny, a folder, a hub id or `NAME at BASE_URL`. With `base_url` it is the
    name under which that endpoint serves the model.
    """
    if base_url:
        return ApiModel(spec, base_url)
    name, at, address = spec.rpartition(AT)
    if at and is_address(address):
        return ApiModel(name, address)
    if adapter is not None and not (adapter / "adapter_config.json").is_file():
        raise WorkbookError(
            f"{adapter} holds no adapter (adapter_config.json is missing); train again or restore"
            " it"
        )
    return LocalModel(spec, base_path(spec), adapter)


def check_may_send(task: Task, model: Model, texts: Iterable[str] = ()) -> None:
    """Let a model have a task's text; WorkbookError where it may not leave this machine.

    The model is given the task's permission, by which it holds back single chats with personal
    data or secrets. `texts` are judged at once: what is uploaded whole.
    """
    if model.is_loopback:
        return
    if not task.data_may_leave:
        raise WorkbookError(
            f"task {task.name}: data_may_leave is false, so its text may not go to {model.name};"
            " use a local model or a loopback base_url, or set `data_may_leave: true` in task.yaml"
            " if that is allowed"
        )
    permission = permission_of(task)
    model.permission = permission
    kinds = permission.held_back(texts)
    if kinds:
        raise WorkbookError(
            f"task {task.name}: rows that were to go to {model.name} hold {kinds}; run 02_curate"
            " again, which leaves such rows out, or say under `allow` in task.yaml what is none"
        )
