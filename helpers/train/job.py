"""job.json: what the training program is asked to do, and from where it goes on after a kill."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from pydantic import Field

from helpers import models, store
from helpers.records import Record, WorkbookError
from helpers.train.config import LoraTrainingConfig
from helpers.train.rows import Preflight

COMPLETE = "workbook.json"  # the last file of a checkpoint
MAY_CHANGE = {"batch_size", "gradient_accumulation"}  # their product decides


class TrainingJob(Record):
    """job.json of the training program; `folder` also gets its lines, checkpoints and adapter."""

    folder: Path
    rows: Path  # {part: [{input_ids, labels}]}
    base_path: str
    config: LoraTrainingConfig
    schedule: dict[str, int]
    inputs: dict[str, Any] = Field(default_factory=dict)  # what a resumed training may not change
    resume: Path | None = None  # the checkpoint to go on from
    keep_checkpoints: int = 2


class TrainingResult(Record):
    """result.json, the last file that the program writes."""

    tokens: int
    losses: dict[str, Any]
    details: dict[str, Any]


class Progress(Record):
    """How far a checkpoint is: the file COMPLETE in it."""

    step: int = 0
    tokens: int = 0
    stopped: bool = False  # early
    processes: int = 0  # that shared each batch: with another number the bytes are others
    best: dict[str, Any] = Field({"eval": None, "best_step": None})


def progress_of(checkpoint: Path | None) -> Progress:
    """How far a checkpoint is; nowhere without one."""
    return Progress(**store.read_json(checkpoint / COMPLETE)) if checkpoint else Progress()


def prepare_job(run: store.Run, config: LoraTrainingConfig, report: Preflight) -> TrainingJob:
    """Write job.json, fresh or going on from the last checkpoint of an earlier attempt.

    The rows, which are example text in another spelling, go into the run's private folder. A
    checkpoint of a training with other data, base or settings is not continued and not thrown away
    unasked.
    """
    folder = run.path("training")
    rows = {
        part: [row.model_dump(exclude={"id"}) for row in part_rows]
        for part, part_rows in (("train", report.train), ("validation", report.validation))
    }
    inputs = _inputs(config, rows)
    checkpoint = last_checkpoint(folder)
    if config.discard_unfinished:
        checkpoint = None
    if checkpoint is None:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        old_inputs = store.read_json(folder / "job.json").get("inputs", {})
        changed = sorted(name for name in inputs if old_inputs.get(name) != inputs[name])
        if changed:
            raise WorkbookError(
                f"run {run.id} holds a training that stopped after step {step_of(checkpoint)},"
                f" begun with other inputs ({', '.join(changed)}); set discard_unfinished: true"
                " to begin again, or undo the change, or use another run_id"
            )
        _drop_after(folder, progress_of(checkpoint).step)
    (folder / "failure.json").unlink(missing_ok=True)
    job = TrainingJob(
        folder=folder,
        rows=store.write_text(run.private / "train_rows.json", store.dumps(rows)),
        base_path=models.base_path(config.base_model),
        config=config,
        schedule=report.schedule,
        inputs=inputs,
        resume=checkpoint,
    )
    store.write_json(folder / "job.json", job)
    return job


def _inputs(config: LoraTrainingConfig, rows: dict[str, Any]) -> dict[str, Any]:
    """What decides the adapter: settings, rows per step, base model and data."""
    base = models.base_path(config.base_model)
    # none of a hub id
    files = {path.name: path.stat().st_size for path in Path(base).glob("*") if path.is_file()}
    inputs = {name: value for name, value in config.deciding.items() if name not in MAY_CHANGE}
    inputs["rows per step"] = config.batch_size * config.gradient_accumulation * config.world
    inputs["base"] = [base, files]
    inputs["data"] = store.fingerprint(rows)
    return inputs


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end."""
    whole = [path.parent for path in folder.glob(f"checkpoints/checkpoint-*/{COMPLETE}")]
    return max(whole, key=step_of, default=None)


def step_of(checkpoint: Path) -> int:
    """The optimiser step after which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def _drop_after(folder: Path, step: int) -> None:
    """Leave only the lines of training.jsonl that a checkpoint knows of; later steps come again."""
    path = folder / "training.jsonl"
    data = path.read_bytes()
    lines = [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]
    earlier = [line for line in lines if "event" not in line and line["step"] <= step]
    store.write_jsonl(path, earlier)
