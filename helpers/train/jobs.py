"""Fine-tuning jobs at any OpenAI-compatible endpoint: never two jobs for one wish, never a lost one.

The SDK sends no idempotency key and repeats a timed-out create by itself, which starts (and bills) a second job. So
create is sent once, carries a token of ours as metadata, and is looked up by that token when the answer got lost.
Everything needed to find the job again is on disk (runs/<id>/job.json) before we wait for it.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field

from helpers import models, store
from helpers.models.api import ApiModel, is_loopback, openai_client
from helpers.records import FineTuningDataset, Record, WorkbookError
from helpers.tasks import Task, load_task
from helpers.train import training_file as files
from helpers.train.config import OpenAIJobConfig, version_id
from helpers.train.launch import TrainedModel

OPENAI = "https://api.openai.com/v1"
TOKEN = "workbook_token"  # the metadata key that finds a job again
CREATE_TIMEOUT = 60.0
REMEDIES = {
    "training_not_available": "this organisation may no longer create jobs there: use 03a (LoRA), or another base_url",
    "daily_rate_limit_exceeded": "the provider's jobs per day are used up: run again tomorrow, with the same run_id",
    "insufficient_quota": "top up the account or raise its limit, then run again with the same run_id",
    "invalid_api_key": "set WORKBOOK_API_KEY to a valid key",
    "model_not_available": "choose an api_model that the provider can fine-tune",
    "invalid_n_examples": "add examples and run 02 again",
    "invalid_training_file": "mend or leave out the rows that the provider names, and run 02 again",
    "server_error": "the provider failed: run again, or choose another base_url",
}
OnEvent = Callable[[dict[str, Any]], None]
_log = logging.getLogger(__name__)


class Job(Record):
    """runs/<id>/job.json: what was asked, where, and what is known of it. `job_id` is "" until the provider said it."""

    token: str
    version: str
    config: OpenAIJobConfig
    dataset_version: str
    fingerprints: dict[str, str]
    file_sha256: str
    files: dict[str, str] = Field(default_factory=dict)
    job_id: str = ""
    status: str = "preparing"
    reattached: bool = False
    most_cost_usd: float = 0.0

    @property
    def base_url(self) -> str:
        """The endpoint's address."""
        return self.config.base_url or OPENAI

    def save(self, **changes: Any) -> Job:
        """The job with these changes, on disk."""
        job = self.model_copy(update=changes)
        store.open_run(self.config.run_id).write("job.json", job)
        return job


def fine_tune_openai(dataset: FineTuningDataset, config: OpenAIJobConfig) -> Job:
    """Upload the train and validation parts and create a job, or re-attach to the one this run has already created.

    Raises WorkbookError: 2 for what is wrong here (rows, data_may_leave, max_cost_usd), found before any upload;
    5 for what the provider refuses, after taking the uploads back.
    """
    task, base_url = load_task(config.task), config.base_url or OPENAI
    models.check_may_send(task, endpoint := ApiModel(config.api_model, base_url))
    train, validation = dataset.part("train"), dataset.part("validation")
    files.check_count(train)
    data = {"train": files.training_file(train, task, config, "train")}
    if validation:
        data["validation"] = files.training_file(validation, task, config, "validation")
    job = Job(
        token=uuid.uuid4().hex,
        version=version_id(config.run_id, task, dataset, config),
        config=config,
        dataset_version=dataset.metadata.version,
        fingerprints=files.system_prompt_fingerprint(task, config.prompt_style),
        file_sha256=files.file_fingerprint(*data.values()),
        most_cost_usd=files.check_budget(task, config, data["train"], len(train), endpoint.is_loopback),
    )
    client = openai_client(base_url, timeout=CREATE_TIMEOUT)
    with store.lock():
        known = _known_job(job)
        if known is not None:
            job = known.save(config=config, reattached=True)
            if job.job_id or (found := _find(client, job.token)):
                job = job.save(job_id=job.job_id or found)
                _log.info("re-attached to job %s", job.job_id)
                return job
        job = _upload(client, job.save(), data)
        return create_once(client, job, task)


def _known_job(wish: Job) -> Job | None:
    """The job that an earlier attempt of this run made for the same wish, unless it has ended badly."""
    run = store.open_run(wish.config.run_id)
    if not run.has("job.json"):
        return None
    known = Job(**run.read("job.json"))
    same = (known.version, known.file_sha256, known.base_url) == (wish.version, wish.file_sha256, wish.base_url)
    return known if same and known.status not in ("failed", "cancelled", "refused") else None


