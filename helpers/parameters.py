"""The parameters of a run: one flat vocabulary, checked before any kernel starts.

A profile is a YAML file of `name: value` that holds only what differs from the defaults. What a
name means and what type it has stands in the notebooks' `parameters` cells; the run-level names
below are declared here and only here.

Those cells are also where people try things, and Jupyter saves what they try. So the defaults are
kept in params/declared.json as well: headless runs take them from there, and names are checked
against it. `python -m helpers.parameters` writes it anew after a cell was changed on purpose.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from itertools import chain
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
PROJECT_NOTEBOOKS = store.PROJECT / "notebooks"
DECLARED = PROFILES / "declared.json"
BROKEN = "broken.json"  # of a run in which something was broken on purpose
MOST_VALUES = 100_000  # of a file of settings
INJECTED = "# Parameters\n"  # how the cell begins that papermill adds


class Notebook(NamedTuple):
    """What the flow knows of a notebook: the record it writes, and those of the run it reads."""

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
    # rows since the last training that are a reason to retrain, where a profile begins with 06
    "min_new_rows": 50,
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


class StrictLoader(yaml.SafeLoader):
    """YAML would keep the last of two equal keys in silence, and fill memory out of ten lines."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        """A value that holds, its aliases spelt out, no more than people write."""
        node = super().compose_node(parent, index)
        if isinstance(node, yaml.CollectionNode):
            pairs = node.value if isinstance(node, yaml.MappingNode) else [node.value]
            parts = chain.from_iterable(pairs)
            node.size = 1 + sum(getattr(part, "size", 1) for part in parts)
            if node.size > MOST_VALUES:
                problem = f"more than {MOST_VALUES:,} values, with what *aliases stand for"
                raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return node

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        """A mapping as written (before << is merged into it) whose keys all differ."""
        node = super().compose_mapping_node(anchor)
        firsts: dict[Any, yaml.Node] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                is_merge = key.tag == "tag:yaml.org,2002:merge"
                name = key.value if is_merge else self.construct_object(key)
                first = firsts.setdefault(name, key)
                if first is not key:
                    problem = f"{key.value!r} is already set on line {first.start_mark.line + 1}"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
        return node


def read_yaml(
    path: Path, kind: type[yaml.SafeLoader] = StrictLoader
) -> tuple[dict[str, Any], dict[str, int]]:
    """(what a file of `name: value` lines says, the line of each name); errors name the line."""
    try:
        loader = kind(store.read_text(path))
        node = loader.get_single_node()
        values = {} if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise WorkbookError(f"{path}, line {line}: {error.problem} (not valid YAML)") from None
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:  # a date …
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise WorkbookError(f"{path} cannot be read ({reason})") from None
    if not isinstance(values, dict):
        raise WorkbookError(f"{path}, line 1: a list of `name: value` lines is expected")
    lines = {key.value: key.start_mark.line + 1 for key, _ in node.value} if values else {}
    return values, lines


def load_profile(profile: str) -> Profile:
    """Read params/NAME.yaml, or a path."""
    path = Path(profile)
    if path.suffix not in (".yaml", ".yml"):
        path = PROFILES / f"{profile}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in PROFILES.glob("*.yaml")))
        raise WorkbookError(
            f"profile {path} is no file; profiles are {names}, or give a path to a YAML file"
        )
    return Profile(path, *read_yaml(path))


def resolve(profile: Profile, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """All values that the profile and the command line set, checked: names, types and choices."""
    vocabulary = known_parameters()
    settings = [
        (f"{profile.path}, line {profile.lines.get(name, '?')}", name, value)
        for name, value in profile.values.items()
    ]
    settings += [("-p", *_override(text, vocabulary)) for text in overrides]
    values: dict[str, Any] = {}
    for where, name, value in settings:
        if name == "profile":
            raise WorkbookError(
                f"{where}: `profile` is for notebooks run by hand; say `workbook run PROFILE`"
            )
        if isinstance(value, date) and isinstance(vocabulary.get(name), str):
            value = value.isoformat()  # YAML reads 2026-11-22 as a date
        values |= check_parameters(vocabulary, {name: value}, where)
        if name in CHOICES:
            chosen = value if isinstance(value, list | dict) else [value]
            if value == [] or not set(chosen) <= set(CHOICES[name]):
                raise WorkbookError(
                    f"{where}: {name} takes {', '.join(CHOICES[name])}; got {value!r}"
                )
    return values


def known_parameters() -> dict[str, Any]:
    """name -> default (a sample of its type) of everything that a profile may set."""
    vocabulary: dict[str, Any] = {}
    for name in NOTEBOOKS:
        vocabulary |= declared_parameters(store.NOTEBOOKS / f"{name}.ipynb")
    return vocabulary | RUN_LEVEL | {"time_limits": {"01_decide": 60.0}}


def _override(text: str, vocabulary: dict[str, Any]) -> tuple[str, Any]:
    """Name and value of one `-p KEY=VALUE`.

    The value is YAML, except where a text is meant (run_id=20261122 stays a text).
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise WorkbookError(f"-p {text!r}: write -p NAME=VALUE")
    name = name.strip()
    if isinstance(vocabulary.get(name), str):
        return name, value
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError:
        return name, value  # refused by its type, which is not text


