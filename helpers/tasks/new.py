"""`workbook new`: a task folder to fill in, or one inferred from a file the user already has."""

from __future__ import annotations

import copy
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from helpers import store
from helpers.records import TrainingExample, WorkbookError, with_calls
from helpers.tasks.examples import ONE_SYSTEM, LoadedRows, content_id, load_examples
from helpers.tasks.forms import chat_of
from helpers.tasks.infer import (
    are_numbers,
    infer_output,
    instructions_for,
    json_or_text,
    property_names,
    spellings,
)
from helpers.tasks.interview import (
    KIND,
    POLICY,
    Interview,
    Question,
    find_columns,
    kind_of_answers,
    of_columns,
    of_kind,
)
from helpers.tasks.prompt import render
from helpers.tasks.reading import form_of, read_rows
from helpers.tasks.survey import survey
from helpers.tasks.task import ENDINGS, Json, Task, load_task
from helpers.tasks.textfiles import Row, RowError, TwoReadings
from helpers.tasks.turns import answer_in
from helpers.tasks.values import as_json, as_text, is_there, value_at

HEADER = """\
# What the task is and when its model is good enough. Every number under `targets` is yours to
# set, from what the work needs, before anything is measured.
# `workbook run -p task=DIR` runs it.
"""
SHOWN = 5  # rendered examples
MEASURES = {  # of a text task, by its scorer: what counts as right, and the line that changes it
    "chrf": "accuracy_from: scorer, scorer: chrf: a text that is alike is right",
    "numeric": "accuracy_from: scorer, scorer: numeric: the last number has to have the same value;"
    " unless columns.decimal says otherwise, 83,648 is 83648 and 83.648 is below 84; `scorer:"
    " exact` in task.yaml compares texts",
    "exact": "accuracy_from: scorer means `exact`: the whole text has to be the same; for free"
    " text write `scorer: chrf` or `accuracy_from: judge` in task.yaml",
}
Rows = Sequence[Row]


def new_task(
    folder: Path,
    data: Path | None = None,
    input_column: str = "",
    output_column: str = "",
    logs: Path | None = None,
    interview: Interview | None = None,
) -> list[str]:
    """Write a task folder and return lines to print: what was inferred, and five rendered examples.

    With `data` the file is copied as human.*, its columns are mapped and the output's schema or
    list of labels is inferred from all rows; what it leaves open is asked by `interview`. All files
    are written or none; an existing task.yaml is never overwritten.
    """
    interview = interview or Interview()
    for key, column in (("columns.input", input_column), ("columns.output", output_column)):
        if column and interview.given.setdefault(key, column) != column:
            raise WorkbookError(f"--{key[8:]} {column} and --set {key}={interview.given[key]}: two")
    sources = {name: path for name, path in (("human", data), ("production", logs)) if path}
    _refuse_places(folder, list(sources.values()))
    place = folder.parent / f".{folder.name}.partial"
    shutil.rmtree(place, ignore_errors=True)
    try:
        if data is None:
            _write_empty_task(place, folder.name, interview)
            lines = [
                f"{folder}: fill in task.yaml and human.jsonl (one row is there as a pattern);"
                " knowledge/ may hold articles."
            ]
        else:
            place.mkdir(parents=True)
            lines = _infer_task(place, folder, data, logs, interview)
            for name, source in sources.items():
                shutil.copyfile(source, place / f"{name}{source.suffix.lower()}")
        _move(place, folder)
    except TwoReadings as two:  # before there is a task.yaml
        flags = " or ".join(f"--set {two.key}={option}" for option in two.options)
        raise WorkbookError(f"{two.problem}: {flags}") from None
    except (WorkbookError, RowError) as error:
        raise WorkbookError(str(error).replace(str(place), str(folder))) from None
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return lines


