"""CONTRIBUTING's recipes work: each is applied to a copy of the code, linted and tested there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import store

TEXT = (store.PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MOST_LINES = 20  # that a recipe adds, its test apart
BLOCK = re.compile(r"^```(diff|python)\n(.*?)^```", re.M | re.S)
RECIPES = {
    title: BLOCK.findall(body)
    for title, body in re.findall(r"^### (Add .+?)\n(.*?)(?=^##|\Z)", TEXT, re.M | re.S)
}
ASKED_FOR = ("check", "scorer", "rung", "gate rule", "field")


def apply(change: str, root: Path) -> None:
    """Change files as a recipe says: a place (@@) is found by its old lines, which stand once."""
    for part in re.split(r"^--- ", change, flags=re.M)[1:]:
        name, *lines = part.splitlines()
        path = root / name
        text = path.read_text(encoding="utf-8")
        for place in "\n".join(lines).split("@@\n")[1:]:
            rows = place.splitlines()
            old = "".join(f"{row[1:]}\n" for row in rows if row[:1] != "+")
            new = "".join(f"{row[1:]}\n" for row in rows if row[:1] != "-")
            assert text.count(old) == 1, f"CONTRIBUTING.md: {name} does not have once:\n{old}"
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")


def run(command: list[str], root: Path) -> str:
    """A command in the copy, with the toys of the tests at hand; returns what is wrong, or ""."""
    toys = [store.PROJECT / "tests", *sorted((store.PROJECT / "tests").glob("*/"))]
    environment = os.environ | {
        "WORKBOOK_HOME": str(root / "home"),
        "PYTHONPATH": os.pathsep.join(map(str, [root, *toys])),
    }
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=root, env=environment, capture_output=True, text=True
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_does_what_it_says(title, tmp_path):
    without = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(store.PROJECT / "helpers", tmp_path / "helpers", ignore=without)
    shutil.copy(store.PROJECT / "pyproject.toml", tmp_path)
    for name in ("notebooks", "params", "tests/released"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(store.PROJECT / name)
    tests = []
    for kind, text in RECIPES[title]:
        if kind == "diff":
            apply(text, tmp_path)
            continue
        path = tmp_path / text.splitlines()[0].removeprefix("# ")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        tests.append(str(path))
    assert tests, "a recipe has a test"
    changed = re.findall(r"^--- (.+)$", "".join(text for _, text in RECIPES[title]), re.M)
    assert not run(["ruff", "check", *changed, *tests], tmp_path)
    assert not run(["ruff", "format", "--check", *tests], tmp_path)
    assert not run(["pytest", "-q", "-p", "no:cacheprovider", *tests], tmp_path)


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_is_short(title):
    code = "".join(text for kind, text in RECIPES[title] if kind == "diff")
    assert len(re.findall(r"^[+-](?!--)", code, re.M)) <= MOST_LINES


@pytest.mark.parametrize("thing", ASKED_FOR)
def test_there_is_a_recipe_for(thing):
    assert [title for title in RECIPES if thing in title]
