"""What people write times and ratings like, judged over a whole column: no cell says it alone.

A 1 is the best of two and the worst of five, and 05/11 a day of May or of November. What fits two
conventions is asked for. A rating becomes 1 to 5, a time a datetime with its zone.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime, time
from email.utils import parsedate_to_datetime
from typing import Any, Literal, NamedTuple

from helpers.records import WorkbookError
from helpers.tasks.textfiles import TwoReadings

# --- times ----------------------------------------------------------------------------------------

DayOrder = Literal["", "day_first", "month_first"]
YEAR_5138 = 1e11  # in seconds: a larger number counts milliseconds, then micro, then nano
_DAY = re.compile(r"(\d{1,2})([./-])(\d{1,2})\2(\d{4})(?:[ T,]+(.*))?")
_EPOCH = re.compile(r"\d{9,19}(?:\.\d+)?(?:e\+?\d\d)?")
_OF_SERVERS = re.compile(r"\A\[?(\d\d)/([A-Z][a-z]{2})/(\d{4}):(.*?)\]?\Z")  # as nginx writes one
_COMPACT = re.compile(
    r"\A((?:19|20)\d{6})(\d{4}|\d{6})(?:\.0+)?(?=\Z|\s*[A-Z+-])"
)  # 20261105103000
# what no ISO time has: the name of UTC, and a space before an offset
_ZONES = re.compile(r"\s*(?:UTC|GMT|Z)$|(?<=\d)\s+(?=[-+]\d\d:?\d\d$)", re.IGNORECASE)


def moment_of(value: Any, order: DayOrder = "") -> datetime:
    """The time that a cell spells, with a zone (UTC where it names none), or ValueError."""
    # first, as a log has a million of them; Python takes a digit for the T of 20261105103000Z
    if type(value) is str and not value[:9].isdecimal():
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            moment = _spelled(value.strip(), order)
    elif isinstance(value, datetime):
        moment = value
    else:
        moment = _spelled(str(value).strip(), order)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _spelled(text: str, order: DayOrder) -> datetime:
    text = _OF_SERVERS.sub(r"\1 \2 \3 \4", _COMPACT.sub(r"\1T\2", text))
    if _EPOCH.fullmatch(text):
        seconds = float(text)
        while seconds > YEAR_5138:
            seconds /= 1000
        return datetime.fromtimestamp(seconds, UTC)
    day = _DAY.fullmatch(text)
    if day:
        return _of_day(*day.groups(), order)
    with suppress(ValueError):
        return datetime.fromisoformat(_ZONES.sub("", text).replace("/", "-"))
    with suppress(TypeError, IndexError):
        moment = parsedate_to_datetime(re.sub("(?:UTC|GMT)(?=[-+]\\d{4})", "", text))
        # behind the clock CET, PM, UTC+1: it would pass over them
        if moment.tzinfo or not re.search(":\\d\\d.*[A-Za-z]", text):
            return moment
    raise ValueError("no time that is known")


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


def day_order(values: Iterable[Any], setting: DayOrder | None, column: str, where: str) -> DayOrder:
    """Whether 05/11/2026 is a day of November or of May: what all the values of a column allow.

    `setting` is task.yaml's columns.dates. WorkbookError when both fit.
    """
    if setting:
        return setting
    texts = (value.strip() for value in values if isinstance(value, str))
    days = [day for day in map(_DAY.fullmatch, texts) if day and day[2] != "."]
    if not days:
        return ""
    day_first = all(int(day[3]) <= 12 for day in days)
    if day_first != all(int(day[1]) <= 12 for day in days):
        return "day_first" if day_first else "month_first"
    why = "can be read in two ways" if day_first else "cannot be read in one way"
    raise TwoReadings(
        f"{where}: column `{column}` holds dates such as {days[0][0]!r}, which {why}: day first, or"
        " month first",
        "columns.dates",
        ("day_first", "month_first"),
    )


# --- ratings --------------------------------------------------------------------------------------

_SCORES = {
    "up thumbs_up thumbsup thumb_up upvote good great like liked positive helpful correct right"
    " accept accepted yes y true 👍 ✅ ❤ 😀 😊 🙂 😍": 5.0,
    "down thumbs_down thumbsdown thumb_down downvote bad dislike disliked negative unhelpful"
    " not_helpful wrong incorrect reject rejected no n false 👎 ❌ 😞 😠 🙁 😡": 1.0,
    "neutral ok okay mixed 😐": 3.0,
}
WORDS = {word: score for words, score in _SCORES.items() for word in words.split()}
# what programs write into empty cells
_NOTHING = "none null nan n/a na - <na> nat \\n #n/a #ref! #value! #div/0! #name?"
NOTHING = frozenset(("", *_NOTHING.split()))
# skin tones, variation selectors and the joiner: the same thumb in another colour
_SHADES = re.compile("[\U0001f3fb-\U0001f3ff\ufe0e\ufe0f\u200d]")
_NUMBER = re.compile(r"[-+]?\d+(?:[.,]\d+)?")
_OF = re.compile(r"(\d+(?:[.,]\d+)?)\s*(?:/|of|out of)\s*(\d+)(?:\s*stars?)?")
FEW = 0.05  # of the numbers: so few outside of 1-5 are slips, not another scale
ENOUGH = 20  # ratings from which a scale that is never used to its end is doubted
Token = tuple[type, Any]  # true and 1 are equal in Python


class Scale(NamedTuple):
    """How a column of ratings is read: in words, and each of its values as 1 to 5."""

    name: str
    scores: Mapping[Token, float]
    rated: int = 0
    rows: int = 0
    unknown: int = 0  # cells that hold no rating of this scale

    def score(self, value: Any) -> float | None:
        """1 to 5; None: not rated. ValueError for a value that is no rating of this scale."""
        score = self.scores.get(token_of(value))
        if score is None and not is_nothing(value):
            raise ValueError(self.name)
        return score

    @property
    def description(self) -> str:
        """Such as `thumbs, 1 -> 5, 0 -> 1; 38 of 90 rated`."""
        examples = sorted(self.scores.items(), key=lambda item: -item[1])
        shown = [f"{_shown(value)} -> {score:.3g}" for (_, value), score in examples]
        if len(shown) > 4:
            shown = [*shown[:2], "…", *shown[-2:]]
        return f"{', '.join([self.name, *shown])}; {self.rated} of {self.rows} rated"


def token_of(value: Any) -> Token:
    """A rating as a key: 1 and 1.0 are one number, and true is none."""
    if isinstance(value, bool):
        return bool, value
    return (float, float(value)) if isinstance(value, int | float) else (str, str(value))


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def is_nothing(value: Any) -> bool:
    """Whether a cell is empty, or holds what programs write into empty cells."""
    if value is None or value != value:  # NaN is not equal to itself
        return True
    return isinstance(value, str) and value.strip().casefold() in NOTHING


def judge_scale(
    counts: Mapping[Token, int], setting: Any, column: str, where: str, asks: bool = True
) -> Scale:
    """The convention of a column, from how often each of its values occurs.

    `setting` is task.yaml's columns.feedback: {value: 1 to 5}, or [worst, best]. WorkbookError
    when the values fit two conventions. Without `asks`, or where its highest is rare or a half, a
    column without any 5 is stars of five: what is bad from its first day is told, not asked about.
    """
    rated = {token: n for token, n in counts.items() if not is_nothing(token[1])}
    words, ranges = _meant_by(setting)
    scores = {}
    values = {}
    numbers = Counter()
    for token, n in rated.items():
        text = _plain(_shown(token[1]))
        score = _said(token, text, words)
        if score is not None:
            scores[token] = score
        elif _NUMBER.fullmatch(text):
            values[token] = _number(text)
            numbers[values[token]] += n
    names = ["words"] if scores else []
    if numbers:
        ranges = ranges or _ranges_of(numbers, bool(scores), asks)
        if len(ranges) > 1:
            shown = ", ".join(f"{value:g} ({n} times)" for value, n in numbers.most_common(4))
            raise TwoReadings(
                f"{where}: column `{column}` holds the ratings {shown}, which can be read in two"
                f" ways: {ranges[0].name}, or {ranges[1].name} (worst and best)",
                "columns.feedback",
                [f"[{each.worst:g}, {each.best:g}]" for each in ranges],
            )
        names.append(ranges[0].name)
        scores |= ranges[0].scores_of(values)
    n_rated = sum(rated[token] for token in scores)
    unknown = sum(rated.values()) - n_rated
    name = " and ".join(names) or "no ratings"
    return Scale(name, scores, n_rated, sum(counts.values()), unknown)


def _said(token: Token, text: str, words: Mapping[str, float]) -> float | None:
    """1 to 5 of a value that says its own meaning: a mapped one, a word, 4/5, 80%."""
    if token[0] is not float:
        words = WORDS | words
    if text in words:
        return words[text]
    fraction = _fraction(text)
    return None if fraction is None else 1 + 4 * fraction


def _number_of(
    value: Any, place: str = "", low: float = -math.inf, high: float = math.inf
) -> float:
    with suppress(TypeError, ValueError, OverflowError):
        if math.isfinite(value) and low <= value <= high:
            return float(value)
    raise WorkbookError(
        f"task.yaml: columns.feedback is {{value: 1 to 5}} or [worst, best], not {place}{value}"
    )


def _plain(value: Any) -> str:
    """A rating without what does not matter: case, spaces, a thumb's colour."""
    text = _SHADES.sub("", str(value)).strip().casefold().replace("−", "-")
    return text.replace(" ", "_") if text[:1].isalpha() else text


