"""task.yaml: the one file that says what a task is and when its model is good enough."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from helpers import store
from helpers.records import Record, WorkbookError

SHIPPED = Path(__file__).resolve().parent
METRICS = ("accuracy", "format_compliance", "latency_p95", "cost_per_request")


class Task(Record):
    """What a user brings in task.yaml, checked; paths are absolute."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    folder: Path
    shipped: bool
    instructions_full: str = Field(min_length=1)
    instructions_short: str = Field(min_length=1)
    wordings: list[str] = Field(
        default_factory=list
    )  # other full instructions that a prompt search may try
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    scored_fields: list[str] = Field(default_factory=list)
    accuracy_from: Literal["fields", "scorer", "judge", "human"] = "fields"
    scorer: str = "exact"  # contains, numeric[:tolerance], chrf[:least], semantic[:least], tool_calls, module:function
    rubric: str = ""  # when an answer is right, in words for a judge or people
    targets: dict[str, float]
    margins: dict[str, float] = Field(default_factory=dict)
    replace: Literal["better", "not_worse"] = "better"
    columns: dict[str, Any] = Field(default_factory=dict)
    volume_per_month: int = Field(0, ge=0)
    prices: dict[str, Any] = Field(default_factory=dict)
    data_may_leave: bool = False
    screening: dict[str, Any] = Field(default_factory=dict)
    incumbent: dict[str, Any] = Field(
        default_factory=dict
    )  # what runs today: {instructions, model, base_url} or {answers}

    @field_validator("targets", "margins")
    @classmethod
    def _known_metrics(cls, value: dict[str, float]) -> dict[str, float]:
        if unknown := sorted(set(value) - set(METRICS)):
            raise ValueError(f"unknown metric {unknown[0]!r}; known are {', '.join(METRICS)}")
        return value

    @model_validator(mode="after")
    def _fields_are_in_the_schema(self) -> Task:
        if not self.targets:
            raise ValueError(
                "targets are missing; say what the task needs, for example targets: {accuracy: 0.8}"
            )
        known = (self.schema_ or {}).get("properties", {})
        if high := [m for m in METRICS[:2] if self.targets.get(m, 0) >= 1]:
            raise ValueError(
                f"targets.{high[0]} is {self.targets[high[0]]:g}, which no number of rows can show; lower it"
            )
        if missing := [f for f in self.scored_fields if f not in known]:
            raise ValueError(f"scored field {missing[0]!r} is not a property of output.schema")
        return self

    @property
    def schema(self) -> dict[str, Any] | None:  # type: ignore[override]
        """The JSON Schema of an answer, or None for a text task."""
        return self.schema_

    @property
    def registry_name(self) -> str:
        """The name its versions are registered under; shipped tasks never mix with real ones."""
        return f"demo/{self.name}" if self.shipped else self.name

    @cached_property
    def fingerprint(self) -> str:
        """Changes whenever what the model is asked for changes."""
        return store.fingerprint(
            [self.instructions_full, self.instructions_short, self.schema_, self.scored_fields]
        )

    def data_file(self, source: str) -> Path | None:
        """human.* or production.* of the folder (None when there is none; two are an error)."""
        found = [
            p
            for ending in ("jsonl", "csv", "parquet", "xlsx")
            if (p := self.folder / f"{source}.{ending}").exists()
        ]
        if len(found) > 1:
            raise WorkbookError(
                f"{self.folder}: both {found[0].name} and {found[1].name} exist; keep one of them"
            )
        return found[0] if found else None


def shipped_tasks() -> list[str]:
    """Names of the tasks that come with the workbook."""
    return sorted(p.parent.name for p in SHIPPED.glob("*/task.yaml"))


def load_task(name_or_path: str) -> Task:
    """A shipped task by name, or any folder with a task.yaml (relative to the caller's or the project's folder)."""
    shipped = name_or_path in shipped_tasks()
    folder = SHIPPED / name_or_path if shipped else Path(name_or_path).expanduser()
    folder = folder if folder.exists() else store.PROJECT / folder  # an absolute path stays itself
    path = folder / "task.yaml"
    if not path.exists():
        raise WorkbookError(
            f"{path} is missing; shipped tasks are {', '.join(shipped_tasks())}, and `workbook new DIR` makes a folder for yours"
        )
    raw = _yaml(path)
    raw["folder"], raw["shipped"] = folder.resolve(), shipped
    try:
        return Task(**_flat(raw, path))
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]).removesuffix("_") if first["loc"] else "targets"
        what = first["msg"].removeprefix("Value error, ")
        raise WorkbookError(f"{path}, line {_line_of(path, key)}: {key}: {what}") from None


def _yaml(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        raise WorkbookError(
            f"{path}, line {line}: not valid YAML ({getattr(error, 'problem', error)})"
        ) from None
    if not isinstance(raw, dict):
        raise WorkbookError(
            f"{path}, line 1: should be a mapping with name, instructions, output, targets"
        )
    return raw


def _flat(raw: dict[str, Any], path: Path) -> dict[str, Any]:
    """task.yaml nests instructions and output for the reader; the record is flat."""
    raw = dict(raw)
    instructions = raw.pop("instructions", None)
    if not isinstance(instructions, dict) or "full" not in instructions:
        raise WorkbookError(
            f"{path}, line {_line_of(path, 'instructions')}: instructions: give `full` (and `short`)"
        )
    raw["instructions_full"] = str(instructions["full"]).strip()
    raw["instructions_short"] = str(instructions.get("short") or instructions["full"]).strip()
    raw["wordings"] = list(instructions.get("wordings") or [])
    output = raw.pop("output", {"text": True})
    if not isinstance(output, dict) or not ("schema" in output or output.get("text")):
        raise WorkbookError(
            f"{path}, line {_line_of(path, 'output')}: output: give `schema: <JSON Schema>` or `text: true`"
        )
    raw["schema"] = output.get("schema")
    raw.setdefault("targets", {})
    if raw["schema"] and not raw.get("scored_fields"):
        raw["scored_fields"] = list(raw["schema"].get("properties", {}))
    if isinstance(raw.get("prices"), dict) and "as_of" in raw["prices"]:
        raw["prices"] = raw["prices"] | {"as_of": str(raw["prices"]["as_of"])}
    return raw


def _line_of(path: Path, key: str) -> int:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.split(":")[0].strip() == key:
            return number
    return 1
