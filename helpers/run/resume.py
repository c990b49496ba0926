"""What keeps a notebook's work valid: a good artifact, the same parameters, inputs and code."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any

from helpers import store
from helpers.parameters import NOTEBOOKS
from helpers.records import DatasetPointer, TrainedModel, WorkbookError

STATE = "state.json"  # by notebook: what its result depended on, and its artifact's digest
# parameters that name files and folders; a model may also be a name
PLACES = ("base_model", "rung_models", "judge_model", "synthetic_model", "live_path")


def stamp(name: str, run: store.Run) -> int | None:
    """What changes when a notebook's artifact is replaced; None when there is none.

    (Two are compared, not ordered, so a clock that jumps cannot fool it.)
    """
    path = run.path(NOTEBOOKS[name].artifact)
    return path.stat().st_mtime_ns if path.exists() else None


def artifact_problem(name: str, run: store.Run, before: int | None) -> str:
    """What is wrong with a notebook's artifact after its run, or "": it must be new and valid."""
    kind = NOTEBOOKS[name].writes
    path = run.path(kind.FILE)
    if not path.exists():
        return f"all cells ran, but {path} was not written"
    if stamp(name, run) == before:
        return f"all cells ran, but {path} is still the one from before"
    try:
        run.load(kind)
    except WorkbookError as error:
        return str(error)
    return ""


def key_of(
    notebook: Path,
    parameters: dict[str, Any],
    run: store.Run,
    task_folder: Path,
    later: Collection[str] = (),
) -> str:
    """Fingerprint of everything a notebook's result depends on, run and timing facts apart.

    What only notebooks that come `later` in this run write is no input: it was not there the first
    time.
    """
    name = notebook.stem
    written_later = {NOTEBOOKS[other].writes for other in later}
    kinds = [kind for kind in NOTEBOOKS[name].reads if kind not in written_later]
    inputs = [_digest(run.path(kind.FILE)) for kind in kinds]
    if name in ("01_decide", "04_evaluate"):  # what people rate is counted
        for folder in (run.path("private"), run.path("")):
            inputs += [_digest(path) for path in sorted(folder.glob("ratings*.csv"))]
    outside = [task_folder, *_places(parameters)]
    if name == "06_monitor":
        outside.append(store.home() / "live")
        inputs.append(_digest(store.home() / "routes.json"))
    listings = list(map(_listing, outside))
    return store.fingerprint([parameters, inputs, listings, _cells(notebook), _code()])


def _places(parameters: dict[str, Any]) -> list[Path]:
    """The files and folders that parameters name."""
    names: list[str] = []
    for value in map(parameters.get, PLACES):
        names += value if isinstance(value, list) else [value or ""]
    return [path for path in map(Path, names) if path.is_absolute()]


def _cells(notebook: Path) -> list[str]:
    """Its code, whatever Jupyter saved beside it, and without the parameters, which are given."""
    code = [cell for cell in store.read_json(notebook)["cells"] if cell["cell_type"] == "code"]
    others = [cell for cell in code if "parameters" not in cell["metadata"].get("tags", [])]
    return ["".join(cell["source"]) for cell in others]


def finished_before(name: str, key: str, run: store.Run) -> bool:
    """Whether this notebook already did exactly this, and all that it wrote is still there."""
    kind = NOTEBOOKS[name].writes
    entry = {"key": key, "artifact": _digest(run.path(kind.FILE))}
    if not run.has(kind) or _state(run).get(name) != entry:
        return False
    if kind is DatasetPointer:
        version = run.load(DatasetPointer).version
        return (store.home() / "datasets" / version / "manifest.json").exists()
    if kind is TrainedModel:
        adapter = run.load(TrainedModel).adapter
        return adapter is None or (store.home() / adapter).exists()
    return True


def remember(name: str, key: str, run: store.Run) -> None:
    """Note a finished notebook; called only once its artifact is known to be good."""
    entry = {"key": key, "artifact": _digest(run.path(NOTEBOOKS[name].artifact))}
    store.write_json(run.path(STATE), _state(run) | {name: entry})


def _state(run: store.Run) -> dict[str, Any]:
    return store.read_json(run.path(STATE)) if run.has(STATE) else {}


def _digest(path: Path) -> str:
    return store.sha256_file(path) if path.is_file() else ""


def _listing(place: Path) -> list[Any]:
    """Names, sizes and times: enough to see a change, and quick on gigabytes."""
    paths = [path for path in (place, *place.rglob("*")) if "__pycache__" not in path.parts]
    files = sorted(path for path in paths if path.is_file())
    return [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files]


@cache
def _code() -> str:
    """Fingerprint of the package's source."""
    sources = sorted((store.PROJECT / "helpers").rglob("*.py"))
    return store.fingerprint([[str(path), store.sha256_file(path)] for path in sources])
