"""A notebook as git keeps it: no outputs, no counters, the same kernel's name for everybody.

git calls this file by itself (`make setup` installs it as the filter that .gitattributes names): a
difference of outputs is none. It needs nothing but Python: `python helpers/learn/clean.py` filters
stdin to stdout. git believes a file's size before it asks a filter, so `make lab` has every save
tell it to look (`after_save`).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
KEPT = ("tags", "nbgrader", "jupyter")  # of a cell's metadata; editors add many others


def cleaned(document: dict[str, Any]) -> dict[str, Any]:
    """The notebook without what running, looking and saving add to it."""
    cells = []
    for cell in document["cells"]:
        metadata = {name: cell["metadata"][name] for name in KEPT if name in cell["metadata"]}
        clean = {"cell_type": cell["cell_type"], "id": cell.get("id"), "metadata": metadata}
        if cell["cell_type"] == "code":
            clean |= {"execution_count": None, "outputs": []}
        clean["source"] = "".join(cell["source"]).splitlines(keepends=True)
        if cell.get("attachments"):
            clean["attachments"] = cell["attachments"]
        cells.append(dict(sorted(clean.items())))
    return {
        "cells": cells,
        "metadata": {"kernelspec": KERNEL, "language_info": {"name": "python"}},
        "nbformat": document["nbformat"],
        "nbformat_minor": document["nbformat_minor"],
    }


def as_text(document: dict[str, Any]) -> str:
    """The JSON as Jupyter lays it out, so that a difference is a difference of lines."""
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def after_save(os_path: str = "", **_: Any) -> None:
    """Jupyter's post-save hook: a notebook that differs in outputs alone is unchanged for git."""
    path = Path(os_path)
    if path.suffix != ".ipynb":
        return
    listed = git(path, "ls-files", "-s", "--", path.name).split()
    if listed and git(path, "hash-object", "--", path.name).strip() == listed[1]:
        git(path, "add", "--", path.name)


def git(path: Path, *arguments: str) -> str:
    """What git prints; nothing where it is missing, busy, or knows no such file."""
    try:
        done = subprocess.run(["git", *arguments], cwd=path.parent, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout if done.returncode == 0 else ""


def main() -> None:
    """Filter stdin to stdout; what is no notebook passes as it is."""
    data = sys.stdin.buffer.read()
    try:
        data = as_text(cleaned(json.loads(data))).encode()
    except (ValueError, KeyError, TypeError):
        sys.stderr.write("no notebook: left as it is\n")
    sys.stdout.buffer.write(data)


if __name__ == "__main__":
    main()
