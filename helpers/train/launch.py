"""Training seen from the notebook: start the program, follow its metrics, publish what it made.

The program is a process of its own, so that an out-of-memory kill or an interrupted kernel never leaves half a state:
the adapter appears in models/ by one rename, after it was checked.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import Field

from helpers import models, store
from helpers.records import FineTuningDataset, Record, WorkbookError
from helpers.tasks import Task
from helpers.train.config import LoraTrainingConfig, version_id
from helpers.train.estimate import remember_throughput
from helpers.train.rows import Preflight, preflight, rows_fingerprint

OnLine = Callable[[dict[str, Any]], None]
SECRETS = ("WORKBOOK_API_KEY", "OPENAI_API_KEY", "WORKBOOK_DATABASE_URL")  # nothing that training needs
SMALLER = "lower batch_size (and raise gradient_accumulation), lower max_length, or set load_in_4bit: true"


class TrainedModel(Record):
    """model.json: what was trained, from what, at which cost. Seconds and USD are of the whole training process."""

    model_id: str
    version: str
    provider: str
    base_model: str
    base_url: str = ""
    adapter: str | None = None  # relative to the home
    dataset_version: str
    prompt_style: str
    fingerprints: dict[str, str]
    hyperparameters: dict[str, Any]
    tokens: int
    seconds: float
    cost_usd: float
    losses: dict[str, Any]
    details: dict[str, Any] = Field(default_factory=dict)


def fine_tune_lora(
    dataset: FineTuningDataset,
    config: LoraTrainingConfig,
    task: Task,
    run: store.Run,
    report: Preflight | None = None,
    on_line: OnLine | None = None,
) -> TrainedModel:
    """Train a LoRA adapter on the dataset's train part, publish it and write the run's model.json.

    `on_line` gets every line of training.jsonl as it appears. What this run has already trained from the same rows and
    settings is returned as it is. Raises WorkbookError for what can be mended (exit 6:
    memory or disk) and RuntimeError with the program's last lines otherwise.
    """
    report = report or preflight(dataset, task, config)
    version = version_id(run.id, task, dataset, config)
    if (known := _already_trained(run, version, report)) is not None:
        return known
    with store.lock():
        folder = _fresh(run.path("training"))
        rows = _private_rows(run, report)
        job = {
            "folder": str(folder),
            "rows": str(rows),
            "base_path": models.base_path(config.base_model),
            "config": config.model_dump(),
            "schedule": report.schedule.model_dump(exclude={"notes"}),
            "end_with_parent": True,
        }
        started = time.monotonic()
        run_program(store.write_json(folder / "job.json", job), run, config.base_model, on_line)
        seconds = time.monotonic() - started
        result = store.read_json(folder / "result.json")
        check_adapter(folder / "adapter")
        target = publish_adapter(folder / "adapter", version, config, report)
        remember_throughput(config.base_model, result["tokens"], result["seconds"], seconds - result["seconds"])
        model = TrainedModel(
            model_id=version,
            version=version,
            provider="embedded" if config.base_model == "embedded" else "local",
            base_model=config.base_model,
            adapter=str(target.relative_to(store.home())),
            dataset_version=dataset.metadata.version,
            prompt_style=config.prompt_style,
            fingerprints=report.fingerprints,
            hyperparameters=config.model_dump() | {"schedule": report.schedule.model_dump()},
            tokens=result["tokens"],
            seconds=round(seconds, 1),
            cost_usd=round(seconds / 3600 * float(task.prices.get("hardware_usd_per_hour", 0)), 6),
            losses=result["losses"],
            details={k: result[k] for k in ("steps", "path", "fallback", "memory_mb")}
            | {"rows": rows_fingerprint(report)},
        )
        run.write("model.json", model)
        for left_over in ("checkpoints", "best", "adapter"):
            shutil.rmtree(folder / left_over, ignore_errors=True)
    return model


def _already_trained(run: store.Run, version: str, report: Preflight) -> TrainedModel | None:
    """This run's model when it was trained on the very same rows and its adapter is whole; nothing is trained twice."""
    if not run.has("model.json") or (saved := run.read("model.json"))["version"] != version:
        return None
    manifest = store.home() / str(saved.get("adapter")) / "manifest.json"
    if not manifest.is_file() or saved.get("details", {}).get("rows") != rows_fingerprint(report):
        return None
    files = store.read_json(manifest)["sha256"]
    whole = all((p := manifest.parent / name).is_file() and store.sha256_file(p) == sha for name, sha in files.items())
    return TrainedModel(**saved) if whole else None


