"""task.yaml: the one file that says what a task is and when its model is good enough.

Below: the JSON Schemas and tools that it may hold, and whether a call keeps to them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from helpers import parameters, store
from helpers.records import Message, Record, WorkbookError, call_of
from helpers.tasks.textfiles import RowError, encoding_of

FOREIGN = re.compile(r'"\$(?:dynamicR|r)ef": ?"(?!#)[^"]*"')
Json = dict[str, Any]  # an object
Tools = Sequence[Json]  # in OpenAI's form
SCHEMA_KEYS = {"type", "properties", "$ref", "anyOf", "oneOf", "allOf", "additionalProperties"}
SHIPPED = Path(__file__).resolve().parent
ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".xlsx")  # of human.* and production.*
# what rows are written in, read or not; anything else of that name is none of ours
DATA = r"\.(?:jsonl?|ndjson|csv|tsv|parquet|xlsx?)(?:\.(?:gz|bz2|xz|zst|zip))?"
Format = Literal["chat", "sharegpt", "prompt_completion", "kto", "preference", "alpaca", "columns"]
Metric = Literal["accuracy", "format_compliance", "latency_p95", "cost_per_request"]
OURS = {"folder", "shipped", "schema", "instructions_full", "instructions_short", "wordings"}
# where the file says them
SECTIONS = {"schema": "output", "instructions_full": "instructions", "wordings": "instructions"}
# columns of ours that a row may name without being asked
_KNOWN = (
    "id messages system created_at group conversation_id split feedback_score model_version"
    " articles tools label"
)
KNOWN = (*_KNOWN.split(),)
# what else than the name of a column, or null, stands in task.yaml's `columns`
HOLDS = {
    "input": str | Annotated[list[str], Field(min_length=1)],
    "output": str | dict[str, str],
    "template": Annotated[str, Field(min_length=1)],
    "feedback": dict | list,
    "decimal": Literal[",", "."],
    "dates": Literal["day_first", "month_first"],
}


class Task(Record):
    """What a user brings in task.yaml, checked; paths are absolute."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    folder: Path
    shipped: bool
    instructions_full: str = Field(min_length=1)
    instructions_short: str = Field(min_length=1)
    # other full instructions that a prompt search may try
    wordings: list[str] = Field(default_factory=list)
    schema_: Json | None = Field(None, alias="schema")
    scored_fields: list[str] = Field(default_factory=list, validate_default=True)
    accuracy_from: Literal["fields", "scorer", "judge", "human"] = "fields"
    # or contains, numeric[:tolerance], chrf[:least], semantic[:least], tool_calls, module:function
    scorer: str = "exact"
    rubric: str = ""  # when an answer is right, in words for a judge or people
    targets: dict[Metric, Annotated[float, Field(ge=0, allow_inf_nan=False)]]
    margins: dict[Metric, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        default_factory=dict
    )
    replace: Literal["better", "not_worse"] = "better"
    # fields of the live log within whose values quality is watched, too
    slices: list[str] = Field(default_factory=list)
    columns: Json = Field(default_factory=dict)
    format: Literal["", Format] = ""  # of the rows; "" judges it by what they hold
    encoding: str = ""  # of text files; "" judges it by their bytes
    # {validation: DAY, test: DAY}: rows from that day on; {} decides by a hash of their group
    parts_by_time: dict[Literal["validation", "test"], datetime] = Field(default_factory=dict)
    # a row with personal data is left out, or kept with [KIND] in its place
    personal: Literal["reject", "mask"] = "reject"
    # what looks like personal data and is the task's subject: {name: regular expression}
    allow: dict[str, re.Pattern[str]] = Field(default_factory=dict)
    volume_per_month: int = Field(0, ge=0)
    prices: Json = Field(default_factory=dict)
    data_may_leave: bool = False
    screening: Json = Field(default_factory=dict)
    # what the chat template of a local model, or an endpoint that serves one, is told besides
    template_args: Json = Field(default_factory=dict)
    # that the assistant may call, where a row brings none of its own
    tools: list[Json] = Field(default_factory=list)
    train_on: Literal["last", "all"] = "last"  # which of a chat's answers are learnt
    # which of a chat's answers 01 and 04 ask for; all those of one chat count as one cluster
    evaluate_on: Literal["last", "all"] = "last"
    # thoughts before an answer are left out, shown to learn from without being learnt, or learnt
    reasoning: Literal["strip", "keep", "train"] = "strip"
    # what runs today: {instructions, model, base_url} or {answers}
    incumbent: Json = Field(default_factory=dict)

    @field_validator("tools")
    @classmethod
    def _are_tools(cls, value: list[Json]) -> list[Json]:
        return check_tools(value)

    @field_validator("schema_")
    @classmethod
    def _is_schema(cls, value: Json | None) -> Json | None:
        if value is None:
            return None
        text = json.dumps(value, default=str)  # 1 is a key of YAML, and none of JSON
        validator_of(text)
        return json.loads(text)

    @field_validator("scored_fields")
    @classmethod
    def _are_properties(cls, value: list[str], info: ValidationInfo) -> list[str]:
        properties = (info.data.get("schema_") or {}).get("properties", {})
        for name in value:
            if name not in properties:
                raise ValueError(f"scored field {name!r} is not a property of output.schema")
        return value or list(properties)

    @field_validator("columns")
    @classmethod
    def _known_columns(cls, value: Json, info: ValidationInfo) -> Json:
        kinds = HOLDS | dict.fromkeys((*KNOWN, *info.data.get("slices", [])), str | None)
        checked = {}
        for name, column in value.items():
            if name not in kinds:
                raise ValueError(f"{name!r} is no column of ours; they are {', '.join(kinds)}")
            kind = TypeAdapter(kinds[name], config=ConfigDict(coerce_numbers_to_str=True))
            try:
                checked[name] = kind.validate_python(column)
            except ValidationError as error:
                reasons = " or ".join(each["msg"] for each in error.errors())
                raise ValueError(f"{name}: {reasons}; got {column!r}") from None
        return checked

    @field_validator("parts_by_time")
    @classmethod
    def _starts_in_order(cls, value: dict[str, datetime]) -> dict[str, datetime]:
        if value and (len(value) < 2 or value["validation"] > value["test"]):
            raise ValueError("give both days, as in {validation: 2026-06-01, test: 2026-08-01}")
        return {k: v if v.tzinfo else v.replace(tzinfo=UTC) for k, v in value.items()}

    @field_validator("targets")
    @classmethod
    def _can_be_shown(cls, value: dict[str, float]) -> dict[str, float]:
        if not value:
            raise ValueError(
                "targets are missing; say what the task needs, for example targets: {accuracy: 0.8}"
            )
        for metric, target in value.items():
            if metric in ("accuracy", "format_compliance") and target >= 1:
                raise ValueError(
                    f"targets.{metric} is {target:g}, which no number of rows can show; lower it"
                )
        return value

    @property
    def schema(self) -> Json | None:  # type: ignore[override]
        """The JSON Schema of an answer, or None for a text task."""
        return self.schema_

    @property
    def registry_name(self) -> str:
        """The name its versions are registered under; shipped tasks never mix with real ones."""
        return f"demo/{self.name}" if self.shipped else self.name

    @cached_property
    def fingerprint(self) -> str:
        """Changes whenever what the model is asked for changes."""
        asked = [self.instructions_full, self.instructions_short, self.schema_, self.scored_fields]
        chats = self.model_dump(
            include={"template_args", "tools", "train_on", "evaluate_on", "reasoning"},
            exclude_defaults=True,
        )
        return store.fingerprint([*asked, chats] if chats else asked)

    def data_file(self, source: str) -> Path | None:
        """human.* or production.* of the folder (None when there is none; two are an error)."""
        pattern = re.compile(source + DATA, re.IGNORECASE)
        like_data = [path for path in self.folder.glob("*.*") if pattern.fullmatch(path.name)]
        files = sorted(p for p in like_data if p.name.removeprefix(source) in ENDINGS)
        if like_data and not files:
            raise WorkbookError(
                f"{like_data[0]} is not read; rename it to {source}"
                f"{f' or {source}'.join(ENDINGS)}, and unpack it first where it is packed"
            )
        if len(files) > 1:
            raise WorkbookError(
                f"{self.folder}: both {files[0].name} and {files[1].name} exist; keep one of them"
            )
        return files[0] if files else None


