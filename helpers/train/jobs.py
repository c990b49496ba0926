"""Fine-tuning jobs at any OpenAI-compatible endpoint: never two jobs for one wish, never a lost one.

The SDK repeats a timed-out create by itself, which starts (and bills) a second job. So create is sent once, carries a
token of ours, which is on disk before (runs/<id>/job.json), and is looked up by it when the answer got lost.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

from pydantic import Field

from helpers import evaluate, models, store
from helpers.evaluate.running import run_rung
from helpers.models.api import ApiModel, is_loopback, openai_client
from helpers.models.prices import token_price
from helpers.records import FineTuningDataset, Record, WorkbookError
from helpers.tasks import Task, load_task
from helpers.train.config import OpenAIJobConfig, version_id
from helpers.train.launch import TrainedModel
from helpers.train.provider import (
    OPENAI,
    check_offer,
    checkpoints_of,
    curve_of,
    curve_of_file,
    refusal,
    wait_until_served,
)
from helpers.train.rows import most_tokens, training_file

TOKEN = "workbook_token"  # the metadata key that finds a job again
CREATE_TIMEOUT = 60.0
ENDED_BADLY = ("failed", "cancelled", "refused")
Heard = Callable[[dict[str, Any]], None]
_log = logging.getLogger(__name__)


class Job(Record):
    """runs/<id>/job.json: what was asked, where, and what is known of it. `job_id` is "" until the provider said it."""

    token: str
    version: str
    config: OpenAIJobConfig
    base_url: str
    dataset_version: str
    system_prompt: str  # sha256; template and tokenizer are the provider's secret
    price: float = 0.0  # USD per million trained tokens
    files: dict[str, str] = Field(default_factory=dict)
    job_id: str = ""
    status: str = "preparing"
    reattached: bool = False
    resumed: bool = False  # an earlier attempt of this run died before it knew its job
    served_until: str = ""  # the base model's last day, where the provider says it
    most_usd: float = 0.0  # what it can cost

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
    data = {part: training_file(chosen, task, config, part) for part, chosen in rows.items()}
    system = task.instructions_short if config.prompt_style == "short" else task.instructions_full
    wish = Job(
        token=uuid.uuid4().hex,
        version=version_id(config.run_id, task, dataset, config),
        config=config,
        base_url=base_url,
        dataset_version=dataset.metadata.version,
        system_prompt=hashlib.sha256(system.encode()).hexdigest(),
        **(
            {}
            if is_loopback(base_url)
            else price_within_budget(task, config, data["train"], len(rows["train"]))
        ),
    )
    client = openai_client(base_url, timeout=CREATE_TIMEOUT)
    with store.lock():
        job = _known_job(client, wish) or wish.save(
            served_until=check_offer(client, base_url, config)
        )
        if job.job_id:
            return job
        return create_once(client, _upload(client, job, data), task)


def price_within_budget(
    task: Task, config: OpenAIJobConfig, data: bytes, rows: int
) -> dict[str, float]:
    """{price: USD per million trained tokens by task.yaml, most_usd}; refuses a job that may cost more than max_cost_usd.

    Cost = tokens x epochs x price, where "auto" is known to mean three epochs, and more on very few rows.
    """
    price = (token_price(task, config.api_model) or {}).get("train")
    if price is None:
        raise WorkbookError(
            f"{task.folder / 'task.yaml'}: prices.models.{config.api_model}.train (USD per million) is missing"
        )
    cost = (
        most_tokens(data) * (config.n_epochs or max(3, min(25, 100 // rows))) * float(price) / 1e6
    )
    if cost > config.max_cost_usd:
        raise WorkbookError(
            f"the job may cost up to {cost:.2f} USD; max_cost_usd is {config.max_cost_usd:.2f}"
        )
    return {"price": float(price), "most_usd": cost}


def _known_job(client: Any, wish: Job) -> Job | None:
    """What an earlier attempt of this run did for the same wish, unless that ended badly."""
    run = store.open_run(wish.config.run_id)
    if not run.has("job.json"):
        return None
    known = Job(**run.read("job.json"))
    if known.version != wish.version or known.status in ENDED_BADLY:
        return None
    found = known.job_id or (_look_for if known.status == "creating" else _find)(client, known)
    return known.save(config=wish.config, job_id=found, reattached=bool(found), resumed=True)


def _upload(client: Any, job: Job, data: dict[str, bytes]) -> Job:
    """Upload what is not there yet; a file's name carries our token, so that one whose answer got lost is found again."""
    import openai

    names = {part: f"{job.token}-{part}.jsonl" for part, content in data.items() if content}
    try:
        there = (
            {file.filename: file.id for file in client.files.list(purpose="fine-tune")}
            if job.resumed
            else {}
        )
        for part, name in names.items():
            if part not in job.files:
                found = (
                    there.get(name)
                    or client.files.create(file=(name, data[part]), purpose="fine-tune").id
                )
                job = job.save(files=job.files | {part: found})
    except openai.OpenAIError as error:
        _take_back(client, job, "refused")
        raise refusal(error, f"{job.base_url} did not take the files") from None
    return job


