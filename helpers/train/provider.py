"""What only the provider can say: may we create a job, how long will it serve the model, its curve, its checkpoints."""

from __future__ import annotations

import base64
import csv
import io
import logging
import time
from contextlib import suppress
from datetime import date
from typing import Any

from helpers import store
from helpers.records import WorkbookError
from helpers.train.config import OpenAIJobConfig

OPENAI = "https://api.openai.com/v1"
LAST_JOBS = date(
    2027, 1, 6
)  # from this day OpenAI creates no job for anybody (its deprecations page)
SERVED_WITHIN = 300.0  # seconds that a new model may answer 404
METRICS = {"step": "step", "total_steps": "steps", "train_loss": "loss", "valid_loss": "eval_loss"}
METRICS |= {
    "full_valid_loss": "eval_loss"
}  # of the whole validation file: it stands above that of a batch
ELSEWHERE = "use 03a (LoRA), or another base_url"
REMEDIES = {
    "training_not_available": f"this organisation may no longer create jobs there: {ELSEWHERE}",
    "daily_rate_limit_exceeded": "the provider's jobs per day are used up: run again tomorrow, with the same run_id",
    "insufficient_quota": "top up the account or raise its limit, then run again with the same run_id",
    "invalid_training_file": "mend or leave out the rows that the provider names, and run 02 again",
    "invalid_n_examples": "add rows, and run 02 again",
    "model_not_available": f"set api_model to a base model that this provider still tunes, {ELSEWHERE}",
    "unsafe_model": "look for what is unsafe in the train rows (the job's events may say more), and run 02 again",
    "server_error": "the fault is the provider's: run again later with the same run_id, which makes a new job",
    "cancelled": "it was cancelled; run again with the same run_id for a new job",
}
_log = logging.getLogger(__name__)


def refusal(error: Any, what: str) -> WorkbookError:
    """Exit 5 with the provider's words and our remedy; `error` is the SDK's exception, or a job's error object."""
    code = str(
        getattr(error, "code", None)
        or (type(error).__name__ if isinstance(error, Exception) else "no code")
    )
    text = store.redact(str(getattr(error, "message", None) or "no reason given"))[:300]
    remedy = (
        REMEDIES.get(code)
        or ("" if code != "no code" else REMEDIES["cancelled"])
        or "mend that, then run again"
    )
    return WorkbookError(f"{what}: {text} ({code}); {remedy}", 5)


def check_offer(client: Any, base_url: str, config: OpenAIJobConfig) -> str:
    """Until when the result can be served ("" where the provider does not say); WorkbookError 5 where no job is worth it.

    Asked before any upload. Nobody offers a dry run, so whether *this* organisation may create jobs is known only where
    the rules are public: OpenAI creates none for organisations without an earlier job, and none for anybody from 2027-01-06.
    """
    import openai

    today = store.now().date()
    try:
        if base_url.startswith(OPENAI):
            if today >= LAST_JOBS:
                raise WorkbookError(
                    f"OpenAI creates no fine-tuning jobs since {LAST_JOBS}: {ELSEWHERE}", 5
                )
            if not client.fine_tuning.jobs.list(limit=1).data:
                raise WorkbookError(
                    f"OpenAI creates no jobs for organisations that had none before: {ELSEWHERE}", 5
                )
        served_until = client.models.retrieve(config.api_model).shutdown_date or ""
    except openai.NotFoundError:
        return ""  # not every provider lists what it can tune; create will say
    except openai.OpenAIError as error:
        raise refusal(error, f"{base_url} did not say what it offers") from None
    with suppress(ValueError):
        days = (date.fromisoformat(served_until[:10]) - today).days
        if days < max(1, config.min_served_days):
            gone = f"{config.api_model} retires on {served_until}, and every model tuned from it ({days} days)"
            remedy = f"{REMEDIES['model_not_available']}, or lower min_served_days ({config.min_served_days})"
            raise WorkbookError(f"{gone}; {remedy}", 5)
    return served_until


def wait_until_served(client: Any, model: str, poll_seconds: float) -> None:
    """A model can be unknown for minutes after its job has succeeded: ask until it is there, or say so and go on."""
    import openai

    until = time.monotonic() + SERVED_WITHIN
    while time.monotonic() < until:
        try:
            client.models.retrieve(model)
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


def curve_of(events: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The metrics events as lines of training.jsonl; of a step that came twice (a restart) the later."""
    metrics = [
        event.get("data") or {} for event in events.values() if event.get("type") == "metrics"
    ]
    return _lines(metrics)


def _lines(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    steps: dict[int, dict[str, Any]] = {}
    for m in metrics:
        if m.get("step") is not None:
            line = {
                ours: m[theirs] for theirs, ours in METRICS.items() if m.get(theirs) is not None
            }
            steps.setdefault(int(m["step"]), {}).update(line)
    return list(steps.values())


def curve_of_file(client: Any, files: list[str]) -> list[dict[str, Any]]:
    """The curve from the job's result file: CSV, plain or in base64, columns by name; [] when there is none to read."""
    import openai

    for name in files:
        with suppress(openai.OpenAIError, ValueError):
            data = client.files.content(name).read()
            if not data.lstrip().startswith(b"step"):
                data = base64.b64decode(data)
            rows = list(csv.DictReader(io.StringIO(data.decode())))
            numbers = [
                {key: float(value) for key, value in row.items() if key in METRICS and value}
                for row in rows
            ]
            return _lines([row | {"step": int(row["step"])} for row in numbers if "step" in row])
    return []


def checkpoints_of(client: Any, job_id: str) -> list[dict[str, Any]]:
    """{model, step, metrics} of the models that the provider kept of a job, the final one first; [] where it keeps none."""
    import openai

    try:
        found = list(client.fine_tuning.jobs.checkpoints.list(job_id))
    except openai.OpenAIError as error:
        _log.warning("no checkpoints of %s: %s", job_id, type(error).__name__)
        return []
    found.sort(key=lambda checkpoint: -checkpoint.step_number)
    return [
        {
            "model": c.fine_tuned_model_checkpoint,
            "step": c.step_number,
            "metrics": c.metrics.to_dict(),
        }
        for c in found
    ]
