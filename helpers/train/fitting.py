"""Before anything is downloaded or allocated: may we have the base, does the training fit, how long will it take?

The memory is counted from the model's shape; the newest training of the same base on this machine then corrects it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from helpers import models, store
from helpers.records import WorkbookError
from helpers.tasks import Task
from helpers.train.config import LoraTrainingConfig, hardware_cost

if TYPE_CHECKING:
    from helpers.train.rows import Preflight

CARDS = (8, 24, 40, 80)  # GB of a GPU
PROGRAM = 1.0e9  # bytes of libraries on a CPU, of the context on a GPU
NF4 = 0.53  # bytes a weight: 4 bits and doubly quantised scales


class Shape(NamedTuple):
    """The widths of a decoder: hidden, MLP, layers, all query heads, all key heads, vocabulary; is the head the embedding?"""

    hidden: int
    inner: int
    layers: int
    queries: int
    keys: int
    vocabulary: int
    tied: bool

    @property
    def linear(self) -> dict[str, tuple[int, int]]:
        """Name -> (in, out) of a block's linear layers."""
        h, i, q, k = self.hidden, self.inner, self.queries, self.keys
        attention = {"q_proj": (h, q), "k_proj": (h, k), "v_proj": (h, k), "o_proj": (q, h)}
        return attention | {"gate_proj": (h, i), "up_proj": (h, i), "down_proj": (i, h)}


KNOWN = {  # public shapes, for the table of what fits where
    "1B": Shape(2048, 8192, 16, 2048, 512, 128_256, True),
    "8B": Shape(4096, 14_336, 32, 4096, 1024, 128_256, False),
    "70B": Shape(8192, 28_672, 80, 8192, 1024, 128_256, False),
}


def shape_of(base_path: str) -> Shape:
    """Read from config.json, in the folder or on the hub."""
    from transformers import AutoConfig

    c = AutoConfig.from_pretrained(base_path).get_text_config()
    head = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    keys = (getattr(c, "num_key_value_heads", None) or c.num_attention_heads) * head
    queries = c.num_attention_heads * head
    return Shape(
        c.hidden_size,
        c.intermediate_size,
        c.num_hidden_layers,
        queries,
        keys,
        c.vocab_size,
        c.tie_word_embeddings,
    )


def memory_parts(
    shape: Shape, config: LoraTrainingConfig, tokens: int, supervised: int, gpu: bool
) -> dict[str, float]:
    """Bytes by what they hold, for a pass over `tokens` of which `supervised` carry loss; on a GPU in bf16.

    Activations per token and layer: about 10 hidden and 4 MLP widths are kept for the backward pass; with checkpointing
    (always on a GPU) the layer's input alone, and one layer at a time in full. Logits: raw, float, gradient.
    """
    size, block = (2 if gpu else 4), sum(a * b for a, b in shape.linear.values())
    widths = [sum(shape.linear.get(name, (0, 0))) for name in config.target_modules]
    adapter = 4.0 * config.lora_r * shape.layers * sum(widths)
    layer = tokens * (10 * shape.hidden + 4 * shape.inner) * size
    embedding = shape.vocabulary * shape.hidden * (1 if shape.tied else 2)
    shards = config.world if config.sharding == "fsdp" else 1
    return {
        "weights": (
            embedding * size + shape.layers * block * (NF4 if config.load_in_4bit else size)
        )
        / shards,
        "adapter": adapter / shards,
        "gradients": adapter / shards,
        "optimiser": adapter * (0.5 if gpu and config.load_in_4bit else 2) / shards,
        "activations": layer + shape.layers * tokens * shape.hidden * size
        if gpu
        else layer * shape.layers,
        "logits": 12.0 * supervised * shape.vocabulary,
        "program": PROGRAM,
    }


