"""The learner edition: the same notebooks with every solution replaced by a stub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from helpers import store
from helpers.records import WorkbookError

SOLUTION = re.compile(r"^([ \t]*)# --- solution\n.*?^[ \t]*# --- end solution[ \t]*$", re.M | re.S)
STUB = r'\1raise NotImplementedError("your turn")'


def without_solutions(notebook: dict[str, Any], name: str) -> dict[str, Any]:
    """The notebook for a learner; an exercise without one whole solution region is refused."""
    for number, cell in enumerate(notebook["cells"]):
        source, replaced = SOLUTION.subn(STUB, "".join(cell["source"]))
        tags = cell["metadata"].get("tags", [])
        needs_solution = "exercise" in tags and "checkpoint" not in tags
        if "--- solution" in source or (needs_solution and not replaced):
            raise WorkbookError(
                f"{name}, cell {number}: an exercise needs one whole"
                " `# --- solution` … `# --- end solution`",
                1,
            )
        cell["source"] = source.splitlines(keepends=True)
    return notebook


def write_edition(folder: Path) -> list[Path]:
    """Write every notebook, those in more/ too, to `folder` as a learner gets it.

    Work that is there is not overwritten.
    """
    sources = sorted(store.NOTEBOOKS.rglob("[0-9]*.ipynb"))
    targets = [folder.resolve() / path.relative_to(store.NOTEBOOKS) for path in sources]
    for target in targets:
        if target.exists():
            raise WorkbookError(
                f"{target} is there already and may hold somebody's answers; choose an empty folder"
            )
    for source, target in zip(sources, targets, strict=True):
        store.write_json(target, without_solutions(store.read_json(source), source.name))
    return targets
