"""A flow without a model: notebooks under the real names that do what the real ones do with files, database and child."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import registry_toys

from helpers import curate, registry, store, tasks
from helpers.monitor import check_health
from helpers.records import FunnelRow
from helpers.train import launch

PARAMETERS = (
    'run_id: str = "dev"\ntask: str = "support_triage"\nshow_text: bool = True\nseed: int = 7\n'
)
TASK = "name: toy\ninstructions: {full: Answer briefly.}\noutput: {text: true}\ntargets: {accuracy: 0.5}\n"
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
        work = f"import retrain_light\nretrain_light.{step}(run_id, task)"
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
    store.open_run(run_id).write("environment.json", {"ready": True, "checks": ["none"]})


def decide(run_id: str, task: str) -> None:
    decision = {
        "recommendation": "fine_tuning",
        "trainer": "lora",
        "best_rung": "few_shot",
        "train_anyway_because": "",
    }
    store.open_run(run_id).write("decision.json", decision | {"status": "predicted", "reasons": []})


def collect(run_id: str, task: str) -> None:
    """Read, divide and publish the rows, as 02 does; no rule looks at them."""
    loaded = tasks.load_task(task)
    rows = tasks.with_parts(
        tasks.load_examples(loaded).examples, 7, {"train": 0.6, "validation": 0.2, "test": 0.2}
    )
    n = len(rows)
    funnel = [FunnelRow(stage="read", source="human", rows_in=n, rows_out=n, rejected={})]
    curated = curate.Curated(task=loaded, examples=rows, funnel=funnel)
    dataset = curate.publish_dataset(curated)
    made = {"version": dataset.metadata.version, "fingerprint": dataset.metadata.fingerprint}
    store.open_run(run_id).write("dataset.json", made)


def train(run_id: str, task: str) -> None:
    """Open the version, let a child process train, publish what it made by one rename."""
    run, loaded = store.open_run(run_id), tasks.load_task(task)
    version, dataset = f"toy-{run_id}", run.read("dataset.json")["version"]
    manager = registry.FineTuneLifecycleManager(loaded.registry_name)
    manager.open_version(version, run_id, "tiny", dataset)
    adapter = store.home() / "models" / version / "adapter"
    if not (run.has("model.json") and adapter.is_dir()):
        work = run.path("training")
        launch.shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        launch.run_child([sys.executable, "-c", CHILD, str(work)], run, "tiny", None)
        launch.shutil.rmtree(adapter, ignore_errors=True)
        adapter.parent.mkdir(parents=True, exist_ok=True)
        (work / "adapter").rename(adapter)
    model = {
        "version": version,
        "model_id": f"local/{version}",
        "provider": "local",
        "base_model": "tiny",
    }
    model |= {
        "adapter": f"models/{version}/adapter",
        "dataset_version": dataset,
        "fingerprints": registry_toys.FINGERPRINTS,
    }
    run.write("model.json", model)
    manager.record_model(version, model)


def evaluate(run_id: str, task: str) -> None:
    run = store.open_run(run_id)
    manager = registry.FineTuneLifecycleManager(tasks.load_task(task).registry_name)
    version = manager.register(run)
    answers = [
        {"id": i, "group": i, "scores": {"accuracy": float(k < 48)}}
        for k, i in enumerate(registry_toys.TEST_IDS)
    ]
    store.write_jsonl(run.path("answers/fine_tuned.jsonl"), answers)
    run.write(
        "evaluation.json", registry_toys.evaluation(version.id) | {"timing": {"at": store.now()}}
    )
    manager.register(run)


def promote(run_id: str, task: str) -> None:
    run = store.open_run(run_id)
    manager = registry.FineTuneLifecycleManager(tasks.load_task(task).registry_name)
    version = manager.register(run)
    run.write("promotion.json", manager.promote(version.id, "production"))
    registry.routes()


def monitor(run_id: str, task: str) -> None:
    run = store.open_run(run_id)
    run.write("health.json", check_health(tasks.load_task(task), run))
