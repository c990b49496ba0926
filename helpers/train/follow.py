"""A fine-tuning job once it is created: followed to its end, steered, its checkpoints compared."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from helpers import evaluate, store
from helpers.records import Budget, FineTuningDataset, TrainedModel, WorkbookError
from helpers.tasks import load_task
from helpers.train.asking import asking_to_serve
from helpers.train.config import OpenAIJobConfig
from helpers.train.jobs import ENDED_BADLY, FineTuningJob, client_of, take_back
from helpers.train.provider import (
    checkpoints_of,
    curve_of,
    curve_of_file,
    refusal,
    wait_until_served,
)
from helpers.train.wire import Event, JobState, read, read_list

Tell = Callable[[dict[str, Any]], None]
_log = logging.getLogger(__name__)


def monitor_fine_tuning(
    job_id: str, on_event: Tell | None = None, on_status: Tell | None = None
) -> TrainedModel:
    """Follow a job of this home to its end and write its run's model.json.

    `on_event` gets every event, oldest first; `on_status` gets {status, ended, minutes, usd, curve}
    after every look.
    WorkbookError 5 when the provider failed it, 124 at job_deadline_minutes: it goes on there, a
    re-run re-attaches.
    """
    job = job_of(job_id)
    client = client_of(job.base_url)
    path = job.run.path("training") / "training.jsonl"
    started = time.monotonic()
    events: dict[str, Event] = {}
    while True:
        state = _look(client, job_id, events, on_event)
        curve = curve_of(event.data for event in events.values())
        store.write_jsonl(path, curve)
        minutes = (time.monotonic() - started) / 60
        if state is not None:
            if state.status != job.status:
                job = job.save(status=state.status)
            succeeded = state.status == "succeeded" and bool(state.fine_tuned_model)
            failed = state.status in ENDED_BADLY
            if on_status is not None:
                usd = _cost(job, state) or job.most_usd
                look = {"status": job.status, "minutes": minutes, "usd": usd, "curve": curve}
                on_status(look | {"ended": succeeded or failed})
            if succeeded:
                job.settle(_cost(job, state))
                curve = curve or curve_of_file(client, state.result_files or [])
                store.write_jsonl(path, curve)
                wait_until_served(client, state.fine_tuned_model, job.config.poll_seconds)
                return _publish(job, state, curve, checkpoints_of(client, job_id))
            if failed:  # `error` is an empty, truthy object on healthy jobs: the status counts
                take_back(client, job, state.status, _cost(job, state))
                raise refusal(state.error, f"job {job_id} ended as {state.status} at the provider")
        if minutes > job.config.job_deadline_minutes:
            raise _too_late(job)
        time.sleep(job.config.poll_seconds)


def _too_late(job: FineTuningJob) -> WorkbookError:
    resume = "resume it there, or " if job.status in ("paused", "pausing") else ""
    return WorkbookError(
        f"job {job.job_id} is still {job.status} after {job.config.job_deadline_minutes:g} minutes"
        f" and is left as it is: {resume}run again with the same run_id to wait on, or cancel it at"
        " the provider",
        124,
    )


def cancel_fine_tuning(job_id: str) -> str:
    """Cancel a job of this home; its status then."""
    import openai

    job = job_of(job_id)
    jobs = client_of(job.base_url).fine_tuning.jobs.with_raw_response
    try:
        return read(JobState, jobs.cancel(job_id)).status
    except openai.OpenAIError as error:
        raise refusal(error, f"{job.base_url} did not cancel job {job_id}") from None


def choose_checkpoint(
    model: TrainedModel, dataset: FineTuningDataset, config: OpenAIJobConfig
) -> TrainedModel:
    """The checkpoint with the best accuracy on validation rows by our own scorers.

    It is asked as the model will be, and stands in model.json from then on. With checkpoint_rows =
    0, or one checkpoint alone, that is the final one. Ties go to the later one.
    """
    checkpoints = model.details.get("checkpoints", [])
    if not config.checkpoint_rows or len(checkpoints) < 2:
        return model
    run = store.open_run(config.run_id)
    task = load_task(config.task)
    rows = evaluate.choose_rows(task, dataset.examples, "validation", config.checkpoint_rows)
    session = evaluate.Session(
        task=task, run=run, budget=Budget(run, config.max_cost_usd), latency_rows=0
    )
    scores = []
    for checkpoint in checkpoints:
        name = f"{checkpoint['model']} at {model.base_url}"
        asking = model.asking.model_copy(update={"model": name})
        rung = evaluate.ask_rung(asking, rows, session, f"checkpoint_{checkpoint['step']}")
        accuracy = rung.results.accuracy.value
        scores.append(checkpoint | {"accuracy": accuracy, "rows": rung.n})
    best = max(scores, key=lambda checkpoint: (checkpoint["accuracy"], checkpoint["step"]))
    details = model.details | {"checkpoints": scores}
    chosen = model.model_copy(update={"model_id": best["model"], "details": details})
    run.save(chosen)
    return chosen


def job_of(job_id: str) -> FineTuningJob:
    """The job of this home that has this id at its provider."""
    for path in (store.home() / "runs").glob(f"*/{FineTuningJob.FILE}"):
        raw = store.read_json(path)
        if isinstance(raw, dict) and raw.get("job_id") == job_id:
            return FineTuningJob.parse(raw, str(path))
    raise WorkbookError(
        f"no run in {store.home()} has created job {job_id!r}; run 03b_train_openai first"
    )


def _cost(job: FineTuningJob, state: JobState) -> float:
    """USD of the tokens trained so far; the most it can be where the provider never counts them."""
    if state.status == "succeeded" and state.trained_tokens is None:
        return job.most_usd
    return round((state.trained_tokens or 0) * job.price / 1e6, 6)


def _look(
    client: Any, job_id: str, events: dict[str, Event], on_event: Tell | None
) -> JobState | None:
    """The job now; its new events are added to `events`, oldest first.

    None while the provider cannot be reached.
    """
    import openai

    unreachable = (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError)
    new = []
    try:
        jobs = client.fine_tuning.jobs.with_raw_response
        state = read(JobState, jobs.retrieve(job_id))
        ask = partial(jobs.list_events, job_id)
        for event in read_list(Event, ask, limit=100):  # newest first
            if event.id in events:
                break
            new.append(event)
    except unreachable as error:
        _log.warning("job %s could not be looked at: %s; trying on", job_id, type(error).__name__)
        return None
    except openai.OpenAIError as error:
        raise refusal(error, f"job {job_id} cannot be followed") from None
    for event in reversed(new):
        events[event.id] = event
        if on_event is not None:
            on_event(event.model_dump())
    return state


def _publish(
    job: FineTuningJob,
    state: JobState,
    curve: list[dict[str, Any]],
    checkpoints: list[dict[str, Any]],
) -> TrainedModel:
    config = job.config
    ended_at = state.finished_at or state.created_at
    last: dict[str, Any] = {}
    for line in curve:
        last |= line
    model = TrainedModel(
        model_id=state.fine_tuned_model,
        version=job.version,
        provider="api",
        base_model=config.api_model,
        base_url=job.base_url,
        dataset_version=job.dataset_version,
        asking=asking_to_serve(job.run, job.version, config, load_task(config.task)),
        fingerprints={"template": "", "tokenizer": "", "system_prompt": job.system_prompt},
        hyperparameters=config.deciding | {"used": state.hyperparameters},
        tokens=state.trained_tokens or 0,
        seconds=float(max(0, ended_at - state.created_at)),
        cost_usd=_cost(job, state),
        losses={"train": last.get("loss"), "eval": last.get("eval_loss")},
        details={
            "job_id": job.job_id,
            "model": state.model,
            "seed": state.seed,
            "checkpoints": checkpoints,
            "served_until": job.served_until,
        },
    )
    job.run.save(model)
    return model
