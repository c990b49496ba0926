"""What can go wrong at a provider (scenarios.yaml), and what truly is wrong with a file."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from helpers.curate.provider_file import judge_provider_file

SCENARIOS: dict[str, dict[str, Any]] = yaml.safe_load(
    Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
)
BAD_FILE = "The job failed due to a file format error in the training file. Invalid file format. "


class ApiError(Exception):
    """An answer other than 200, in OpenAI's envelope."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        kind: str = "",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {
            "message": message,
            "type": kind or "invalid_request_error",
            "param": param,
            "code": code,
        }


class Fault(NamedTuple):
    """Why a job fails: the `error` object of a failed job."""

    code: str
    message: str
    param: str | None = None


def refusal(scenario: str, model: str) -> ApiError | None:
    """What the create request is answered with, where it is refused."""
    told = SCENARIOS[scenario].get("refuse")
    return ApiError(**told | {"message": told["message"].format(model=model)}) if told else None


def fault(scenario: str, stage: str) -> Fault | None:
    """What ends a job at this stage, by its scenario."""
    told = SCENARIOS[scenario].get("fail") or {}
    return Fault(told["code"], told["message"], told["param"]) if told.get("at") == stage else None


def file_fault(files: dict[str, bytes | None]) -> Fault | None:
    """What is truly wrong with a job's files: the first broken rule, with its line."""
    for param, data in files.items():
        if data is None:
            return Fault(
                "invalid_training_file", "The file was deleted before the job began.", param
            )
        for issue in judge_provider_file(data.splitlines()):
            if issue.line:
                return Fault(
                    "invalid_training_file", f"{BAD_FILE}Line {issue.line}: {issue.message}.", param
                )
            if param == "training_file":
                return Fault(issue.code, issue.message, param)
    return None


def shutdown_date(scenario: str, now: float) -> str:
    """The base models' last day: yesterday in the scenario of a retired model, else in a year."""
    days = -1 if scenario == "expired_model" else 365
    return datetime.fromtimestamp(now + days * 86400, UTC).date().isoformat()