def _fraction(text: str) -> float | None:
    """`4/5`, `80%` and `★★★★☆` say their own scale: 0 (worst) to 1; of up to 5 the worst is 1."""
    stars = text.count("★") + text.count("⭐")
    if stars and not text.strip("★⭐☆ "):
        return (stars - 1) / 4 if stars <= 5 else None
    match = _OF.fullmatch(text)
    if match:
        value = _number(match[1])
        most = float(match[2])
        least = 1.0 if most <= 5 and value >= 1 else 0.0
        return (value - least) / (most - least) if least <= value <= most and most > 1 else None
    number = text.removesuffix("%").strip()
    is_share = number != text and _NUMBER.fullmatch(number) and 0 <= _number(number) <= 100
    return _number(number) / 100 if is_share else None


class _Range(NamedTuple):
    """A scale of numbers from the worst to the best, which may be the lower one."""

    name: str
    worst: float
    best: float

    def scores_of(self, values: Mapping[Token, float]) -> dict[Token, float]:
        """1 to 5 of each that is a number of this scale."""
        low, high = sorted((self.worst, self.best))
        size = self.best - self.worst
        held = {token: value for token, value in values.items() if low <= value <= high}
        return {token: 1 + 4 * (value - self.worst) / size for token, value in held.items()}


