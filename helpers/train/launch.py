"""Training seen from the notebook: start the program, follow its metrics, publish what it made.

The program is a process of its own, so that an out-of-memory kill or an interrupted kernel never
leaves half a state: the adapter appears in models/ by one rename, after it was checked.
"""

from __future__ import annotations

import shutil
import signal
import sys
import time
from pathlib import Path

from helpers import models, processes, store
from helpers.processes import OnLine
from helpers.records import FineTuningDataset, TrainedModel, WorkbookError
from helpers.tasks import Task
from helpers.train.asking import asking_to_serve
from helpers.train.config import LoraTrainingConfig, hardware_cost, version_id
from helpers.train.fitting import estimate, wait_for_gpu
from helpers.train.job import TrainingResult, prepare_job
from helpers.train.rows import Preflight, preflight

SECRETS = ("WORKBOOK_API_KEY", "OPENAI_API_KEY", "WORKBOOK_DATABASE_URL")  # no need of training
SETTINGS = {  # of torch's libraries, where the user sets none; the program takes them itself
    # turns that a waiting thread stays awake; by default it keeps a core from others
    "GOMP_SPINCOUNT": "2000",
    # of kernels, half a megabyte each; by default 1,024, and every number of rows has its own
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32",
    "LRU_CACHE_CAPACITY": "32",
}
SMALLER = (
    "lower batch_size (and raise gradient_accumulation), lower 02's max_tokens, or"
    " set load_in_4bit: true"
)


def fine_tune_lora(
    dataset: FineTuningDataset,
    config: LoraTrainingConfig,
    task: Task,
    run: store.Run,
    report: Preflight | None = None,
    on_line: OnLine | None = None,
) -> TrainedModel:
    """Train a LoRA adapter on the dataset's train part, publish it and write the run's model.json.

    `on_line` hears that the program starts, then every line of its training.jsonl. What this run
    has already trained from the same inputs is returned as it is: its files may serve already. A
    training that died goes on from its last checkpoint.
    WorkbookError 2: it was begun with other inputs; 6: out of memory or disk; 75: the GPU stays
    taken.
    """
    report = report or preflight(dataset, task, config)
    version = version_id(run.id, task, dataset, config)
    asking = asking_to_serve(run, version, config, task)
    target = store.home() / "models" / version / "adapter"
    if target.is_dir() and run.has(TrainedModel):
        model = run.load(TrainedModel)
        if (model.version, model.fingerprints) == (version, report.fingerprints):
            model = model.model_copy(update={"asking": asking})
            run.save(model)  # written anew: whoever asked for a training sees one that ended
            return model
    with store.lock():
        forecast = estimate(report, config, task)
        wait_for_gpu(forecast["memory_mb"], config.gpu_wait_minutes, on_line)
        started = time.monotonic()
        job = prepare_job(run, config, report)
        lines = job.folder / "training.jsonl"  # of an earlier attempt, up to its checkpoint
        earlier = store.read_jsonl(lines) if lines.exists() else []
        if on_line is not None:
            on_line({"event": "starting"})
        run_program(command(config, job.folder / "job.json"), run, config.base_model, on_line)
        seconds = time.monotonic() - started
        _publish(job.folder / "adapter", target)
        result = TrainingResult(**store.read_json(job.folder / "result.json"))
        other_seconds = round(seconds - result.details["training_seconds"], 1)
        seconds += earlier[-1]["seconds"] if earlier else 0.0
        model = TrainedModel(
            model_id=version,
            version=version,
            provider="embedded" if config.base_model == "embedded" else "local",
            base_model=config.base_model,
            adapter=str(target.relative_to(store.home())),
            dataset_version=dataset.metadata.version,
            asking=asking,
            fingerprints=report.fingerprints,
            hyperparameters=config.model_dump() | {"schedule": report.schedule},
            tokens=result.tokens,
            seconds=round(seconds, 1),
            cost_usd=hardware_cost(task, seconds),
            losses=result.losses,
            details=result.details | {"predicted": forecast, "other_seconds": other_seconds},
            limits=_limits(report, config, result.details["tokens_per_second"]),
        )
        run.save(model)
        shutil.rmtree(job.folder / "checkpoints", ignore_errors=True)
    return model


