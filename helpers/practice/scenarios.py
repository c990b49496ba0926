"""What can go wrong at a provider (scenarios.yaml), and what truly is wrong with a file."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from helpers.curate import judge_provider_file
from helpers.practice.wire import ApiError

SCENARIOS: dict[str, dict[str, Any]] = yaml.safe_load(
    Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
)
SLOW = 90.0  # seconds until slow_create answers
BAD_FILE = "The job failed due to a file format error in the training file. Invalid file format. "


class Fault(NamedTuple):
    """Why a job fails: the `error` object of a failed job."""

    code: str
    message: str
    param: str | None = None


def refusal(scenario: str, model: str) -> ApiError | None:
    """What the create request is answered with, where it is refused."""
    answer = SCENARIOS[scenario].get("refuse")
    if answer is None:
        return None
    return ApiError(**answer | {"message": answer["message"].format(model=model)})


def fault(scenario: str, stage: str) -> Fault | None:
    """What ends a job at this stage, by its scenario."""
    failure = SCENARIOS[scenario].get("fail")
    if failure is None or failure["at"] != stage:
        return None
    return Fault(failure["code"], failure["message"], failure["param"])


def file_fault(files: dict[str, bytes | None]) -> Fault | None:
    """What is truly wrong with a job's files: the first broken rule, with its line."""
    for param, data in files.items():
        if data is None:
            message = "The file was deleted before the job began."
            return Fault("invalid_training_file", message, param)
        for issue in judge_provider_file(data.splitlines()):
            if issue.line:
                message = f"{BAD_FILE}Line {issue.line}: {issue.message}."
                return Fault("invalid_training_file", message, param)
            if param == "training_file":
                return Fault(issue.code, issue.message, param)
    return None


def shutdown_date(scenario: str, now: float) -> str:
    """The base models' last day: yesterday in the scenario of a retired model, else in a year."""
    days = -1 if scenario == "expired_model" else 365
    return datetime.fromtimestamp(now + days * 86400, UTC).date().isoformat()
