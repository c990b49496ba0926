"""What a provider answers about files, models and jobs, checked as it comes in.

The SDK takes any JSON for anything; here an odd answer is exit 5 with what is odd, never its text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from helpers import store
from helpers.records import WorkbookError

MOST_PAGES = 1000  # of one list


def _writable(value: Any) -> Any:
    store.dumps(value)  # a ValueError where it is no JSON: NaN, a number without end
    return value


Plain = Annotated[Any, AfterValidator(_writable)]
Id = Annotated[str, Field(min_length=1, max_length=500)]
Count = Annotated[int, Field(ge=0, le=10**15)]
Loss = Annotated[float, Field(allow_inf_nan=False)]


class Uploaded(BaseModel):
    """A file at the provider."""

    id: Id
    filename: str | None = None


class Offer(BaseModel):
    """A model that the provider serves."""

    shutdown_date: str | None = None


class Problem(BaseModel):
    """Why a job failed; empty on healthy ones."""

    code: str | None = None
    message: str | None = None


class JobState(BaseModel):
    """A job as it is now."""

    id: Id
    status: str
    model: str | None = None
    created_at: Count = 0
    finished_at: Count | None = None
    fine_tuned_model: str | None = None
    trained_tokens: Count | None = None
    result_files: list[str] | None = None
    seed: int | None = None
    error: Problem | None = None
    hyperparameters: Plain = None
    metadata: dict[str, Any] | None = None


class Event(BaseModel):
    """Something that happened to a job."""

    model_config = ConfigDict(extra="ignore")

    id: Id
    created_at: Count = 0
    type: str | None = "message"
    message: str = ""
    data: Plain = None


class Metrics(BaseModel):
    """What a metrics event measured; the names are theirs."""

    step: Annotated[int, Field(ge=1, le=10**9)]
    total_steps: Count | None = None
    train_loss: Loss | None = None
    valid_loss: Loss | None = None  # of one batch
    full_valid_loss: Loss | None = None  # of the whole validation file


class Checkpoint(BaseModel):
    """A model that the provider kept of a job."""

    id: Id
    step_number: Count
    fine_tuned_model_checkpoint: Id
    metrics: Plain = None


B = TypeVar("B", bound=BaseModel)
E = TypeVar("E", Uploaded, JobState, Event, Checkpoint)


class Page(BaseModel, Generic[E]):
    """A part of a list."""

    data: list[E]
    has_more: bool | None = None


def read(kind: type[B], reply: Any) -> B:
    """What a raw reply of the SDK says; WorkbookError 5 names the field that is odd."""
    try:
        return kind.model_validate_json(reply.http_response.content)
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join(map(str, problem["loc"])) or "the whole"
        raise WorkbookError(
            f"{reply.http_response.url.host} gave an odd answer ({where}: {problem['msg'][:100]});"
            " run again with the same run_id, which goes on where it was",
            5,
        ) from None


def read_list(kind: type[E], ask: Callable[..., Any], **options: Any) -> Iterator[E]:
    """Every entry of a list, page by page, until one has nothing new."""
    names: set[str] = set()
    for _ in range(MOST_PAGES):
        page = read(Page[kind], ask(**options))  # type: ignore[valid-type]
        new = [entry for entry in page.data if entry.id not in names]
        yield from new
        if not page.has_more or not new:
            return
        names.update(entry.id for entry in new)
        options["after"] = page.data[-1].id
