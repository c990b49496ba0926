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
from helpers.tasks.task import load_task

MAX_ENUM = 30  # more distinct values than this are free text, not labels
SUFFIXES = (".jsonl", ".csv", ".parquet", ".xlsx")
INPUTS = (
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
)
OUTPUTS = (
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
)
HEADER = """# What the task is and when its model is good enough. Every number under `targets` is yours to set,
# from what the work needs, before anything is measured. `workbook run tutorial -p task=DIR` runs it.
"""


def new_task(
    folder: Path,
    data: Path | None = None,
    input_column: str = "",
    output_column: str = "",
    logs: Path | None = None,
) -> list[str]:
    """Write a task folder and return lines to print: what was inferred, and five rendered examples.

    With `data` (.jsonl, .csv, .parquet, .xlsx) the file is copied as human.*, its columns are mapped and the output's schema
    or list of labels is inferred from all rows. An existing task.yaml is never overwritten.
    """
    if (folder / "task.yaml").exists():
        raise WorkbookError(f"{folder}/task.yaml exists already; choose another folder or edit it")
    name = re.sub(r"[^a-z0-9_]+", "_", folder.name.lower()).strip("_") or "task"
    name = name if name[0].isalpha() else f"task_{name}"
    for path in (data, logs):
        if path is not None and (path.suffix not in SUFFIXES or not path.exists()):
            raise WorkbookError(f"{path}: give an existing file that ends in {', '.join(SUFFIXES)}")
    if data is None:
        return _empty_task(folder, name)
    columns = find_columns(data, input_column, output_column)
    output = infer_output(outputs := _outputs(data, columns))
    labels = columns.get("output", "").split(",")
    if columns and (len(labels) > 1 or ("text" in output and _is_label(outputs))):
        # plain labels become the properties of an object
        columns["output"] = {
            re.sub(r"\W+", "_", name.lower()).strip("_") or "label": name for name in labels
        }
        output = infer_output(_outputs(data, columns))
    described = (
        "JSON with " + ", ".join(output["schema"]["properties"]) if "schema" in output else "text"
    )
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(data, folder / f"human{data.suffix}")
    if logs is not None:
        shutil.copyfile(logs, folder / f"production{logs.suffix}")
    _write_yaml(folder, name, output, columns)
    task = load_task(str(folder))
    examples = load_examples(task).examples
    said = [
        f"{folder}: {len(examples)} rows; output: {described}; edit task.yaml, above all `targets`."
    ]
    for example in examples[:5]:
        chat = render(task, example, answer=True)
        said.append(
            "\n".join(f"  {m.role}: {' '.join((m.content or '').split())[:160]}" for m in chat)
        )
    return said


def find_columns(data: Path, input_column: str, output_column: str) -> dict[str, Any]:
    """Which columns hold input and output: those asked for, else the well-known names among them; {} for chat rows."""
    first = next((row for _, row, _ in read_rows(data) if isinstance(row, dict)), None)
    if first is None:
        raise WorkbookError(f"{data} holds no rows")
    if not input_column and ("messages" in first or {"prompt", "completion"} <= set(first)):
        return {}
    known = {str(name).lower(): str(name) for name in first}
    found = {
        "input": input_column or next((known[n] for n in INPUTS if n in known), ""),
        "output": output_column or next((known[n] for n in OUTPUTS if n in known), ""),
    }
    there = ", ".join(map(str, first))
    if missing := [
        c for c in [found["input"], *found["output"].split(",")] if c and c not in first
    ]:
        raise WorkbookError(f"{data}: no column {missing[0]!r}; it has {there}")
    if not all(found.values()) or found["input"] == found["output"]:
        raise WorkbookError(
            f"{data}: say which columns to use: --input COL --output COL (it has {there})"
        )
    return found


def _outputs(data: Path, columns: dict[str, Any]) -> list[Any]:
    """The wanted output of every row that has one, as text or as the JSON value it holds."""
    outputs: list[Any] = []
    wanted = columns.get("output")
    for line, raw, _ in read_rows(data):
        if not isinstance(raw, dict):
            raise WorkbookError(f"{data}, line {line}: {raw}; mend or delete that row")
        if isinstance(wanted, dict):
            outputs.append(
                {name: raw[column] for name, column in wanted.items() if raw.get(column)}
            )
        else:
            last = (raw.get("messages") or [{}])[-1]
            outputs.append(
                _value(raw.get(wanted) if wanted else raw.get("completion", last.get("content")))
            )
    return [value for value in outputs if value not in (None, "", {})]


def _is_label(outputs: list[Any]) -> bool:
    """Few values that repeat: an enumeration, not free text."""
    counts = Counter(map(str, outputs))
    return 1 < len(counts) <= MAX_ENUM and len(outputs) >= 3 * len(counts)


def _value(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    try:
        parsed = json.loads(text)
    except ValueError:
        return text
    return parsed if isinstance(parsed, dict) else text


def infer_output(outputs: list[Any]) -> dict[str, Any]:
    """task.yaml's `output`: a JSON Schema when every output is an object, else {"text": true}.

    A property whose values are few and repeat becomes an enumeration.
    """
    if not all(isinstance(o, dict) for o in outputs):
        return {"text": True}
    properties: dict[str, Any] = {}
    for key in dict.fromkeys(k for o in outputs for k in o):
        values = [o[key] for o in outputs if key in o]
        counts = Counter(v for v in values if isinstance(v, str))
        few = len(counts) <= MAX_ENUM and sum(counts.values()) == len(values) >= 3 * len(counts)
        properties[key] = {"enum": sorted(counts)} if few else {"type": _types(values)}
    required = [k for k in properties if all(k in o for o in outputs)]
    return {
        "schema": {
            "type": "object",
            "additionalProperties": False,
            "required": required,
            "properties": properties,
        }
    }


def _types(values: list[Any]) -> str | list[str]:
    names = {
        "str": "string",
        "int": "integer",
        "float": "number",
        "bool": "boolean",
        "NoneType": "null",
        "list": "array",
    }
    found = sorted({names.get(type(v).__name__, "object") for v in values})
    return found[0] if len(found) == 1 else found


def _write_yaml(folder: Path, name: str, output: dict[str, Any], columns: dict[str, str]) -> None:
    keys = ", ".join(output["schema"]["properties"]) if "schema" in output else ""
    ask = (
        f"Reply with one JSON object only, with the keys {keys}." if keys else "Answer the message."
    )
    content: dict[str, Any] = {
        "name": name,
        "instructions": {"full": ask, "short": ask},
        "output": output,
        **({} if keys else {"accuracy_from": "scorer"}),
        "targets": {"accuracy": 0.8, **({"format_compliance": 0.95} if keys else {})},
        **({"columns": columns} if columns else {}),
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
    store.write_text(
        folder / "task.yaml",
        HEADER + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110),
    )


def _empty_task(folder: Path, name: str) -> list[str]:
    output = {
        "schema": {
            "type": "object",
            "required": ["label"],
            "properties": {"label": {"enum": ["yes", "no"]}},
        }
    }
    _write_yaml(folder, name, output, {})
    row = {
        "messages": [
            {"role": "user", "content": "A question?"},
            {"role": "assistant", "content": '{"label":"yes"}'},
        ]
    }
    store.write_jsonl(folder / "human.jsonl", [row])
    (folder / "knowledge").mkdir(exist_ok=True)
    return [
        f"{folder}: fill in task.yaml and human.jsonl (one row is there as a pattern); knowledge/ may hold articles."
    ]