def shipped_tasks() -> list[str]:
    """Names of the tasks that come with the workbook."""
    return sorted(p.parent.name for p in SHIPPED.glob("*/task.yaml"))


def load_task(name_or_path: str) -> Task:
    """A shipped task by name, or any folder with a task.yaml.

    A relative path is one of the current folder or of the project's.
    """
    shipped = name_or_path in shipped_tasks()
    folder = SHIPPED / name_or_path if shipped else Path(name_or_path).expanduser()
    if not folder.exists():
        folder = store.PROJECT / folder  # an absolute path stays itself
    path = folder / "task.yaml"
    if not path.exists():
        raise WorkbookError(
            f"{path} is missing; shipped tasks are {', '.join(shipped_tasks())}, and"
            " `workbook new DIR` makes a folder for yours"
        )
    raw, lines = parameters.read_yaml(path, _Plain)
    try:
        return Task.model_validate(_flat(raw) | {"folder": folder.resolve(), "shipped": shipped})
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"])).removesuffix(".[key]")
        reason = problem["msg"].removeprefix("Value error, ")
    except ValueError as error:
        place, _, reason = str(error).partition(": ")
    key = place.split(".")[0]
    line = lines.get(key) or lines.get(SECTIONS.get(key), 1)
    raise WorkbookError(f"{path}, line {line}: {place[:80]}: {reason[:1000]}")