def select(notebooks: Sequence[str], only: str, from_: str) -> list[str]:
    """The notebooks to run now, in the profile's order.

    --only and --from take names, or a clear beginning of one such as 04.
    """
    names = list(dict.fromkeys(notebooks))
    if only and from_:
        raise WorkbookError("--only and --from together say nothing; give one of them")
    if from_:
        return names[names.index(_full_name(from_, names)) :]
    parts = only.rstrip(", ").split(",") if only else []
    chosen = {_full_name(part, names) for part in parts}
    return [name for name in names if name in chosen or not only]


def _full_name(text: str, names: list[str]) -> str:
    matches = [name for name in names if name.startswith(text.strip())]
    if len(matches) != 1:
        raise WorkbookError(
            f"{text.strip()!r} names {len(matches)} notebooks of this run,"
            f" which are {', '.join(names)}"
        )
    return matches[0]


def begin(notebook: str, namespace: dict[str, Any]) -> store.Run:
    """Check a notebook's parameters (its globals()) by the rules of `workbook run`; open its run.

    Also refuses names that papermill injected and no notebook declares: papermill itself only
    warns. Names that other notebooks of a profile declare are let through, so that
    `papermill -f params/P.yaml` works for every notebook. By hand the values of the notebook's
    `profile` hold wherever its cell still has the default.
    """
    path = next(store.NOTEBOOKS.rglob(f"{notebook}.ipynb"), store.NOTEBOOKS / notebook)
    declared = declared_parameters(path)
    values = {name: namespace[name] for name in declared if name in namespace}
    injected = _injected(namespace)
    is_by_hand = not injected and not store.headless()
    if "In" in namespace:
        _check_cell(notebook, declared, values, injected, namespace["In"])
    for name in set(RUN_LEVEL).union(*_declared().values()) - declared.keys():
        injected.pop(name, None)
    values = check_parameters(declared, values | injected, where=notebook)
    if injected:
        _refuse_edits(notebook, declared, values, injected)
    elif values.get("profile") and is_by_hand:
        values |= _by_profile(values, declared)
    namespace |= values
    run = store.open_run(namespace["run_id"])
    if run.has(BROKEN):
        what = store.read_json(run.path(BROKEN))["break_it"]
        sys.stdout.write(f"run {run.id} was BROKEN ON PURPOSE ({what}): it never serves\n")
    return run


def _check_cell(
    notebook: str,
    declared: Mapping[str, Any],
    known: Mapping[str, Any],
    injected: Mapping[str, Any],
    history: Sequence[str],
) -> None:
    """Refuse a parameter that was renamed: a kernel that is warm still knows its old value."""
    if injected.keys() >= declared.keys():  # `workbook run` says them all
        return
    cell: dict[str, Any] = {}
    for source in history:
        with contextlib.suppress(ValueError, SyntaxError):  # a cell may hold anything
            values = {} if source.startswith(INJECTED) else _literals(source)
            if 2 * len(values.keys() & declared.keys()) > len(declared):
                cell = values  # the newest one that sets most of the parameters
    _refuse_unknown(notebook, cell, declared)
    present = (cell or known).keys() | injected.keys()
    for name in declared.keys() - present:
        raise WorkbookError(
            f"{notebook}: the parameter {name!r} is not set; run the cell at the top first, and"
            " give it its name back if it was changed there"
        )


def _refuse_edits(
    notebook: str,
    declared: Mapping[str, Any],
    values: Mapping[str, Any],
    injected: Mapping[str, Any],
) -> None:
    """Under bare papermill a value that was edited and saved by hand must not slip in."""
    for name, value in values.items():
        if name not in injected and value != declared[name]:
            raise WorkbookError(
                f"{notebook}: its parameters cell was edited by hand ({name} = {value!r}, declared"
                f" is {declared[name]!r}); pass it with -p or in a profile, or restore the cell"
            )


