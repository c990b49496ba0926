"""The parameters of a run: one flat vocabulary, checked before any kernel starts.

A profile is a YAML file of `name: value` that holds only what differs from the defaults. What a name means and what
type it has stands in the notebooks' `parameters` cells; the run-level names below are declared here and only here.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from helpers import store
from helpers.records import WorkbookError

PROFILES = store.PROJECT / "params"


class Notebook(NamedTuple):
    """What the flow knows of a notebook: its artifact, what that must say, and which artifacts of the run it reads."""

    artifact: str
    facts: str
    reads: str = ""


NOTEBOOKS = {
    "00_start_here": Notebook("environment.json", "checks"),
    "01_decide": Notebook("decision.json", "recommendation trainer"),
    "02_curate": Notebook("dataset.json", "version fingerprint"),
    "03a_train_lora": Notebook("model.json", "model_id dataset_version", "dataset"),
    "03b_train_openai": Notebook("model.json", "model_id dataset_version", "dataset"),
    "04_evaluate": Notebook("evaluation.json", "verdict base_model fine_tuned_model", "dataset model decision"),
    "05_registry": Notebook("promotion.json", "verdict reasons", "dataset model decision evaluation"),
    "06_monitor": Notebook("health.json", "verdict", "promotion"),
}
RUN_LEVEL: dict[str, Any] = {
    "task": "support_triage",  # a shipped task, or the path of a task folder
    "run_id": "",  # the run's folder in artifacts/runs; empty: profile and time
    "notebooks": list(NOTEBOOKS),  # what runs
    "trainer": "auto",  # auto: what 01 chose
    "promote_to": "staging",
    "max_cost_usd": 0.0,  # the whole run's spending limit; 0: nothing may be spent
    "show_text": False,  # full example text in executed notebooks
    "min_new_rows": 50,  # rows since the last training that are a reason to retrain, where a profile begins with 06
    "time_limits": {},  # minutes per notebook; a notebook without one may take as long as it needs
}
CHOICES = {
    "trainer": ("auto", "lora", "openai"),
    "promote_to": ("none", "staging", "production"),
    "notebooks": tuple(NOTEBOOKS),
    "time_limits": tuple(NOTEBOOKS),
}


class Profile(NamedTuple):
    """What a profile file says, and on which line it says it."""

    path: Path
    values: dict[str, Any]
    lines: dict[str, int]


class _StrictLoader(yaml.SafeLoader):
    """YAML would keep the last of two equal keys in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = lines.setdefault(key.value, key.start_mark.line + 1)
            if line != key.start_mark.line + 1:
                said = f"{key.value!r} is already set on line {line}"
                raise yaml.constructor.ConstructorError(None, None, said, key.start_mark)
        return super().construct_mapping(node, deep)


def load_profile(profile: str) -> Profile:
    """Read params/NAME.yaml, or a path."""
    path = Path(profile)
    if path.suffix not in (".yaml", ".yml"):
        path = PROFILES / f"{profile}.yaml"
    try:
        loader = _StrictLoader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        values = loader.construct_document(node) if node is not None else {}
    except (OSError, UnicodeDecodeError) as error:
        names = ", ".join(sorted(p.stem for p in PROFILES.glob("*.yaml")))
        reason = getattr(error, "strerror", None) or error
        raise WorkbookError(f"profile {path}: {reason}; profiles are {names}, or give a path to a YAML file") from None
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", error)
        line = f", line {mark.line + 1}" if mark else ""
        raise WorkbookError(f"{path}{line}: {problem}; mend this line of YAML") from None
    if not isinstance(values, dict):
        raise WorkbookError(f"{path}, line {node.start_mark.line + 1}: a profile is a list of `name: value` lines")
    return Profile(path, values, {key.value: key.start_mark.line + 1 for key, _ in node.value} if node else {})


def settle(profile: Profile, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """All values that the profile and the command line set, checked: names, types, choices, notebooks."""
    cells = {name: store.declared_parameters(store.NOTEBOOKS / f"{name}.ipynb") for name in NOTEBOOKS}
    vocabulary = {name: default for cell in cells.values() for name, default in cell.items()} | RUN_LEVEL
    vocabulary["time_limits"] = {"01_decide": 60.0}  # a sample: the type of the values
    given = [(f"{profile.path}, line {profile.lines.get(name, '?')}", name, v) for name, v in profile.values.items()]
    given += [("-p", *_override(text, vocabulary)) for text in overrides]
    checked: dict[str, Any] = {}
    for where, name, value in given:
        if isinstance(value, date) and isinstance(vocabulary.get(name), str):
            value = value.isoformat()  # YAML reads 2026-11-22 as a date
        checked |= store.check_parameters(vocabulary, {name: value}, where)
        chosen = value if isinstance(value, list | dict) else [value]
        if name in CHOICES and (value == [] or set(chosen) - set(CHOICES[name])):
            raise WorkbookError(f"{where}: {name} takes {', '.join(CHOICES[name])}; got {value!r}")
    return checked


def _override(text: str, vocabulary: dict[str, Any]) -> tuple[str, Any]:
    """Read one `-p KEY=VALUE`: the value is YAML, except where a text is meant (run_id=20261122 stays a text)."""
    name, equals, raw = text.partition("=")
    if not equals:
        raise WorkbookError(f"-p {text!r}: write -p NAME=VALUE")
    name = name.strip()
    if isinstance(vocabulary.get(name), str):
        return name, raw
    try:
        return name, yaml.safe_load(raw)
    except yaml.YAMLError:
        return name, raw  # refused by its type, which is not text


def select(notebooks: Sequence[str], only: str, from_: str) -> list[str]:
    """The notebooks to run now, in the profile's order; --only and --from take names or a clear beginning such as 04."""
    names = list(dict.fromkeys(notebooks))
    if only and from_:
        raise WorkbookError("--only and --from together say nothing; give one of them")
    if from_:
        return names[names.index(_one(from_, names)) :]
    wanted = {_one(part, names) for part in only.split(",") if part.strip()}
    return [name for name in names if name in wanted] if wanted else names


def _one(text: str, names: list[str]) -> str:
    found = [name for name in names if name.startswith(text.strip())]
    if len(found) != 1:
        raise WorkbookError(f"{text.strip()!r} names {len(found)} notebooks of this run, which are {', '.join(names)}")
    return found[0]
