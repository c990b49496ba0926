"""What makes a finished notebook's work still valid: the same parameters, inputs, notebook and code."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from helpers import store

ARTIFACT = {name.split()[0]: artifact for artifact, name in store.ARTIFACT_OF.items()} | {
    "03b_train_openai": "model.json"
}
FACTS = {  # what an artifact must at least say
    "decision.json": ("recommendation", "trainer"),
    "dataset.json": ("version", "fingerprint"),
    "model.json": ("model_id", "dataset_version"),
    "evaluation.json": ("verdict", "base_model", "fine_tuned_model"),
    "promotion.json": ("verdict",),
    "health.json": ("verdict",),
}
READS = {  # artifacts of the same run; everything else a notebook may read is in `_outside`
    "03a_train_lora": ("dataset.json",),
    "03b_train_openai": ("dataset.json",),
    "04_evaluate": ("dataset.json", "model.json", "decision.json"),
    "05_registry": ("dataset.json", "model.json", "decision.json", "evaluation.json"),
    "06_monitor": ("promotion.json",),
}


def key_of(notebook: Path, parameters: dict[str, Any], run: store.Run, task_folder: Path) -> str:
    """Fingerprint of everything a notebook's result depends on; run and timing facts are not part of it."""
    name = notebook.stem
    inputs = {artifact: _digest(run.path(artifact)) for artifact in READS.get(name, ())}
    folders = [task_folder] if name != "00_start_here" else []
    base_model = parameters.get("base_model", "")
    if base_model not in ("", "embedded", "tiny") and Path(base_model).is_dir():
        folders.append(Path(base_model))
    if name == "06_monitor":
        folders.append(store.home() / "live")
        inputs["routes.json"] = _digest(store.home() / "routes.json")
    outside = {str(folder): _listing(folder) for folder in folders}
    return store.fingerprint([parameters, inputs, outside, store.sha256_file(notebook), _code()])


def finished_before(name: str, key: str, run: store.Run) -> bool:
    """Whether this notebook already did exactly this, and what it wrote is still there as it was written."""
    entry = _state(run).get(name, {})
    artifact = run.path(ARTIFACT[name])
    if entry.get("key") != key or entry.get("artifact") != _digest(artifact):
        return False
    value = store.read_json(artifact)
    if name == "02_curate":
        return (store.home() / "datasets" / str(value["version"]) / "manifest.json").exists()
    return "adapter" not in value or not value["adapter"] or (store.home() / value["adapter"]).exists()


def remember(name: str, key: str, run: store.Run) -> None:
    """Note a finished notebook; called only once its artifact is known to be good."""
    entry = {"key": key, "artifact": _digest(run.path(ARTIFACT[name]))}
    store.write_json(run.path("state.json"), _state(run) | {name: entry})


def _state(run: store.Run) -> dict[str, Any]:
    return run.read("state.json") if run.has("state.json") else {}


def _digest(path: Path) -> str:
    return store.sha256_file(path) if path.is_file() else ""


def _listing(folder: Path) -> list[Any]:
    """Names, sizes and times: enough to see a change, and quick on gigabytes."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return [[str(p.relative_to(folder)), p.stat().st_size, p.stat().st_mtime_ns] for p in files]


@cache
def _code() -> str:
    """Fingerprint of the package's source."""
    root = store.PROJECT / "helpers"
    return store.fingerprint([[str(p.relative_to(root)), store.sha256_file(p)] for p in sorted(root.rglob("*.py"))])