def _limits(report: Preflight, config: LoraTrainingConfig, tokens_per_second: float) -> list[str]:
    """The rows that were not trained on, why, and what the others would have cost in time."""
    limits = []
    n = len(report.train)
    if report.left_out:
        minutes = report.left_out_tokens / max(tokens_per_second, 1e-9) / 60
        limits.append(
            f"{n:,} of {n + report.left_out:,} rows trained, by max_train_tokens="
            f"{config.max_train_tokens}; all would take {minutes:.0f} min more"
        )
    if report.refused:
        name, reason = next(iter(report.refused.items()))
        limits.append(f"{len(report.refused):,} rows refused, such as {name}: {reason}")
    return limits


def _publish(adapter: Path, target: Path) -> None:
    """Put a checked adapter in its place by one rename."""
    check_adapter(adapter)
    (adapter / "README.md").unlink(missing_ok=True)  # peft's form for a card, not filled in
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    adapter.rename(target)


def command(config: LoraTrainingConfig, job: Path, machine: int = 0) -> list[str]:
    """How the program is started on one of the machines: as it is, or by torchrun."""
    program = ["-m", "helpers.train", str(job)]
    if config.world == 1:
        return [sys.executable, *program]
    where = ["--standalone"]
    if config.machines > 1:
        if not config.main_address:
            raise WorkbookError(
                "machines > 1 needs main_address: host:port of the first machine, free and"
                " reachable by all"
            )
        host, _, port = config.main_address.rpartition(":")
        where = ["--nnodes", str(config.machines), "--node-rank", str(machine)]
        where += ["--master-addr", host, "--master-port", port]
    torchrun = [sys.executable, "-m", "torch.distributed.run", *where]
    return [*torchrun, "--nproc-per-node", str(config.processes), *program]


def run_program(
    command: list[str], run: store.Run, base_model: str, on_line: OnLine | None = None
) -> None:
    """Run the training program to its end; raises what its exit code means."""
    changes = models.offline_env(base_model) | {"PYTHONWARNINGS": "ignore"}
    environment = processes.child_environment(changes, without=SECRETS)
    folder = run.path("training")
    output = folder / "program.log"
    lines = folder / "training.jsonl"
    program = processes.Program(command, environment, output, lines)
    code = processes.run_child(program, run.folder, on_line)
    if code != 0:
        raise failure(code, output)


def failure(code: int, output: Path) -> Exception:
    """The error that an exit code of the program means, with what it wrote last."""
    text = store.redact(output.read_text(encoding="utf-8", errors="replace"))
    lines = text.strip().splitlines() or ["(no output)"]
    reason = output.with_name("failure.json")
    if reason.exists():  # torchrun hides the code
        code = store.read_json(reason)["code"]
        lines = [store.read_json(reason)["message"]]
    if code == 2:
        return WorkbookError(lines[-1])
    if code in (6, -signal.SIGKILL):
        return WorkbookError(
            f"training ran out of memory or disk ({lines[-1][:200]}): {SMALLER}", 6
        )
    last = "\n".join(lines[-12:])
    return RuntimeError(f"the training program ended with code {code}; its last lines:\n{last}")


def check_adapter(folder: Path) -> None:
    """Refuse an adapter without effect: LoRA's B matrices are zero until something was learnt."""
    from safetensors.torch import load_file

    has_effect = False
    for name, weight in load_file(folder / "adapter_model.safetensors").items():
        if not weight.isfinite().all():
            raise WorkbookError(
                "the adapter holds values that are not finite; lower learning_rate and train again"
            )
        has_effect = has_effect or ("lora_B" in name and bool(weight.any()))
    if not has_effect:
        raise WorkbookError(
            "the adapter has no effect (its lora_B weights are zero): check learning_rate and"
            " target_modules"
        )
