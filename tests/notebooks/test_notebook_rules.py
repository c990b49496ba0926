"""What every notebook keeps to, checked without running it."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from helpers import store
from helpers.learn import clean
from helpers.parameters import NOTEBOOKS, RUN_LEVEL, declared_parameters, load_profile, resolve

FILES = sorted(
    p for p in (store.PROJECT / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts
)
PROFILES = sorted((store.PROJECT / "params").rglob("*.yaml"))
TYPES = ("str", "int", "float", "bool", "list[str]", "dict[str, float]")
TAGS = {"parameters", "checkpoint", "exercise", "interactive", "solution"}
MAY_IMPORT = {"helpers", "pandas", "matplotlib.pyplot", "IPython.display", "__future__"}
HANGS = re.compile(r"\b(widgets\.Output|interact|interactive_output|capture)\b")
SECRET = re.compile(r"\b(sk-[A-Za-z0-9_-]{16,}|hf_[A-Za-z0-9]{20,})\b")
each = pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)


def as_git_keeps_it(path: Path) -> dict[str, Any]:
    """Somebody may have run and saved it, which changes nothing that counts."""
    return clean.cleaned(json.loads(path.read_text()))


def cells(path: Path, kind: str = "code") -> list[dict[str, Any]]:
    return [c for c in as_git_keeps_it(path)["cells"] if c["cell_type"] == kind]


def tags(cell: dict[str, Any]) -> set[str]:
    return set(cell["metadata"].get("tags", []))


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def lines(cell: dict[str, Any]) -> list[str]:
    return [line for line in source(cell).splitlines() if line.strip()]


def is_exercise(cell: dict[str, Any]) -> bool:
    return "exercise" in tags(cell)


def test_the_eight_notebooks_of_the_flow_are_there():
    assert set(NOTEBOOKS) <= {p.stem for p in FILES if p.parent.name == "notebooks"}
    assert all(
        re.fullmatch(r"\d\d[a-z]?_[a-z_]+", p.stem) for p in FILES if p.parent.name == "notebooks"
    )


@each
def test_exactly_one_parameters_cell_and_it_comes_first(path):
    assert ["parameters" in tags(c) for c in cells(path)] == [True] + [False] * (
        len(cells(path)) - 1
    )
    text = source(cells(path)[0])
    for node in ast.parse(text).body:
        assert isinstance(node, ast.AnnAssign) and node.value is not None, (
            "each parameter: name: type = literal"
        )
        assert ast.unparse(node.annotation) in TYPES
        ast.literal_eval(node.value)
        lines_of_it = text.splitlines()[node.lineno - 1 : node.end_lineno]
        assert "#" in "".join(lines_of_it), "each parameter says what it means"


@each
def test_the_first_helper_call_opens_the_run_and_checks_the_parameters(path):
    assert f'parameters.begin("{path.stem}", globals())' in source(cells(path)[1])


@each
def test_a_notebook_is_short_and_only_calls(path):
    core = [c for c in cells(path) if not tags(c) & {"exercise", "checkpoint"}]
    assert len(core) <= 14
    for cell in cells(path):
        if "parameters" not in tags(cell):  # one line per parameter, however many there are
            assert len(lines(cell)) <= (15 if is_exercise(cell) else 12), source(cell)
        made = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Try)
        found = [node for node in ast.walk(ast.parse(source(cell))) if isinstance(node, made)]
        assert is_exercise(cell) or not found, source(cell)


@each
def test_imports_come_from_the_rooms_and_three_libraries(path):
    for cell in cells(path):
        for node in ast.walk(ast.parse(source(cell))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name in MAY_IMPORT or name.startswith("helpers."), name


@each
def test_nothing_is_stored_and_nothing_can_hang(path):
    for cell in cells(path):
        assert tags(cell) <= TAGS
        assert not HANGS.search(source(cell)), source(cell)
        assert not re.search(r"^\s*[!%]", source(cell), re.M), "no shell and no magics"
    assert not SECRET.search(clean.as_text(as_git_keeps_it(path)))


def test_what_git_keeps_has_no_outputs():
    listing = subprocess.run(
        ["git", "ls-files", "*.ipynb"], cwd=store.PROJECT, capture_output=True, text=True
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    names = listing.stdout.split()
    assert len(names) >= len(NOTEBOOKS)
    for name in names:
        text = subprocess.run(
            ["git", "show", f":{name}"], cwd=store.PROJECT, capture_output=True, text=True
        ).stdout
        assert text == clean.as_text(clean.cleaned(json.loads(text))), (
            f"{name}: `make setup` installs the filter; then `git add --renormalize {name}`"
        )


@each
def test_prose_stands_before_code(path):
    document = as_git_keeps_it(path)["cells"]
    for number, cell in enumerate(document):
        if cell["cell_type"] == "code":
            assert "markdown" in [c["cell_type"] for c in document[max(0, number - 2) : number]], (
                source(cell)
            )
    prose = sum(len(source(c).split()) for c in cells(path, "markdown"))
    code = sum(len(lines(c)) for c in cells(path) if "parameters" not in tags(c))
    assert prose >= 6 * code, f"{prose} words for {code} lines"


@each
def test_a_notebook_begins_with_its_goals_and_ends_with_recap_and_questions(path):
    first = source(cells(path, "markdown")[0])
    assert first.startswith("# ")
    assert all(word in first for word in ("**You will**", "**Reads**", "**Writes**", "**Decides**"))
    text = "\n".join(source(c) for c in cells(path, "markdown"))
    assert "## Recap" in text and "## Questions" in text
    assert any("checkpoint" in tags(c) for c in cells(path))


@each
def test_exercises_are_solved_offline_and_marked(path):
    for cell in cells(path):
        if is_exercise(cell) and "checkpoint" not in tags(cell):
            marks = ("### BEGIN SOLUTION", "### END SOLUTION")
            assert [source(cell).count(mark) for mark in marks] == [1, 1]


def test_a_name_has_the_same_meaning_type_and_default_everywhere():
    seen: dict[str, tuple[str, Any]] = {}
    for path in FILES:
        for name, default in declared_parameters(path).items():
            first, value = seen.setdefault(name, (path.stem, default))
            assert (type(value), value) == (type(default), default), (
                f"{name}: {first} and {path.stem} differ"
            )
    own = {"run_id", "show_text"}  # by hand: dev, and text is shown
    for name in (set(RUN_LEVEL) & set(seen)) - own:
        assert seen[name][1] == RUN_LEVEL[name], name


def test_there_are_profiles_and_each_fits_the_notebooks():
    assert {"tutorial", "smoke"} <= {p.stem for p in PROFILES}
    for path in PROFILES:
        profile = load_profile(str(path))
        resolve(profile)
        text = path.read_text().splitlines()
        for name, line in profile.lines.items():
            assert "#" in text[line - 1] or text[line - 2].startswith("#"), (
                f"{path.name}: {name} has no comment"
            )
