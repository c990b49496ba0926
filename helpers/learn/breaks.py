"""Break it on purpose: one thing is wrong for real, and the workbook's instruments should say so.

A run that was broken stays marked in its folder: the gate never lets it serve, whatever is forced.
Only the shipped tasks can be broken, and these register under demo/.
"""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

from helpers import store, tasks
from helpers.curate import Curated
from helpers.parameters import BROKEN
from helpers.records import TrainedModel, TrainingExample, WorkbookError
from helpers.train import LoraTrainingConfig, Preflight

BREAKS = {
    "leak": "02: a third of the test rows are copied into train, after all checks",
    "shuffled_labels": "02: half of the train rows get the answer of another row",
    "end_token": "03a: no loss is taken on the token that ends a turn",
    "learning_rate": "03a: steps are thirty times as long",
    "no_op_adapter": "03a: the adapter is published with weights that do nothing",
}
SEED = 20


def _mark(name: str, run: store.Run, task: tasks.Task) -> None:
    """Note in the run's folder what is broken; "" breaks nothing, and heals no run either."""
    if not name:
        return
    if name not in BREAKS:
        raise WorkbookError(f"break_it {name!r}: known are {', '.join(BREAKS)}")
    if not task.shipped:
        raise WorkbookError(f"break_it is for the shipped tasks; {task.name} is your own")
    store.write_json(run.path(BROKEN), {"break_it": name, "what": BREAKS[name]})


def break_data(name: str, curated: Curated, run: store.Run) -> Curated:
    """The curated rows with a leak, or with shuffled labels; "" leaves them as they are."""
    _mark(name, run, curated.task)
    examples = curated.examples
    if name == "leak":
        examples = [*examples, *map(_copy, curated.part("test")[::3])]
    elif name == "shuffled_labels":
        train = curated.part("train")
        chosen = random.Random(SEED).sample(train, len(train) // 2)
        others = {a.id: b for a, b in zip(chosen, [*chosen[1:], chosen[0]], strict=True)}
        examples = [_answered(e, others[e.id]) if e.id in others else e for e in examples]
    else:
        return curated
    params = curated.params | {"break_it": name}
    return dataclasses.replace(curated, examples=examples, params=params)


def _copy(example: TrainingExample) -> TrainingExample:
    """The same row as a stranger: another id, another conversation, in train."""
    changes = {"id": f"copy-{example.id}", "group": f"copy-{example.group}", "part": "train"}
    return example.model_copy(update=changes)


def _answered(example: TrainingExample, other: TrainingExample) -> TrainingExample:
    """The question of one row with the answer of another."""
    return example.model_copy(update={"messages": [*example.prompt, other.messages[-1]]})


def break_settings(
    name: str, config: LoraTrainingConfig, run: store.Run, task: tasks.Task
) -> LoraTrainingConfig:
    """The settings with steps that are far too long."""
    _mark(name, run, task)
    if name != "learning_rate":
        return config
    return config.model_copy(update={"learning_rate": 30 * config.learning_rate})


def break_rows(name: str, report: Preflight) -> Preflight:
    """Token rows in which the end of a turn is not learnt."""
    if name != "end_token":
        return report
    rows = []
    for row in report.train:
        rows.append(row.model_copy(update={"labels": [*row.labels[:-1], -100]}))
    samples = {}
    for row_id, spans in report.samples.items():
        text = spans[-1][0].removesuffix(report.end_token)
        samples[row_id] = [*spans[:-1], (text, True), (report.end_token, False)]
    return report.model_copy(update={"train": rows, "samples": samples, "end_token": ""})


def break_adapter(name: str, model: TrainedModel) -> None:
    """Put zeros into the published adapter's B matrices: it adds nothing to the base any more."""
    if name == "no_op_adapter" and model.adapter:
        from safetensors.torch import load_file, save_file

        path = store.home() / Path(model.adapter) / "adapter_model.safetensors"
        weights = load_file(path)
        for key, weight in weights.items():
            if "lora_B" in key:
                weight.zero_()
        save_file(weights, path, metadata={"format": "pt"})
