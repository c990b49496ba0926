"""Fine-tuning jobs at any OpenAI-compatible endpoint: never two for one wish, never a lost one.

The SDK repeats a timed-out create by itself, which starts (and bills) a second job. So create is
sent once, carries a token of ours, which is on disk before (runs/<id>/job.json), and is looked up
by it when the answer got lost. Money for it is set aside under the same token.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
import uuid
from contextlib import suppress
from typing import Any, ClassVar

from pydantic import Field

from helpers import models, store
from helpers.models import ApiModel, is_loopback, openai_client, token_price
from helpers.records import Artifact, Budget, FineTuningDataset, WorkbookError
from helpers.tasks import Task, load_task
from helpers.train.asking import asking_to_serve
from helpers.train.config import OpenAIJobConfig, auto_epochs, version_id
from helpers.train.provider import OPENAI, check_offer, refusal
from helpers.train.rows import most_tokens, training_file
from helpers.train.wire import JobState, Uploaded, read, read_list

TOKEN = "workbook_token"  # the metadata key that finds a job again
CREATE_TIMEOUT = 60.0
ENDED_BADLY = ("failed", "cancelled", "refused")
_log = logging.getLogger(__name__)


class FineTuningJob(Artifact):
    """job.json: what was asked, where, and what is known of it.

    `status` is ours until the provider has one: preparing (nothing was sent), uploading, creating
    (whether there is a job is not known), refused.
    """

    FILE: ClassVar[str] = "job.json"
    WRITTEN_BY: ClassVar[str] = "03b_train_openai"

    token: str
    version: str
    config: OpenAIJobConfig
    base_url: str
    dataset_version: str
    system_prompt: str  # sha256; template and tokenizer are the provider's secret
    price: float = 0.0  # USD per million trained tokens
    files: dict[str, str] = Field(default_factory=dict)  # part -> id of the upload
    job_id: str = ""  # "" until the provider said it
    status: str = "preparing"
    reattached: bool = False
    resumed: bool = False  # an earlier attempt of this run died before it knew its job
    served_until: str = ""  # the base model's last day, where the provider says it
    most_usd: float = 0.0  # what it can cost

    @property
    def run(self) -> store.Run:
        """The run that wants it."""
        return store.open_run(self.config.run_id)

    def save(self, **changes: Any) -> FineTuningJob:
        """The job with these changes, on disk."""
        job = self.model_copy(update=changes)
        self.run.save(job)
        return job

    def reserve(self) -> None:
        """Put aside what it can cost, once however often it is tried."""
        if self.most_usd:
            self._budget.reserve(self.most_usd, "job", key=f"job:{self.token}")

    def settle(self, usd: float) -> None:
        """Write down what it really cost."""
        if self.most_usd:
            self._budget.settle(f"job:{self.token}", usd)

    @property
    def _budget(self) -> Budget:
        return Budget(self.run, self.config.max_cost_usd)


def fine_tune_openai(dataset: FineTuningDataset, config: OpenAIJobConfig) -> FineTuningJob:
    """Upload the train and validation parts and create a job, or re-attach to this run's own.

    WorkbookError: 2 for what is wrong here, found before any upload; 5 for what the provider
    refuses.
    """
    task = load_task(config.task)
    base_url = config.base_url or OPENAI
    train = dataset.part("train")
    rows = [*train, *dataset.part("validation")]
    texts = (message.content or "" for row in rows for message in row.messages)
    models.check_may_send(task, ApiModel(config.api_model, base_url), texts)
    data = {
        "train": training_file(train, task, config),
        "validation": training_file(dataset.part("validation"), task, config, "validation"),
    }
    system = task.instructions_short if config.prompt_style == "short" else task.instructions_full
    # what 01 left out is refused now, and not when the job has been paid
    asking_to_serve(store.open_run(config.run_id), "", config, task)
    price = training_price(task, config.api_model, base_url)
    tokens = most_tokens(data["train"]) * (config.n_epochs or auto_epochs(len(train)))
    wish = FineTuningJob(
        token=uuid.uuid4().hex,
        version=version_id(config.run_id, task, dataset, config),
        config=config,
        base_url=base_url,
        dataset_version=dataset.metadata.version,
        system_prompt=hashlib.sha256(system.encode()).hexdigest(),
        price=price,
        most_usd=tokens * price / 1e6,
    )
    client = client_of(base_url)
    with store.lock():
        job = _begin(wish)
        is_new = job.status == "preparing"  # nothing was sent yet
        job = _check_offer(client, job) if is_new else _look_up(client, job)
        if job.job_id:
            return job
        return create_once(client, _upload(client, job, data), task)


def training_price(task: Task, api_model: str, base_url: str) -> float:
    """USD per million trained tokens by task.yaml; a loopback endpoint needs no price."""
    price = (token_price(task, api_model) or {}).get("train")
    if price is None and not is_loopback(base_url):
        raise WorkbookError(
            f"{task.folder / 'task.yaml'}: prices.models.{api_model}.train (USD per million) is"
            " missing"
        )
    return float(price or 0.0)


def client_of(base_url: str) -> Any:
    """The official SDK's client for an endpoint."""
    return openai_client(base_url, timeout=CREATE_TIMEOUT)


def _begin(wish: FineTuningJob) -> FineTuningJob:
    """The wish, or what an earlier attempt did for it: on disk, and its money set aside."""
    job = wish
    if wish.run.has(FineTuningJob):
        earlier = wish.run.load(FineTuningJob)
        if earlier.version == wish.version and earlier.status not in ENDED_BADLY:
            job = earlier.model_copy(update={"config": wish.config, "resumed": True})
    job = job.save()  # before its money is set aside: a kill in between loses no cent
    try:
        job.reserve()
    except WorkbookError:
        if not job.job_id and job.status == "preparing":
            job.save(status="refused")
        raise
    return job


