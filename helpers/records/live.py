"""The live log: one line per answered request, and what people say about an answer later.

artifacts/live/<task>/YYYY-MM-DD.jsonl is only ever appended to, each line in one write, so that
many processes may write it and a kill -9 tears its last line at most. Systems that serve without
us write the same lines; fields that they add are passed over. health.json says whether what serves
is still good.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import ConfigDict, Field, field_validator

from helpers.records.base import Artifact, Record
from helpers.records.findings import Estimate, Finding

GOOD_STATUS = ("ok", "200", "success")
THUMBS = {"up": 5.0, "down": 1.0}
Arm = Literal["production", "canary", "shadow", "trial"]
LogText = Literal["full", "masked", "none"]
HealthVerdict = Literal["ok", "watch", "retrain"]
REPLAY_USER = "workbook-replay"  # as whom 06 asks a gateway: logged as a trial, no traffic


class LiveRow(Record):
    """One request as it was served: a line of the live log."""

    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)

    request_id: str = ""  # a line with the same id replaces the one before
    created_at: datetime  # when the request came; UTC if it names no zone
    conversation_id: str = ""  # which requests belong together
    version: str = ""  # which version answered; "" if unknown
    generation: int = 0  # of the route when it answered; 0 where nothing counts them
    # shadow: nobody saw this answer; trial: asked for by its version's id, or by 06 (a replay)
    arm: Arm = "production"
    messages: list[dict[str, Any]] = Field(default_factory=list)  # the chat that was sent
    answer: str = ""  # the text that came back
    status: str = "ok"  # `ok`, `200` or `success`; anything else is an error
    well_formed: bool | None = None  # whether the answer, unmasked, has the task's format
    agrees: bool | None = None  # of a shadow: whether it said the same as production
    error: str = ""  # what went wrong, without the chat's words
    latency_ms: float | None = None  # from request to answer
    tokens_in: int = 0  # of the prompt; 0: not counted
    tokens_out: int = 0  # of the answer
    # how probable the model held the whole answer: the product over its tokens; null: unknown
    confidence: float | None = Field(None, ge=0, le=1)
    feedback_score: float | None = None  # 1 to 5, if the user rated it
    correction: str = ""  # what a user would have answered; nobody has checked it
    comment: str = ""  # what a user said about the answer
    text: LogText = "full"  # masked: personal data and secrets are replaced; none: left out
    caller: str = ""  # the name of the key that asked; never the key
    # what task.yaml names in `slices`, such as a customer's country: quality is watched within it
    fields: dict[str, str] = Field(default_factory=dict)
    shadow_of: str = ""  # the request that a shadow answered a second time
    simulated: bool = False  # true for made-up traffic

    @field_validator("created_at")
    @classmethod
    def _with_zone(cls, value: datetime) -> datetime:
        return value if value.tzinfo else value.replace(tzinfo=UTC)

    @property
    def is_ok(self) -> bool:
        """Whether the request was answered."""
        return self.status.lower() in GOOD_STATUS


class LateFeedback(Record):
    """What somebody says about an answer, now or days later: a line of its own; the last counts."""

    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)

    request_id: str  # the answer that is meant
    at: datetime  # when it was said
    feedback_score: float | None = Field(None, ge=1, le=5)  # 1 to 5
    thumb: Literal["up", "down"] | None = None  # counts as 5 or 1
    correction: str | None = None  # the answer that would have been right
    comment: str | None = None  # anything else that was said
    caller: str = ""  # the name of the key that said it

    @property
    def score(self) -> float | None:
        """1 to 5, from the score or the thumb; null where neither was given."""
        return THUMBS[self.thumb] if self.thumb else self.feedback_score


Entry = LiveRow | LateFeedback | None  # what a line says; None: nobody can read it


class LiveRows(NamedTuple):
    """What a live log holds: its rows in the order of time, and how many lines nobody can read."""

    rows: list[LiveRow]
    unreadable: int


def parse_live_line(line: str | bytes) -> LiveRow | LateFeedback:
    """One line of a live log: an answered request, or what was said later; else an error."""
    raw = json.loads(line)
    kind = LateFeedback if "created_at" not in raw and "at" in raw else LiveRow
    return kind.model_validate(raw)


def read_live_line(line: str | bytes) -> Entry:
    """The same; None: unreadable."""
    try:
        return parse_live_line(line)
    except (ValueError, TypeError, RecursionError):  # no JSON, other fields, nested without end
        return None


def read_live_lines(
    lines: Iterable[str | bytes], read: Callable[[str | bytes], Entry] = read_live_line
) -> LiveRows:
    """The rows of a live log, each with the last thing that was said about it.

    A torn or foreign line is counted, never guessed at; feedback about a request that is not here
    is counted as well. `read` may know other forms of a line than our own.
    """
    rows: dict[str, LiveRow] = {}
    late: list[LateFeedback] = []
    unreadable = 0
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        entry = read(line)
        if entry is None:
            unreadable += 1
        elif isinstance(entry, LateFeedback):
            late.append(entry)
        else:
            rows[entry.request_id or f"line {number}"] = entry
    for feedback in late:
        row = rows.get(feedback.request_id)
        if row is None:
            unreadable += 1
        else:
            rows[feedback.request_id] = with_feedback(row, feedback)
    return LiveRows(sorted(rows.values(), key=lambda row: row.created_at), unreadable)


def with_feedback(row: LiveRow, feedback: LateFeedback) -> LiveRow:
    """The row with what was said later; what was not said again stays."""
    fields = {
        "feedback_score": feedback.score,
        "correction": feedback.correction,
        "comment": feedback.comment,
    }
    changes = {name: value for name, value in fields.items() if value is not None}
    return row.model_copy(update=changes)


# --- what 06 says of it ---------------------------------------------------------------------------


class Window(Record):
    """The days of live traffic that were judged, and the files they were read from."""

    start: datetime
    end: datetime
    days: int
    files: list[str] = Field(default_factory=list)


class Day(Record):
    """One day of live traffic, for a figure; a day without ratings has n = 0 there."""

    day: str
    n: int
    format_compliance: Estimate
    feedback: Estimate


class Replay(Record):
    """One night; scores by the id of the row, from 0 to 1. A row without an answer says nothing."""

    version: str  # which version was asked
    at: datetime  # when
    place: str  # where: a base_url; "": at its provider
    metric: str = "accuracy"  # what is compared: accuracy, or format_compliance of rated tasks
    before: dict[str, float] = Field(default_factory=dict)  # 04's answer, scored now
    now: dict[str, float] = Field(default_factory=dict)  # and the answer of this night
    same: int = 0  # answers that are word for word those of 04
    error: str = ""  # why nothing could be asked


class Health(Artifact):
    """health.json. A failed critical check asks for a retrain, a failed warning for a look."""

    FILE: ClassVar[str] = "health.json"
    WRITTEN_BY: ClassVar[str] = "06_monitor"

    verdict: HealthVerdict
    reasons: list[str]
    checks: list[Finding]
    version: str | None
    window: Window
    simulated: bool
    unreadable: int
    causes: list[Finding] = Field(default_factory=list)  # fail: it is there; remedy: what to do
    alarms: list[str] = Field(default_factory=list)  # ids of the alarms that are not resolved
