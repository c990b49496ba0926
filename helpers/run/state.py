"""What stands between the runs: what is overdue or waits for a person, what may be thrown away."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from helpers import store
from helpers.records import (
    DatasetPointer,
    FineTunedModelVersion,
    RunRecord,
    TrainedModel,
    WorkbookError,
)
from helpers.run.history import past_runs
from helpers.run.schedule import SUCCESS, schedules

TRASH_DAYS = 7  # until then what gc took can be put back
EVIDENCE = (".json", ".jsonl")  # what stays of the run of a retired version, beside its answers


def status() -> dict[str, Any]:
    """{overdue, schedules, alarms, open_requests, waiting_approvals}: what `status` shows.

    A retrain is asked for by a critical alarm that nobody has acknowledged or resolved.
    """
    from helpers import registry

    plans = schedules()
    alarms, waiting = [], []
    if store.home().exists():
        alarms = [alarm for alarm in registry.list_alarms() if alarm.state != "resolved"]
        waiting = [each for each in registry.list_versions() if each.status == "staging"]
    requests = [alarm for alarm in alarms if alarm.severity == "critical" and alarm.state == "open"]
    return {
        "overdue": any(plan.overdue for plan in plans),
        "schedules": plans,
        "alarms": alarms,
        "open_requests": [
            {"task": alarm.task, "version": alarm.version, "alarm": alarm.id, "reason": alarm.name}
            for alarm in requests
        ],
        "waiting_approvals": [
            {
                "version": version.id,
                "task": version.task,
                "since": version.trained_at.isoformat(),
                "next": f"workbook registry promote {version.id} --to production",
            }
            for version in waiting
        ],
    }


def collect(keep: int, yes: bool) -> dict[str, Any]:
    """Move the garbage to the home's trash under the lock, or say what would go.

    Only folders of this home go, each by one rename, after the journal has named them all; what
    lay in the trash for TRASH_DAYS is deleted. A registry that is not this home's stops it.
    """
    from helpers import registry

    if keep < 0:
        raise WorkbookError(f"--keep {keep}: say how many runs stay, 0 or more")
    with store.lock():
        registry.check_is_ours(registry.open_registry(), complete=True)
        folders = garbage(keep)
        names = list(map(str, folders))
        answer = {"deleted" if yes else "would_delete": names, "bytes": _size(folders)}
        if yes and folders:
            answer["trash"] = str(_to_trash(folders))
        if yes:
            _empty_trash()
    return answer


def retire(version_ids: Sequence[str], days: int, because: str, yes: bool) -> dict[str, Any]:
    """Retire the named versions, else what the rule finds, or say which they would be.

    Their models go into the trash; their runs, evaluations and rows stay. It is written down first:
    what a kill leaves behind is taken by the next gc.
    """
    from helpers import registry

    if days < 0:
        raise WorkbookError(f"--days {days}: say how long nothing may have happened, 0 or more")
    with store.lock():
        registry.check_is_ours(registry.open_registry(), complete=True)
        chosen = registry.retire(version_ids, days, because, yes)
        folders = _unneeded(registry.list_versions(), chosen)
        answer: dict[str, Any] = {
            "retired" if yes else "would_retire": [version.id for version in chosen],
            "models": list(map(str, folders)),
            "bytes": _size(folders),
        }
        if yes and chosen:
            answer["trash"] = str(_to_trash(folders))
    return answer


def _unneeded(
    versions: Sequence[FineTunedModelVersion], retired: Sequence[FineTunedModelVersion]
) -> list[Path]:
    """The folders of retired versions' models that no other version shares."""
    ids = {version.id for version in retired}
    others = [version for version in versions if version.id not in ids]
    names = _models_of(retired) - _models_of(others)
    folders = [store.home() / "models" / name for name in sorted(names)]
    return [folder for folder in folders if _is_folder(folder)]