def _refuse_places(folder: Path, sources: Sequence[Path]) -> None:
    """WorkbookError for a folder that holds a task already, and for what is no file of rows."""
    taken = [path for path in folder.glob("*") if path.stem in ("task", "human", "production")]
    if taken:
        raise WorkbookError(f"{taken[0]} exists already; choose another folder or edit it")
    for path in sources:
        if path.suffix.lower() not in ENDINGS or not path.is_file():
            raise WorkbookError(f"{path}: give an existing file that ends in {', '.join(ENDINGS)}")


def _move(place: Path, folder: Path) -> None:
    """The finished files to where they belong: by one rename, or task.yaml as the last of them."""
    if folder.exists():
        task = "task.yaml"
        shutil.copytree(place, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(task))
        (place / task).replace(folder / task)
    else:
        place.rename(folder)


def _infer_task(
    place: Path, folder: Path, data: Path, logs: Path | None, interview: Interview
) -> list[str]:
    """task.yaml in `place`, and what to print."""
    form = interview.read(lambda: form_of(data, _draft(place, interview).encoding))
    rows = []
    for row in read_rows(data, form):
        if not isinstance(row.content, dict):
            raise WorkbookError(f"{data}, line {row.line}: {row.content}; mend or delete that row")
        rows.append(row.content)
    if not rows:
        raise WorkbookError(f"{data} ({form.description}) holds no rows")
    content = _inferred(place, data, rows, interview)
    for key in interview.given:
        if key == "measure" or key.startswith(KIND):
            asked = as_text(content.get("columns", {}).get("output", "none"))
            raise WorkbookError(
                f"--set {key}: these rows leave no such thing open; {KIND}COLUMN (labels, text,"
                f" number) is of a column of answers ({asked}), and measure ({', '.join(MEASURES)},"
                " judge, human) of answers that are texts"
            )
    interview.settle(POLICY)

    def task() -> Task:
        return _written(place, folder.name, content, interview.settings)

    lines = [f"{folder}: {len(rows)} rows of {data.name} ({form.description})"]
    try:
        loaded = interview.read(lambda: load_examples(task(), path=data))
        if interview.settle(of_columns(loaded, interview)):
            loaded = interview.read(lambda: load_examples(task(), path=data))
        lines += _described(task(), loaded)
        if logs is not None:
            how = interview.read(lambda: survey(task(), logs, "production")[1])
            lines.append(f"production: feedback: {how.scale.description}")
    except TwoReadings as question:
        lines.append(
            f"To decide in task.yaml before it runs, or with --set {question.key}=…: {question}"
        )
    return [lines[0], *interview.said, *lines[1:]]


def _inferred(place: Path, data: Path, rows: Rows, interview: Interview) -> Json:
    """What the rows say of task.yaml: instructions, output, measure, targets and columns."""
    draft = _draft(place, interview)
    columns = find_columns(data, draft, rows, interview)
    labels = []
    instructions = ""
    if columns:
        answers, labels = _answers_of_columns(data, rows, columns, interview)
    else:
        later = ("label", "group", "split", "feedback_score", "created_at")  # may be asked for
        draft = draft.model_copy(update={"columns": draft.columns | dict.fromkeys(later)})
        chats = load_examples(draft, path=data)
        answers = [json_or_text(each.answer) for each in chats.examples if each.answer]
        if ONE_SYSTEM in chats.reading.changes:  # what it has been asked with so far
            instructions = chat_of(survey(draft, data, "human")[1], rows[0])[0].content or ""
    content = _content(infer_output(answers, labels), instructions)
    if "schema" not in content["output"]:
        content |= _measure(answers, interview)
    for name, field in content["output"].get("schema", {}).get("properties", {}).items():
        kinds = {*field.get("type", ())} - {"null"}
        if isinstance(field.get("type"), list) and len(kinds) > 1:
            shown = " and ".join(sorted(kinds))
            interview.said.append(f"{name}: {shown} in one column; 1 is not the label '1'")
        if "enum" in field:
            interview.said += (f"{name}: {oddity}" for oddity in _oddities(name, answers))
    if columns:
        content["columns"] = columns
    return content


