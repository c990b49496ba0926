"""What only the provider can say: may we create a job, how long the model is served, its curve."""

from __future__ import annotations

import base64
import csv
import io
import logging
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import date
from functools import partial
from typing import Any

from pydantic import ValidationError

from helpers import store
from helpers.models import provider_of, serves_until
from helpers.records import WorkbookError
from helpers.train.config import OpenAIJobConfig
from helpers.train.wire import Checkpoint, JobState, Metrics, Offer, Page, read, read_list

OPENAI = "https://api.openai.com/v1"
SERVED_WITHIN = 300.0  # seconds that a new model may answer 404
METRICS = {  # their name -> ours, in the order in which the later one counts
    "step": "step",
    "total_steps": "steps",
    "train_loss": "loss",
    "valid_loss": "eval_loss",  # of one batch
    "full_valid_loss": "eval_loss",  # of the whole validation file
}
ELSEWHERE = "use 03a (LoRA), or another base_url"
REMEDIES = {
    "training_not_available": f"this organisation may no longer create jobs there: {ELSEWHERE}",
    "daily_rate_limit_exceeded": (
        "the provider's jobs per day are used up: run again tomorrow, with the same run_id"
    ),
    "insufficient_quota": (
        "top up the account or raise its limit, then run again with the same run_id"
    ),
    "invalid_training_file": (
        "mend or leave out the rows that the provider names, and run 02 again"
    ),
    "invalid_n_examples": "add rows, and run 02 again",
    "model_not_available": (
        f"set api_model to a base model that this provider still tunes, {ELSEWHERE}"
    ),
    "unsafe_model": (
        "look for what is unsafe in the train rows (the job's events may say more), and run 02"
        " again"
    ),
    "server_error": (
        "the fault is the provider's: run again later with the same run_id, which makes a new job"
    ),
    "cancelled": "it was cancelled; run again with the same run_id for a new job",
}
REMEDIES["no code"] = REMEDIES["cancelled"]  # a job that says nothing of why it ended
_log = logging.getLogger(__name__)


def refusal(error: Any, what: str) -> WorkbookError:
    """Exit 5 with the provider's words and our remedy.

    `error` is the SDK's exception, or a job's error object.
    """
    unnamed = type(error).__name__ if isinstance(error, Exception) else "no code"
    code = getattr(error, "code", None) or unnamed
    text = store.redact(str(getattr(error, "message", None) or "no reason given"))[:300]
    remedy = REMEDIES.get(str(code), "mend that, then run again")
    return WorkbookError(f"{what}: {text} ({code}); {remedy}", 5)


def check_offer(client: Any, base_url: str, config: OpenAIJobConfig) -> str:
    """The last day on which the result can be served, "" where the provider does not say.

    WorkbookError 5 where no job is worth it. Asked before any upload. Nobody offers a dry run, so
    whether *this* organisation may create jobs is known only where the rules are public.
    """
    import openai

    announced = str(serves_until(base_url) or "")
    try:
        _check_rules(client, base_url)
        reply = client.models.with_raw_response.retrieve(config.api_model)
        told = read(Offer, reply).shutdown_date or ""
    except openai.NotFoundError:
        told = ""  # not every provider lists what it can tune; create will say
    except openai.OpenAIError as error:
        raise refusal(error, f"{base_url} did not say what it offers") from None
    for served_until in (told, announced):
        with suppress(ValueError):
            days = (date.fromisoformat(served_until[:10]) - store.now().date()).days
            if days < max(1, config.min_served_days):
                raise WorkbookError(
                    f"{config.api_model} retires on {served_until}, and every model tuned from it"
                    f" ({days} days); {REMEDIES['model_not_available']}, or lower min_served_days"
                    f" ({config.min_served_days})",
                    5,
                )
    return min(filter(None, (told, announced)), default="")


def _check_rules(client: Any, base_url: str) -> None:
    provider = provider_of(base_url)
    if provider is None:
        return
    last_day = provider.train_until
    if last_day is not None and store.now().date() > last_day:
        raise WorkbookError(
            f"{provider.name} creates no fine-tuning jobs after {last_day}: {ELSEWHERE}", 5
        )
    jobs = client.fine_tuning.jobs.with_raw_response
    if not provider.newcomers and not read(Page[JobState], jobs.list(limit=1)).data:
        raise WorkbookError(
            f"{provider.name} creates no jobs for organisations that had none before: {ELSEWHERE}",
            5,
        )


def wait_until_served(client: Any, model: str, poll_seconds: float) -> None:
    """A model can be unknown for minutes after its job succeeded: wait, or say so and go on."""
    import openai

    until = time.monotonic() + SERVED_WITHIN
    while time.monotonic() < until:
        try:
            client.models.with_raw_response.retrieve(model)  # whatever it says of it
            return
        except openai.NotFoundError:
            time.sleep(poll_seconds)
        except openai.OpenAIError:
            return  # another fault, or a provider that does not list models: 04 will see
    _log.warning(
        "%s is not served yet, %g s after its job succeeded; wait before running 04",
        model,
        SERVED_WITHIN,
    )


def curve_of(measured: Iterable[Any]) -> list[dict[str, Any]]:
    """The measured metrics as lines of training.jsonl; of a step that came twice the later one."""
    steps: dict[int, dict[str, Any]] = {}
    for values in measured:
        try:
            metrics = Metrics.model_validate(values)
        except ValidationError:
            continue  # a line that cannot be drawn fails no job that is paid for
        line = steps.setdefault(metrics.step, {})
        for theirs, ours in METRICS.items():
            if getattr(metrics, theirs) is not None:
                line[ours] = getattr(metrics, theirs)
    return list(steps.values())


def curve_of_file(client: Any, files: list[str]) -> list[dict[str, Any]]:
    """The curve from the job's result file: CSV, plain or in base64, columns by name.

    [] when there is none to read.
    """
    import openai

    for name in files:
        with suppress(openai.OpenAIError, ValueError, csv.Error):
            data = client.files.content(name).read()
            if not data.lstrip().startswith(b"step"):
                data = base64.b64decode(data)
            table = csv.DictReader(io.StringIO(data.decode()))
            rows = [{name: text for name, text in row.items() if text} for row in table]
            return curve_of(rows)
    return []


def checkpoints_of(client: Any, job_id: str) -> list[dict[str, Any]]:
    """{model, step, metrics} of the models that the provider kept of a job, the final one first."""
    import openai

    ask = partial(client.fine_tuning.jobs.checkpoints.with_raw_response.list, job_id)
    try:
        checkpoints = list(read_list(Checkpoint, ask))
    except (openai.OpenAIError, WorkbookError) as error:
        _log.warning("no checkpoints of %s: %s", job_id, type(error).__name__)
        return []
    checkpoints.sort(key=lambda checkpoint: checkpoint.step_number, reverse=True)
    return [
        {
            "model": checkpoint.fine_tuned_model_checkpoint,
            "step": checkpoint.step_number,
            "metrics": checkpoint.metrics,
        }
        for checkpoint in checkpoints
    ]
