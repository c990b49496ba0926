"""OpenAI's wire format: what a request may say, what answers, pieces and errors look like.

And the published description of it, made from the records that parse requests.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    AliasPath,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic.json_schema import models_json_schema

from helpers.models import Answer
from helpers.records import LiveRow, Message, problem_of, read_calls

OPTION = re.compile("[A-Za-z0-9_.-]{1,40}")  # a name that a header may repeat
MOST_NAMED = 20  # of them
# a field of a form that was left empty says nothing
Said = Annotated[str | None, AfterValidator(lambda text: text if text and text.strip() else None)]


class ApiError(Exception):
    """An answer that is none, as OpenAI spells it."""

    def __init__(self, status: int, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"retry-after": "1"} if status == 429 else {}
        kind = "invalid_request_error" if status < 500 else "server_error"
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


class Reply(Answer):
    """An answer with what an engine tells of its tokens, where it was asked for that."""

    logprobs: dict[str, Any] | None = None


class TextPart(BaseModel):
    """One part of a content that is given as a list."""

    type: Literal["text"]
    text: str


class Turn(BaseModel):
    """One message of a request."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Turn:
        if self.content in (None, []) and not self.tool_calls:
            raise ValueError("content is missing")
        return self

    def as_message(self) -> Message:
        """The turn as models read it; parts are joined."""
        fields = self.model_dump()
        if isinstance(self.content, list):
            fields["content"] = "\n".join(part.text for part in self.content)
        return Message(**fields)


class ResponseFormat(BaseModel):
    """The form that a caller expects of an answer; of a schema the fields are compared."""

    type: Literal["text", "json_object", "json_schema"]
    fields: dict[str, Any] = Field(
        {}, validation_alias=AliasPath("json_schema", "schema", "properties")
    )


class StreamOptions(BaseModel):
    """What else a stream tells."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """The body of POST /v1/chat/completions, as far as it matters here."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(min_length=1, max_length=200)
    messages: list[Turn] = Field(min_length=1)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    n: Literal[1] | None = 1
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["auto"] | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    metadata: dict[str, str] | None = None
    user: str | None = Field(None, max_length=200)

    @model_validator(mode="after")
    def _ends_with_a_question(self) -> ChatRequest:
        if self.messages[-1].role not in ("user", "tool"):
            raise ValueError("the last message must be the user's")
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs comes with logprobs: true alone")
        return self

    @property
    def logprobs_wanted(self) -> dict[str, Any]:
        """What the caller wants to know of the tokens' probabilities."""
        named = {"logprobs", "top_logprobs"}
        return self.model_dump(include=named, exclude_none=True) if self.logprobs else {}

    @property
    def ignored(self) -> list[str]:
        """What the caller said that changes no answer: a version answers as it was measured."""
        said = [name for name, value in (self.model_extra or {}).items() if value is not None]
        return [name for name in said if OPTION.fullmatch(name)][:MOST_NAMED]


class FeedbackRequest(BaseModel):
    """The body of POST /v1/feedback: at least one of score, thumb, correction, comment."""

    model_config = ConfigDict(extra="forbid")

    request_id: str = Field(min_length=1, max_length=100)
    # true is no star, and "5" is five
    score: Annotated[float, Field(ge=1, le=5), BeforeValidator(str)] | None = None
    thumb: Literal["up", "down"] | None = None
    correction: Said = Field(None, max_length=20_000)
    comment: Said = Field(None, max_length=5_000)

    @model_validator(mode="after")
    def _says_something(self) -> FeedbackRequest:
        if all(getattr(self, name) is None for name in ("score", "thumb", "correction", "comment")):
            raise ValueError("give score, thumb, correction or comment")
        if self.score is not None and self.thumb is not None:
            raise ValueError("give a score or a thumb, not both")
        return self


def parse(kind: type[BaseModel], body: bytes) -> Any:
    """A body as its record; ApiError 400 names the field, never its value."""
    try:
        content = json.loads(body, parse_constant=int)  # NaN and Infinity are no JSON
        json.dumps(content, ensure_ascii=False).encode()  # no half of a surrogate pair
    except (ValueError, RecursionError):
        raise ApiError(400, "The body is not valid JSON in UTF-8.", "invalid_json") from None
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        where, reason = problem_of(error)
        message = f"{where}: {reason}".removeprefix(": ")
        raise ApiError(400, message, "invalid_value", where or None) from None


