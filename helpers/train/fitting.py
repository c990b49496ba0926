"""Before anything is downloaded or allocated: may we have the base, does it fit, how long?

The memory is counted from the model's shape; the newest training of the same base on this machine
then corrects it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from helpers import models, processes, store
from helpers.records import TrainedModel, WorkbookError
from helpers.tasks import Task
from helpers.train.config import LoraTrainingConfig, hardware_cost
from helpers.train.memory import USABLE, memory_parts, shape_of

if TYPE_CHECKING:
    from helpers.train.rows import Preflight

MB = 2**20


class Gpu(NamedTuple):
    """The emptiest GPU, and who holds memory on any."""

    free_mb: int
    total_mb: int
    holders: list[str]


def gpu_state() -> Gpu | None:
    """As nvidia-smi tells; None without a GPU."""
    try:
        cards = _nvidia_smi("--query-gpu=memory.free,memory.total")
        if not cards:
            return None
        processes = _nvidia_smi("--query-compute-apps=pid,used_memory,process_name")
    except (OSError, subprocess.TimeoutExpired):
        return None
    free, total = max((int(free), int(total)) for free, total in cards)
    return Gpu(free, total, [f"pid {pid} ({name}, {mb} MB)" for pid, mb, name in processes])


def _nvidia_smi(query: str) -> list[list[str]]:
    """The fields of every line that it answers."""
    done = subprocess.run(
        ["nvidia-smi", query, "--format=csv,noheader,nounits"],
        capture_output=True,
        text=True,
        timeout=20,
    )
    if done.returncode != 0:
        return []
    return [[field.strip() for field in line.split(",")] for line in done.stdout.splitlines()]


def wait_for_gpu(
    needed_mb: float, minutes: float, tell: Callable[[dict[str, Any]], None] | None = None
) -> None:
    """Return once a GPU has room (at once without one); WorkbookError 75 when it stays taken."""
    until = time.monotonic() + 60 * minutes
    while True:
        gpu = gpu_state()
        if gpu is None or gpu.free_mb >= min(needed_mb, USABLE * gpu.total_mb):
            return
        holders = ", ".join(gpu.holders) or "another user"
        message = f"the GPU is held by {holders}: {gpu.free_mb} MB free"
        if time.monotonic() >= until:
            raise WorkbookError(
                f"{message}, {needed_mb:.0f} needed; end those processes or raise gpu_wait_minutes",
                75,
            )
        if tell is not None:
            tell({"message": f"waiting: {message}"})
        time.sleep(min(20.0, max(0.1, until - time.monotonic())))


def check_base(config: LoraTrainingConfig) -> dict[str, str]:
    """What is known of the base before a byte of it is fetched.

    WorkbookError when it may not or cannot be had.
    """
    if config.load_in_4bit and find_spec("bitsandbytes") is None:
        raise WorkbookError(
            "load_in_4bit (QLoRA) needs bitsandbytes, which is not installed: pip install -e"
            " '.[gpu]', or say load_in_4bit: false"
        )
    base = config.base_model
    path = models.base_path(base)
    if not Path(path).is_dir():
        return _ask_hub(base)
    own = base in ("embedded", "tiny")
    licence = models.embedded.LICENCE if own else "see the model's own card"
    return {"base": base, "where": path, "download": "nothing", "licence": licence}


def _ask_hub(base: str) -> dict[str, str]:
    import httpx
    from huggingface_hub import HfApi, errors

    try:
        info = HfApi().model_info(base, files_metadata=True)
        HfApi().auth_check(base)
    except errors.GatedRepoError:
        raise WorkbookError(
            f"{base} is gated: accept its licence on its page, create a token and export HF_TOKEN;"
            " or use an open model, as the profile lora_8b_open does"
        ) from None
    except errors.RepositoryNotFoundError:
        raise WorkbookError(
            f"{base} is not on the hub, or private: check the spelling; a private one needs"
            " HF_TOKEN"
        ) from None
    except (OSError, httpx.HTTPError) as error:
        return _cached(base, error)
    token = "set" if os.environ.get("HF_TOKEN") else "not set, not needed"
    return {
        "base": base,
        "download": _room_for(base, info),
        "licence": (info.card_data or {}).get("license") or "not stated",
        "HF_TOKEN": token,
    }


def _cached(base: str, error: Exception) -> dict[str, str]:
    """The base as an earlier download left it, for when the hub cannot be asked."""
    from huggingface_hub import snapshot_download

    try:
        where = snapshot_download(base, local_files_only=True)
    except (OSError, ValueError):
        raise WorkbookError(
            f"the hub cannot be asked for {base} ({type(error).__name__}): connect, or give the"
            " folder of a downloaded model as base_model"
        ) from None
    download = "nothing (cached; the hub was not asked)"
    return {"base": base, "where": where, "download": download, "licence": "not asked"}


def _room_for(base: str, info: Any) -> str:
    """How much will be downloaded, and how much the disk has; WorkbookError 6 when it has less."""
    from huggingface_hub import constants

    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    kind = ".safetensors" if any(name.endswith(".safetensors") for name in sizes) else ".bin"
    needed = sum(size for name, size in sizes.items() if name.endswith(kind))
    cache = Path(constants.HF_HUB_CACHE)
    there = next(path for path in (cache, *cache.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise WorkbookError(
            f"{base} takes {needed / 1e9:.0f} GB, {cache} has {free / 1e9:.0f}: free some or set"
            " HF_HOME",
            6,
        )
    return f"{needed / 1e9:.1f} GB of {free / 1e9:.0f} free"


def earlier(base_model: str) -> TrainedModel | None:
    """The newest training of this base in this home; what cannot be read is passed over."""
    paths = list((store.home() / "runs").glob(f"*/{TrainedModel.FILE}"))
    paths.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in paths:
        with contextlib.suppress(WorkbookError):
            model = store.Run(path.parent.name).load(TrainedModel)
            if model.base_model == base_model and model.details.get("tokens_per_second"):
                return model
    return None


def estimate(report: Preflight, config: LoraTrainingConfig, task: Task) -> dict[str, Any]:
    """Steps and tokens, which are exact; memory by part; time and cost.

    The latter are those of this home's newest training of the base.
    """
    gpu = gpu_state()
    available = gpu.total_mb * MB if gpu else processes.free_memory()
    parts = _largest_pass(report, config, gpu is not None)
    counted = sum(parts.values())
    if parts["weights"] > available:
        raise WorkbookError(
            f"{config.base_model} does not fit: the weights alone take"
            f" {parts['weights'] / 1e9:.1f} GB, there are {available / 1e9:.1f};"
            " set load_in_4bit: true or choose a smaller base_model",
            6,
        )
    before = earlier(config.base_model)
    predicted = before.details.get("predicted") if before else None
    total = counted
    if predicted:
        total *= before.details["memory_mb"] / predicted["memory_counted_mb"]
    forecast: dict[str, Any] = {
        "steps": report.schedule["steps"],
        "tokens": report.tokens,
        "memory_mb": round(total / MB),
        "memory_counted_mb": round(counted / MB),
        "memory_parts_mb": {name: round(size / MB, 1) for name, size in parts.items()},
        "fits": "yes" if total < USABLE * available else "perhaps not",
        "memory_free_mb": round(available / MB),
    }
    if before is None:
        return forecast | {"minutes": "unknown until the first training on this machine"}
    rate = before.details["tokens_per_second"]
    seconds = before.details.get("other_seconds", 0.0) + report.tokens / rate
    forecast["tokens_per_second"] = rate
    forecast["minutes"] = round(seconds / 60, 1)
    forecast["cost_usd"] = hardware_cost(task, seconds)
    if predicted:
        forecast["last time"] = (
            f"predicted {predicted.get('minutes') or '?'} min, {predicted['memory_mb']} MB;"
            f" took {before.seconds / 60:.1f} min, {before.details['memory_mb']} MB"
        )
    return forecast | {"basis": f"version {before.version}, trained here"}


def _largest_pass(report: Preflight, config: LoraTrainingConfig, gpu: bool) -> dict[str, float]:
    """Bytes by part for the pass over the longest rows, padded, with the most supervised tokens."""
    rows = report.schedule["batch_size"]
    lengths = sorted((len(row.input_ids) for row in report.train), reverse=True)[:rows]
    supervised = sorted((row.trained for row in report.train), reverse=True)[:rows]
    shape = shape_of(models.base_path(config.base_model))
    return memory_parts(shape, config, lengths[0] * len(lengths), sum(supervised), gpu)
