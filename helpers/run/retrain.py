"""Should we retrain at all, and which earlier decision still holds? What a profile that begins with 06 asks first."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, NamedTuple

from helpers import store
from helpers.records import FineTunedModelVersion
from helpers.registry import FineTuneLifecycleManager
from helpers.tasks import Task, load_examples

RETIRING_DAYS = 30  # a model that goes away sooner needs its successor now
RETIREMENTS = {
    "serve_until": "its provider stops serving it",
    "train_until": "its base model can be trained last",
}


class Answer(NamedTuple):
    """Whether to retrain, and why (not)."""

    yes: bool
    reason: str


def should_retrain(
    task: Task, run: store.Run, max_age_days: int, min_new_rows: int, min_feedback: float
) -> Answer:
    """From what 06 found, the rows that came in since, and the age and end of what serves.

    An earlier candidate that waits for approval comes first: training another one would only lengthen the queue.
    """
    manager = FineTuneLifecycleManager(task.registry_name)
    serving = manager.get_production_version()
    if serving is None:
        return Answer(
            False, f"nothing to retrain: no version of {task.registry_name} is in production"
        )
    for version in manager.list_versions():
        if (
            version.status == "staging"
            and version.run_id != run.id
            and version.trained_at > serving.trained_at
        ):
            said = f"{version.id} waits for approval: `workbook registry promote {version.id} --to production`"
            return Answer(False, f"nothing to retrain: {said}")
    health, age = run.read("health.json"), (store.now() - serving.trained_at).days
    rows = new_rows(task, serving, min_feedback)
    new = (
        "its dataset is gone, so new rows cannot be told"
        if rows is None
        else f"{rows} new eligible rows"
    )
    found = [
        (
            health["verdict"] == "retrain",
            f"06 says {health['verdict']} ({', '.join(health['reasons']) or 'all well'})",
        ),
        (rows is not None and rows >= min_new_rows, f"{new} (min_new_rows {min_new_rows})"),
        (age > max_age_days, f"trained {age} days ago (max_age_days {max_age_days})"),
        *_retirements(serving),
    ]
    reasons = [said for counts, said in found if counts]
    if reasons:
        return Answer(True, f"retraining {serving.id}: {'; '.join(reasons)}")
    return Answer(
        False, f"nothing to retrain, {serving.id} may go on: {'; '.join(said for _, said in found)}"
    )


def _retirements(serving: FineTunedModelVersion) -> list[tuple[bool, str]]:
    soon = (store.now() + timedelta(days=RETIRING_DAYS)).date().isoformat()
    dates = {name: str(serving.metadata.get(name) or "")[:10] for name in RETIREMENTS}
    return [(day <= soon, f"{RETIREMENTS[name]} on {day}") for name, day in dates.items() if day]


def new_rows(task: Task, serving: FineTunedModelVersion, min_feedback: float) -> int | None:
    """Verified rows, and production rows rated at least `min_feedback`, that the version's dataset never saw."""
    folder = store.home() / "datasets" / (serving.dataset_version or "-")
    if not (folder / "manifest.json").exists():
        return None
    rows = [row for path in folder.glob("*.jsonl") for row in store.read_jsonl(path)]
    known = {(row.get("example") or row).get("id") for row in rows}
    human, logged = (
        load_examples(task, "human").examples,
        load_examples(task, "production").examples,
    )
    rated = [
        row
        for row in logged
        if row.feedback_score is not None and row.feedback_score >= min_feedback
    ]
    return len({row.id for row in [*human, *rated]} - known)


def reuse_decision(task: Task, run: store.Run, base_model: str, max_age_days: int) -> bool:
    """Copy the newest decision on this task and base model into the run; False when there is none, or it is too old."""
    if run.has("decision.json"):
        return "reused_from" in run.read("decision.json")
    versions = FineTuneLifecycleManager(task.registry_name).list_versions()
    known = {v.run_id for v in versions if v.base_model == base_model}
    found = [path for name in known if (path := store.Run(name).path("decision.json")).exists()]
    for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)[:1]:
        at = datetime.fromtimestamp(path.stat().st_mtime).astimezone().isoformat()
        # of a copy the first decision's time counts, or it would never grow old
        value: dict[str, Any] = {
            "reused_from": path.parent.name,
            "decided_at": at,
        } | store.read_json(path)
        if store.now() - datetime.fromisoformat(value["decided_at"]) <= timedelta(
            days=max_age_days
        ):
            run.write("decision.json", value)
            return True
    return False