def _models_of(versions: Sequence[FineTunedModelVersion]) -> set[str]:
    """The names of these versions' folders in models/."""
    artifacts = [version.metadata.get("artifact") for version in versions]
    names = {Path(artifact).parent.name for artifact in artifacts if artifact}
    return names | {version.id for version in versions}


def _size(paths: Iterable[Path]) -> int:
    """Bytes of these files and of all that lies in these folders."""
    return sum(file.lstat().st_size for path in paths for file in (path, *path.rglob("*")))


def _to_trash(folders: list[Path]) -> Path:
    now = store.now()
    trash = store.home() / "trash" / f"{now:%Y%m%dT%H%M%S.%fZ}"
    names = [str(folder.relative_to(store.home())) for folder in folders]
    store.write_json(trash / "journal.json", {"at": now, "moved": names})
    for folder, name in zip(folders, names, strict=True):
        folder.rename(store.make_folder((trash / name).parent) / folder.name)
    return trash


def _empty_trash() -> None:
    oldest = store.now() - timedelta(days=TRASH_DAYS)
    for trash in (store.home() / "trash").glob("*T*Z"):
        if trash.name < f"{oldest:%Y%m%dT%H%M%S}" and not trash.is_symlink():
            shutil.rmtree(trash)


def garbage(keep: int) -> list[Path]:
    """What may go: runs but the newest `keep`, and models and datasets that no other run names.

    Nothing that the registry names goes: no version's run, adapter or dataset, so no route and no
    way back either; nor what is named by a folder in runs/ that stays for whatever reason. Of
    versions that were retired the evidence stays: run, evaluation, answers, dataset.
    """
    from helpers import registry

    runs = past_runs()
    versions = registry.list_versions()
    home = store.home()
    newest = _kept_runs(runs, keep)
    kept = newest | {version.run_id for version in versions}
    going = [home / "runs" / run.run_id for run in runs if run.run_id not in kept]
    going = [folder for folder in going if not folder.is_symlink()]
    data = {version.dataset_version for version in versions}
    named = _models_of(versions) | data | _named_by_runs(going)
    made = sorted(home.glob("models/*")) + sorted(home.glob("datasets/[!.]*"))
    going += [path for path in made if path.name not in named and _is_folder(path)]
    retired = [version for version in versions if version.metadata.get("retired")]
    return going + _no_evidence(retired, newest) + _unneeded(versions, retired)


def _is_folder(path: Path) -> bool:
    """A folder of this home itself, not a link to another one."""
    return path.is_dir() and not path.is_symlink()


def _no_evidence(retired: Sequence[FineTunedModelVersion], kept: Collection[str]) -> list[Path]:
    """What of retired versions' runs may go: executed copies, private texts, checkpoints."""
    folders = [store.home() / "runs" / v.run_id for v in retired if v.run_id not in kept]
    paths = [path for folder in folders if _is_folder(folder) for path in sorted(folder.iterdir())]
    return [path for path in paths if path.name != "answers" and path.suffix not in EVIDENCE]


def _kept_runs(runs: list[RunRecord], keep: int) -> set[str]:
    """The newest, what runs, work by hand, and of each profile the newest success.

    (`workbook status` counts from that success.)
    """
    stay = runs[max(0, len(runs) - keep) :]
    stay += [run for run in runs if run.status == "running"]
    successes = {run.profile: run.run_id for run in runs if run.status in SUCCESS}  # oldest first
    return {"dev", *successes.values()} | {run.run_id for run in stay}


def _named_by_runs(going: Collection[Path]) -> set[str]:
    """What the other runs name; what cannot be read might name any: WorkbookError."""
    names = set()
    for folder in store.home().glob("runs/*"):
        for kind in (TrainedModel, DatasetPointer):
            if folder not in going and (folder / kind.FILE).exists():
                content = store.read_json(folder / kind.FILE)
                version = content.get("version") if isinstance(content, dict) else None
                if not isinstance(version, str):
                    raise WorkbookError(
                        f"{folder / kind.FILE} does not say which version it is of, so that nothing"
                        " can be deleted; delete this file or its run by hand"
                    )
                names.add(version)
    return names
