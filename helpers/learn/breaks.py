"""Break it on purpose: one thing is wrong for real, and the workbook's instruments should say so.

A run that was broken stays marked in its folder: the gate never lets it serve, whatever is forced.
Only the shipped tasks can be broken, and these register under demo/.
"""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
from collections import deque
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from helpers import monitor, registry, store, tasks
from helpers.curate import Curated
from helpers.learn.material import judged_on_noise
from helpers.models import Answer, Model
from helpers.parameters import BROKEN
from helpers.records import (
    Evaluation,
    FineTunedModelVersion,
    Message,
    TrainedModel,
    TrainingExample,
    WorkbookError,
)
from helpers.train import LoraTrainingConfig, OpenAIJobConfig, Preflight

BREAKS = {
    "leak": "02: a third of the test rows are copied into train, after all checks",
    "shuffled_labels": "02: half of the train rows get the answer of another row",
    "end_token": "03a: no loss is taken on the token that ends a turn",
    "learning_rate": "03a: steps are thirty times as long",
    "no_op_adapter": "03a: the adapter is published with weights that do nothing",
    "endless_job": "03b: the job at the practice API never leaves validation",
    "longer_wins": "04: a judge decides what is right, and prefers the longer answer",
    "exchanged_adapter": "05: the adapter's file is another one than the one that 04 measured",
    "noise": "05: the version is the luckiest of twenty that are no better than the cheaper rung",
    "torn_registry": "05: the file of the registry (of a copy of this home) ends in its middle",
    "turned_scale": "06: in the last week raters gave 1 for the best and 5 for the worst",
    "drift": "06: in the last week customers asked about something new, and at length",
}
Config = TypeVar("Config", LoraTrainingConfig, OpenAIJobConfig)
SEED = 20
LAST_DAYS = 7  # of a live log, in which something is different
NEW_TOPIC = (
    "My scooter subscription says that its batteries are swapped weekly at the kiosk, but the kiosk"
    " near the tramway keeps blinking and swallows my deposit. Please explain the swap voucher."
)


def _mark(name: str, run: store.Run, task_name: str) -> None:
    """Note in the run's folder what is broken; "" breaks nothing, and heals no run either.

    `task_name` is the registry's: that of a shipped task begins with demo/.
    """
    if not name:
        return
    if name not in BREAKS:
        raise WorkbookError(f"break_it {name!r}: known are {', '.join(BREAKS)}")
    if not task_name.startswith("demo/"):
        raise WorkbookError(f"break_it is for the shipped tasks; {task_name} is your own")
    store.write_json(run.path(BROKEN), {"break_it": name, "what": BREAKS[name]})


def break_data(name: str, curated: Curated, run: store.Run) -> Curated:
    """The curated rows with a leak, or with shuffled labels; "" leaves them as they are."""
    _mark(name, run, curated.task.registry_name)
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
    return dataclasses.replace(
        curated, examples=examples, params=curated.params | {"break_it": name}
    )


def _copy(example: TrainingExample) -> TrainingExample:
    """The same row as a stranger: another id, another conversation, in train."""
    changes = {"id": f"copy-{example.id}", "group": f"copy-{example.group}", "part": "train"}
    return example.model_copy(update=changes)


def _answered(example: TrainingExample, other: TrainingExample) -> TrainingExample:
    """The question of one row with the answer of another."""
    return example.model_copy(update={"messages": [*example.prompt, other.messages[-1]]})


def break_settings(name: str, config: Config, run: store.Run, task: tasks.Task) -> Config:
    """The settings with steps that are far too long, or for a job that never ends."""
    _mark(name, run, task.registry_name)
    changes: dict[str, Any] = {}
    if name == "learning_rate":
        changes = {"learning_rate": 30 * config.learning_rate}
    elif name == "endless_job":
        if config.base_url != "practice":
            raise WorkbookError('endless_job is for the practice API: base_url = "practice"')
        # the practice API reads what shall go wrong from the model's suffix
        deadline = min(1.0, config.job_deadline_minutes)
        changes = {"model_suffix": "stuck_validating", "job_deadline_minutes": deadline}
    return config.model_copy(update=changes)


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


class LongerWins:
    """A judging model that prefers the longer answer, whatever it says."""

    name = spec = fingerprint = "longer-wins"
    provider = "local"
    is_loopback = True

    def answer(self, chats: Sequence[list[Message]], max_new_tokens: int) -> list[Answer]:
        """A or B, by the number of characters."""
        answers = []
        for chat in chats:
            pair = (chat[-1].content or "").rpartition("Answer A:\n")[2]
            a, _, b = pair.partition("\n\nAnswer B:\n")
            choice = "A" if len(a) > len(b) else "B"
            none = {"tokens_in": 0, "tokens_out": 0, "latency_ms": 0.0}
            answers.append(Answer(text=choice, finish="stop", **none))
        return answers

    def count_tokens(self, chat: list[Message]) -> int:
        """None: nothing is rendered."""
        return 0