def _upload(client: Any, job: Job, data: dict[str, bytes]) -> Job:
    import openai

    for part, content in data.items():
        if part in job.files:
            continue
        try:
            made = client.files.create(file=(f"{part}.jsonl", content), purpose="fine-tune")
        except openai.OpenAIError as error:
            _take_back(client, job)
            raise _refusal(error, f"{job.base_url} did not take the {part} file") from None
        job = job.save(files=job.files | {part: made.id})
    return job


def create_once(client: Any, job: Job, task: Task) -> Job:
    """Create the job, once. When no answer comes, the job is looked up by its token instead of being asked for again."""
    import openai

    config = job.config
    auto = {
        "n_epochs": config.n_epochs or "auto",
        "batch_size": config.api_batch_size or "auto",
        "learning_rate_multiplier": config.learning_rate_multiplier or "auto",
    }
    optional = {"validation_file": job.files.get("validation"), "suffix": config.model_suffix}
    try:
        made = client.with_options(max_retries=0).fine_tuning.jobs.create(
            model=config.api_model,
            training_file=job.files["train"],
            method={"type": "supervised", "supervised": {"hyperparameters": auto}},
            seed=config.seed,
            metadata={TOKEN: job.token, "task": task.name},
            **{name: value for name, value in optional.items() if value},
        )
        return job.save(job_id=made.id, status=made.status)
    except (openai.APIConnectionError, openai.InternalServerError) as error:
        for wait in (0, 1, 2, 4, 8):
            time.sleep(min(wait, config.poll_seconds))
            if found := _find(client, job.token):
                return job.save(job_id=found, reattached=True)
        message = f"{job.base_url} did not answer whether it created the job ({type(error).__name__})"
        raise WorkbookError(f"{message}; run again with the same run_id: it looks for that job first", 5) from None
    except openai.OpenAIError as error:
        _take_back(client, job)
        raise _refusal(error, f"{job.base_url} refused the job") from None


def _find(client: Any, token: str) -> str:
    """The id of the job that carries our token ("" when there is none); not every provider filters, so we do."""
    import openai

    try:
        for job in client.fine_tuning.jobs.list(limit=50, metadata={TOKEN: token}):
            if (job.metadata or {}).get(TOKEN) == token:
                return str(job.id)
    except openai.OpenAIError as error:
        _log.warning("jobs could not be listed: %s", type(error).__name__)
    return ""


def _take_back(client: Any, job: Job, status: str = "refused") -> None:
    """Delete the uploads of a job that will not be; what cannot be deleted is named in the log."""
    import openai

    for part, file_id in job.files.items():
        try:
            client.files.delete(file_id)
        except openai.OpenAIError as error:
            _log.warning("delete the %s file %s by hand: %s", part, file_id, type(error).__name__)
    job.save(files={}, status=status)


def _refusal(error: Exception, what: str) -> WorkbookError:
    code = str(getattr(error, "code", None) or type(error).__name__)
    text = store.redact(str(getattr(error, "message", error)))[:300]
    return WorkbookError(f"{what}: {text} ({code}); {REMEDIES.get(code, 'see the provider message')}", 5)


# ---------------------------------------------------------------- waiting


def monitor_fine_tuning(
    job_id: str, on_event: OnEvent | None = None, sleep: Callable[[float], None] = time.sleep
) -> TrainedModel:
    """Follow a job to its end and write the run's model.json. `on_event` gets every event once, oldest first.

    The job is found by its id in the runs of this home. WorkbookError 5 when the provider failed it, 124 when
    job_deadline_minutes have passed: it goes on there, and a re-run re-attaches.
    """
    job = _job_of(job_id)
    client = openai_client(job.base_url, timeout=CREATE_TIMEOUT)
    run, deadline = store.open_run(job.config.run_id), time.monotonic() + 60 * job.config.job_deadline_minutes
    seen: dict[str, dict[str, Any]] = {}
    while True:
        state, new = _look(client, job_id, seen)
        for event in new:
            seen[event["id"]] = event
            if on_event is not None:
                on_event(event)
        if new:
            _write_curve(run, list(seen.values()))
        if state is not None and state.status != job.status:
            job = job.save(status=state.status)
        if state is not None and state.status == "succeeded" and state.fine_tuned_model:
            return _publish(run, job, state, list(seen.values()))
        if state is not None and state.status in ("failed", "cancelled"):
            raise _ended_badly(client, job, state)
        if time.monotonic() > deadline:
            raise WorkbookError(
                f"job {job_id} is still {job.status} after {job.config.job_deadline_minutes:g} minutes; it goes on at the"
                " provider: run again with the same run_id to wait on, or cancel it there",
                124,
            )
        sleep(job.config.poll_seconds)


