"""`workbook new`: a task folder to fill in, or one inferred from a file the user already has."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from helpers import store
from helpers.records import TrainingExample, WorkbookError, with_calls
from helpers.tasks.csvs import UNNAMED
from helpers.tasks.encodings import TwoReadings
from helpers.tasks.examples import ONE_SYSTEM, LoadedRows, load_examples
from helpers.tasks.forms import LIKES, chat_of, format_of
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
from helpers.tasks.scales import UNRATED
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
MEASURES = {  # of a text task, by its scorer: what counts as right, and the line that changes it
    "numeric": "accuracy_from: scorer, scorer: numeric: the last number has to have the same value;"
    " a comma before three digits groups them (83,648 is 83648), a single point is decimal (83.648"
    " is below 84); `scorer: exact` in task.yaml compares texts",
    "exact": "accuracy_from: scorer means `exact`: the whole text has to be the same; for free"
    " text write `scorer: chrf` or `accuracy_from: judge` in task.yaml",
}
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
    no_chat = "; messages is no list of turns" if "messages" in names else ""
    there = f"it has {', '.join(map(str, names))}{no_chat}"
    unknown = {*inputs, *answer.split(",")} - {"", *names}
    if unknown:
        raise WorkbookError(f"{data}: no column {min(unknown)!r}; {there}")
    if not question or not answer or answer in inputs:
        raise WorkbookError(
            f"{data}: say which columns to use: --input COL --output COL, which cannot be the same"
            f" one ({there})"
        )
    _refuse_empty(data, rows, inputs)
    if len(inputs) == 1:
        return {"input": question, "output": answer}
    template = "\n\n".join(f"{{{name}}}" for name in inputs)
    return {"input": inputs, "template": template, "output": answer}


def _refuse_empty(data: Path, rows: Rows, inputs: Sequence[str]) -> None:
    n = sum(not any(is_there(row.get(name)) for name in inputs) for row in rows)
    if n:
        raise WorkbookError(
            f"{data}: {n} of {len(rows)} rows have nothing in {' or '.join(inputs)}; fill them in,"
            " or delete those rows"
        )


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
    described = f"text; {MEASURES[task.scorer]}"
    if task.schema is not None:
        described = "JSON with " + ", ".join(task.schema["properties"])
    lines = [
        f"read as {loaded.reading.format}; output: {described}",
        "edit task.yaml, above all `targets`",
    ]
    if "template" in columns:
        lines.append(f"the input is composed as {columns['template']!r} (columns.template)")
    unused = [column.name for column in loaded.reading.columns if column.use == "not used"]
    if unused:
        lines.append(f"not used: {', '.join(unused)}")
    lines += [f"{change} ({n})" for change, n in loaded.reading.changes.items()]
    lines += _noted(loaded.examples, unused)
    answered = [example for example in loaded.examples if example.answer.strip()]
    return lines + [_shown(task, example) for example in answered[:SHOWN]]


def _noted(examples: Sequence[TrainingExample], unused: Sequence[str]) -> list[str]:
    """What the first rows do not show: how many lack something, are bad, or say their part."""
    parts = Counter(example.part for example in examples if example.part)
    labels = Counter(example.preference.label for example in examples if example.preference)
    shown = ", ".join(f"{n} {part}" for part, n in parts.items())
    said = {
        "have no answer: nothing can be learnt from them": sum(
            not example.answer.strip() for example in examples
        ),
        "have an empty input": sum(not example.user_text.strip() for example in examples),
        "are label: false, not learnt": labels[False],
        f"stand in the part that `split` says: {shown}": parts.total(),
    }
    ratings = [name for name in unused if _are_ratings(examples, name)]
    return [
        *(f"{n} of {len(examples)} rows {what}" for what, n in said.items() if n),
        *(f"`{name}` looks like ratings: columns.feedback_score in task.yaml" for name in ratings),
    ]


def _are_ratings(examples: Sequence[TrainingExample], column: str) -> bool:
    """Whether an unused column holds thumbs, 1 to 5, or words for good and bad."""
    texts = (str(example.meta.get("fields", {}).get(column, "")) for example in examples)
    values = {text.strip().casefold().removesuffix(".0") for text in texts} - {*UNRATED}
    return {LIKES.get(v) for v in values} == {5.0, 1.0} or {"1", "5"} <= values <= set("12345")


def _shown(task: Task, example: TrainingExample) -> str:
    turns = [
        (message.role, " ".join(with_calls(message.content, message.tool_calls).split()))
        for message in render(task, example, answer=True)
    ]
    return "\n".join(f"  {role}: {text[:160]}" for role, text in turns)


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
    properties = {"label": {"enum": ["yes", "no"]}}
    schema = {"type": "object", "required": ["label"], "properties": properties}
    _write_yaml(place, name, {"schema": schema}, {})
    turns = [
        {"role": "user", "content": "A question?"},
        {"role": "assistant", "content": '{"label":"yes"}'},
    ]
    store.write_jsonl(place / "human.jsonl", [{"messages": turns}])
    (place / "knowledge").mkdir(exist_ok=True)