@dataclass(frozen=True)
class Stamp:
    """Which version answered, for which task and route, and the id under which it is logged."""

    row: LiveRow  # of the log, as far as it is known before the answer
    task: str
    ignored: list[str]
    has_tools: bool

    @property
    def headers(self) -> dict[str, str]:
        """The stamp as headers."""
        headers = {
            "x-request-id": self.row.request_id,
            "x-workbook-task": self.task,
            "x-workbook-version": self.row.version,
            "x-workbook-generation": str(self.row.generation),
            "x-workbook-arm": self.row.arm,
        }
        if self.ignored:
            headers["x-workbook-ignored"] = ",".join(self.ignored)
        return headers

    def _head(self, kind: str, created: int) -> dict[str, Any]:
        return {
            "id": self.row.request_id,
            "object": kind,
            "created": created,
            "model": self.row.version,
            "system_fingerprint": f"{self.task}@{self.row.generation}",
        }

    def said(self, reply: Answer) -> tuple[str, list[dict[str, Any]], str]:
        """(text, calls, why it ended): the calls of a version with tools stand in its text."""
        if not self.has_tools:
            return reply.text, [], reply.finish
        text, calls = read_calls(reply.text)
        calls = [call | {"id": f"{call['id']}_{self.row.request_id[-12:]}"} for call in calls]
        return text, calls, "tool_calls" if calls else reply.finish

    def completion(self, reply: Answer) -> dict[str, Any]:
        """The answer in one piece."""
        text, calls, finish = self.said(reply)
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if calls:
            message |= {"content": text or None, "tool_calls": calls}
        choice = {"index": 0, "message": message, "logprobs": logprobs_of(reply)}
        head = self._head("chat.completion", int(time.time()))
        return head | {"choices": [choice | {"finish_reason": finish}], "usage": usage_of(reply)}

    def pieces(self, reply: Answer, with_usage: bool) -> Iterator[bytes]:
        """The answer as server-sent events: its role, its words and calls, why it ended."""
        text, calls, finish = self.said(reply)
        head = self._head("chat.completion.chunk", int(time.time()))
        if with_usage:
            head["usage"] = None
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": word} for word in text.splitlines(keepends=True)]
        deltas += [{"tool_calls": [call | {"index": n}]} for n, call in enumerate(calls)]
        for delta in deltas:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
            yield event(head | {"choices": [choice]})
        last = {"index": 0, "delta": {}, "logprobs": logprobs_of(reply), "finish_reason": finish}
        yield event(head | {"choices": [last]})
        if with_usage:
            yield event(head | {"choices": [], "usage": usage_of(reply)})
        yield b"data: [DONE]\n\n"


def logprobs_of(answer: Answer) -> dict[str, Any] | None:
    """What an engine told of the tokens' probabilities."""
    return answer.logprobs if isinstance(answer, Reply) else None


def event(value: dict[str, Any]) -> bytes:
    """One server-sent event, in ASCII: some readers end a line at U+2028."""
    return f"data: {json.dumps(value)}\n\n".encode()


def usage_of(answer: Answer) -> dict[str, Any]:
    """The tokens of one answer."""
    return {
        "prompt_tokens": answer.tokens_in,
        "completion_tokens": answer.tokens_out,
        "total_tokens": answer.tokens_in + answer.tokens_out,
        "prompt_tokens_details": {"cached_tokens": answer.tokens_cached, "audio_tokens": 0},
    }


def document() -> dict[str, Any]:
    """The published description of the API (OpenAPI 3.1)."""
    content = yaml.safe_load(Path(__file__).with_name("openapi.yaml").read_text(encoding="utf-8"))
    kinds = [(ChatRequest, "validation"), (FeedbackRequest, "validation")]
    _, schemas = models_json_schema(kinds, ref_template="#/components/schemas/{model}")
    content["components"]["schemas"] |= schemas["$defs"]
    return content