def what_fits(config: LoraTrainingConfig) -> list[dict[str, Any]]:
    """GB that known sizes take on one GPU with these settings, one row of max_length at a time, and the cards they fit."""
    found = []
    for (name, shape), four_bit in (
        (item, bits) for item in KNOWN.items() for bits in (False, True)
    ):
        alone = config.model_copy(update={"load_in_4bit": four_bit, "sharding": "none"})
        total = (
            sum(
                memory_parts(shape, alone, config.max_length, config.max_length // 4, True).values()
            )
            / 1e9
        )
        fits = [
            f"{card} GB" for card in CARDS if total < 0.92 * card
        ]  # the rest is lost to fragments
        how = "QLoRA" if four_bit else "LoRA"
        found.append(
            {"model": name, "method": how, "GB": total, "fits on": ", ".join(fits) or "none"}
        )
    return found


def gpu_state() -> dict[str, Any] | None:
    """Free and total MB of the emptiest GPU and who holds memory there, as nvidia-smi tells; None without one."""

    def ask(query: str) -> list[list[str]]:
        done = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=20,
        )
        return [
            [field.strip() for field in line.split(",")]
            for line in done.stdout.splitlines()
            if done.returncode == 0
        ]

    try:
        cards = ask("--query-gpu=memory.free,memory.total")
        holders = ask("--query-compute-apps=pid,used_memory,process_name") if cards else []
    except (OSError, subprocess.TimeoutExpired):
        return None
    if not cards:
        return None
    free, total = max((int(free), int(total)) for free, total in cards)
    return {
        "free_mb": free,
        "total_mb": total,
        "holders": [f"pid {p} ({name}, {mb} MB)" for p, mb, name in holders],
    }


def wait_for_gpu(
    needed_mb: float, minutes: float, tell: Callable[[dict[str, Any]], None] | None = None
) -> None:
    """Return once a GPU has room (at once without one); WorkbookError 75 when it stays taken."""
    until = time.monotonic() + 60 * minutes
    while (gpu := gpu_state()) is not None and gpu["free_mb"] < min(
        needed_mb, 0.92 * gpu["total_mb"]
    ):
        held = f"the GPU is held by {', '.join(gpu['holders']) or 'another user'}: {gpu['free_mb']} MB free"
        if time.monotonic() >= until:
            raise WorkbookError(
                f"{held}, {needed_mb:.0f} needed; end those processes or raise gpu_wait_minutes", 75
            )
        if tell is not None:
            tell({"message": f"waiting: {held}"})
        time.sleep(min(20.0, max(0.1, until - time.monotonic())))


def check_base(config: LoraTrainingConfig) -> dict[str, str]:
    """What is known of the base before a byte of it is fetched; WorkbookError when it may not or cannot be had."""
    base, path = config.base_model, models.base_path(config.base_model)
    if Path(path).is_dir():
        licence = (
            models.embedded.LICENCE if base in ("embedded", "tiny") else "see the model's own card"
        )
        return {"base": base, "where": path, "download": "nothing", "licence": licence}
    import httpx
    from huggingface_hub import HfApi, constants, errors, snapshot_download

    try:
        info = HfApi().model_info(base, files_metadata=True)
        HfApi().auth_check(base)
    except errors.GatedRepoError:
        raise WorkbookError(
            f"{base} is gated: accept its licence on its page, create a token and export HF_TOKEN; or use an open model, as"
            " the profile lora_8b_open does"
        ) from None
    except errors.RepositoryNotFoundError:
        raise WorkbookError(
            f"{base} is not on the hub, or private: check the spelling; a private one needs HF_TOKEN"
        ) from None
    except (OSError, httpx.HTTPError) as error:
        with contextlib.suppress(OSError, ValueError):
            where = snapshot_download(base, local_files_only=True)
            return {
                "base": base,
                "where": where,
                "download": "nothing (cached; the hub was not asked)",
                "licence": "not asked",
            }
        said = f"the hub cannot be asked for {base} ({type(error).__name__})"
        raise WorkbookError(
            f"{said}: connect, or give the folder of a downloaded model as base_model"
        ) from None
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    kind = ".safetensors" if any(name.endswith(".safetensors") for name in sizes) else ".bin"
    needed = sum(size for name, size in sizes.items() if name.endswith(kind))
    cache = Path(constants.HF_HUB_CACHE)
    free = shutil.disk_usage(next(p for p in (cache, *cache.parents) if p.exists())).free
    if needed > free:
        raise WorkbookError(
            f"{base} takes {needed / 1e9:.0f} GB, {cache} has {free / 1e9:.0f}: free some or set HF_HOME",
            6,
        )
    token = "set" if os.environ.get("HF_TOKEN") else "not set, not needed"
    licence = (info.card_data or {}).get("license") or "not stated"
    return {
        "base": base,
        "download": f"{needed / 1e9:.1f} GB of {free / 1e9:.0f} free",
        "licence": licence,
        "HF_TOKEN": token,
    }


