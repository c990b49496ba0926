"""The learner edition: the same notebooks with every solution replaced by a stub."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from helpers import parameters, store
from helpers.learn import clean
from helpers.learn.feedback import STUB
from helpers.records import WorkbookError

# nbgrader's own marks, so that it and Jupyter's course tools take these notebooks as they are
SOLUTION = re.compile(
    r"^([ \t]*)### BEGIN SOLUTION\n.*?^[ \t]*### END SOLUTION[ \t]*$", re.M | re.S
)


def course_notebooks() -> dict[Path, dict[str, Any]]:
    """Path in the edition -> notebook as it was committed, whatever was run or tried here since."""
    declared = store.read_json(parameters.DECLARED, "restore it with git")
    documents = {}
    for path in sorted(store.NOTEBOOKS.rglob("[0-9]*.ipynb")):
        if path.stem in declared and ".ipynb_checkpoints" not in path.parts:
            documents[path.relative_to(store.NOTEBOOKS)] = _committed(path)
    return documents


def _committed(path: Path) -> dict[str, Any]:
    """From git; where there is none, the file, if its parameters are the declared ones."""
    text = clean.git(path, "show", f"HEAD:./{path.name}")
    if text:
        return clean.cleaned(json.loads(text))
    edits = parameters.edits(path)
    if edits:
        raise WorkbookError(f"{path}: its parameters cell was edited ({edits}); restore it first")
    return clean.cleaned(store.read_json(path))


def without_solutions(notebook: dict[str, Any], name: str) -> dict[str, Any]:
    """The notebook for a learner: stubs for solutions, and without the cells tagged `solution`.

    An exercise without one whole solution region is refused.
    """
    cells = []
    for number, cell in enumerate(notebook["cells"]):
        source, replaced = SOLUTION.subn(rf"\1{STUB}", "".join(cell["source"]))
        tags = cell["metadata"].get("tags", [])
        needs_solution = "exercise" in tags and "checkpoint" not in tags
        if "SOLUTION" in source or (needs_solution and not replaced):
            raise WorkbookError(
                f"{name}, cell {number}: an exercise needs one whole"
                " `### BEGIN SOLUTION` … `### END SOLUTION`",
                1,
            )
        if "solution" not in tags:
            cells.append(cell | {"source": source.splitlines(keepends=True)})
    return notebook | {"cells": cells}


def write_edition(folder: Path) -> list[Path]:
    """Write every notebook, those in more/ too, to `folder` as a learner gets it.

    Work that is there is not overwritten.
    """
    documents = {folder.resolve() / path: doc for path, doc in course_notebooks().items()}
    for target in documents:
        if target.exists():
            raise WorkbookError(
                f"{target} is there already and may hold somebody's answers; choose an empty folder"
            )
    for target, document in documents.items():
        store.write_text(target, clean.as_text(without_solutions(document, target.name)))
    return list(documents)
