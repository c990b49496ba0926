"""Where a model's weights are, by the name that users give it."""

from __future__ import annotations

import re
from pathlib import Path

from helpers.models import embedded
from helpers.records import WorkbookError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


def base_path(base_model: str) -> str:
    """The folder of the weights (embedded and tiny are converted on demand), or the hub id."""
    if base_model == "embedded":
        return str(embedded.ensure())
    if base_model == "tiny":
        return str(embedded.ensure_tiny())
    folder = Path(base_model).expanduser()
    if (folder / "config.json").is_file():
        return str(folder.resolve())
    if HUB_ID.fullmatch(base_model) and not folder.is_dir():
        return base_model
    raise WorkbookError(
        f"base_model {base_model!r} is neither embedded, tiny, a folder with config.json, nor a hub"
        " id (owner/name)"
    )


def offline_env(base_model: str = "embedded") -> dict[str, str]:
    """Environment for children: no hub access unless the base model must come from there."""
    if HUB_ID.fullmatch(base_model) and not Path(base_model).is_dir():
        return QUIET
    return QUIET | OFFLINE