def _oddities(name: str, answers: Sequence[Json]) -> Iterator[str]:
    """What is odd about the labels that the answers have under this name."""
    labels = Counter(answer[name] for answer in answers if name in answer)
    for group in spellings(labels.elements()):
        yield f"{', '.join(map(repr, group))} look like one label; 02 asks in review.csv"
    rare = [repr(label) for label, n in labels.items() if n == 1]
    if rare:
        yield f"in one row alone stand {len(rare)} of {len(labels)} labels: {', '.join(rare[:5])}"
    if len(labels) == 1:
        yield "all rows have one label: there is nothing to learn"


def _content(output: Json, instructions: str = "") -> Json:
    """What an output says of task.yaml."""
    full, short = instructions_for(output)
    texts = {"full": instructions or full, "short": instructions or short}
    targets = {"accuracy": 0.8}
    if "schema" in output:
        targets["format_compliance"] = 0.95
    return {"instructions": texts, "output": output, "targets": targets}


def _measure(answers: Sequence[Any], interview: Interview) -> dict[str, str]:
    """Who says whether a text is right."""
    usual = "numeric" if answers and are_numbers(answers) else "exact"
    question = Question(
        "measure",
        "The answers are texts: what says whether one is right",
        usual,
        (*MEASURES, "judge", "human"),
        str,
    )
    measure = interview.answer(question) or usual
    if measure not in MEASURES:
        return {"accuracy_from": measure}
    return {"accuracy_from": "scorer", "scorer": measure}


def _answers_in(data: Path, rows: Rows, column: str) -> list[Any]:
    """The cells of a column, of messages what they say."""
    answers = []
    for number, row in enumerate(rows, 1):
        try:
            answers.append(as_json(answer_in(value_at(row, column), Counter())))
        except RowError as error:
            raise WorkbookError(f"{data}, row {number}: {column}: {error}") from None
    return answers


def _answers_of_columns(
    data: Path, rows: Rows, columns: Json, interview: Interview
) -> tuple[list[Any], list[str]]:
    """(answers, properties that hold labels); labels, and several columns, make an object."""
    outputs = columns["output"]
    columns["output"] = outputs[0]
    cells = {column: _answers_in(data, rows, column) for column in outputs}
    texts = [json_or_text(value) for value in cells[outputs[0]] if is_there(value)]
    is_alone = len(outputs) == 1
    if is_alone and all(isinstance(answer, dict) for answer in texts):
        return texts, []
    kinds = {c: kind_of_answers(c, values, is_alone, interview) for c, values in cells.items()}
    if kinds == {outputs[0]: "text"}:
        return texts, []
    columns["output"] = property_names(outputs)
    properties = columns["output"].items()
    values = {name: of_kind(kinds[c], c, cells[c], interview) for name, c in properties}
    return _objects(values), [name for name, c in properties if kinds[c] == "labels"]


def _objects(cells: dict[str, list[Any]]) -> list[Json]:
    """A row's cells as one object; those that are all empty are left out."""
    rows = [dict(zip(cells, values, strict=True)) for values in zip(*cells.values(), strict=True)]
    filled = ({name: value for name, value in row.items() if is_there(value)} for row in rows)
    return [*filter(None, filled)]


def _draft(place: Path, interview: Interview) -> Task:
    """A task that only says what decides how a file and its chats are known."""
    known_by = ("encoding", "format", "columns.messages", "columns.system")
    settings = {key: line for key, line in interview.settings.items() if key in known_by}
    return _written(place, "draft", _content({"text": True}, "\0"), settings)  # in no row


