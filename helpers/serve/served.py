"""One registered version with everything that it needs to answer as it was trained and measured."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from helpers import evaluate, registry, store, tasks
from helpers.models import Answer
from helpers.records import (
    Asking,
    FineTunedModelVersion,
    Message,
    Parity,
    RunRecord,
    TrainedModel,
    TrainingExample,
    WorkbookError,
)
from helpers.serve.wire import ApiError, ChatRequest, ResponseFormat
from helpers.tasks import Task

OWN_TURNS = ("system", "developer")  # these are the version's, not the caller's


@dataclass(frozen=True)
class Served:
    """A version, its task, and its model.json."""

    task: Task
    version: FineTunedModelVersion
    model: TrainedModel

    @property
    def id(self) -> str:
        """The version's id, which is also its name at an engine; never used twice."""
        return self.version.id

    @property
    def asking(self) -> Asking:
        """How it was trained and measured, and is asked here."""
        return self.model.asking

    @property
    def adapter(self) -> Path | None:
        """The folder of its adapter; None for a model that lives at its provider."""
        return store.home() / self.model.adapter if self.model.adapter else None

    @property
    def checked_by(self) -> str:
        """The engine through which these very files were compared; "" where nobody did."""
        with contextlib.suppress(WorkbookError):  # a check that cannot be read is none
            parity = store.Run(self.version.run_id).load(Parity)
            if parity.artifact_sha256 == self.version.metadata.get("artifact_sha256"):
                return parity.engine
        return ""

    @cached_property
    def own_prompt(self) -> str:
        """The system prompt that it was trained with."""
        return self._prompt([Message(role="user", content="")])[0].content or ""

    def chat(self, turns: Sequence[Message]) -> list[Message]:
        """The caller's turns behind the version's own instructions.

        A system prompt of the caller's own is refused where the version was never measured with
        one; the version's own, word for word, may come along.
        """
        theirs = [t for t in turns if t.role not in OWN_TURNS or t.content != self.own_prompt]
        if not self.takes_system and any(turn.role in OWN_TURNS for turn in theirs):
            raise ApiError(
                400,
                f"{self.id} answers with the instructions that it was trained with; send the"
                " user's turns alone, without a system prompt",
                "system_prompt_not_allowed",
                "messages",
            )
        return self._prompt(theirs)

    @cached_property
    def takes_system(self) -> bool:
        """Whether the rows that it was measured on bring system messages of their own."""
        path = store.home() / "datasets" / self.model.dataset_version / "validation.jsonl"
        rows = store.read_jsonl(path) if path.exists() else []
        return any(turn["role"] in OWN_TURNS for row in rows for turn in row["messages"])

    def validation_rows(self, limit: int) -> list[TrainingExample]:
        """The verified validation rows of the dataset that it learnt from."""
        run = store.Run(self.version.run_id)
        examples = tasks.read_dataset(run).examples
        rows = evaluate.choose_rows(self.task, examples, "validation", limit)
        if not rows:
            raise WorkbookError(f"run {run.id} has no verified validation row; run 02_curate again")
        return rows

    @cached_property
    def tools(self) -> list[dict[str, Any]]:
        """The tools that it may call."""
        return self.asking.tools or self.task.tools or []

    def check_options(self, asked: ChatRequest) -> None:
        """Refuse tools, and a form of the answer, other than those that it was measured with."""
        if asked.tools and asked.tools != self.tools:
            raise ApiError(
                400,
                f"{self.id} calls the tools that it was trained with, word for word, or none"
                f" ({len(self.tools)} here); leave `tools` away",
                "tools_not_allowed",
                "tools",
            )
        if asked.response_format and not self._gives(asked.response_format):
            raise ApiError(
                400,
                f"{self.id} answers in the form of its task alone; leave `response_format` away",
                "response_format_not_allowed",
                "response_format",
            )

    def _gives(self, form: ResponseFormat) -> bool:
        """Whether its answers have this form: any text, an object, or one of the same fields."""
        schema = self.task.schema
        if form.type == "text":
            return True
        if schema is None or form.type == "json_object":
            return schema is not None
        return form.fields.keys() == schema.get("properties", {}).keys()

    def is_well_formed(self, answer: Answer) -> bool:
        """Whether an answer has the task's format, as 04 judged it."""
        reason = evaluate.format_reason(answer.text, self.task.schema, answer.finish)
        return answer.finish != "error" and not reason

    def says_the_same(self, answer: str, other: str) -> bool:
        """Whether two answers mean the same: equal scored fields, or equal texts but for spaces."""
        ours = evaluate.strict_json(answer)
        theirs = evaluate.strict_json(other)
        if not self.task.scored_fields or ours is None or theirs is None:
            return tasks.normalise(answer) == tasks.normalise(other)
        return all(ours.get(name) == theirs.get(name) for name in self.task.scored_fields)

    def _prompt(self, turns: Sequence[Message]) -> list[Message]:
        example = TrainingExample(
            id="live",
            messages=list(turns),
            source="production",
            quality="unverified",
            created_at=self.version.trained_at,
            group="live",
        )
        return evaluate.build_prompts(self.asking, self.task, [example])[0]


def open_version(version: FineTunedModelVersion, folders: Mapping[str, str]) -> Served:
    """Check and read what a version is made of; WorkbookError says why it may not serve.

    `folders`: registered name of a task -> its folder, where the command line gave one.
    """
    registry.check_files(version)
    run = store.Run(version.run_id)
    model = run.load(TrainedModel)
    if model.version != version.id:
        raise WorkbookError(
            f"run {run.id} holds the model of {model.version}, not of {version.id}; restore its"
            " model.json"
        )
    task = task_of(version, folders)
    check_prompt(task, model)
    return Served(task, version, model)


def task_of(version: FineTunedModelVersion, folders: Mapping[str, str]) -> Task:
    """The task folder of a version: as given, the shipped one, or the one that its run had."""
    demo, slash, name = version.task.partition("/")
    if version.task in folders:
        return tasks.load_task(folders[version.task])
    if slash and demo == "demo":
        return tasks.load_task(name)
    run = store.Run(version.run_id)
    folder = run.load(RunRecord).params.get("task") if run.has(RunRecord) else None
    if not folder:
        raise WorkbookError(
            f"nobody wrote down where the task folder of {version.task} is;"
            " say workbook serve --task FOLDER"
        )
    return tasks.load_task(str(folder))


def check_prompt(task: Task, model: TrainedModel) -> None:
    """Refuse another system prompt than the one of training: it may halve what a model can do."""
    style = model.asking.style
    text = task.instructions_short if style == "short" else task.instructions_full
    present = hashlib.sha256(text.encode()).hexdigest()
    trained = model.fingerprints.get("system_prompt", "")
    if trained and trained != present and not model.asking.wording:
        raise WorkbookError(
            f"the {style} instructions in {task.folder / 'task.yaml'} are not the ones that"
            f" {model.version} was trained with ({present[:12]} instead of {trained[:12]});"
            " restore them, or train again"
        )
