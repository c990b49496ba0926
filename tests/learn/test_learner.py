"""The learner edition, and whether the checkpoints after the exercises have teeth."""

from __future__ import annotations

import ast
import json
from itertools import pairwise
from typing import Any

import pytest

from helpers import store
from helpers.learn import edition
from helpers.records import WorkbookError

NOTEBOOKS = sorted(store.NOTEBOOKS.rglob("[0-9]*.ipynb"))
# One answer for each exercise that somebody might well give, and that the checkpoint must refuse.
WRONG = {
    "monthly_prompt_tokens": "return prompt_tokens * requests_per_day",
    "rows_needed": "import math\nreturn math.ceil(target * 100)",
    "likeness": "one, two = curate.shingles(a), curate.shingles(b)\n"
    "return len(one & two) / len(one)",
    "lora_numbers": "return sum(r * d_in * d_out for d_in, d_out in layers)",
    "flips": "gained, lost = sum(ours), sum(theirs)\n"
    "return gained, lost, (gained - lost) / len(ours)",
    "way_back": "return switches[0][1] if len(switches) > 1 else None",
    "gate_says": "return 'pass' if 'pass' in verdicts else 'fail' if 'fail' in verdicts"
    " else 'inconclusive'",
    "answers_until_alarm": "return answers.index(0) + 1 if 0 in answers else None",
}


def cells_of(path) -> list[tuple[list[str], str]]:
    cells = json.loads(path.read_text())["cells"]
    return [
        (c["metadata"].get("tags", []), "".join(c["source"]))
        for c in cells
        if c["cell_type"] == "code"
    ]


def exercises() -> list[Any]:
    """(notebook, source of the exercise, source of its checkpoint) of every exercise."""
    found = []
    for path in NOTEBOOKS:
        cells = cells_of(path)
        for (tags, source), (_, check) in pairwise(cells):
            if "exercise" in tags and "# --- solution" in source:
                found.append(pytest.param(path, source, check, id=f"{path.stem}-{name_of(source)}"))
    return found


def name_of(source: str) -> str:
    made = [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    return made[-1] if made else source.splitlines()[0][:30]


def wrong_answers(source: str) -> list[str]:
    """The table's answer; of another exercise, its solution with one operator or number changed."""
    if name_of(source) in WRONG:
        lines = WRONG[name_of(source)].splitlines()
        indent = edition.SOLUTION.search(source)[1]
        answer = "\n".join(indent + line for line in lines)
        return [edition.SOLUTION.sub(lambda _: answer, source)]
    swaps = {
        ast.Add: ast.Sub,
        ast.Sub: ast.Add,
        ast.Mult: ast.Add,
        ast.Div: ast.Mult,
        ast.Lt: ast.GtE,
        ast.Gt: ast.LtE,
    }
    swaps |= {
        ast.LtE: ast.Gt,
        ast.GtE: ast.Lt,
        ast.Eq: ast.NotEq,
        ast.BitAnd: ast.BitOr,
        ast.In: ast.NotIn,
        ast.NotIn: ast.In,
    }
    made = []
    for index in range(len(list(ast.walk(ast.parse(source))))):
        tree = ast.parse(source)
        node = list(ast.walk(tree))[index]
        if isinstance(node, ast.BinOp) and type(node.op) in swaps:
            node.op = swaps[type(node.op)]()
        elif isinstance(node, ast.Compare) and type(node.ops[0]) in swaps:
            node.ops[0] = swaps[type(node.ops[0])]()
        elif isinstance(node, ast.Return):
            node.value = ast.Constant(None)
        else:
            continue
        made.append(ast.unparse(tree))
    return made


def passes(path, source: str, check: str) -> bool:
    """Whether the checkpoint lets an answer through; what needs notebook objects is left out."""
    space: dict[str, Any] = {"display": lambda *shown: None}
    for _, cell in cells_of(path):
        imports = [
            node for node in ast.parse(cell).body if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        exec(compile(ast.Module(imports, []), "imports", "exec"), space)
    try:
        exec(source, space)
        for statement in ast.parse(check).body:
            try:
                exec(compile(ast.Module([statement], []), "check", "exec"), space)
            except NameError:
                continue
    except Exception:
        return False
    return True


@pytest.mark.parametrize(("path", "source", "check"), exercises())
def test_a_checkpoint_accepts_the_solution_and_refuses_the_stub_and_a_plausible_mistake(
    path, source, check
):
    assert "assert " in check, "the cell after an exercise checks it"
    assert passes(path, source, check)
    assert not passes(path, edition.SOLUTION.sub(edition.STUB, source), check), "the stub"
    wrong = wrong_answers(source)
    assert wrong and not all(passes(path, answer, check) for answer in wrong)
    if name_of(source) in WRONG:
        assert not passes(path, wrong[0], check)


def test_every_core_notebook_has_an_exercise():
    assert {param.values[0].stem[:2] for param in exercises()} >= {
        "00",
        "01",
        "02",
        "03",
        "04",
        "05",
        "06",
    }


def test_the_edition_holds_no_line_of_a_solution_and_is_otherwise_the_same(tmp_path):
    written = edition.write_edition(tmp_path / "mine")
    assert [path.name for path in written] == [path.name for path in NOTEBOOKS]
    for source, target in zip(NOTEBOOKS, written, strict=True):
        theirs = json.loads(target.read_text())
        texts = ["".join(cell["source"]) for cell in theirs["cells"]]
        solutions = [
            found[0] for _, cell in cells_of(source) for found in edition.SOLUTION.finditer(cell)
        ]
        for line in (line.strip() for text in solutions for line in text.splitlines()[1:-1]):
            assert not any(line in text.splitlines() for text in texts), line
        assert sum('NotImplementedError("your turn")' in text for text in texts) == len(solutions)
        assert len(theirs["cells"]) == len(json.loads(source.read_text())["cells"])


def test_work_that_is_there_is_not_overwritten(tmp_path):
    edition.write_edition(tmp_path)
    (tmp_path / "01_decide.ipynb").write_text("my answers")
    with pytest.raises(WorkbookError, match="empty folder"):
        edition.write_edition(tmp_path)
    assert (tmp_path / "01_decide.ipynb").read_text() == "my answers"


@pytest.mark.parametrize(
    "source", ["def f():\n    return 1", "def f():\n    # --- solution\n    return 1\n"]
)
def test_an_exercise_without_a_whole_solution_region_is_refused(source):
    notebook = {
        "cells": [{"cell_type": "code", "metadata": {"tags": ["exercise"]}, "source": source}]
    }
    with pytest.raises(WorkbookError, match="solution"):
        edition.without_solutions(notebook, "x.ipynb")
