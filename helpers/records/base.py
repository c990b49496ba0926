"""What every record is, how an older version's file is read, and the one error readers meet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

SCHEMA_VERSION = 2  # 1 is what 0.1.0 wrote, which had no such field
# torch's words, and oneDNN's
NO_MEMORY = (
    r"out of memory|can(no|')t allocate memory|bad_alloc|could not create a (primitive|memory)"
)


class WorkbookError(Exception):
    """A problem the reader can fix; the message says how.

    `exit_code` is what `workbook run` ends with (2 = bad parameters, task, data or limit).
    A kernel can hand its parent only text, so a code other than 2 is part of the message.
    """

    def __init__(self, message: str, exit_code: int = 2) -> None:
        self.exit_code = exit_code
        super().__init__(message if exit_code == 2 else f"{message} [exit {exit_code}]")

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: the message, which says the remedy, and no frames of helpers."""
        return [f"WorkbookError: {self}"]


class Record(BaseModel):
    """Base of all records: immutable, and unknown fields are errors rather than typos that pass."""

    model_config = ConfigDict(frozen=True, extra="forbid")


R = TypeVar("R", bound=Record)


def problem_of(error: ValidationError) -> tuple[str, str]:
    """(where a value first is wrong, and why), without quoting it; "" is the whole."""
    problem = error.errors(include_input=False, include_url=False, include_context=False)[0]
    where = ".".join(map(str, problem["loc"]))
    return where, problem["msg"].removeprefix("Value error, ")


def from_parameters(kind: type[R], parameters: Mapping[str, Any], names: Iterable[str]) -> R:
    """What a notebook's parameters (its globals()) say of a record; an odd value is named."""
    try:
        return kind(**{name: parameters[name] for name in names if name in parameters})
    except ValidationError as error:
        where, reason = problem_of(error)
        what = " ".join(filter(None, ("parameter", where)))
        given = error.errors(include_url=False)[0]["input"]
        raise WorkbookError(f"{what}: {reason}; got {given!r}") from None


class Artifact(Record):
    """A record that is a file of a run: `run.save(it)` writes it, `run.load(Kind)` reads it."""

    FILE: ClassVar[str]  # its name in the run's folder
    WRITTEN_BY: ClassVar[str]  # the notebook to run when it is missing

    schema_version: int = SCHEMA_VERSION

    @classmethod
    def upgrade(cls, old: dict[str, Any], params: dict[str, Any] | None) -> dict[str, Any]:
        """The fields of 0.1.0 in today's form; `params` are run.json's, None where it has none.

        What cannot be told raises WorkbookError: a guess would be a wrong answer that looks right.
        """
        return old

    @classmethod
    def parse(cls, raw: Any, where: str, params: dict[str, Any] | None = None) -> Self:
        """The artifact that a file's JSON spells; an error names file, field and remedy."""
        remedy = f"run {cls.WRITTEN_BY} again"
        if not isinstance(raw, dict):
            raise WorkbookError(f"{where} holds no JSON object; {remedy}")
        version = raw.get("schema_version", 1)
        if not isinstance(version, int) or version > SCHEMA_VERSION:
            raise WorkbookError(
                f"{where} has schema_version {str(version)[:20]}, this workbook reads up to"
                f" {SCHEMA_VERSION}; update the workbook, or {remedy}"
            )
        try:
            if version == 1:
                raw = cls.upgrade(dict(raw), params) | {"schema_version": SCHEMA_VERSION}
            return cls.model_validate(raw)
        except ValidationError as error:
            field, reason = problem_of(error)
            raise WorkbookError(f"{where}: {field or 'the whole'}: {reason}; {remedy}") from None
        except (LookupError, TypeError, AttributeError):  # an upgrade met what 0.1.0 never wrote
            raise WorkbookError(f"{where} is not as 0.1.0 wrote it; {remedy}") from None
