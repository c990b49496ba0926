"""What makes a finished notebook's work still valid: a good artifact, and the same parameters, inputs and code."""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any

from helpers import store
from helpers.parameters import NOTEBOOKS


def stamp(path: Path) -> int | None:
    """What changes when a file is replaced (two are compared, not ordered, so a clock that jumps cannot fool it)."""
    return path.stat().st_mtime_ns if path.exists() else None


def artifact_problem(name: str, path: Path, before: int | None) -> str:
    """What is wrong with a notebook's artifact after its run, or "": it must be new, valid JSON, and say its facts."""
    if stamp(path) is None:
        return f"all cells ran, but {path} was not written"
    if stamp(path) == before:
        return f"all cells ran, but {path} is still the one from before"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        return f"{path} is not valid JSON ({error})"
    missing = [key for key in NOTEBOOKS[name].facts.split() if key not in value]
    return f"{path} lacks {', '.join(missing)}" if missing else ""


def key_of(
    notebook: Path,
    parameters: dict[str, Any],
    run: store.Run,
    task_folder: Path,
    later: Collection[str] = (),
) -> str:
    """Fingerprint of everything a notebook's result depends on; run and timing facts are not part of it.

    What only notebooks that come `later` in this run write is no input: it was not there the first time.
    """
    name, base_model = notebook.stem, Path(parameters.get("base_model", ""))
    written = {NOTEBOOKS[other].artifact for other in later}
    reads = [f"{artifact}.json" for artifact in NOTEBOOKS[name].reads.split()]
    inputs = [_digest(run.path(artifact)) for artifact in reads if artifact not in written]
    folders = [task_folder] if name != "00_start_here" else []
    folders += [base_model] if base_model.is_absolute() else []
    if name == "06_monitor":
        folders.append(store.home() / "live")
        inputs.append(_digest(store.home() / "routes.json"))
    outside = [_listing(folder) for folder in folders]
    return store.fingerprint([parameters, inputs, outside, store.sha256_file(notebook), _code()])


def finished_before(name: str, key: str, run: store.Run) -> bool:
    """Whether this notebook already did exactly this, and what it wrote is still there as it was written."""
    artifact = run.path(NOTEBOOKS[name].artifact)
    if not artifact.exists() or _state(run).get(name) != {
        "key": key,
        "artifact": _digest(artifact),
    }:
        return False
    value = store.read_json(artifact)
    if name == "02_curate":
        return (store.home() / "datasets" / value["version"] / "manifest.json").exists()
    return (store.home() / (value.get("adapter") or ".")).exists()


def remember(name: str, key: str, run: store.Run) -> None:
    """Note a finished notebook; called only once its artifact is known to be good."""
    entry = {"key": key, "artifact": _digest(run.path(NOTEBOOKS[name].artifact))}
    store.write_json(run.path("state.json"), _state(run) | {name: entry})


def _state(run: store.Run) -> dict[str, Any]:
    return run.read("state.json") if run.has("state.json") else {}


def _digest(path: Path) -> str:
    return store.sha256_file(path) if path.is_file() else ""


def _listing(folder: Path) -> list[Any]:
    """Names, sizes and times: enough to see a change, and quick on gigabytes."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in files]


@cache
def _code() -> str:
    """Fingerprint of the package's source."""
    return store.fingerprint(
        [[str(p), store.sha256_file(p)] for p in sorted((store.PROJECT / "helpers").rglob("*.py"))]
    )
