"""Imports point down only, rooms on one floor do not know each other, and the whole stays small enough to read."""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

import pytest

from helpers import store

HELPERS = store.PROJECT / "helpers"
FLOORS = {
    1: ("records", "store"),
    2: ("tasks",),
    3: ("models", "show"),
    4: ("curate", "evaluate"),
    5: ("decide", "train"),
    6: ("registry",),
    7: ("monitor", "practice"),
    8: ("retrain",),
    9: ("cli",),
}
FLOOR = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
FILES = sorted(HELPERS.rglob("*.py"))
each = pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(HELPERS)))


def room(path: Path) -> str:
    return path.relative_to(HELPERS).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """Rooms a file imports, also inside functions and under TYPE_CHECKING."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where they point"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("helpers.")}
    return found & set(FLOOR)


def test_every_room_has_a_floor():
    assert {room(p) for p in FILES} - {"__init__"} <= set(FLOOR)


@each
def test_imports_point_down_only(path):
    own = room(path)
    if own == "__init__":
        assert not imported_rooms(path)
        return
    for other in imported_rooms(path) - {own}:
        assert FLOOR[other] < FLOOR[own] or (own, other) == ("store", "records"), (
            f"{own} may not import {other}"
        )


NOT_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def code_lines(path: Path) -> int:
    """Lines with code on them: no blanks, comments or docstrings, so that explaining costs nothing."""
    text = path.read_text(encoding="utf-8")
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NOT_CODE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(
            node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        ) and ast.get_docstring(node):
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def test_the_package_stays_readable():
    assert sum(map(code_lines, FILES)) <= 10570, sum(map(code_lines, FILES))
    lengths = {
        str(p.relative_to(HELPERS)): len(p.read_text(encoding="utf-8").splitlines()) for p in FILES
    }
    assert not {name: n for name, n in lengths.items() if n > 350}
    middle = sorted(n for name, n in lengths.items() if not name.endswith("__init__.py"))[
        len(lengths) // 2
    ]
    assert middle <= 200


@each
def test_functions_are_short(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 70, f"{path.name}: {node.name}"


@each
def test_only_the_command_line_prints(path):
    if path.name in ("cli.py", "__main__.py"):
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"), path
