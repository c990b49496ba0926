"""A version's files on all machines of a team: its adapter, its dataset, its run's artifacts.

With WORKBOOK_STORE set they are uploaded when the version is registered, and only then does its
row name them. A machine that lacks them fetches them when it needs them, checked by their sha256.
"""

from __future__ import annotations

import os
from pathlib import Path

from helpers import store
from helpers.records import FineTunedModelVersion, WorkbookError
from helpers.registry import versions
from helpers.registry.database import Registry

PATTERNS = ("*.json", "answers/*.jsonl")  # of a run's folder; the rest is its machine's own affair
NOT_SHARED = (
    "version {} was not shared through a store, or WORKBOOK_STORE is not set here (docs/scaling.md)"
)
OWN = ("run.json", "children.json", "kernel.json")


def share(registry: Registry, version: FineTunedModelVersion) -> None:
    """Upload what the version is made of, then name it in its row; nothing without a store."""
    if not os.environ.get("WORKBOOK_STORE"):
        return
    from helpers.extras import stores

    names = {}
    for kind, folder in _folders(version).items():
        patterns = PATTERNS if kind == "run" else ("**/*",)
        paths = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
        files = [path for path in paths if path.name not in OWN and not path.name.startswith(".")]
        if files:
            names[kind] = stores.upload(folder, files)
    with registry.transaction() as db:
        row = versions.row_of(db, version.id)
        known = row["metadata"].get("store", {})
        if known != known | names:
            versions.update(db, version.id, metadata=row["metadata"] | {"store": known | names})


def bring(version: FineTunedModelVersion) -> None:
    """Fetch what this machine lacks of a version, where its row names it."""
    names = version.metadata.get("store", {})
    if not names or not os.environ.get("WORKBOOK_STORE"):
        return
    from helpers.extras import stores

    for kind, folder in _folders(version).items():
        if kind in names:
            stores.download(names[kind], folder)


def fetch(version_id: str) -> FineTunedModelVersion:
    """Bring a version here, to evaluate or to look at it: its run, its dataset, its adapter."""
    version = versions.version_of(version_id)
    if not version.metadata.get("store") or not os.environ.get("WORKBOOK_STORE"):
        raise WorkbookError(NOT_SHARED.format(version.id))
    bring(version)
    return version


def bring_run(version: FineTunedModelVersion) -> None:
    """`bring`, for what cannot go on without the version's run."""
    bring(version)
    if not store.Run(version.run_id).folder.is_dir():
        raise WorkbookError(NOT_SHARED.format(version.id))


def _folders(version: FineTunedModelVersion) -> dict[str, Path]:
    """Where the parts of a version lie in a home."""
    home = store.home()
    folders = {"run": home / "runs" / version.run_id}
    if version.metadata.get("artifact"):
        folders["artifact"] = home / version.metadata["artifact"]
    if version.dataset_version:
        folders["dataset"] = home / "datasets" / version.dataset_version
    return folders