def _look_up(client: Any, job: FineTuningJob) -> FineTuningJob:
    """The job of an earlier attempt, with the id that it may have got."""
    job_id = job.job_id
    if not job_id:
        job_id = _look_for(client, job) if job.status == "creating" else _find(client, job)
    return job.save(job_id=job_id, reattached=bool(job_id))


def _check_offer(client: Any, job: FineTuningJob) -> FineTuningJob:
    try:
        served_until = check_offer(client, job.base_url, job.config)
    except WorkbookError:
        take_back(client, job, "refused")
        raise
    return job.save(served_until=served_until, status="uploading")


def _upload(client: Any, job: FineTuningJob, data: dict[str, bytes]) -> FineTuningJob:
    """Upload what is not there yet.

    A file's name carries our token, so that one whose answer got lost is found again.
    """
    import openai

    try:
        files = client.files.with_raw_response
        listed = read_list(Uploaded, files.list, purpose="fine-tune") if job.resumed else ()
        uploads = {file.filename: file.id for file in listed}
        for part, content in data.items():
            if not content or part in job.files:
                continue
            name = f"{job.token}-{part}.jsonl"
            file_id = uploads.get(name)
            if file_id is None:
                reply = files.create(file=(name, content), purpose="fine-tune")
                file_id = read(Uploaded, reply).id
            job = job.save(files=job.files | {part: file_id})
    except openai.OpenAIError as error:
        take_back(client, job, "refused")
        raise refusal(error, f"{job.base_url} did not take the files") from None
    return job


def create_once(client: Any, job: FineTuningJob, task: Task) -> FineTuningJob:
    """Create the job, once; without a good answer it is looked up by its token, not repeated."""
    import openai

    body = job_request(job, task)
    model, file = body.pop("model"), body.pop("training_file")
    job = job.save(status="creating")
    try:
        jobs = client.with_options(max_retries=0).fine_tuning.jobs.with_raw_response
        created = read(JobState, jobs.create(model=model, training_file=file, extra_body=body))
        return job.save(job_id=created.id, status=created.status)
    except (openai.APIConnectionError, openai.InternalServerError, WorkbookError) as error:
        with suppress(WorkbookError):
            if job_id := _look_for(client, job):
                return job.save(job_id=job_id, reattached=True)
            if isinstance(error, openai.InternalServerError):
                take_back(client, job, "refused")  # it did answer, and it lists no job of ours
        reason = "odd answer" if isinstance(error, WorkbookError) else type(error).__name__
        raise WorkbookError(
            f"{job.base_url} did not answer whether it created the job ({reason});"
            " run again with the same run_id: it looks for that job first",
            5,
        ) from None
    except openai.OpenAIError as error:
        take_back(client, job, "refused")
        raise refusal(error, f"{job.base_url} refused the job") from None


def job_request(job: FineTuningJob, task: Task) -> dict[str, Any]:
    """The body of the create request; what is left out is the provider's choice.

    api_extra_body has the last word, since providers differ.
    """
    config = job.config
    hyperparameters = {
        "n_epochs": config.n_epochs,
        "batch_size": config.api_batch_size,
        "learning_rate_multiplier": config.learning_rate_multiplier,
    }
    chosen = {name: value for name, value in hyperparameters.items() if value}
    body = {
        "model": config.api_model,
        "training_file": job.files["train"],
        "validation_file": job.files.get("validation"),
        "suffix": config.model_suffix,
        "method": {"type": "supervised", "supervised": {"hyperparameters": chosen}},
        "seed": config.seed,
        "metadata": {TOKEN: job.token, "task": task.name},
    }
    body = {name: value for name, value in body.items() if value not in ("", None)}
    return _merged(body, json.loads(config.api_extra_body or "{}"))


def _merged(body: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """`extra` laid over `body`, level by level."""
    merged = body | extra
    for name, value in extra.items():
        if isinstance(value, dict) and isinstance(body.get(name), dict):
            merged[name] = _merged(body[name], value)
    return merged


def _find(client: Any, job: FineTuningJob) -> str:
    """The id of the job that carries our token, "" when there is none."""
    import openai

    try:
        ask = client.fine_tuning.jobs.with_raw_response.list
        for listed in read_list(JobState, ask, limit=50, metadata={TOKEN: job.token}):
            if (listed.metadata or {}).get(TOKEN) == job.token:  # not every provider filters
                return listed.id
    except openai.OpenAIError as error:
        raise refusal(
            error, f"{job.base_url} did not say whether it has this run's job already"
        ) from None
    return ""


def _look_for(client: Any, job: FineTuningJob) -> str:
    """`_find`, several times over: a job may be listed a little later than it was created."""
    problem: WorkbookError | None = None
    for wait in (0, 1, 2, 4, 8):
        time.sleep(min(wait, job.config.poll_seconds))
        try:
            if job_id := _find(client, job):
                return job_id
            problem = None
        except WorkbookError as error:
            problem = error
    if problem is not None:
        raise problem
    return ""


def take_back(client: Any, job: FineTuningJob, status: str, usd: float = 0.0) -> None:
    """End a job that has come to nothing: its uploads are deleted, its money is settled.

    An upload that cannot be deleted is named in the log.
    """
    import openai

    for part, file_id in job.files.items():
        try:
            client.files.with_raw_response.delete(file_id)
        except openai.OpenAIError as error:
            _log.warning("delete the %s file %s by hand: %s", part, file_id, type(error).__name__)
    job.settle(usd)
    job.save(files={}, status=status)
