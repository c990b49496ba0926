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
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import Field

from helpers import models, store
from helpers.records import FineTuningDataset, Record, WorkbookError
from helpers.tasks import Task
from helpers.train.config import LoraTrainingConfig, hardware_cost, version_id
from helpers.train.fitting import estimate, wait_for_gpu
from helpers.train.rows import Preflight, preflight

OnLine = Callable[[dict[str, Any]], None]
SECRETS = (
    "WORKBOOK_API_KEY",
    "OPENAI_API_KEY",
    "WORKBOOK_DATABASE_URL",
)  # nothing that training needs
SMALLER = "lower batch_size (and raise gradient_accumulation), lower max_length, or set load_in_4bit: true"
SPINS = "2000"  # turns that a thread waits awake for the others before it sleeps; by default it keeps a busy core from them
COMPLETE = "workbook.json"  # the last file of a checkpoint
MAY_CHANGE = {"batch_size", "gradient_accumulation"}  # their product decides


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

    `on_line` gets every line of training.jsonl as it appears. What this run has already trained from the same inputs is
    returned as it is: its files may serve already. A training that died goes on from its last checkpoint.
    WorkbookError 2: it was begun with other inputs; 6: out of memory or disk; 75: the GPU stays taken.
    """
    report = report or preflight(dataset, task, config)
    version = version_id(run.id, task, dataset, config)
    target = store.home() / "models" / version / "adapter"
    known = run.read("model.json") if run.has("model.json") and target.is_dir() else {}
    if (known.get("version"), known.get("fingerprints")) == (version, report.fingerprints):
        run.write(
            "model.json", known
        )  # the same bytes, newly written: whoever asked for a training sees one that ended
        return TrainedModel(**known)
    with store.lock():
        forecast = estimate(report, config, task)
        wait_for_gpu(forecast["memory_mb"], config.gpu_wait_minutes, on_line)
        started = time.monotonic()
        folder = prepare_job(run, config, report)
        earlier = (
            store.read_jsonl(folder / "training.jsonl")
            if (folder / "training.jsonl").exists()
            else []
        )
        run_child(command(config, folder / "job.json"), run, config.base_model, on_line)
        seconds = time.monotonic() - started
        check_adapter(folder / "adapter")
        (folder / "adapter/README.md").unlink(
            missing_ok=True
        )  # peft's model card, a form that nobody filled in
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        (folder / "adapter").rename(target)
        result = store.read_json(folder / "result.json")
        result["details"] |= {
            "predicted": forecast,
            "other_seconds": round(seconds - result["details"]["training_seconds"], 1),
        }
        seconds += (
            earlier[-1]["seconds"] if earlier else 0.0
        )  # what attempts before this one took up to their checkpoint
        model = TrainedModel(
            **result,
            model_id=version,
            version=version,
            provider="embedded" if config.base_model == "embedded" else "local",
            base_model=config.base_model,
            adapter=str(target.relative_to(store.home())),
            dataset_version=dataset.metadata.version,
            prompt_style=config.prompt_style,
            fingerprints=report.fingerprints,
            hyperparameters=config.model_dump() | {"schedule": report.schedule},
            seconds=round(seconds, 1),
            cost_usd=hardware_cost(task, seconds),
        )
        run.write("model.json", model)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return model


def prepare_job(run: store.Run, config: LoraTrainingConfig, report: Preflight) -> Path:
    """job.json, fresh or going on from the last checkpoint of an earlier attempt; returns the training folder.

    The rows, which are example text in another spelling, go into the run's private folder. A checkpoint of a training
    with other data, base or settings is not continued and not thrown away unasked.
    """
    folder, parts = run.path("training"), {"train": report.train, "validation": report.validation}
    rows = {
        part: [row.model_dump(exclude={"id"}) for row in chosen] for part, chosen in parts.items()
    }
    base, batch = (
        models.base_path(config.base_model),
        config.batch_size * config.gradient_accumulation,
    )
    files = (
        {p.name: p.stat().st_size for p in Path(base).glob("*") if p.is_file()}
        if Path(base).is_dir()
        else {}
    )
    inputs = {name: value for name, value in config.deciding.items() if name not in MAY_CHANGE}
    inputs |= {
        "rows per step": batch * config.world,
        "base": [base, files],
        "data": store.fingerprint(rows),
    }
    checkpoint = last_checkpoint(folder)
    if checkpoint is not None and not config.discard_unfinished:
        begun = store.read_json(folder / "job.json").get("inputs", {})
        if changed := sorted(name for name in inputs if begun.get(name) != inputs[name]):
            step = checkpoint.name.rpartition("-")[2]
            raise WorkbookError(
                f"run {run.id} holds a training that stopped after step {step}, begun with other inputs ({', '.join(changed)});"
                " set discard_unfinished: true to begin again, or undo the change, or use another run_id"
            )
        _drop_after(folder, store.read_json(checkpoint / COMPLETE)["step"])
    else:
        checkpoint = None
        shutil.rmtree(folder, ignore_errors=True)
    (folder / "failure.json").unlink(missing_ok=True)
    job = {
        "folder": str(folder),
        "rows": str(store.write_text(run.private / "train_rows.json", store.dumps(rows))),
        "base_path": base,
        "config": config.model_dump(),
        "schedule": report.schedule,
        "inputs": inputs,
        "resume": str(checkpoint) if checkpoint else None,
    }
    return store.write_json(folder / "job.json", job).parent


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end."""
    whole = [path.parent for path in folder.glob(f"checkpoints/checkpoint-*/{COMPLETE}")]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _drop_after(folder: Path, step: int) -> None:
    """Leave only the lines of training.jsonl that the checkpoint knows of; the steps after it are done again."""
    path = folder / "training.jsonl"
    raw = path.read_bytes()
    lines = [json.loads(line) for line in raw[: raw.rfind(b"\n") + 1].splitlines()]
    store.write_jsonl(
        path, [line for line in lines if "event" not in line and line["step"] <= step]
    )