def break_judge(
    name: str, judge: Model | None, run: store.Run, task: tasks.Task
) -> tuple[tasks.Task, Model | None]:
    """(the task, who judges it): a scorer's task becomes one of that judge."""
    _mark(name, run, task.registry_name)
    if name != "longer_wins":
        return task, judge
    return task.model_copy(update={"accuracy_from": "judge"}), LongerWins()


def break_registry(name: str, run: store.Run, task: tasks.Task) -> None:
    """Go on in a copy of this home, in the run's folder, since the registry is what breaks.

    The kernel stays there. A second call finds the copy as it was left, repaired or not.
    """
    _mark(name, run, task.registry_name)
    if name not in ("noise", "torn_registry"):
        return
    if os.environ.get("WORKBOOK_DATABASE_URL"):
        raise WorkbookError(f"{name} is for registry.db of a home: unset WORKBOOK_DATABASE_URL")
    copy = run.path(f"home_{name}").resolve()
    is_new = not copy.exists()
    if is_new:
        _copy_home(copy)
    os.environ["WORKBOOK_HOME"] = str(copy)
    if is_new and name == "torn_registry":
        registry.backup(copy / "registry-backup.json")
        file = copy / "registry.db"
        os.truncate(file, file.stat().st_size // 2)


def _copy_home(copy: Path) -> None:
    """Files are copied, folders linked; but `runs` is a folder of links, for runs of its own."""
    entries = [entry for entry in store.home().iterdir() if entry.name != "runs"]
    store.make_folder(copy / "runs")
    for entry in [*entries, *(store.home() / "runs").iterdir()]:
        place = copy / entry.relative_to(store.home())
        if entry.is_dir():
            place.symlink_to(entry)
        else:
            shutil.copy2(entry, place)


def break_version(
    name: str, version: FineTunedModelVersion, run: store.Run, task: tasks.Task
) -> FineTunedModelVersion:
    """The version to ask about: this one, with a byte changed, or the luckiest of twenty others.

    Of a version in production nothing is changed.
    """
    if name == "noise":
        return _luckiest(run, task)
    adapter = run.load(TrainedModel).adapter
    if name != "exchanged_adapter" or not adapter:
        return version
    if version.status == "production":
        raise WorkbookError(f"{version.id} serves: break a run of its own (run_id)")
    path = store.home() / Path(adapter) / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    return version


def _luckiest(run: store.Run, task: tasks.Task) -> FineTunedModelVersion:
    """Register twenty candidates that are no better; the last one has the highest score."""
    manager = registry.FineTuneLifecycleManager(task.registry_name)
    model = run.load(TrainedModel)
    for number, evaluation in enumerate(judged_on_noise(run.load(Evaluation), task), 1):
        its_run = store.open_run(f"{run.id[:60]}.noise-{number:02d}")
        its_id = f"{model.version}-noise-{number:02d}"
        _mark("noise", its_run, task.registry_name)
        its_run.save(model.model_copy(update={"version": its_id, "model_id": its_id}))
        its_run.save(evaluation.model_copy(update={"version": its_id}))
        version = manager.register(its_run)
    return version


def break_live(name: str, live_path: str, run: store.Run, task: tasks.Task) -> str:
    """The path of a copy of the live log whose last week is different, or `live_path` itself."""
    _mark(name, run, task.registry_name)
    if name not in ("turned_scale", "drift"):
        return live_path
    rows: list[dict[str, Any]] = []
    for file in monitor.read_live(task, live_path).files:
        rows += [row for row in store.read_jsonl(file) if "messages" in row]
    newest = max(datetime.fromisoformat(row["created_at"]) for row in rows)
    ratings: deque[float] = deque()  # of the days before; in the last week they come again
    for row in rows:
        is_late = newest - datetime.fromisoformat(row["created_at"]) < timedelta(days=LAST_DAYS)
        if is_late and name == "drift":
            row["messages"][-1]["content"] += f" {NEW_TOPIC}"
        if not row.get("feedback_score"):
            continue
        if is_late:
            ratings.rotate(-1)
            row["feedback_score"] = ratings[0] if name == "drift" else 6 - ratings[0]
        else:
            ratings.append(row["feedback_score"])
    return str(store.write_jsonl(run.path("broken_live.jsonl"), rows))