def create_once(client: Any, job: Job, task: Task) -> Job:
    """Create the job, once. When no answer comes, the job is looked up by its token instead of being asked for again."""
    import openai

    body, job = job_request(job, task), job.save(status="creating")
    model, file = body.pop("model"), body.pop("training_file")
    try:
        create = client.with_options(max_retries=0).fine_tuning.jobs.create
        made = create(model=model, training_file=file, extra_body=body)
        return job.save(job_id=made.id, status=made.status)
    except (openai.APIConnectionError, openai.InternalServerError) as error:
        with suppress(WorkbookError):
            if found := _look_for(client, job):
                return job.save(job_id=found, reattached=True)
            if isinstance(
                error, openai.InternalServerError
            ):  # it did answer, and it lists no job of ours
                _take_back(client, job, "refused")
        message = (
            f"{job.base_url} did not answer whether it created the job ({type(error).__name__})"
        )
        raise WorkbookError(
            f"{message}; run again with the same run_id: it looks for that job first", 5
        ) from None
    except openai.OpenAIError as error:
        _take_back(client, job, "refused")
        raise refusal(error, f"{job.base_url} refused the job") from None


def job_request(job: Job, task: Task) -> dict[str, Any]:
    """The body of the create request; api_extra_body has the last word, since providers differ."""
    config = job.config
    asked = {"n_epochs": config.n_epochs, "batch_size": config.api_batch_size}
    asked |= {"learning_rate_multiplier": config.learning_rate_multiplier}
    chosen = {
        name: value for name, value in asked.items() if value
    }  # what is left out is the provider's choice
    body = {
        "model": config.api_model,
        "training_file": job.files["train"],
        "validation_file": job.files.get("validation"),
        "suffix": config.model_suffix,
        "method": {"type": "supervised", "supervised": {"hyperparameters": chosen}},
        "seed": config.seed,
        "metadata": {TOKEN: job.token, "task": task.name},
    }
    given = {name: value for name, value in body.items() if value not in ("", None)}
    return _merged(given, json.loads(config.api_extra_body or "{}"))