def command(config: LoraTrainingConfig, job: Path, machine: int = 0) -> list[str]:
    """How the program is started on one of the machines: as it is, or by torchrun."""
    program = ["-m", "helpers.train", str(job)]
    if config.world == 1:
        return [sys.executable, *program]
    where = ["--standalone"]
    if config.machines > 1:
        if not config.main_address:
            raise WorkbookError(
                "machines > 1 needs main_address: host:port of the first machine, free and reachable by all"
            )
        host, _, port = config.main_address.rpartition(":")
        where = [
            "--nnodes",
            str(config.machines),
            "--node-rank",
            str(machine),
            "--master-addr",
            host,
            "--master-port",
            port,
        ]
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        *where,
        "--nproc-per-node",
        str(config.processes),
        *program,
    ]


def run_child(command: list[str], run: store.Run, base_model: str, on_line: OnLine | None) -> None:
    """Run the training program to its end; raises what its exit code means.

    It leads a process group of its own, is listed in children.json, and is ended on every way out of here; it watches
    its stdin, so that it ends as well when this process is killed outright.
    """
    environment = {k: v for k, v in os.environ.items() if k not in SECRETS} | models.offline_env(
        base_model
    )
    path = os.pathsep.join(filter(None, [str(store.PROJECT), os.environ.get("PYTHONPATH")]))
    environment = (
        {"GOMP_SPINCOUNT": SPINS} | environment | {"PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}
    )
    folder, children = run.path("training"), run.path("children.json")
    with open(folder / "program.log", "wb") as log:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
    try:
        store.write_json(
            children,
            [{"pid": child.pid, "pgid": child.pid, "started": process_start_time(child.pid)}],
        )
        for line in _follow(child, folder / "training.jsonl"):
            if on_line is not None:
                on_line(line)
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if child.poll() is None:
                os.killpg(child.pid, number)
                with suppress(subprocess.TimeoutExpired):
                    child.wait(timeout=5)
        children.unlink(missing_ok=True)
    if child.returncode != 0:
        raise _failure(child.returncode, folder / "program.log")


def process_start_time(pid: int) -> int | None:
    """Clock ticks since boot at which a live process began (Linux): with the pid it names one process for ever."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else int(fields[19])


def _follow(child: subprocess.Popen[bytes], path: Path) -> Iterator[dict[str, Any]]:
    """Every whole line of a growing JSONL file, until the child has ended and all is read."""
    offset, ended = 0, False
    while not ended:
        ended = child.poll() is not None
        data = path.read_bytes()[offset:] if path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        offset += len(whole)
        yield from (json.loads(line) for line in whole.splitlines())
        time.sleep(0 if ended else 0.2)


def _failure(code: int, output: Path) -> Exception:
    lines = store.redact(
        output.read_text(encoding="utf-8", errors="replace")
    ).strip().splitlines() or ["(no output)"]
    if (told := output.with_name("failure.json")).exists():
        code, lines = store.read_json(told)["code"], [store.read_json(told)["said"]]
    if code == 2:
        return WorkbookError(lines[-1])
    if code in (6, -signal.SIGKILL):
        return WorkbookError(
            f"training ran out of memory or disk ({lines[-1][:200]}): {SMALLER}", 6
        )
    return RuntimeError(
        f"the training program ended with code {code}; its last lines:\n" + "\n".join(lines[-12:])
    )


def check_adapter(folder: Path) -> None:
    """Refuse an adapter without effect: LoRA's B matrices start at zero, and zero they stay when nothing was learnt."""
    from safetensors.torch import load_file

    weights = load_file(folder / "adapter_model.safetensors")
    if not all(bool(w.isfinite().all()) for w in weights.values()):
        raise WorkbookError(
            "the adapter holds values that are not finite; lower learning_rate and train again"
        )
    if not any(bool(w.any()) for name, w in weights.items() if "lora_B" in name):
        raise WorkbookError(
            "the adapter has no effect (its lora_B weights are zero): check learning_rate and target_modules"
        )
