"""`workbook new`: a task folder to fill in, or one inferred from a file the user already has."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from helpers import store
from helpers.records import TrainingExample, WorkbookError, with_calls
from helpers.tasks.csvs import UNNAMED
from helpers.tasks.encodings import TwoReadings
from helpers.tasks.examples import ONE_SYSTEM, LoadedRows, load_examples
from helpers.tasks.forms import chat_of, format_of
from helpers.tasks.infer import (
    are_labels,
    are_numbers,
    infer_output,
    instructions_for,
    json_or_text,
    property_names,
    spellings,
    typed_column,
)
from helpers.tasks.prompt import render
from helpers.tasks.reading import form_of, read_rows
from helpers.tasks.survey import survey
from helpers.tasks.task import ENDINGS, Task, load_task
from helpers.tasks.values import as_json, is_there

INPUTS = "input text message question prompt query utterance body description content"
OUTPUTS = "output label category class intent answer completion response target reply"
HEADER = """\
# What the task is and when its model is good enough. Every number under `targets` is yours to
# set, from what the work needs, before anything is measured.
# `workbook run -p task=DIR` runs it.
"""
ASKED = ("label", "group", "split", "feedback_score", "created_at")  # columns that may be asked for
TO_DECIDE = "To decide in task.yaml before it runs"
SHOWN = 5  # rendered examples
Rows = Sequence[dict[str, Any]]


def new_task(
    folder: Path,
    data: Path | None = None,
    input_column: str = "",
    output_column: str = "",
    logs: Path | None = None,
) -> list[str]:
    """Write a task folder and return lines to print: what was inferred, and five rendered examples.

    With `data` the file is copied as human.*, its columns are mapped and the output's schema or
    list of labels is inferred from all rows. All files are written or none; an existing task.yaml
    is never overwritten.
    """
    taken = [path for path in folder.glob("*") if path.stem in ("task", "human", "production")]
    if taken:
        raise WorkbookError(f"{taken[0]} exists already; choose another folder or edit it")
    for path in (data, logs):
        is_one = path is not None and path.suffix.lower() in ENDINGS and path.is_file()
        if path is not None and not is_one:
            raise WorkbookError(f"{path}: give an existing file that ends in {', '.join(ENDINGS)}")
    place = folder.parent / f".{folder.name}.partial"
    shutil.rmtree(place, ignore_errors=True)
    try:
        if data is None:
            _write_empty_task(place, folder.name)
            lines = [
                f"{folder}: fill in task.yaml and human.jsonl (one row is there as a pattern);"
                " knowledge/ may hold articles."
            ]
        else:
            place.mkdir(parents=True)
            lines = _infer_task(place, folder, data, input_column, output_column)
            lines += _described_log(load_task(str(place)), logs)
            for source, name in ((data, "human"), (logs, "production")):
                if source is not None:
                    shutil.copyfile(source, place / f"{name}{source.suffix.lower()}")
        _move(place, folder)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return lines


def _move(place: Path, folder: Path) -> None:
    """The finished files to where they belong: by one rename, or task.yaml as the last of them."""
    if not folder.exists():
        place.rename(folder)
        return
    for path in sorted(place.iterdir(), key=lambda path: path.name == "task.yaml"):
        if path.is_dir():
            (folder / path.name).mkdir(exist_ok=True)
        else:
            path.replace(folder / path.name)


def _infer_task(
    place: Path, folder: Path, data: Path, input_column: str, output_column: str
) -> list[str]:
    """task.yaml in `place`, and what to print."""
    form = form_of(data)
    rows = []
    for row in read_rows(data, form):
        if not isinstance(row.content, dict):
            raise WorkbookError(f"{data}, line {row.line}: {row.content}; mend or delete that row")
        rows.append(row.content)
    if not rows:
        raise WorkbookError(f"{data} holds no rows")
    columns = find_columns(data, _draft(place, {}), rows, input_column, output_column)
    instructions = ""
    if columns:
        answers = _answers_of_columns(rows, columns)
    else:
        draft = _draft(place, dict.fromkeys(ASKED))  # what is asked below does not matter here
        chats = load_examples(draft, path=data)
        answers = [json_or_text(each.answer) for each in chats.examples if each.answer]
        if ONE_SYSTEM in chats.reading.changes:  # what it has been asked with so far
            how = survey(draft, data, "human")[1]
            instructions = chat_of(how, rows[0])[0].content or ""
    _write_yaml(place, folder.name, infer_output(answers), columns, instructions, answers)
    task = load_task(str(place))
    lines = [f"{folder}: {len(rows)} rows of {data.name} ({form.description})"]
    try:
        lines += _described(task, load_examples(task, path=data), columns)
    except TwoReadings as question:
        lines.append(f"{TO_DECIDE}: {question}")
    return lines + _label_lines(answers)


def _described_log(task: Task, logs: Path | None) -> list[str]:
    try:
        how = survey(task, logs, "production")[1] if logs else None
    except TwoReadings as question:
        return [f"{TO_DECIDE}: {question}"]
    return [f"production: feedback: {how.scale.description}"] if how and how.scale.rows else []


def _answers_of_columns(rows: Rows, columns: dict[str, Any]) -> list[Any]:
    """The answers; columns of bare labels, and several, become the properties of an object."""
    outputs = columns["output"].split(",")
    cells = {column: [as_json(row.get(column)) for row in rows] for column in outputs}
    if len(outputs) == 1:
        answers = [json_or_text(value) for value in cells[outputs[0]] if is_there(value)]
        if all(isinstance(answer, dict) for answer in answers) or not are_labels(answers):
            return answers
    columns["output"] = property_names(outputs)
    if len(outputs) > 1:  # a column alone holds labels, whatever they look like
        cells = {column: typed_column(values) for column, values in cells.items()}
    return _objects({name: cells[column] for name, column in columns["output"].items()})


def _objects(cells: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """A row's cells as one object; those that are all empty are left out."""
    rows = [dict(zip(cells, values, strict=True)) for values in zip(*cells.values(), strict=True)]
    filled = [{name: value for name, value in row.items() if is_there(value)} for row in rows]
    return [row for row in filled if row]