def _described(task: Task, loaded: LoadedRows) -> list[str]:
    lines = [
        f"read as {loaded.reading.format}; output: {_described_output(task)}",
        "edit task.yaml, above all `targets`",
    ]
    if any(message.tool_calls for example in loaded.examples for message in example.messages):
        lines.append("calls of tools are right by name and arguments, whatever the scorer")
    mapped = task.columns
    if "input" in mapped:
        lines.append(f"input: {as_text(mapped['input'])}; answer: {as_text(mapped.get('output'))}")
    if "template" in mapped:
        lines.append(f"the input is composed as {mapped['template']!r} (columns.template)")
    unused = [column.name for column in loaded.reading.columns if column.use == "not used"]
    if unused:
        lines.append(f"not used: {', '.join(unused)}")
    lines += [f"{change} ({n})" for change, n in loaded.reading.changes.items()]
    lines += _noted(loaded.examples)
    answered = [example for example in loaded.examples if example.answer.strip()]
    return lines + [_shown(task, example) for example in answered[:SHOWN]]


def _described_output(task: Task) -> str:
    if task.schema is not None:
        return "JSON with " + ", ".join(task.schema["properties"])
    if task.accuracy_from != "scorer":
        return f"text; accuracy_from: {task.accuracy_from}"
    return f"text; {MEASURES.get(task.scorer, task.scorer)}"


def _noted(examples: Sequence[TrainingExample]) -> list[str]:
    """What the first rows do not show: how many lack something, are bad, or say their part."""
    parts = Counter(example.part for example in examples if example.part)
    labels = [example.preference.label for example in examples if example.preference]
    n_asked = len({content_id(example.prompt) for example in examples})
    n_empty = sum(not example.answer.strip() for example in examples)
    if n_empty == len(examples):
        raise WorkbookError(
            f"none of the {n_empty} rows has an answer: a chat ends with the assistant's turn, and"
            " a table's answers stand in the column that --output names"
        )
    n = len(examples)
    shown = ", ".join(f"{count} {part}" for part, count in parts.items())
    counts = {
        "have no answer: nothing can be learnt from them": n_empty,
        "ask what another row asks: copies, or another column is the input": n - n_asked,
        "have an empty input": sum(not example.user_text.strip() for example in examples),
        "are label: false, not learnt": labels.count(False),
        f"stand in the part that `split` says: {shown}": parts.total(),
    }
    return [f"{count} of {n} rows {what}" for what, count in counts.items() if count]


def _shown(task: Task, example: TrainingExample) -> str:
    turns = render(task, example, answer=True)
    texts = [" ".join(with_calls(turn.content, turn.tool_calls).split()) for turn in turns]
    lines = zip(turns, texts, strict=True)
    return "\n".join(f"  {turn.role}: {text[:160]}" for turn, text in lines)


def _written(place: Path, name: str, content: Json, settings: Json) -> Task:
    """The task of task.yaml, written: what was inferred, our defaults, and what was answered."""
    name = re.sub(r"[^a-z0-9_]+", "_", name.lower()).strip("_") or "task"
    if not name[0].isalpha():
        name = f"task_{name}"
    prices = {"as_of": str(store.now().date()), "hardware_usd_per_hour": 0.1, "models": {}}
    whole = {
        "name": name,
        **copy.deepcopy(content),
        "replace": "better",
        "volume_per_month": 1000,
        "data_may_leave": False,
        "prices": prices | {"person_usd_per_hour": 40},
    }
    for key, value in settings.items():
        *sections, last = key.split(".")
        section = whole
        for step in sections:
            section = section.setdefault(step, {})
            if not isinstance(section, dict):
                raise WorkbookError(f"--set {key}: {step} holds a value, and no lines of its own")
        section[last] = value
    text = yaml.safe_dump(whole, sort_keys=False, allow_unicode=True, width=110)
    store.write_text(place / "task.yaml", HEADER + text)
    return load_task(str(place))


def _write_empty_task(place: Path, name: str, interview: Interview) -> None:
    output = infer_output([{"label": "yes"}, {"label": "no"}], ["label"])
    _written(place, name, _content(output), interview.settings)
    question = {"role": "user", "content": "A question?"}
    answer = {"role": "assistant", "content": '{"label":"yes"}'}
    store.write_jsonl(place / "human.jsonl", [{"messages": [question, answer]}])
    (place / "knowledge").mkdir(exist_ok=True)