def _number(text: str) -> float:
    return float(text.replace(",", "."))


THUMBS = _Range("thumbs", 0, 1)
STARS = _Range("stars", 1, 5)
HUNDRED = _Range("percent", 0, 100)


def _meant_by(setting: Any) -> tuple[dict[str, float], list[_Range]]:
    """(value -> 1 to 5, the range) that columns.feedback says: one of them, or none."""
    if setting is None:
        return {}, []
    if isinstance(setting, Mapping):
        return {_plain(each): _number_of(n, f"{each}: ", 1, 5) for each, n in setting.items()}, []
    are_two = isinstance(setting, list | tuple) and len(setting) == 2 and setting[0] != setting[1]
    worst, best = map(_number_of, setting if are_two else [None])
    return {}, [_Range(f"{worst:g} to {best:g}, as task.yaml says", worst, best)]


def _ranges_of(numbers: Counter[float], has_words: bool, asks: bool) -> list[_Range]:
    """The scale that numbers fit which occur so often, or two that they fit alike."""
    low, high = min(numbers), max(numbers)
    if low >= -1 and high <= 1:
        return _small_ranges(set(numbers), has_words)
    from_one = _Range(f"1 to {high:g}", 1, high)
    if _are_stars(numbers):
        is_end = high < 5 and high % 1 == 0 and 10 * numbers[high] >= numbers.total()
        return [from_one, STARS] if is_end and asks and numbers.total() >= ENOUGH else [STARS]
    whole = _Range(f"{low:g} to {high:g}", low, high)
    if low < 0:
        return [whole, HUNDRED]
    if high <= 5:
        return [_Range("0 to 5", 0, 5), STARS]
    if high < 10:
        return [from_one, _Range("1 to 10", 1, 10)]
    if high == 10:
        return [_Range(f"{min(1, low):g} to 10", min(1, low), 10)]
    return [HUNDRED] if 50 < high <= 100 else [whole, HUNDRED]


def _are_stars(numbers: Counter[float]) -> bool:
    """Whether all but slips are 1 to 5, and more than the 1."""
    outside = sum(n for value, n in numbers.items() if not 1 <= value <= 5)
    return outside <= FEW * numbers.total() and any(1 < value <= 5 for value in numbers)


def _small_ranges(values: set[float], has_words: bool) -> list[_Range]:
    """The scales of numbers from -1 to 1."""
    if values <= {0, 1} and (0 in values or has_words):
        return [THUMBS]
    if values == {1}:
        return [THUMBS, STARS]
    if values <= {-1, 0, 1}:
        return [_Range("thumbs", -1, 1)]
    low = min(0, *values)
    return [_Range("shares of 1", low, 1)] if low == 0 else [_Range("-1 to 1", -1, 1), HUNDRED]
