"""Fine-tuning jobs at any OpenAI-compatible endpoint: never two jobs for one wish, never a lost one.

The SDK repeats a timed-out create by itself, which starts (and bills) a second job. So create is sent once, carries a
token of ours, which is on disk before (runs/<id>/job.json), and is looked up by it when the answer got lost.
"""

from __future__ import annotations

import hashlib
import logging
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pydantic import Field

from helpers import models, store
from helpers.models.api import ApiModel, is_loopback, openai_client
from helpers.models.prices import token_price
from helpers.records import FineTuningDataset, Record, WorkbookError
from helpers.tasks import Task, load_task
from helpers.train.config import OpenAIJobConfig, version_id
from helpers.train.launch import TrainedModel
from helpers.train.rows import most_tokens, training_file

OPENAI = "https://api.openai.com/v1"
TOKEN = "workbook_token"  # the metadata key that finds a job again
CREATE_TIMEOUT = 60.0
MIN_ROWS = 10
ENDED_BADLY = ("failed", "cancelled", "refused")
METRICS = {"step": "step", "total_steps": "steps", "train_loss": "loss", "valid_loss": "eval_loss"}
METRICS |= {"full_valid_loss": "eval_loss"}  # of the whole validation file: it stands above that of a batch
REMEDIES = {
    "training_not_available": "this organisation may no longer create jobs there: use 03a (LoRA), or another base_url",
    "daily_rate_limit_exceeded": "the provider's jobs per day are used up: run again tomorrow, with the same run_id",
    "insufficient_quota": "top up the account or raise its limit, then run again with the same run_id",
    "invalid_training_file": "mend or leave out the rows that the provider names, and run 02 again",
}
_log = logging.getLogger(__name__)


class Job(Record):
    """runs/<id>/job.json: what was asked, where, and what is known of it. `job_id` is "" until the provider said it."""

    token: str
    version: str
    config: OpenAIJobConfig
    base_url: str
    dataset_version: str
    system_prompt: str  # sha256; template and tokenizer are the provider's secret
    price: float  # USD per million trained tokens
    files: dict[str, str] = Field(default_factory=dict)
    job_id: str = ""
    status: str = "preparing"
    reattached: bool = False

    def save(self, **changes: Any) -> Job:
        """The job with these changes, on disk."""
        job = self.model_copy(update=changes)
        store.open_run(self.config.run_id).write("job.json", job)
        return job


def fine_tune_openai(dataset: FineTuningDataset, config: OpenAIJobConfig) -> Job:
    """Upload the train and validation parts and create a job, or re-attach to the one this run has already created.

    WorkbookError: 2 for what is wrong here, found before any upload; 5 for what the provider refuses.
    """
    task, base_url = load_task(config.task), config.base_url or OPENAI
    models.check_may_send(task, ApiModel(config.api_model, base_url))
    rows = {"train": dataset.part("train"), "validation": dataset.part("validation")}
    if len(rows["train"]) < MIN_ROWS:
        raise WorkbookError(f"{len(rows['train'])} train rows; a job needs at least {MIN_ROWS}: add some, run 02 again")
    data = {part: training_file(chosen, task, config) for part, chosen in rows.items()}
    system = task.instructions_short if config.prompt_style == "short" else task.instructions_full
    wish = Job(
        token=uuid.uuid4().hex,
        version=version_id(config.run_id, task, dataset, config),
        config=config,
        base_url=base_url,
        dataset_version=dataset.metadata.version,
        system_prompt=hashlib.sha256(system.encode()).hexdigest(),
        price=0.0 if is_loopback(base_url) else price_within_budget(task, config, data["train"], len(rows["train"])),
    )
    client = openai_client(base_url, timeout=CREATE_TIMEOUT)
    with store.lock():
        job = _known_job(client, wish) or wish.save()
        if job.job_id:
            return job
        return create_once(client, _upload(client, job, data), task)


