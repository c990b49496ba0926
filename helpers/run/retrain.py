"""Should we retrain at all, and which earlier decision still holds?

What a profile that begins with 06 asks first.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import NamedTuple

from helpers import store
from helpers.records import Decision, FineTunedModelVersion, Health, WorkbookError
from helpers.registry import FineTuneLifecycleManager, served_until
from helpers.tasks import Task, content_id, load_examples

log = logging.getLogger(__name__)

RETIRING_DAYS = 30  # a model that goes away sooner needs its successor now


class RetrainAdvice(NamedTuple):
    """Whether to retrain, and why (not)."""

    retrain: bool
    reason: str


def should_retrain(
    task: Task, run: store.Run, max_age_days: int, min_new_rows: int, min_feedback: float
) -> RetrainAdvice:
    """From what 06 found, the rows that came in since, and the age and end of what serves.

    An earlier candidate that waits for approval comes first: training another one would only
    lengthen the queue.
    """
    manager = FineTuneLifecycleManager(task.registry_name)
    serving = manager.get_production_version()
    if serving is None:
        return RetrainAdvice(
            False, f"nothing to retrain: no version of {task.registry_name} is in production"
        )
    for version in manager.list_versions():
        waits = version.status == "staging" and version.run_id != run.id
        if waits and version.trained_at > serving.trained_at:
            command = f"workbook registry promote {version.id} --to production"
            return RetrainAdvice(
                False, f"nothing to retrain: {version.id} waits for approval: `{command}`"
            )
    days = (store.now() - serving.trained_at).days
    health = run.load(Health)
    found = ", ".join(health.reasons) or "all well"
    rows = new_rows(task, serving, min_feedback)
    are_enough = rows is not None and rows >= min_new_rows
    told = "its dataset is gone, so new rows cannot be told"
    said = told if rows is None else f"{rows} new eligible rows"
    until = served_until(serving)
    is_ending = "" < until <= str((store.now() + timedelta(days=RETIRING_DAYS)).date())
    said_of_end = f"it is served until {until or 'somebody ends it'}"
    if is_ending:
        said_of_end += ", so train its successor elsewhere (trainer=lora, or another base_url)"
    circumstances = [  # whether each is a reason to retrain, and what it is
        (health.verdict == "retrain", f"06 says {health.verdict} ({found})"),
        (are_enough, f"{said} (min_new_rows {min_new_rows})"),
        (days > max_age_days, f"trained {days} days ago (max_age_days {max_age_days})"),
        (is_ending, said_of_end),
    ]
    reasons = [text for is_reason, text in circumstances if is_reason]
    if reasons:
        return RetrainAdvice(True, f"retraining {serving.id}: {'; '.join(reasons)}")
    texts = "; ".join(text for _, text in circumstances)
    return RetrainAdvice(False, f"nothing to retrain, {serving.id} may go on: {texts}")


def new_rows(task: Task, serving: FineTunedModelVersion, min_feedback: float) -> int | None:
    """Rows that the version's dataset never saw: verified ones, and well-rated production rows.

    None when the dataset is gone. A rating of at least `min_feedback` is a good one.
    """
    folder = store.home() / "datasets" / (serving.dataset_version or "-")
    if not (folder / "manifest.json").exists():
        return None
    rows = [row for path in folder.glob("*.jsonl") for row in store.read_jsonl(path)]
    known = {(row.get("example") or row).get("id") for row in rows}  # rejected rows are wrapped
    logged = load_examples(task, "production").examples
    rated = [row for row in logged if row.feedback_score is not None]
    well_rated = [row for row in rated if row.feedback_score >= min_feedback]
    examples = [*load_examples(task, "human").examples, *well_rated]
    ids: dict[str, str] = {}  # of the first row with a content: a row that is there twice is one
    for example in examples:
        ids.setdefault(content_id(example.messages), example.id)
    return len(set(ids.values()) - known)


def reuse_decision(task: Task, run: store.Run, base_model: str, max_age_days: int) -> bool:
    """Copy the newest decision on this task and base model into the run, as it was measured.

    False when there is none, or it is too old, or a version of the workbook wrote it that did not
    say how models were asked.
    """
    if run.has(Decision):
        return bool(run.load(Decision).reused_from)
    versions = FineTuneLifecycleManager(task.registry_name).list_versions()
    runs = [store.Run(v.run_id) for v in versions if v.base_model == base_model]
    source = max((each for each in runs if each.has(Decision)), key=_written_at, default=None)
    if source is None:
        return False
    try:
        decision = source.load(Decision)
    except WorkbookError as error:
        log.warning("the last decision cannot be reused: %s", error)
        return False
    # of a copy the first decision's time counts, or it would never grow old
    decided_at = decision.decided_at or _written_at(source)
    if store.now() - decided_at > timedelta(days=max_age_days):
        return False
    first = decision.reused_from or source.id
    run.save(decision.model_copy(update={"reused_from": first, "decided_at": decided_at}))
    return True


def _written_at(run: store.Run) -> datetime:
    return datetime.fromtimestamp(run.path(Decision.FILE).stat().st_mtime).astimezone()