def _draft(place: Path, columns: dict[str, Any]) -> Task:
    """A task that only says which columns there are."""
    return Task(
        name="draft",
        folder=place.resolve(),
        shipped=False,
        instructions_full="\0",  # no row holds them
        instructions_short="\0",
        targets={"accuracy": 0.8},
        columns=dict(columns),
    )


def find_columns(
    data: Path, draft: Task, rows: Rows, input_column: str, output_column: str
) -> dict[str, Any]:
    """Which columns hold input and output: those asked for, else well-known names among them.

    {} for rows of a known form (chats, Alpaca, …), which need none.
    """
    if not input_column and not output_column and format_of(draft, rows) != "columns":
        return {}
    names = [*dict.fromkeys(name for row in rows for name in row if UNNAMED not in str(name))]
    question, answer = _guessed(names, input_column, output_column)
    inputs = question.split(",")
    there = f"it has {', '.join(map(str, names))}"
    unknown = {*inputs, *answer.split(",")} - {"", *names}
    if unknown:
        raise WorkbookError(f"{data}: no column {min(unknown)!r}; {there}")
    if not question or not answer or answer in inputs:
        raise WorkbookError(f"{data}: say which columns to use: --input COL --output COL ({there})")
    if len(inputs) == 1:
        return {"input": question, "output": answer}
    template = "\n\n".join(f"{{{name}}}" for name in inputs)
    return {"input": inputs, "template": template, "output": answer}


def _guessed(names: Sequence[str], question: str, answer: str) -> tuple[str, str]:
    """The columns of input and output by their names, or as the other one of two."""
    question = question or _well_known(names, INPUTS)
    answer = answer or _well_known(names, OUTPUTS)
    others = [name for name in names if name not in (question, answer)]
    if len(names) == 2 and len(others) == 1:
        return question or others[0], answer or others[0]
    return question, answer


def _well_known(names: Sequence[str], known: str) -> str:
    columns = {str(column).lower(): str(column) for column in names}
    return next((columns[name] for name in known.split() if name in columns), "")


def _described(task: Task, loaded: LoadedRows, columns: dict[str, Any]) -> list[str]:
    described = "text"
    if task.schema is not None:
        described = "JSON with " + ", ".join(task.schema["properties"])
    form = loaded.reading.format if loaded.reading else ""
    lines = [f"read as {form}; output: {described}; edit task.yaml, above all `targets`."]
    if "template" in columns:
        lines.append(f"the input is composed as {columns['template']!r} (columns.template)")
    unused = [column.name for column in loaded.reading.columns if column.use == "not used"]
    if unused:
        lines.append(f"not used: {', '.join(unused)}")
    for change, n in loaded.reading.changes.items():
        lines.append(f"{change} ({n})")
    lines += [_shown(task, example) for example in loaded.examples[:SHOWN]]
    return lines


def _shown(task: Task, example: TrainingExample) -> str:
    turns = []
    for message in render(task, example, answer=True):
        text = " ".join(with_calls(message.content, message.tool_calls).split())
        turns.append(f"  {message.role}: {text[:160]}")
    return "\n".join(turns)


def _label_lines(answers: Sequence[Any]) -> list[str]:
    """Labels that are spelled in several ways."""
    lines = []
    for name in dict.fromkeys(key for a in answers if isinstance(a, dict) for key in a):
        values = [a[name] for a in answers if isinstance(a, dict) and isinstance(a.get(name), str)]
        if are_labels(values):
            for group in spellings(values):
                shown = ", ".join(map(repr, group))
                lines.append(f"{name}: {shown} look like one label; 02 asks in review.csv")
    return lines


def _write_yaml(
    place: Path,
    name: str,
    output: dict[str, Any],
    columns: dict[str, Any],
    instructions: str = "",
    answers: Sequence[Any] = (),
) -> None:
    name = re.sub(r"[^a-z0-9_]+", "_", name.lower()).strip("_") or "task"
    if not name[0].isalpha():
        name = f"task_{name}"
    targets = {"accuracy": 0.8}
    if "schema" in output:
        targets["format_compliance"] = 0.95
    full, short = (instructions, instructions) if instructions else instructions_for(output)
    content: dict[str, Any] = {
        "name": name,
        "instructions": {"full": full, "short": short},
        "output": output,
    }
    if "schema" not in output:
        content["accuracy_from"] = "scorer"
        if answers and are_numbers(answers):
            content["scorer"] = "numeric"
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
    store.write_text(place / "task.yaml", HEADER + text)


def _write_empty_task(place: Path, name: str) -> None:
    label = {"enum": ["yes", "no"]}
    schema = {"type": "object", "required": ["label"], "properties": {"label": label}}
    _write_yaml(place, name, {"schema": schema}, {})
    question = {"role": "user", "content": "A question?"}
    answer = {"role": "assistant", "content": '{"label":"yes"}'}
    store.write_jsonl(place / "human.jsonl", [{"messages": [question, answer]}])
    (place / "knowledge").mkdir(exist_ok=True)