class _Plain(parameters.StrictLoader):
    """YAML as people mean it: no, 007, 12:30 and 2026-01-05 are texts, as labels have to be."""


_MEANT = {
    "tag:yaml.org,2002:bool": (re.compile("true|True|TRUE|false|False|FALSE"), "tTfF"),
    "tag:yaml.org,2002:int": (re.compile("[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+)"), "-+0123456789"),
}
_Plain.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag not in _MEANT and tag != "tag:yaml.org,2002:timestamp"
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, (_pattern, _firsts) in _MEANT.items():
    _Plain.add_implicit_resolver(_tag, re.compile(f"(?:{_pattern.pattern})\\Z"), list(_firsts))


def yaml_of(text: str) -> Any:
    """What a YAML text says, as people mean it."""
    return yaml.load(text, _Plain)


def _flat(raw: Json) -> Json:
    """task.yaml nests instructions and output for the reader; the record is flat."""
    for name in raw.keys() & OURS:
        raise ValueError(f"{name}: is no line of its own; instructions and output hold it")
    raw = {"targets": {}, "output": {"text": True}} | raw
    texts = _section(raw, "instructions", {"full", "short", "wordings"})
    for style in ("full", "short"):
        text = texts.get(style) or texts.get("full")
        if not isinstance(text, str):
            raise ValueError(f"instructions: `{style}` has to be a text")
        raw[f"instructions_{style}"] = text.strip()
    raw["wordings"] = texts.get("wordings") or []
    output = _section(raw, "output", {"schema", "text"})
    raw["schema"] = output.get("schema")
    if bool(output.get("text")) == (raw["schema"] is not None):
        raise ValueError("output: give `schema: <JSON Schema>` or `text: true`")
    return raw


def _section(raw: Json, name: str, keys: set[str]) -> Json:
    """A section, taken out of what is read; it holds these keys and no other."""
    section = raw.pop(name, {})
    if not isinstance(section, dict) or not section.keys() <= keys:
        raise ValueError(f"{name}: holds {', '.join(sorted(keys))}, and nothing else")
    return section


