"""A flow without a model: notebooks that do what the real ones do with files, database, child."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import record_toys
import registry_toys

from helpers import curate, processes, registry, store, tasks
from helpers.monitor import check_health
from helpers.records import DatasetPointer, FunnelRow, TrainedModel

PARAMETERS = (
    'run_id: str = "dev"\ntask: str = "support_triage"\nshow_text: bool = True\nseed: int = 7\n'
)
TASK = """name: toy
instructions: {full: Answer briefly.}
output: {text: true}
targets: {accuracy: 0.5}
"""
SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}
STEPS = {
    "00_start_here": "start",
    "01_decide": "decide",
    "02_curate": "collect",
    "03a_train_lora": "train",
    "03b_train_openai": "train",
    "04_evaluate": "evaluate",
    "05_registry": "promote",
    "06_monitor": "monitor",
}
CHILD = """
import json, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
(folder / "adapter").mkdir(parents=True, exist_ok=True)
for step in range(8):
    time.sleep(0.1)
    with open(folder / "training.jsonl", "a") as file:
        file.write(json.dumps({"step": step}) + "\\n")
(folder / "adapter" / "adapter_model.safetensors").write_text("weights")
"""


def write_notebooks(folder: Path, task: Path) -> None:
    """The notebooks, a task folder, and a profile light.yaml beside them."""
    folder.mkdir(parents=True)
    spec = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    for name, step in STEPS.items():
        work = f"import run_light\nrun_light.{step}(run_id, task)"
        cells = [
            {
                "cell_type": "code",
                "id": f"c{i}",
                "metadata": tags,
                "source": source,
                "outputs": [],
                "execution_count": None,
            }
            for i, (tags, source) in enumerate(
                [({"tags": ["parameters"]}, PARAMETERS), ({}, work), ({}, "print('done')")]
            )
        ]
        (folder / f"{name}.ipynb").write_text(
            json.dumps({"cells": cells, "metadata": spec, "nbformat": 4, "nbformat_minor": 5})
        )
    task.mkdir()
    (task / "task.yaml").write_text(TASK)
    rows = [
        {"prompt": f"question number {i} of many", "completion": f"answer {i}"} for i in range(80)
    ]
    (task / "human.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder.parent / "light.yaml").write_text(f"task: {task}\npromote_to: production\n")


def start(run_id: str, task: str) -> None:
    store.open_run(run_id).save(record_toys.environment())


def decide(run_id: str, task: str) -> None:
    store.open_run(run_id).save(record_toys.decision())


def collect(run_id: str, task: str) -> None:
    """Read, divide and publish the rows, as 02 does; no rule looks at them."""
    loaded = tasks.load_task(task)
    rows = tasks.with_parts(tasks.load_examples(loaded).examples, 7, SHARES)
    funnel = FunnelRow(
        stage="read", source="human", rows_in=len(rows), rows_out=len(rows), rejected={}
    )
    dataset = curate.publish_dataset(curate.Curated(loaded, rows, [funnel])).metadata
    pointer = DatasetPointer(version=dataset.version, fingerprint=dataset.fingerprint)
    store.open_run(run_id).save(pointer)


def train(run_id: str, task: str) -> None:
    """Open the version, let a child process train, publish what it made by one rename."""
    run = store.open_run(run_id)
    version = f"toy-{run_id}"
    dataset = run.load(DatasetPointer).version
    manager = registry.FineTuneLifecycleManager(tasks.load_task(task).registry_name)
    manager.open_version(version, run_id, "tiny", dataset)
    adapter = store.home() / "models" / version / "adapter"
    if not (run.has(TrainedModel) and adapter.is_dir()):
        work = run.path("training")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        program = processes.Program(
            [sys.executable, "-c", CHILD, str(work)],
            processes.child_environment(),
            work / "program.log",
            work / "training.jsonl",
        )
        assert processes.run_child(program, run.folder) == 0
        shutil.rmtree(adapter, ignore_errors=True)
        adapter.parent.mkdir(parents=True, exist_ok=True)
        (work / "adapter").rename(adapter)
    model = registry_toys.model(version, dataset_version=dataset)
    run.save(model)
    manager.record_model(version, model)


def evaluate(run_id: str, task: str) -> None:
    run = store.open_run(run_id)
    manager = registry.FineTuneLifecycleManager(tasks.load_task(task).registry_name)
    version = manager.register(run)
    registry_toys.write_answers(run)
    dataset = run.load(DatasetPointer).version
    timing = {"at": store.now().isoformat()}
    run.save(registry_toys.evaluation(version.id, dataset_version=dataset, timing=timing))
    manager.register(run)


def promote(run_id: str, task: str) -> None:
    run = store.open_run(run_id)
    manager = registry.FineTuneLifecycleManager(tasks.load_task(task).registry_name)
    version = manager.register(run)
    run.save(registry_toys.parity(version.id))  # as 05 asks the engine that will serve
    run.save(manager.promote(version.id, "production"))
    registry.routes()


def monitor(run_id: str, task: str) -> None:
    run = store.open_run(run_id)
    run.save(check_health(tasks.load_task(task), run))
