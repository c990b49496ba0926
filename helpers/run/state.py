"""What stands between the runs: what is overdue or waits for a person, and what may be thrown away."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

from helpers import store
from helpers.records import FineTunedModelVersion
from helpers.run import schedule
from helpers.run.flow import past_runs


def status() -> dict[str, Any]:
    """{overdue, schedules, open_requests, waiting_approvals}: each in its own words, for `workbook status`."""
    schedules, versions = schedule.listed(), _versions()
    staged = [version for version in versions if version.status == "staging"]
    asked = "workbook registry promote {} --to production"
    waiting = [
        {
            "version": v.id,
            "task": v.task,
            "since": v.trained_at.isoformat(),
            "next": asked.format(v.id),
        }
        for v in staged
    ]
    found = {"overdue": any(entry["overdue"] for entry in schedules), "schedules": schedules}
    return found | {"open_requests": _open_requests(versions), "waiting_approvals": waiting}


def _versions() -> list[FineTunedModelVersion]:
    from helpers import registry

    return registry.list_versions() if store.home().exists() else []


def _open_requests(versions: list[FineTunedModelVersion]) -> list[dict[str, Any]]:
    """The newest health.json of each version that asks for a retrain, unless a newer version of its task exists."""
    asked: dict[str, dict[str, Any]] = {}
    by_id = {version.id: version for version in versions}
    for path in sorted(
        (store.home() / "runs").glob("*/health.json"), key=lambda path: path.stat().st_mtime
    ):
        health = store.read_json(path)
        if health.get("version") in by_id:
            asked[health["version"]] = health | {"run_id": path.parent.name}
    found = []
    for name, health in asked.items():
        task, since = by_id[name].task, by_id[name].trained_at
        newer = any(
            v.task == task and v.trained_at > since and v.status != "deprecated" for v in versions
        )
        if health["verdict"] == "retrain" and by_id[name].status == "production" and not newer:
            found.append(
                {"task": task, "version": name}
                | {key: health[key] for key in ("run_id", "reasons")}
            )
    return found


def garbage(keep: int) -> list[Path]:
    """What may go: runs but the newest `keep`, and models and datasets that no remaining run names.

    Nothing that the registry names goes: no version's run, adapter or dataset, so no route and no way back either. Of
    each profile the newest success stays, since `workbook status` counts from it.
    """
    runs, versions = past_runs(), _versions()
    kept = {run["run_id"] for run in runs[max(0, len(runs) - keep) :] if keep} | {
        v.run_id for v in versions
    }
    kept |= {run["run_id"] for run in runs if run["status"] == "running"} | {"dev"}
    kept |= set(
        {
            run["profile"]: run["run_id"]
            for run in runs
            if run["status"] in ("finished", "nothing_to_do")
        }.values()
    )
    names = {v.id for v in versions} | {
        Path(v.metadata.get("artifact") or "-").parent.name for v in versions
    }
    names |= {v.dataset_version for v in versions if v.dataset_version}
    for path in [
        *store.home().glob("runs/*/model.json"),
        *store.home().glob("runs/*/dataset.json"),
    ]:
        if path.parent.name in kept:
            with contextlib.suppress(ValueError):
                names.add(json.loads(path.read_text(encoding="utf-8"))["version"])
    gone = [store.home() / "runs" / run["run_id"] for run in runs if run["run_id"] not in kept]
    made = [
        path
        for kind in ("models", "datasets")
        for path in sorted((store.home() / kind).glob("*"))
        if path.is_dir()
    ]
    return gone + [path for path in made if path.name not in names]


def collect(keep: int, yes: bool) -> dict[str, Any]:
    """Delete the garbage under the lock, or say what would be deleted. Each folder goes by one rename first."""
    with store.lock():
        found = garbage(keep)
        size = sum(p.stat().st_size for folder in found for p in folder.rglob("*") if p.is_file())
        for folder in found if yes else []:
            doomed = folder.with_name(f".{folder.name}.deleted")
            folder.rename(doomed)
            shutil.rmtree(doomed)
    return {"deleted" if yes else "would_delete": [str(path) for path in found], "bytes": size}
