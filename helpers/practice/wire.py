"""What goes over the wire besides the endpoints' own answers: requests, pages, errors; as told."""

from __future__ import annotations

import logging
import re
import traceback
from email import message_from_bytes
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.json_schema import models_json_schema

from helpers import store
from helpers.records import WorkbookError, problem_of

B = TypeVar("B", bound=BaseModel)
_log = logging.getLogger(__name__)


class ApiError(Exception):
    """An answer other than 200, in OpenAI's envelope."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        kind: str = "invalid_request_error",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"message": message, "type": kind, "param": param, "code": code}


def refusal_of(error: Exception) -> ApiError:
    """What a request is answered with, or a job, where that ended in this."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, WorkbookError):
        return ApiError(400, store.redact(str(error)), "practice_api")
    lines = traceback.format_exception(error)
    _log.error("the practice API: %s", store.without_secrets("".join(lines)))
    return ApiError(500, f"The practice API failed ({type(error).__name__}).")


class HttpRequest(NamedTuple):
    """What came besides the path."""

    query: dict[str, str]
    body: bytes
    content_type: str

    def read(self, kind: type[B]) -> B:
        """The body, which is a JSON object of this kind."""
        try:
            return kind.model_validate_json(self.body)
        except ValidationError as error:
            field, reason = problem_of(error)
            message = f"{field or 'We could not parse the JSON body'}: {reason}."
            raise ApiError(400, message, param=field or None) from None

    def form(self) -> dict[str, Any]:
        """The parts of a multipart/form-data body, by name."""
        head = f"Content-Type: {self.content_type}\r\n\r\n"
        parts = message_from_bytes(head.encode() + self.body).get_payload()
        if not isinstance(parts, list) or any(part.is_multipart() for part in parts):
            raise ApiError(400, "The body is no multipart/form-data.")
        return {str(part.get_param("name", header="content-disposition")): part for part in parts}

    def page(self, items: list[dict[str, Any]], default: int) -> dict[str, Any]:
        """One page of a list: `limit` items behind the one called `after`."""
        ids = ["", *(item["id"] for item in items)]  # without a cursor from the beginning
        after = self.query.get("after", "")
        if after not in ids:
            raise ApiError(400, f"No such cursor: {after}", param="after")
        limit = self.query.get("limit") or str(default)
        if not re.fullmatch("[0-9]{1,9}", limit):
            raise ApiError(400, "limit: a whole number.", param="limit")
        rest = items[ids.index(after) :]
        shown = rest[: int(limit)]
        return {
            "object": "list",
            "data": shown,
            "has_more": len(shown) < len(rest),
            "first_id": shown[0]["id"] if shown else None,
            "last_id": shown[-1]["id"] if shown else None,
        }


Number = Annotated[int, Field(ge=1, le=10_000)]


class Hyperparameters(BaseModel):
    """What a job may choose; "auto" is chosen for it."""

    n_epochs: Literal["auto"] | Number | None = None
    batch_size: Literal["auto"] | Number | None = None
    learning_rate_multiplier: Literal["auto"] | Annotated[float, Field(gt=0, le=1000)] | None = None


class Supervised(BaseModel):
    """The new place of the hyperparameters."""

    hyperparameters: Hyperparameters | None = None


class Method(BaseModel):
    """How to train."""

    type: Literal["supervised"] = "supervised"
    supervised: Supervised | None = None


class JobRequest(BaseModel):
    """POST /fine_tuning/jobs; what else is in it is ignored, as OpenAI does."""

    model: str
    training_file: str
    validation_file: str | None = None
    suffix: Annotated[str, Field(max_length=64)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    metadata: dict[str, str] | None = None
    method: Method | None = None
    hyperparameters: Hyperparameters | None = None

    @property
    def chosen(self) -> dict[str, Any]:
        """The hyperparameters of its new place or of its old one; "auto" where none is chosen."""
        new = (self.method or Method()).supervised or Supervised()
        chosen = new.hyperparameters or self.hyperparameters or Hyperparameters()
        return {name: value or "auto" for name, value in chosen}


class Turn(BaseModel):
    """One message; what else is in it is ignored."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | None = None


class ChatRequest(BaseModel):
    """POST /chat/completions."""

    model_config = ConfigDict(strict=True)

    model: str
    messages: list[Turn] = Field(min_length=1)
    stream: bool | None = None
    n: int | None = None
    max_tokens: Number | None = None
    max_completion_tokens: Number | None = None


class BatchRequest(BaseModel):
    """POST /batches."""

    input_file_id: str
    endpoint: Literal["/v1/chat/completions"]
    completion_window: Literal["24h"]
    metadata: dict[str, str] | None = None


class BatchRow(BaseModel):
    """One line of a batch's input file."""

    custom_id: str
    method: Literal["POST"]
    url: str
    body: dict[str, Any]


def document() -> dict[str, Any]:
    """The published description of the API (OpenAPI 3.1)."""
    content = yaml.safe_load(Path(__file__).with_name("openapi.yaml").read_text(encoding="utf-8"))
    kinds = (JobRequest, ChatRequest, BatchRequest)
    _, schemas = models_json_schema([(kind, "validation") for kind in kinds])
    return content | schemas
