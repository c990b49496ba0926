"""What a notebook imports before its first call, counted in a process of its own."""

from __future__ import annotations

import ast
import json
import subprocess
import sys

import pytest

from helpers import store

HEAVY = {"torch", "transformers", "trl", "peft", "pandas", "matplotlib", "scipy", "sklearn"}
HEAVY |= {"numpy", "pyarrow", "openai", "sqlalchemy", "alembic", "papermill", "jsonschema", "lark"}
MOST = 650  # modules, IPython's own 300 among them; 0.5 s of processor
NOTEBOOKS = sorted(store.NOTEBOOKS.glob("0*.ipynb"))


def modules_after(code: str) -> set[str]:
    code += "\nimport sys\nprint(*sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=store.NOTEBOOKS, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def imports_of(path) -> str:
    lines = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            tree = ast.parse("".join(cell["source"]))
            kinds = (ast.Import, ast.ImportFrom)
            lines += [ast.unparse(node) for node in tree.body if isinstance(node, kinds)]
    return "\n".join(dict.fromkeys(lines))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_imports_nothing_heavy_before_it_is_used(path):
    modules = modules_after(imports_of(path))
    assert not {name.partition(".")[0] for name in modules} & HEAVY
    assert len(modules) <= MOST


def test_checking_a_schema_builds_no_grammars():
    assert "lark" not in modules_after("import helpers, jsonschema")