def read_curve(run: store.Run) -> list[dict[str, Any]]:
    """The metric lines of a run's training (or of its job's events), oldest first."""
    path = run.path("training") / "training.jsonl"
    return store.read_jsonl(path) if path.exists() else []


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _private_rows(run: store.Run, report: Preflight) -> Path:
    """The token rows are example text in another spelling: they live in the run's private folder."""
    parts = (("train", report.train), ("validation", report.validation))
    lines = [row.model_dump() | {"part": part} for part, rows in parts for row in rows]
    return store.write_jsonl(run.private / "train_rows.jsonl", lines)


# ---------------------------------------------------------------- the program as a child


def run_program(job: Path, run: store.Run, base_model: str, on_line: OnLine | None) -> None:
    """Run `python -m helpers.train job.json` to its end; raise what its exit code means."""
    environment = {k: v for k, v in os.environ.items() if k not in SECRETS} | models.offline_env(base_model)
    path = [str(store.PROJECT), os.environ.get("PYTHONPATH", "")]
    environment |= {"PYTHONPATH": os.pathsep.join(p for p in path if p), "PYTHONWARNINGS": "ignore"}
    output = job.parent / "program.log"
    command = [sys.executable, "-m", "helpers.train", str(job)]
    with open(output, "wb") as log, _child(command, run, environment, log) as child:
        for line in _follow(child, job.parent / "training.jsonl"):
            if on_line is not None:
                on_line(line)
    if child.returncode != 0:
        raise _failure(child.returncode, output)


@contextmanager
def _child(
    command: list[str], run: store.Run, environment: dict[str, str], log: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """A child in a process group of its own, listed in children.json, ended on every way out of the block.

    The child watches our end of its stdin: should this process be killed outright, the child ends as well.
    """
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
    )
    entry = {"pid": child.pid, "pgid": child.pid, "started": process_start_time(child.pid), "what": "train"}
    children = run.path("children.json")
    store.write_json(children, [entry])
    try:
        yield child
        child.wait()
    finally:
        _end(child)
        children.unlink(missing_ok=True)


def process_start_time(pid: int) -> int | None:
    """Clock ticks since boot at which a process began (Linux): with the pid it names one process for ever."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.stdin is not None:
        child.stdin.close()
    for number in (signal.SIGTERM, signal.SIGKILL):
        if child.poll() is not None:
            return
        try:
            os.killpg(child.pid, number)
            child.wait(timeout=5)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _follow(child: subprocess.Popen[bytes], path: Path) -> Iterator[dict[str, Any]]:
    """Every whole line of a growing JSONL file, until the child has ended and all is read."""
    offset = 0
    while True:
        ended = child.poll() is not None
        data = path.read_bytes()[offset:] if path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        offset += len(whole)
        yield from (json.loads(line) for line in whole.splitlines())
        if ended:
            return
        time.sleep(0.2)


def _failure(code: int, output: Path) -> Exception:
    lines = store.redact(output.read_text(encoding="utf-8", errors="replace")).strip().splitlines() or ["(no output)"]
    if code == 2:
        return WorkbookError(lines[-1])
    if code in (6, -signal.SIGKILL):
        return WorkbookError(f"training ran out of memory or disk ({lines[-1][:200]}): {SMALLER}", 6)
    return RuntimeError(f"the training program ended with code {code}; its last lines:\n" + "\n".join(lines[-12:]))


# ---------------------------------------------------------------- the adapter


def check_adapter(folder: Path) -> None:
    """Refuse an adapter without effect: LoRA's B matrices start at zero, and zero they stay when nothing was learnt."""
    from safetensors import safe_open

    with safe_open(folder / "adapter_model.safetensors", "pt") as weights:
        changed = any(bool(weights.get_tensor(name).any()) for name in weights.keys() if "lora_B" in name)  # noqa: SIM118
    if not changed:
        raise WorkbookError(
            "the adapter has no effect (all its lora_B weights are zero): check learning_rate, target_modules and that the"
            " rows carry loss"
        )


def publish_adapter(source: Path, version: str, config: LoraTrainingConfig, report: Preflight) -> Path:
    """Copy a checked adapter to models/<version>/adapter: a temporary folder, the manifest last, then one rename."""
    target = store.home() / "models" / version / "adapter"
    partial = target.with_name(f".adapter.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copyfile(source / name, partial / name)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise WorkbookError(
            f"the adapter could not be written to {target}: {error.strerror}; free some disk space", 6
        ) from error
    manifest = {
        "version": version,
        "created_at": store.now(),
        "base_model": config.base_model,
        "fingerprints": report.fingerprints,
        "sha256": {p.name: store.sha256_file(p) for p in sorted(partial.iterdir())},
    }
    store.write_json(partial / "manifest.json", manifest)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    return target
