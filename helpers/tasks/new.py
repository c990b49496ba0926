"""`workbook new`: a task folder to fill in, or one inferred from a file the user already has."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from helpers import store
from helpers.records import WorkbookError
from helpers.tasks.examples import load_examples
from helpers.tasks.prompt import render
from helpers.tasks.reading import read_rows
from helpers.tasks.task import ENDINGS, load_task

MAX_ENUM = 30  # more distinct values than this are free text, not labels
INPUTS = [
    "input",
    "text",
    "message",
    "question",
    "prompt",
    "query",
    "utterance",
    "body",
    "description",
    "content",
]
OUTPUTS = [
    "output",
    "label",
    "category",
    "class",
    "intent",
    "answer",
    "completion",
    "response",
    "target",
    "reply",
]
HEADER = """\
# What the task is and when its model is good enough. Every number under `targets` is yours to
# set, from what the work needs, before anything is measured.
# `workbook run tutorial -p task=DIR` runs it.
"""
JSON_TYPES = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "NoneType": "null",
    "list": "array",
}


def new_task(
    folder: Path,
    data: Path | None = None,
    input_column: str = "",
    output_column: str = "",
    logs: Path | None = None,
) -> list[str]:
    """Write a task folder and return lines to print: what was inferred, and five rendered examples.

    With `data` (.jsonl, .csv, .parquet, .xlsx) the file is copied as human.*, its columns are
    mapped and the output's schema or list of labels is inferred from all rows. An existing
    task.yaml is never overwritten.
    """
    if (folder / "task.yaml").exists():
        raise WorkbookError(f"{folder}/task.yaml exists already; choose another folder or edit it")
    for path in (data, logs):
        if path is not None and (path.suffix not in ENDINGS or not path.exists()):
            raise WorkbookError(f"{path}: give an existing file that ends in {', '.join(ENDINGS)}")
    if data is None:
        return _empty_task(folder)
    columns = find_columns(data, input_column, output_column)
    output = _map_output(data, columns)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(data, folder / f"human{data.suffix}")
    if logs is not None:
        shutil.copyfile(logs, folder / f"production{logs.suffix}")
    _write_yaml(folder, output, columns)
    task = load_task(str(folder))
    examples = load_examples(task).examples
    described = "text"
    if task.schema is not None:
        described = "JSON with " + ", ".join(task.schema["properties"])
    lines = [
        f"{folder}: {len(examples)} rows; output: {described}; edit task.yaml, above all `targets`."
    ]
    for example in examples[:5]:
        turns = []
        for message in render(task, example, answer=True):
            text = " ".join((message.content or "").split())
            turns.append(f"  {message.role}: {text[:160]}")
        lines.append("\n".join(turns))
    return lines


def find_columns(data: Path, input_column: str, output_column: str) -> dict[str, Any]:
    """Which columns hold input and output: those asked for, else well-known names among them.

    {} for chat rows, which need none.
    """
    first = next((row.content for row in read_rows(data) if isinstance(row.content, dict)), None)
    if first is None:
        raise WorkbookError(f"{data} holds no rows")
    if not input_column and ("messages" in first or {"prompt", "completion"} <= set(first)):
        return {}
    columns = {
        "input": input_column or _well_known(first, INPUTS),
        "output": output_column or _well_known(first, OUTPUTS),
    }
    there = ", ".join(map(str, first))
    for name in [columns["input"], *columns["output"].split(",")]:
        if name and name not in first:
            raise WorkbookError(f"{data}: no column {name!r}; it has {there}")
    if not all(columns.values()) or columns["input"] == columns["output"]:
        raise WorkbookError(
            f"{data}: say which columns to use: --input COL --output COL (it has {there})"
        )
    return columns


def _well_known(row: dict[str, Any], names: list[str]) -> str:
    columns = {str(column).lower(): str(column) for column in row}
    return next((columns[name] for name in names if name in columns), "")


def _map_output(data: Path, columns: dict[str, Any]) -> dict[str, Any]:
    """task.yaml's `output`; columns of bare labels become the properties of an object."""
    answers = _answers(data, columns)
    output = infer_output(answers)
    labels = columns.get("output", "").split(",")
    if columns and (len(labels) > 1 or ("text" in output and _are_labels(answers))):
        columns["output"] = {
            re.sub(r"\W+", "_", name.lower()).strip("_") or "label": name for name in labels
        }
        output = infer_output(_answers(data, columns))
    return output