def _merged(body: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """`extra` laid over `body`, level by level."""
    deeper = {
        k: _merged(body[k], v)
        for k, v in extra.items()
        if isinstance(v, dict) and isinstance(body.get(k), dict)
    }
    return body | extra | deeper


def _find(client: Any, job: Job) -> str:
    """The id of the job that carries our token ("" when there is none); not every provider filters, so we do."""
    import openai

    try:
        jobs = client.fine_tuning.jobs.list(limit=50, metadata={TOKEN: job.token})
        return next(
            (str(found.id) for found in jobs if (found.metadata or {}).get(TOKEN) == job.token), ""
        )
    except openai.OpenAIError as error:
        raise refusal(
            error, f"{job.base_url} did not say whether it has this run's job already"
        ) from None


def _look_for(client: Any, job: Job) -> str:
    """`_find`, several times over: a job may be listed a little later than it was created."""
    problem: WorkbookError | None = None
    for wait in (0, 1, 2, 4, 8):
        time.sleep(min(wait, job.config.poll_seconds))
        try:
            if found := _find(client, job):
                return found
            problem = None
        except WorkbookError as error:
            problem = error
    if problem is not None:
        raise problem
    return ""


def _take_back(client: Any, job: Job, status: str) -> None:
    """Delete the uploads of a job that will not be; what cannot be deleted is named in the log."""
    import openai

    for part, file_id in job.files.items():
        try:
            client.files.delete(file_id)
        except openai.OpenAIError as error:
            _log.warning("delete the %s file %s by hand: %s", part, file_id, type(error).__name__)
    job.save(files={}, status=status)


def monitor_fine_tuning(
    job_id: str, on_event: Heard | None = None, on_status: Heard | None = None
) -> TrainedModel:
    """Follow a job of this home to its end and write its run's model.json.

    `on_event` gets every event, oldest first; `on_status` {status, minutes, usd, curve} after every look.
    WorkbookError 5 when the provider failed it, 124 at job_deadline_minutes: it goes on there, a re-run re-attaches.
    """
    job = _job_of(job_id)
    client = openai_client(job.base_url, timeout=CREATE_TIMEOUT)
    path = store.open_run(job.config.run_id).path("training") / "training.jsonl"
    started, config = time.monotonic(), job.config
    seen: dict[str, dict[str, Any]] = {}
    while True:
        state = _look(client, job_id, seen, on_event)
        curve, minutes = curve_of(seen), (time.monotonic() - started) / 60
        store.write_jsonl(path, curve)
        if state is not None:
            if state.status != job.status:
                job = job.save(status=state.status)
            if on_status is not None:
                usd = _usd(job, state) or job.most_usd
                on_status({"status": job.status, "minutes": minutes, "usd": usd, "curve": curve})
            if state.status == "succeeded" and state.fine_tuned_model:
                curve = curve or curve_of_file(client, state.result_files)
                store.write_jsonl(path, curve)
                wait_until_served(client, state.fine_tuned_model, config.poll_seconds)
                return _publish(job, state, curve, checkpoints_of(client, job_id))
            if (
                state.status in ENDED_BADLY
            ):  # `error` is an empty, truthy object on healthy jobs: the status counts
                _take_back(client, job, state.status)
                raise refusal(state.error, f"job {job_id} ended as {state.status} at the provider")
        if minutes > config.job_deadline_minutes:
            late = f"job {job_id} is still {job.status} after {config.job_deadline_minutes:g} minutes and is left as it is"
            mend = "resume it there, or " if job.status in ("paused", "pausing") else ""
            raise WorkbookError(
                f"{late}: {mend}run again with the same run_id to wait on, or cancel it at the provider",
                124,
            )
        time.sleep(config.poll_seconds)


def steer_fine_tuning(job_id: str, action: Literal["cancel", "pause", "resume"]) -> str:
    """Cancel, pause or resume a job of this home; its status then. Not every provider can pause."""
    import openai

    job = _job_of(job_id)
    jobs = openai_client(job.base_url, timeout=CREATE_TIMEOUT).fine_tuning.jobs
    try:
        return str(getattr(jobs, action)(job_id).status)
    except openai.OpenAIError as error:
        raise refusal(error, f"{job.base_url} did not {action} job {job_id}") from None


def cancel_fine_tuning(job_id: str) -> str:
    """Cancel a job of this home; its status then."""
    return steer_fine_tuning(job_id, "cancel")


def choose_checkpoint(
    model: TrainedModel, dataset: FineTuningDataset, config: OpenAIJobConfig
) -> TrainedModel:
    """The checkpoint with the best accuracy on the validation part by our own scorers, in model.json from then on.

    With checkpoint_rows = 0, or one checkpoint alone, that is the final one. Ties go to the later one.
    """
    found = model.details.get("checkpoints", [])
    if not config.checkpoint_rows or len(found) < 2:
        return model
    run, task = store.open_run(config.run_id), load_task(config.task)
    rows = evaluate.choose_rows(dataset.examples, "validation", config.checkpoint_rows)
    for checkpoint in found:
        asked = ApiModel(checkpoint["model"], model.base_url)
        settings = {
            "style": config.prompt_style,
            "latency_rows": 0,
            "max_cost_usd": config.max_cost_usd,
        }
        result = run_rung(asked, "fine_tuned", rows, task, run, **settings)
        checkpoint["accuracy"], checkpoint["rows"] = result.results.accuracy.value, result.n
    best = max(found, key=lambda checkpoint: (checkpoint["accuracy"], checkpoint["step"]))
    chosen = model.model_copy(
        update={"model_id": best["model"], "details": model.details | {"checkpoints": found}}
    )
    run.write("model.json", chosen)
    return chosen


def _usd(job: Job, state: Any) -> float:
    """What the trained tokens cost so far."""
    return round(int(state.trained_tokens or 0) * job.price / 1e6, 6)


def _job_of(job_id: str) -> Job:
    for path in (store.home() / "runs").glob("*/job.json"):
        if (known := store.read_json(path))["job_id"] == job_id:
            return Job(**known)
    raise WorkbookError(
        f"no run in {store.home()} has created job {job_id!r}; run 03b_train_openai first"
    )


def _look(client: Any, job_id: str, seen: dict[str, Any], on_event: Heard | None) -> Any:
    """The job now, its new events added to `seen` oldest first; None while the provider cannot be reached."""
    import openai

    try:
        state, new = client.fine_tuning.jobs.retrieve(job_id), []
        for event in client.fine_tuning.jobs.list_events(
            job_id, limit=100
        ):  # newest first, pages by itself
            if event.id in seen:
                break
            new.append(event.to_dict())
    except (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError) as error:
        _log.warning("job %s could not be looked at: %s; trying on", job_id, type(error).__name__)
        return None
    except openai.OpenAIError as error:
        raise refusal(error, f"job {job_id} cannot be followed") from None
    for event in reversed(new):
        seen[event["id"]] = event
        if on_event is not None:
            on_event(event)
    return state


def _publish(
    job: Job, state: Any, curve: list[dict[str, Any]], checkpoints: list[dict[str, Any]]
) -> TrainedModel:
    config = job.config
    last = {
        key: next((line[key] for line in reversed(curve) if key in line), None)
        for key in ("loss", "eval_loss")
    }
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
        tokens=int(state.trained_tokens or 0),
        seconds=float((state.finished_at or state.created_at) - state.created_at),
        cost_usd=_usd(job, state),
        losses={"train": last["loss"], "eval": last["eval_loss"]},
        details={
            "job_id": job.job_id,
            "model": state.model,
            "seed": state.seed,
            "checkpoints": checkpoints,
        }
        | {"served_until": job.served_until},
    )
    store.open_run(config.run_id).write("model.json", model)
    return model