def _by_profile(values: Mapping[str, Any], declared: Mapping[str, Any]) -> dict[str, Any]:
    """What the notebook's profile sets and its cell does not; said, so that nobody wonders.

    The tutorial's values, which are there unless another profile is named, are for its task alone.
    """
    profile = load_profile(values["profile"])
    meant_for = profile.values.get("task", declared.get("task"))
    if values["profile"] == declared["profile"] and values.get("task") != meant_for:
        sys.stdout.write(
            f"profile {profile.path.stem} is for {meant_for}; it sets nothing for another task\n"
        )
        return {}
    chosen = {}
    for name, value in resolve(profile).items():
        if name in declared and values[name] == declared[name] and value != declared[name]:
            chosen[name] = value
    text = ", ".join(f"{name} = {value!r}" for name, value in chosen.items())
    if text:
        sys.stdout.write(
            f"profile {profile.path.stem} sets {text}. A value that you change in the parameters"
            ' cell goes first; profile = "" takes the cell as it stands.\n'
        )
    return chosen


def _injected(namespace: dict[str, Any]) -> dict[str, Any]:
    """What papermill put into a cell of its own, from the kernel's history."""
    values: dict[str, Any] = {}
    for source in namespace.get("In", []):
        if source.startswith(INJECTED):
            values |= _literals(source)
    return values


def _literals(source: str) -> dict[str, Any]:
    """name -> value of every `name = literal` and `name: type = literal` of a cell."""
    values: dict[str, Any] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign):
            target = node.targets[0]
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            target = node.target
        else:
            continue
        if isinstance(target, ast.Name):
            values[target.id] = ast.literal_eval(node.value)
    return values


def declared_parameters(notebook: Path) -> dict[str, Any]:
    """name -> default of a notebook, whatever was tried and saved in its cell since."""
    known = _declared().get(notebook.stem) if notebook.is_relative_to(PROJECT_NOTEBOOKS) else None
    return written_parameters(notebook) if known is None else known


def written_parameters(notebook: Path) -> dict[str, Any]:
    """name -> value of its `parameters` cell as saved (papermill's reader misses some types)."""
    cells = store.read_json(notebook, "it belongs to the project; restore it with git")["cells"]
    for cell in cells:
        if "parameters" in cell.get("metadata", {}).get("tags", []):
            return _literals("".join(cell["source"]))
    raise WorkbookError(f"{notebook}: no cell is tagged `parameters`")


def edits(notebook: Path) -> str:
    """What was saved by hand in its `parameters` cell, and does not hold headless; "" for none."""
    declared = declared_parameters(notebook)
    try:
        written = written_parameters(notebook)
    except (ValueError, SyntaxError):
        return "something that is no name = value"
    changed = {name: value for name, value in written.items() if value != declared.get(name, ...)}
    return ", ".join(f"{name} = {value!r}" for name, value in changed.items())


def _declared() -> dict[str, dict[str, Any]]:
    return store.read_json(DECLARED, "restore it with git") if DECLARED.exists() else {}


def write_declared() -> None:
    """Make the defaults of every notebook's cell the declared ones."""
    paths = sorted(PROJECT_NOTEBOOKS.rglob("[0-9]*.ipynb"))
    paths = [path for path in paths if ".ipynb_checkpoints" not in path.parts]
    store.write_json(DECLARED, {path.stem: written_parameters(path) for path in paths})


def check_parameters(
    declared: dict[str, Any], values: dict[str, Any], where: str
) -> dict[str, Any]:
    """Refuse unknown names and wrong types; return `values` with floats made floats.

    The default's type is the parameter's type. An int may stand for a float, and so may the text
    "1e-4", which YAML 1.1 reads as a string.
    """
    _refuse_unknown(where, values, declared)
    return {
        name: _as_type(declared[name], value, f"{where}: {name}") for name, value in values.items()
    }


def _refuse_unknown(where: str, names: Iterable[str], declared: Mapping[str, Any]) -> None:
    for name in names:
        if name not in declared:
            alike = difflib.get_close_matches(name, declared, 1)
            hint = f"did you mean {alike[0]!r}? Known" if alike else "known"
            known = ", ".join(sorted(declared))
            raise WorkbookError(f"{where}: unknown parameter {name!r}; {hint} are {known}")


def _as_type(default: Any, value: Any, what: str) -> Any:
    expected = type(default)
    if expected is float and type(value) in (int, str):
        with contextlib.suppress(ValueError, OverflowError):
            value = float(value)
    if type(value) is not expected:
        raise WorkbookError(
            f"{what} should be {expected.__name__}, for example {default!r}; got {value!r}"
        )
    if expected is float and not math.isfinite(value):
        raise WorkbookError(f"{what} is no finite number")
    if expected is int and abs(value) >= 2**63:
        raise WorkbookError(f"{what} is larger than any number of this kind may be")
    if expected is list and default:
        return [_as_type(default[0], item, what) for item in value]
    if expected is dict and default:
        sample = next(iter(default.values()))
        return {key: _as_type(sample, item, f"{what}.{key}") for key, item in value.items()}
    return value


if __name__ == "__main__":
    write_declared()