def earlier(base_model: str) -> dict[str, Any] | None:
    """model.json of the newest training of this base in this home."""
    newest = sorted(
        (store.home() / "runs").glob("*/model.json"), key=lambda path: -path.stat().st_mtime
    )
    trained = (
        m for m in map(store.read_json, newest) if m.get("details", {}).get("tokens_per_second")
    )
    return next((m for m in trained if m["base_model"] == base_model), None)


def estimate(report: Preflight, config: LoraTrainingConfig, task: Task) -> dict[str, Any]:
    """Steps and tokens, which are exact; memory by part; time and cost by this home's newest training of the base."""
    import psutil

    gpu, rows = gpu_state(), report.schedule["batch_size"]
    longest = sorted((len(row.input_ids) for row in report.train), reverse=True)[:rows]
    learnt = sorted((row.trained for row in report.train), reverse=True)[:rows]
    shape, tokens = shape_of(models.base_path(config.base_model)), longest[0] * len(longest)
    parts = memory_parts(shape, config, tokens, sum(learnt), gpu is not None)
    available = gpu["total_mb"] * 2**20 if gpu else psutil.virtual_memory().available
    if parts["weights"] > available:
        need = f"the weights alone take {parts['weights'] / 1e9:.1f} GB, there are {available / 1e9:.1f}"
        raise WorkbookError(
            f"{config.base_model} does not fit: {need}; set load_in_4bit: true or choose a smaller base_model",
            6,
        )
    known, ratio = earlier(config.base_model), 1.0
    forecast: dict[str, Any] = {"steps": report.schedule["steps"], "tokens": report.tokens}
    if known and (before := known["details"].get("predicted")):
        ratio = known["details"]["memory_mb"] / before["memory_counted_mb"]
    total = ratio * sum(parts.values())
    forecast |= {
        "memory_mb": round(total / 2**20),
        "memory_counted_mb": round(sum(parts.values()) / 2**20),
    }
    forecast |= {"memory_parts_mb": {name: round(size / 2**20, 1) for name, size in parts.items()}}
    forecast |= {
        "fits": "yes" if total < 0.92 * available else "perhaps not",
        "memory_free_mb": round(available / 2**20),
    }
    if known is None:
        return forecast | {"minutes": "unknown until the first training on this machine"}
    rate, details = known["details"]["tokens_per_second"], known["details"]
    seconds = details.get("other_seconds", 0.0) + report.tokens / rate
    forecast |= {
        "tokens_per_second": rate,
        "minutes": round(seconds / 60, 1),
        "cost_usd": hardware_cost(task, seconds),
    }
    if before := details.get("predicted"):
        took, said = (
            f"{known['seconds'] / 60:.1f} min, {details['memory_mb']} MB",
            before.get("minutes"),
        )
        forecast["last time"] = (
            f"predicted {said if said else '?'} min, {before['memory_mb']} MB; took {took}"
        )
    return forecast | {"basis": f"version {known['version']}, trained here"}