def _answers(data: Path, columns: dict[str, Any]) -> list[Any]:
    """The gold answer of every row that has one, as text or as the JSON value it holds."""
    answers: list[Any] = []
    output = columns.get("output")
    for line, raw, _ in read_rows(data):
        if not isinstance(raw, dict):
            raise WorkbookError(f"{data}, line {line}: {raw}; mend or delete that row")
        if isinstance(output, dict):
            answer = {name: raw[column] for name, column in output.items() if raw.get(column)}
        elif output:
            answer = _parsed(raw.get(output))
        else:
            last_turn = (raw.get("messages") or [{}])[-1]
            answer = _parsed(raw.get("completion", last_turn.get("content")))
        if answer not in (None, "", {}):
            answers.append(answer)
    return answers


def _are_labels(answers: list[Any]) -> bool:
    """Few values that repeat: an enumeration, not free text."""
    counts = Counter(map(str, answers))
    return 1 < len(counts) <= MAX_ENUM and len(answers) >= 3 * len(counts)


def _parsed(answer: Any) -> Any:
    """The object that a text spells, else the answer as it is."""
    try:
        value = json.loads(answer)
    except (TypeError, ValueError):
        return answer
    return value if isinstance(value, dict) else answer


def infer_output(answers: list[Any]) -> dict[str, Any]:
    """task.yaml's `output`: a JSON Schema when every answer is an object, else {"text": true}.

    A property whose values are few and repeat becomes an enumeration.
    """
    values: dict[str, list[Any]] = {}
    for answer in answers:
        if not isinstance(answer, dict):
            return {"text": True}
        for name, value in answer.items():
            values.setdefault(name, []).append(value)
    properties = {name: _property_of(each) for name, each in values.items()}
    schema = {
        "type": "object",
        "additionalProperties": False,
        "required": [name for name, each in values.items() if len(each) == len(answers)],
        "properties": properties,
    }
    return {"schema": schema}


def _property_of(values: list[Any]) -> dict[str, Any]:
    labels = {value for value in values if isinstance(value, str)}
    all_texts = all(isinstance(value, str) for value in values)
    if all_texts and len(labels) <= MAX_ENUM and len(values) >= 3 * len(labels):
        return {"enum": sorted(labels)}
    types = sorted({JSON_TYPES.get(type(value).__name__, "object") for value in values})
    return {"type": types[0] if len(types) == 1 else types}


def _write_yaml(folder: Path, output: dict[str, Any], columns: dict[str, Any]) -> None:
    name = re.sub(r"[^a-z0-9_]+", "_", folder.name.lower()).strip("_") or "task"
    if not name[0].isalpha():
        name = f"task_{name}"
    instructions = "Answer the message."
    targets = {"accuracy": 0.8}
    if "schema" in output:
        keys = ", ".join(output["schema"]["properties"])
        instructions = f"Reply with one JSON object only, with the keys {keys}."
        targets["format_compliance"] = 0.95
    content: dict[str, Any] = {
        "name": name,
        "instructions": {"full": instructions, "short": instructions},
        "output": output,
    }
    if "schema" not in output:
        content["accuracy_from"] = "scorer"
    content["targets"] = targets
    if columns:
        content["columns"] = columns
    content |= {
        "replace": "better",
        "volume_per_month": 1000,
        "data_may_leave": False,
        "prices": {
            "as_of": str(store.now().date()),
            "hardware_usd_per_hour": 0.1,
            "models": {},
            "person_usd_per_hour": 40,
        },
    }
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)
    store.write_text(folder / "task.yaml", HEADER + text)


def _empty_task(folder: Path) -> list[str]:
    label = {"enum": ["yes", "no"]}
    schema = {"type": "object", "required": ["label"], "properties": {"label": label}}
    _write_yaml(folder, {"schema": schema}, {})
    question = {"role": "user", "content": "A question?"}
    answer = {"role": "assistant", "content": '{"label":"yes"}'}
    store.write_jsonl(folder / "human.jsonl", [{"messages": [question, answer]}])
    (folder / "knowledge").mkdir(exist_ok=True)
    return [
        f"{folder}: fill in task.yaml and human.jsonl (one row is there as a pattern); knowledge/"
        " may hold articles."
    ]
