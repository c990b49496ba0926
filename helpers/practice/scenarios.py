"""What can go wrong at a provider, to be met here first: one name each, chosen at the start or for a single job.

Bodies and messages are copied from real answers where one is known; `safety` is our guess at an answer nobody printed.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from helpers.curate.provider_file import judge_provider_file

SCENARIOS = {
    "ok": "the job trains and succeeds",
    "not_available_403": "the organisation may create no jobs (the normal case at OpenAI since 2026)",
    "daily_429": "the jobs of this day are used up",
    "quota": "the account has no money left",
    "n_examples": "the provider counts fewer than ten examples",
    "format": "the provider finds a broken line",
    "moderation": "too many examples were flagged, so the file is blocked before training",
    "safety": "the trained model fails the safety evaluation",
    "server_error": "requests answer 500 for a while, and then the job itself fails",
    "stuck_validating": "the job never leaves validation",
    "slow_create": "the job is created, but the answer comes after the client's patience: the duplicate-job trap",
    "paused": "the job is paused until somebody resumes it",
    "not_found_after_success": "the new model answers 404 for a while",
    "expired_model": "the base model is retired",
    "base64_results": "no metrics in the events; the result file comes base64-encoded",
}
CLOSING = (
    "OpenAI is winding down the fine-tuning platform and your organization is no longer able to create new fine-tuning"
    " training jobs. Learn more https://developers.openai.com/api/docs/deprecations"
)
DAILY = "This fine-tune request has been rate-limited. Your organization has reached the maximum of 8 fine-tuning requests"
QUOTA = "You exceeded your current quota, please check your plan and billing details."
FLAGGED = (
    "This training file was blocked because too many examples were flagged by our moderation API for containing content"
    " that violates OpenAI's usage policies in the following categories: hate. Use the free OpenAI Moderation API to"
    " identify these examples and remove them from your training data."
)
BAD_FILE = "The job failed due to a file format error in the training file. Invalid file format. "


class ApiError(Exception):
    """An answer other than 200, in OpenAI's envelope."""

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None, kind: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.body = {"message": message, "type": kind or "invalid_request_error", "param": param, "code": code}


class Fault(NamedTuple):
    """Why a job fails: the `error` object of a failed job."""

    code: str
    message: str
    param: str | None = "training_file"


UNSAFE = Fault("unsafe_model", "The fine-tuned model did not pass the safety evaluation in 1 of 13 categories.", None)


def refusal(scenario: str, model: str) -> ApiError | None:
    """What the create request is answered with, where it is refused."""
    if scenario == "not_available_403":
        return ApiError(403, CLOSING, "training_not_available")
    if scenario == "daily_429":
        return ApiError(429, f"{DAILY} per day for the model '{model}'.", "daily_rate_limit_exceeded")
    if scenario == "quota":
        return ApiError(429, QUOTA, "insufficient_quota", kind="insufficient_quota")
    if scenario == "expired_model":
        return unavailable(model)
    return None


def unavailable(model: str) -> ApiError:
    """The answer to a base model that cannot be tuned (any more)."""
    return ApiError(400, f"Model {model} is not available for fine-tuning or does not exist.", "model_not_available", "model")


def file_fault(scenario: str, files: dict[str, bytes | None]) -> Fault | None:
    """What validation finds in the job's files: what is truly wrong, or what the scenario says."""
    for param, data in files.items():
        if data is None:
            return Fault("invalid_training_file", "The file was deleted before the job began.", param)
        broken = judge_provider_file(data.splitlines())
        if param == "validation_file":
            broken = [issue for issue in broken if issue.code != "invalid_n_examples"]
        for issue in broken:
            if not issue.line:
                return Fault(issue.code, issue.message, param)
            return Fault("invalid_training_file", f"{BAD_FILE}Line {issue.line}: {issue.message}.", param)
    forced = {
        "n_examples": Fault("invalid_n_examples", "Training file has 7 example(s), but must have at least 10 examples"),
        "format": Fault("invalid_training_file", f'{BAD_FILE}Example 3 contains an extra "tools".'),
        "moderation": Fault("invalid_training_file", FLAGGED),
    }
    return forced.get(scenario)


def early_fault(scenario: str) -> Fault | None:
    """What ends a job in the queue."""
    return Fault("server_error", "The job failed due to an internal error.", None) if scenario == "server_error" else None


def retired(scenario: str, now: float) -> str:
    """The base models' `shutdown_date`: yesterday in the scenario of a retired model, else in a year."""
    days = -1 if scenario == "expired_model" else 365
    return datetime.fromtimestamp(now + days * 86400, UTC).date().isoformat()
