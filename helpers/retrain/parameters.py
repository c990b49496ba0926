"""The parameters of a run: one flat vocabulary, checked before any kernel starts.

A profile is a YAML file of `name: value` that holds only what differs from the defaults. What a name means and what
type it has stands in the notebooks' `parameters` cells; the run-level names below are declared here and only here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from helpers import store
from helpers.records import WorkbookError

PROFILES = store.PROJECT / "params"
NOTEBOOKS = (
    "00_start_here",
    "01_decide",
    "02_curate",
    "03a_train_lora",
    "03b_train_openai",
    "04_evaluate",
    "05_registry",
    "06_monitor",
)
RUN_LEVEL: dict[str, Any] = {
    "task": "support_triage",  # a shipped task, or the path of a task folder
    "run_id": "",  # the run's folder in artifacts/runs; empty: profile and time
    "notebooks": list(NOTEBOOKS),  # what runs, in this order
    "trainer": "auto",  # auto: what 01 chose
    "promote_to": "staging",
    "max_cost_usd": 0.0,  # the whole run's spending limit; 0: nothing may be spent
    "show_text": False,  # full example text in executed notebooks
    "time_limits": {},  # minutes per notebook; a notebook without one may take as long as it needs
}
CHOICES = {"trainer": ("auto", "lora", "openai"), "promote_to": ("none", "staging", "production")}
PATHS = ("task", "base_model", "live_path")  # values that may be paths


@dataclass(frozen=True)
class Profile:
    """What a profile file says, and on which line it says it."""

    name: str
    path: Path
    values: dict[str, Any]
    lines: dict[str, int] = field(default_factory=dict)

    def where(self, name: str) -> str:
        """`file, line N` of one value, or the command line for an override."""
        return f"{self.path}, line {self.lines[name]}" if name in self.lines else "-p"


def load_profile(profile: str, folder: Path = PROFILES) -> Profile:
    """Read params/NAME.yaml, or a path; keys written twice are refused, since YAML would keep the last in silence."""
    path = Path(profile)
    if path.suffix not in (".yaml", ".yml"):
        path = folder / f"{profile}.yaml"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        names = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        reason = getattr(error, "strerror", None) or error
        raise WorkbookError(f"profile {path}: {reason}; profiles are {names}, or give a path to a YAML file") from None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        values, lines = _mapping(loader, node, path) if node is not None else ({}, {})
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise WorkbookError(
            f"{path}{line}: not valid YAML ({getattr(error, 'problem', error)}); mend the line"
        ) from None
    return Profile(path.stem, path, values, lines)


def _mapping(loader: yaml.SafeLoader, node: yaml.Node, path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    line = node.start_mark.line + 1
    if not isinstance(node, yaml.MappingNode):
        raise WorkbookError(f"{path}, line {line}: a profile is a list of `name: value` lines")
    values: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        key, line = str(loader.construct_object(key_node)), key_node.start_mark.line + 1
        if key in values:
            raise WorkbookError(
                f"{path}, line {line}: {key!r} is already set on line {lines[key]}; keep one of the two"
            )
        if isinstance(value_node, yaml.MappingNode):
            values[key] = _mapping(loader, value_node, path)[0]
        else:
            values[key] = loader.construct_object(value_node, deep=True)
        lines[key] = line
    return values, lines


def declared_by(notebooks: Iterable[str]) -> dict[str, dict[str, Any]]:
    """notebook -> its own parameters with their defaults."""
    return {name: store.declared_parameters(store.NOTEBOOKS / f"{name}.ipynb") for name in notebooks}


def parse_override(text: str, vocabulary: dict[str, Any]) -> tuple[str, Any]:
    """Read one `-p KEY=VALUE`: the value is YAML, except where a text is meant (run_id=20261122 stays a text)."""
    name, equals, raw = text.partition("=")
    name = name.strip()
    if not equals or not name:
        raise WorkbookError(f"-p {text!r}: write -p NAME=VALUE")
    if isinstance(vocabulary.get(name), str):
        return name, raw
    try:
        return name, yaml.safe_load(raw)
    except yaml.YAMLError:
        raise WorkbookError(
            f"-p {name}: {raw!r} is not a YAML value; quote it, for example -p '{name}=[a, b]'"
        ) from None


def settle(profile: Profile, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """All values that the profile and the command line set, checked: names, types, choices, notebooks.

    A name must be declared by at least one notebook of the run, or be run-level.
    """
    notebooks = _notebooks(profile, overrides)
    vocabulary = {k: v for cell in declared_by(notebooks).values() for k, v in cell.items()} | RUN_LEVEL
    vocabulary["time_limits"] = {"01_decide": 60.0}  # a sample: the type of the values
    origin = {name: profile.where(name) for name in profile.values}
    given = dict(profile.values)
    for text in overrides:
        name, value = parse_override(text, vocabulary)
        given[name], origin[name] = value, "-p"
    checked: dict[str, Any] = {}
    for name, value in given.items():
        if isinstance(value, date) and isinstance(vocabulary.get(name), str):
            value = value.isoformat()  # YAML reads 2026-11-22 as a date
        checked |= store.check_parameters(vocabulary, {name: value}, where=origin[name])
        if name in CHOICES and checked[name] not in CHOICES[name]:
            raise WorkbookError(f"{origin[name]}: {name} is one of {', '.join(CHOICES[name])}; got {value!r}")
    unknown = set(checked.get("time_limits", {})) - set(NOTEBOOKS)
    if unknown:
        raise WorkbookError(
            f"{origin['time_limits']}: time_limits names {', '.join(sorted(unknown))}, which is no notebook"
        )
    return {name: _absolute(value) if name in PATHS else value for name, value in checked.items()}


def _notebooks(profile: Profile, overrides: Sequence[str]) -> list[str]:
    """The notebooks of the run; they decide which names are known, so they are read first."""
    value = profile.values.get("notebooks", RUN_LEVEL["notebooks"])
    where = profile.where("notebooks")
    for text in overrides:
        if text.partition("=")[0].strip() == "notebooks":
            value, where = parse_override(text, {})[1], "-p"
    store.check_parameters(RUN_LEVEL, {"notebooks": value}, where)
    if not value or len(set(value)) != len(value):
        raise WorkbookError(f"{where}: notebooks should name each notebook of the run once; got {value!r}")
    for name in value:
        if name not in NOTEBOOKS:
            raise WorkbookError(f"{where}: {name!r} is no notebook; they are {', '.join(NOTEBOOKS)}")
    return value


def _absolute(value: str) -> str:
    """A folder relative to where the command was typed, made absolute: kernels work in notebooks/."""
    if (
        not value
        or value in ("embedded", "tiny")
        or (store.PROJECT / "helpers" / "tasks" / value / "task.yaml").exists()
    ):
        return value
    found = [folder / value for folder in (Path.cwd(), store.PROJECT) if (folder / value).exists()]
    return str(found[0].resolve()) if found else value


def select(notebooks: Sequence[str], only: str, from_: str) -> list[str]:
    """The notebooks to run now; --only and --from take full names or an unmistakable beginning such as 04."""
    if only and from_:
        raise WorkbookError("--only and --from together say nothing; give one of them")
    if from_:
        return list(notebooks[notebooks.index(_one(from_, notebooks)) :])
    wanted = {_one(part, notebooks) for part in only.split(",") if part.strip()}
    return [name for name in notebooks if name in wanted] if wanted else list(notebooks)


def _one(text: str, notebooks: Sequence[str]) -> str:
    found = [name for name in notebooks if name.startswith(text.strip())]
    if len(found) != 1:
        raise WorkbookError(
            f"{text.strip()!r} names {len(found)} notebooks of this run, which are {', '.join(notebooks)}"
        )
    return found[0]


def for_notebook(declared: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """What papermill injects into one notebook: the run's values that it declares (its defaults stand elsewhere)."""
    return {name: value for name, value in values.items() if name in declared}