class Article(Record):
    """One file of the knowledge folder; `id` is its file name without ending."""

    id: str
    title: str
    text: str


def knowledge(task: Task) -> list[Article]:
    """All articles in name order; an empty list when the task has none."""
    articles = []
    files = sorted((task.folder / "knowledge").glob("*.*"))
    for path in (file for file in files if file.suffix.lower() in (".md", ".txt")):
        if not (path.is_file() and path.resolve().is_relative_to(task.folder)):
            raise WorkbookError(f"{path} is no file of this task's folder; put a copy there")
        text = path.read_bytes().decode(encoding_of(path, task.encoding).name, "replace").strip()
        first = text.splitlines()[0] if text else path.stem
        articles.append(Article(id=path.stem, title=first.lstrip("# ").strip(), text=text))
    return articles


# --- tools ----------------------------------------------------------------------------------------


def check_tools(tools: list[Json]) -> list[Json]:
    """The tools, each {"type": "function", "function": {"name", "parameters"}}; ValueError."""
    in_form = []
    for number, tool in enumerate(tools, 1):
        if "function" not in tool:  # one alone is put into OpenAI's form, out of Anthropic's too
            own = {"parameters" if k == "input_schema" else k: v for k, v in tool.items()}
            tool = {"type": "function", "function": own}
        in_form.append(tool)
        function = tool["function"]
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise ValueError(
                f'tool {number} is not {{"type": "function", "function": {{"name": …,'
                ' "parameters": <JSON Schema>}}'
            )
        own = function.get("parameters") or {}
        validator_of(json.dumps(own))
        names = [name for name, value in own.items() if isinstance(value, dict)]
        if names and SCHEMA_KEYS.isdisjoint(own):
            raise ValueError(
                f"tool {number}: its `parameters` name {', '.join(names)[:60]} and are no JSON"
                ' Schema; write {"type": "object", "properties": {…}}'
            )
    return in_form


def check_calls(messages: Sequence[Message], tools: Tools) -> None:
    """RowError where a turn calls what `tools` do not offer, or with arguments that do not fit."""
    for number, message in enumerate(messages):
        reason = calls_reason(message.tool_calls or [], tools)
        if reason:
            raise RowError(f"messages.{number}: tool_calls: {reason}")


def calls_reason(calls: Sequence[Json], tools: Tools) -> str:
    """Why a call cannot be carried out by `tools`; "" when all can."""
    from jsonschema.exceptions import best_match

    offered = {tool["function"]["name"]: tool["function"] for tool in tools}
    for call in calls:
        name, arguments = call_of(call)
        if name not in offered:
            there = ", ".join(offered) or "none; give `tools` in the row or in task.yaml"
            return f"{name[:40]} is no tool that may be called here (there are: {there})"
        if not isinstance(arguments, dict):
            return f"the arguments of {name} are no JSON object"
        schema = json.dumps(offered[name].get("parameters") or {})
        error = best_match(validator_of(schema).iter_errors(arguments))
        if error is not None:
            path = ".".join(map(str, error.absolute_path)) or "the arguments"
            return f"{name}: {path} breaks `{error.validator}` of the tool's parameters"
    return ""


@lru_cache(maxsize=256)
def validator_of(schema: str) -> Any:
    """What checks values by a JSON Schema; ValueError where the text is none."""
    from jsonschema import SchemaError
    from jsonschema.validators import validator_for

    foreign = FOREIGN.search(schema)
    if foreign:  # it would be fetched
        raise ValueError(f"{foreign[0]} is no part of this schema (#/$defs/…)")
    value = json.loads(schema)
    if not isinstance(value, dict):
        raise ValueError("a JSON Schema is a mapping")
    try:
        kind = validator_for(value)
        kind.check_schema(value)
    except SchemaError as error:
        raise ValueError(f"this is no JSON Schema ({error.message[:100]})") from None
    return kind(value)