def price_within_budget(task: Task, config: OpenAIJobConfig, data: bytes, rows: int) -> float:
    """USD per million trained tokens by task.yaml; refuses a job that may cost more than max_cost_usd.

    Cost = tokens x epochs x price, where "auto" is known to mean three epochs, and more on very few rows.
    """
    price = (token_price(task, config.api_model) or {}).get("train")
    if price is None:
        raise WorkbookError(f"{task.folder / 'task.yaml'}: prices.models.{config.api_model}.train (USD per million) is missing")
    cost = most_tokens(data) * (config.n_epochs or max(3, min(25, 100 // rows))) * float(price) / 1e6
    if cost > config.max_cost_usd:
        raise WorkbookError(f"the job may cost up to {cost:.2f} USD; max_cost_usd is {config.max_cost_usd:.2f}")
    return float(price)


def _known_job(client: Any, wish: Job) -> Job | None:
    """What an earlier attempt of this run did for the same wish, unless that ended badly."""
    run = store.open_run(wish.config.run_id)
    if not run.has("job.json"):
        return None
    known = Job(**run.read("job.json"))
    if known.version != wish.version or known.status in ENDED_BADLY:
        return None
    found = known.job_id or _find(client, known)
    return known.save(config=wish.config, job_id=found, reattached=bool(found))


def _upload(client: Any, job: Job, data: dict[str, bytes]) -> Job:
    import openai

    for part, content in data.items():
        if content and part not in job.files:
            try:
                made = client.files.create(file=(f"{part}.jsonl", content), purpose="fine-tune")
            except openai.OpenAIError as error:
                _take_back(client, job, "refused")
                raise _refusal(error, f"{job.base_url} did not take the {part} file") from None
            job = job.save(files=job.files | {part: made.id})
    return job


def create_once(client: Any, job: Job, task: Task) -> Job:
    """Create the job, once. When no answer comes, the job is looked up by its token instead of being asked for again."""
    import openai

    config = job.config
    hyperparameters = {
        "n_epochs": config.n_epochs or "auto",
        "batch_size": config.api_batch_size or "auto",
        "learning_rate_multiplier": config.learning_rate_multiplier or "auto",
    }
    optional = {"validation_file": job.files.get("validation"), "suffix": config.model_suffix}
    try:
        made = client.with_options(max_retries=0).fine_tuning.jobs.create(
            model=config.api_model,
            training_file=job.files["train"],
            method={"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
            seed=config.seed,
            metadata={TOKEN: job.token, "task": task.name},
            **{name: value for name, value in optional.items() if value},
        )
        return job.save(job_id=made.id, status=made.status)
    except (openai.APIConnectionError, openai.InternalServerError) as error:
        for wait in (0, 1, 2, 4, 8):
            time.sleep(min(wait, config.poll_seconds))
            with suppress(WorkbookError):
                if found := _find(client, job):
                    return job.save(job_id=found, reattached=True)
        message = f"{job.base_url} did not answer whether it created the job ({type(error).__name__})"
        raise WorkbookError(f"{message}; run again with the same run_id: it looks for that job first", 5) from None
    except openai.OpenAIError as error:
        _take_back(client, job, "refused")
        raise _refusal(error, f"{job.base_url} refused the job") from None


def _find(client: Any, job: Job) -> str:
    """The id of the job that carries our token ("" when there is none); not every provider filters, so we do."""
    import openai

    try:
        jobs = client.fine_tuning.jobs.list(limit=50, metadata={TOKEN: job.token})
        return next((str(found.id) for found in jobs if (found.metadata or {}).get(TOKEN) == job.token), "")
    except openai.OpenAIError as error:
        raise _refusal(error, f"{job.base_url} did not say whether it has this run's job already") from None


def _take_back(client: Any, job: Job, status: str) -> None:
    """Delete the uploads of a job that will not be; what cannot be deleted is named in the log."""
    import openai

    for part, file_id in job.files.items():
        try:
            client.files.delete(file_id)
        except openai.OpenAIError as error:
            _log.warning("delete the %s file %s by hand: %s", part, file_id, type(error).__name__)
    job.save(files={}, status=status)


def _refusal(error: Any, what: str) -> WorkbookError:
    """Exit 5 with the provider's words and our remedy; `error` is the SDK's exception, or a job's error object."""
    code = str(getattr(error, "code", None) or (type(error).__name__ if isinstance(error, Exception) else "no code"))
    text = store.redact(str(getattr(error, "message", None) or "no reason given"))[:300]
    return WorkbookError(f"{what}: {text} ({code}); {REMEDIES.get(code, 'mend that, then run again')}", 5)


def monitor_fine_tuning(job_id: str, on_event: Callable[[dict[str, Any]], None] | None = None) -> TrainedModel:
    """Follow a job of this home to its end and write its run's model.json; `on_event` gets every event, oldest first.

    WorkbookError 5 when the provider failed it, 124 at job_deadline_minutes: it goes on there, a re-run re-attaches.
    """
    job = _job_of(job_id)
    client = openai_client(job.base_url, timeout=CREATE_TIMEOUT)
    curve = store.open_run(job.config.run_id).path("training") / "training.jsonl"
    deadline = time.monotonic() + 60 * job.config.job_deadline_minutes
    seen: dict[str, dict[str, Any]] = {}
    while True:
        state = _look(client, job_id, seen, on_event)
        store.write_jsonl(curve, _curve(seen))
        if state is not None:
            if state.status != job.status:
                job = job.save(status=state.status)
            if state.status == "succeeded" and state.fine_tuned_model:
                return _publish(job, state, _curve(seen))
            if state.status in ENDED_BADLY:  # `error` is an empty, truthy object on healthy jobs: the status counts
                _take_back(client, job, state.status)
                raise _refusal(state.error, f"job {job_id} ended as {state.status} at the provider")
        if time.monotonic() > deadline:
            late = f"job {job_id} is still {job.status} after {job.config.job_deadline_minutes:g} minutes and goes on"
            raise WorkbookError(f"{late}: run again with the same run_id to wait on, or cancel it at the provider", 124)
        time.sleep(job.config.poll_seconds)


def _job_of(job_id: str) -> Job:
    for path in (store.home() / "runs").glob("*/job.json"):
        if (known := store.read_json(path))["job_id"] == job_id:
            return Job(**known)
    raise WorkbookError(f"no run in {store.home()} has created job {job_id!r}; run 03b_train_openai first")


def _look(client: Any, job_id: str, seen: dict[str, Any], on_event: Callable[[dict[str, Any]], None] | None) -> Any:
    """The job now, its new events added to `seen` oldest first; None while the provider cannot be reached."""
    import openai

    try:
        state, new = client.fine_tuning.jobs.retrieve(job_id), []
        for event in client.fine_tuning.jobs.list_events(job_id, limit=100):  # newest first, pages by itself
            if event.id in seen:
                break
            new.append(event.to_dict())
    except (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError) as error:
        _log.warning("job %s could not be looked at: %s; trying on", job_id, type(error).__name__)
        return None
    except openai.OpenAIError as error:
        raise _refusal(error, f"job {job_id} cannot be followed") from None
    for event in reversed(new):
        seen[event["id"]] = event
        if on_event is not None:
            on_event(event)
    return state


def _curve(events: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The metrics events as lines of training.jsonl."""
    metrics = [event.get("data") or {} for event in events.values() if event.get("type") == "metrics"]
    lines = [{ours: m[theirs] for theirs, ours in METRICS.items() if m.get(theirs) is not None} for m in metrics]
    return [line for line in lines if "step" in line]


def _publish(job: Job, state: Any, curve: list[dict[str, Any]]) -> TrainedModel:
    config, tokens = job.config, int(state.trained_tokens or 0)
    last = {key: next((line[key] for line in reversed(curve) if key in line), None) for key in ("loss", "eval_loss")}
    model = TrainedModel(
        model_id=state.fine_tuned_model,
        version=job.version,
        provider="api",
        base_model=config.api_model,
        base_url=job.base_url,
        dataset_version=job.dataset_version,
        prompt_style=config.prompt_style,
        fingerprints={"template": "", "tokenizer": "", "system_prompt": job.system_prompt},
        hyperparameters=config.deciding | {"used": state.to_dict().get("hyperparameters")},
        tokens=tokens,
        seconds=float((state.finished_at or state.created_at) - state.created_at),
        cost_usd=round(tokens * job.price / 1e6, 6),
        losses={"train": last["loss"], "eval": last["eval_loss"]},
        details={"job_id": job.job_id, "model": state.model, "seed": state.seed},
    )
    store.open_run(config.run_id).write("model.json", model)
    return model