def _job_of(job_id: str) -> Job:
    for path in sorted((store.home() / "runs").glob("*/job.json")):
        if (known := store.read_json(path)).get("job_id") == job_id:
            return Job(**known)
    raise WorkbookError(f"no run in {store.home()} has created job {job_id!r}; run 03b_train_openai first")


def _look(client: Any, job_id: str, seen: dict[str, Any]) -> tuple[Any, list[dict[str, Any]]]:
    """(the job now, its new events oldest first); (None, []) while the provider cannot be reached."""
    import openai

    try:
        state, new = client.fine_tuning.jobs.retrieve(job_id), []
        for event in client.fine_tuning.jobs.list_events(job_id, limit=100):  # newest first, pages by itself
            if event.id in seen:
                break
            new.append(event.to_dict())
        return state, new[::-1]
    except (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError) as error:
        _log.warning("job %s could not be looked at: %s; trying on", job_id, type(error).__name__)
        return None, []
    except openai.OpenAIError as error:
        raise _refusal(error, f"job {job_id} cannot be followed") from None


def _curve(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The metrics events as lines of training.jsonl."""
    names = {"step": "step", "total_steps": "steps", "train_loss": "loss", "valid_loss": "eval_loss"}
    metrics = [e.get("data") or {} for e in events if e.get("type") == "metrics"]
    lines = [{ours: m[theirs] for theirs, ours in names.items() if m.get(theirs) is not None} for m in metrics]
    for line, metric in zip(lines, metrics, strict=True):
        if metric.get("full_valid_loss") is not None:
            line["eval_loss"] = metric["full_valid_loss"]
    return [line for line in lines if "step" in line]


def _write_curve(run: store.Run, events: list[dict[str, Any]]) -> None:
    store.write_jsonl(run.path("training") / "training.jsonl", _curve(events))


def _ended_badly(client: Any, job: Job, state: Any) -> WorkbookError:
    """`error` is an empty, truthy object on healthy jobs, so the status alone says that a job failed."""
    _take_back(client, job, status=state.status)
    if state.status == "cancelled":
        return WorkbookError(f"job {job.job_id} was cancelled at the provider; run again to start a new one", 5)
    code = (state.error and state.error.code) or "unknown"
    text = store.redact((state.error and state.error.message) or "no reason given")[:300]
    remedy = REMEDIES.get(code, "see the provider's message")
    return WorkbookError(f"job {job.job_id} failed at the provider: {text} ({code}); {remedy}", 5)


def _publish(run: store.Run, job: Job, state: Any, events: list[dict[str, Any]]) -> TrainedModel:
    curve, tokens = _curve(events), int(state.trained_tokens or 0)
    last = {key: next((line[key] for line in reversed(curve) if key in line), None) for key in ("loss", "eval_loss")}
    price = files.training_price(load_task(job.config.task), job.config.api_model) or 0.0
    paid = 0.0 if is_loopback(job.base_url) else tokens * price / 1e6
    model = TrainedModel(
        model_id=state.fine_tuned_model,
        version=job.version,
        provider="api",
        base_model=job.config.api_model,
        base_url=job.base_url,
        dataset_version=job.dataset_version,
        prompt_style=job.config.prompt_style,
        fingerprints=job.fingerprints,
        hyperparameters=job.config.asked | {"used": state.to_dict().get("hyperparameters")},
        tokens=tokens,
        seconds=float((state.finished_at or state.created_at) - state.created_at),
        cost_usd=round(paid, 6),
        losses={"train": last["loss"], "eval": last["eval_loss"]},
        details={
            "job_id": job.job_id,
            "host": urlsplit(job.base_url).hostname,
            "model": state.model,
            "seed": state.seed,
        },
    )
    run.write("model.json", model)
    return model
