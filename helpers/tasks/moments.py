"""Times of every convention: ISO 8601, epochs, `… UTC`, and days that are written with slashes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, date, datetime, time
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from helpers.tasks.encodings import TwoReadings

DayOrder = Literal["", "day_first", "month_first"]
YEAR_5138 = 1e11  # in seconds: a larger number counts milliseconds, then micro, then nano
_DAY = re.compile(r"(\d{1,2})([./-])(\d{1,2})\2(\d{4})(?:[ T,]+(.*))?")
_EPOCH = re.compile(r"\d{9,19}(?:\.\d+)?(?:e\+?\d\d)?")
_ZONES = re.compile(r"\s*(?:UTC|GMT|Z)$", re.IGNORECASE)


def moment_of(value: Any, order: DayOrder = "") -> datetime:
    """The time that a cell spells, with a zone (UTC where it names none), or ValueError."""
    if type(value) is str:  # first, as a log has a million of them
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            moment = _spelled(value.strip(), order)
    elif isinstance(value, datetime):
        moment = value
    elif isinstance(value, date):
        moment = datetime.combine(value, time.min)
    else:
        moment = _spelled(str(value), order)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _spelled(text: str, order: DayOrder) -> datetime:
    if _EPOCH.fullmatch(text):
        seconds = float(text)
        while seconds > YEAR_5138:
            seconds /= 1000
        return datetime.fromtimestamp(seconds, UTC)
    day = _DAY.fullmatch(text)
    if day:
        return _of_day(*day.groups(), order)
    with suppress(ValueError):
        return datetime.fromisoformat(_ZONES.sub("", text)).replace(tzinfo=UTC)
    try:
        return parsedate_to_datetime(text)
    except (TypeError, IndexError):
        raise ValueError("no time that is known") from None


def _of_day(
    first: str, separator: str, second: str, year: str, clock: str | None, order: DayOrder
) -> datetime:
    if separator != "." and not order and int(first) <= 12 and int(second) <= 12:
        raise ValueError("day and month cannot be told apart")
    if separator == "." or order == "day_first" or int(first) > 12:
        first, second = second, first
    start = date(int(year), int(first), int(second))
    bare = _ZONES.sub("", clock or "00:00")
    for form in ("%I:%M:%S %p", "%I:%M %p"):
        with suppress(ValueError):
            return datetime.combine(start, datetime.strptime(bare, form).time())
    return datetime.combine(start, time.fromisoformat(bare))


def day_order(values: Iterable[Any], setting: Any, column: str, where: str) -> DayOrder:
    """Whether 05/11/2026 is a day of November or of May: what all the values of a column allow.

    `setting` is task.yaml's columns.dates. WorkbookError when both fit.
    """
    if setting in ("day_first", "month_first"):
        return setting
    day_first = month_first = True
    seen = ""
    for value in values:
        match = _DAY.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None or match[2] == ".":
            continue
        seen = seen or value
        day_first = day_first and int(match[3]) <= 12
        month_first = month_first and int(match[1]) <= 12
    if not seen:
        return ""
    if day_first != month_first:
        return "day_first" if day_first else "month_first"
    why = "can be read in two ways" if day_first else "cannot be read in one way"
    raise TwoReadings(
        f"{where}: column `{column}` holds dates such as {seen!r}, which {why}: day first, or month"
        " first",
        "columns.dates",
        ("day_first", "month_first"),
    )
