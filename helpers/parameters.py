"""The parameters of a run: one flat vocabulary, checked before any kernel starts.

A profile is a YAML file of `name: value` that holds only what differs from the defaults. What a name means and what
type it has stands in the notebooks' `parameters` cells; the run-level names below are declared here and only here.
"""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from helpers import store
from helpers.records import (
    Artifact,
    DatasetPointer,
    Decision,
    Environment,
    Evaluation,
    Health,
    Promotion,
    TrainedModel,
    WorkbookError,
)

PROFILES = store.PROJECT / "params"


class Notebook(NamedTuple):
    """What the flow knows of a notebook: the record it writes, and which records of the run it reads."""

    writes: type[Artifact]
    reads: tuple[type[Artifact], ...] = ()

    @property
    def artifact(self) -> str:
        """The name of the file it writes."""
        return self.writes.FILE


NOTEBOOKS = {
    "00_start_here": Notebook(Environment),
    "01_decide": Notebook(Decision),
    "02_curate": Notebook(DatasetPointer),
    "03a_train_lora": Notebook(TrainedModel, (DatasetPointer, Decision)),
    "03b_train_openai": Notebook(TrainedModel, (DatasetPointer, Decision)),
    "04_evaluate": Notebook(Evaluation, (DatasetPointer, TrainedModel, Decision)),
    "05_registry": Notebook(Promotion, (DatasetPointer, TrainedModel, Decision, Evaluation)),
    "06_monitor": Notebook(Health, (Promotion,)),
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
        raise WorkbookError(
            f"profile {path}: {reason}; profiles are {names}, or give a path to a YAML file"
        ) from None
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", error)
        line = f", line {mark.line + 1}" if mark else ""
        raise WorkbookError(f"{path}{line}: {problem}; mend this line of YAML") from None
    if not isinstance(values, dict):
        raise WorkbookError(
            f"{path}, line {node.start_mark.line + 1}: a profile is a list of `name: value` lines"
        )
    return Profile(
        path, values, {key.value: key.start_mark.line + 1 for key, _ in node.value} if node else {}
    )


def settle(profile: Profile, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """All values that the profile and the command line set, checked: names, types, choices, notebooks."""
    cells = {name: declared_parameters(store.NOTEBOOKS / f"{name}.ipynb") for name in NOTEBOOKS}
    vocabulary = {
        name: default for cell in cells.values() for name, default in cell.items()
    } | RUN_LEVEL
    vocabulary["time_limits"] = {"01_decide": 60.0}  # a sample: the type of the values
    given = [
        (f"{profile.path}, line {profile.lines.get(name, '?')}", name, v)
        for name, v in profile.values.items()
    ]
    given += [("-p", *_override(text, vocabulary)) for text in overrides]
    checked: dict[str, Any] = {}
    for where, name, value in given:
        if isinstance(value, date) and isinstance(vocabulary.get(name), str):
            value = value.isoformat()  # YAML reads 2026-11-22 as a date
        checked |= check_parameters(vocabulary, {name: value}, where)
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
        raise WorkbookError(
            f"{text.strip()!r} names {len(found)} notebooks of this run, which are {', '.join(names)}"
        )
    return found[0]


def begin(notebook: str, namespace: dict[str, Any]) -> store.Run:
    """Check a notebook's parameters (its globals()) by the rules of `workbook run` and open its run.

    Also refuses names that papermill injected and no notebook declares: papermill itself only warns. Names that other
    notebooks of a profile declare are let through, so that `papermill -f params/P.yaml` works for every notebook.
    """
    declared = declared_parameters(
        next(store.NOTEBOOKS.rglob(f"{notebook}.ipynb"), store.NOTEBOOKS / notebook)
    )
    given = {name: namespace[name] for name in declared if name in namespace}
    for source in namespace.get("In", []):
        if source.startswith("# Parameters\n"):
            given |= _literals(ast.parse(source))
    elsewhere = set(given) - set(declared)
    if elsewhere:
        known = {
            name for path in store.NOTEBOOKS.rglob("*.ipynb") for name in declared_parameters(path)
        }
        given = {
            name: value
            for name, value in given.items()
            if name not in elsewhere & (known | set(RUN_LEVEL))
        }
    for name, value in check_parameters(declared, given, where=notebook).items():
        namespace[name] = value
    return store.open_run(namespace["run_id"])


def _literals(tree: ast.Module) -> dict[str, Any]:
    """name -> value of every `name = literal` and `name: type = literal` of a cell."""
    found: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            if isinstance(target, ast.Name):
                found[target.id] = ast.literal_eval(node.value)
    return found


def declared_parameters(notebook: Path) -> dict[str, Any]:
    """name -> default of a notebook's `parameters` cell (papermill's own reader misses some types)."""
    cells = store.read_json(notebook, "it belongs to the project; restore it with git")["cells"]
    for cell in cells:
        if "parameters" in cell.get("metadata", {}).get("tags", []):
            return _literals(ast.parse("".join(cell["source"])))
    raise WorkbookError(f"{notebook}: no cell is tagged `parameters`")


def check_parameters(declared: dict[str, Any], given: dict[str, Any], where: str) -> dict[str, Any]:
    """Refuse unknown names and wrong types; return `given` with floats made floats.

    The default's type is the parameter's type. An int may stand for a float, and so may the text "1e-4", which
    YAML 1.1 reads as a string.
    """
    checked = {}
    for name, value in given.items():
        if name not in declared:
            raise WorkbookError(
                f"{where}: unknown parameter {name!r}; known are {', '.join(sorted(declared))}"
            )
        checked[name] = _as_type(declared[name], value, f"{where}: {name}")
    return checked


def _as_type(default: Any, value: Any, what: str) -> Any:
    wanted = type(default)
    if wanted is float and type(value) in (int, str):
        with contextlib.suppress(ValueError):
            value = float(value)
    if type(value) is not wanted:
        raise WorkbookError(
            f"{what} should be {wanted.__name__}, for example {default!r}; got {value!r}"
        )
    if wanted is float and value != value:
        raise WorkbookError(f"{what} is not a number")
    if wanted is list and default:
        return [_as_type(default[0], item, what) for item in value]
    if wanted is dict and default:
        sample = next(iter(default.values()))
        return {key: _as_type(sample, item, f"{what}.{key}") for key, item in value.items()}
    return value
