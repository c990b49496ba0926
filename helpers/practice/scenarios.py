"""What can go wrong at a provider (scenarios.yaml), and what truly is wrong with a file."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from helpers.curate import judge_provider_file
from helpers.practice.wire import ApiError

SCENARIOS: dict[str, dict[str, Any]] = yaml.safe_load(
    Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
)
SLOW = 90.0  # seconds until slow_create answers
BAD_FILE = "The job failed due to a file format error in the training file. Invalid file format. "


class Fault(Exception):
    """Why a job fails; `body` is the `error` object of a failed job."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.body = {"code": code, "message": message, "param": param}


def refuse(scenario: str, model: str) -> None:
    """ApiError where the scenario refuses the create request."""
    answer = SCENARIOS[scenario].get("refuse")
    if answer is not None:
        raise ApiError(**answer | {"message": answer["message"].format(model=model)})


def check_stage(scenario: str, stage: str) -> None:
    """Fault where the scenario ends a job at this stage."""
    failure = SCENARIOS[scenario].get("fail")
    if failure is not None and failure["at"] == stage:
        raise Fault(failure["code"], failure["message"], failure["param"])


def check_files(files: dict[str, bytes | None]) -> None:
    """Fault where something is truly wrong with a job's files: the first broken rule, its line."""
    for param, data in files.items():
        if data is None:
            message = "The file was deleted before the job began."
            raise Fault("invalid_training_file", message, param)
        for issue in judge_provider_file(data.splitlines()):
            if issue.line:
                message = f"{BAD_FILE}Line {issue.line}: {issue.message}."
                raise Fault("invalid_training_file", message, param)
            if param == "training_file":
                raise Fault(issue.code, issue.message, param)


def shutdown_date(scenario: str, now: float) -> str:
    """The base models' last day: yesterday in the scenario of a retired model, else in a year."""
    days = -1 if scenario == "expired_model" else 365
    return datetime.fromtimestamp(now + days * 86400, UTC).date().isoformat()
