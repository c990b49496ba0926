"""Ratings of every convention as 1 to 5: the convention is judged over the whole column.

A 1 is the best of two and the worst of five, so no rating can be read alone. What fits two
conventions is asked for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from helpers.records import WorkbookError
from helpers.tasks.encodings import TwoReadings

GOOD = (
    "up",
    "thumbs_up",
    "thumbsup",
    "thumb_up",
    "upvote",
    "👍",
    "✅",
    "❤",
    "😀",
    "😊",
    "🙂",
    "😍",
)
GOOD += ("good", "great", "like", "liked", "positive", "helpful", "correct", "right", "accept")
GOOD += ("accepted", "yes", "y", "true", "😊", "🙂", "😍")
BAD = ("down", "thumbs_down", "thumbsdown", "thumb_down", "downvote", "👎", "❌", "😞", "😠", "🙁")
BAD += ("bad", "dislike", "disliked", "negative", "unhelpful", "not_helpful", "wrong", "incorrect")
BAD += ("reject", "rejected", "no", "n", "false", "😡")
NEUTRAL = ("neutral", "ok", "okay", "mixed", "😐")
WORDS = dict.fromkeys(GOOD, 5.0) | dict.fromkeys(BAD, 1.0) | dict.fromkeys(NEUTRAL, 3.0)
UNRATED = ("", "none", "null", "nan", "n/a", "na", "-")
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
        if is_unrated(value):
            return None
        score = self.scores.get(token_of(value))
        if score is None:
            raise ValueError(self.name)
        return score

    @property
    def description(self) -> str:
        """Such as `thumbs, 1 -> 5, 0 -> 1; 38 of 90 rated`."""
        examples = sorted(self.scores.items(), key=lambda item: -item[1])
        shown = [f"{_shown(value)} -> {score:.3g}" for (_, value), score in examples]
        if len(shown) > 4:
            shown = [*shown[:2], "…", *shown[-2:]]
        text = ", ".join([self.name, *shown])
        return f"{text}; {self.rated} of {self.rows} rated"


def token_of(value: Any) -> Token:
    """A rating as a key: 1 and 1.0 are one number, and true is none."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float, float(value)
    if isinstance(value, bool):
        return bool, value
    return str, str(value)


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def is_unrated(value: Any) -> bool:
    """Whether a cell holds no rating at all."""
    if value is None or value != value:  # NaN is not equal to itself
        return True
    return isinstance(value, str) and value.strip().casefold() in UNRATED


def judge_scale(counts: Mapping[Token, int], setting: Any, column: str, where: str) -> Scale:
    """The convention of a column, from how often each of its values occurs.

    `setting` is task.yaml's columns.feedback: {value: 1 to 5}, or [lowest, highest]. WorkbookError
    when the values fit two conventions.
    """
    rows = sum(counts.values())
    rated = {token: n for token, n in counts.items() if not is_unrated(token[1])}
    scores: dict[Token, float] = {}
    numbers: dict[Token, float] = {}
    names = []
    words = mapped_words(setting)
    for token in rated:
        text = _plain(_shown(token[1]))
        own = words.get(text, WORDS.get(text) if not isinstance(token[1], int | float) else None)
        fraction = _fraction(text)
        if own is None and isinstance(token[1], bool):
            own = WORDS[text]
        if own is not None:
            scores[token] = own
        elif fraction is not None:
            scores[token] = 1 + 4 * fraction
        elif _NUMBER.fullmatch(text):
            numbers[token] = float(text.replace(",", "."))
    if scores:
        names.append("words")
    if numbers:
        n_of = {numbers[token]: 0 for token in numbers}
        for token, number in numbers.items():
            n_of[number] += rated[token]
        name, low, high = _range_of(n_of, setting, bool(scores), f"{where}: column `{column}`")
        names.append(name)
        for token, number in numbers.items():
            if low <= number <= high:
                scores[token] = 1 + 4 * (number - low) / (high - low)
    unknown = sum(n for token, n in rated.items() if token not in scores)
    n_rated = sum(n for token, n in rated.items() if token in scores)
    return Scale(" and ".join(names) or "no ratings", scores, n_rated, rows, unknown)


def mapped_words(setting: Any) -> dict[str, float]:
    """columns.feedback where it maps values: value -> 1 to 5."""
    if not isinstance(setting, Mapping):
        return {}
    return {_plain(word): float(score) for word, score in setting.items()}


def _plain(value: Any) -> str:
    """A rating without what does not matter: case, spaces, a thumb's colour."""
    text = _SHADES.sub("", str(value)).strip().casefold().replace("−", "-")
    return text.replace(" ", "_") if text[:1].isalpha() else text


def _fraction(text: str) -> float | None:
    """`4/5`, `80%` and `★★★★☆` say their own scale: 0 (worst) to 1; of up to 5 the worst is 1."""
    stars = text.count("★") + text.count("⭐")
    if stars:
        return (stars - 1) / 4 if stars <= 5 else None
    match = _OF.fullmatch(text)
    if match:
        value = float(match[1].replace(",", "."))
        most = float(match[2])
        least = 1.0 if most <= 5 and value >= 1 else 0.0
        return (value - least) / (most - least) if least <= value <= most and most > 1 else None
    if text.endswith("%") and _NUMBER.fullmatch(text[:-1].strip()):
        share = float(text[:-1].replace(",", ".")) / 100
        return share if 0 <= share <= 1 else None
    return None


def _range_of(
    counts: Mapping[float, int], setting: Any, has_words: bool, where: str
) -> tuple[str, float, float]:
    """(name, lowest, highest) of numbers that occur so often."""
    if isinstance(setting, list | tuple):
        if len(setting) != 2 or not all(isinstance(end, int | float) for end in setting):
            raise WorkbookError(
                "task.yaml: columns.feedback is {value: 1 to 5} or [lowest, highest]"
            )
        low, high = sorted(map(float, setting))
        return f"{low:g} to {high:g}, as task.yaml says", low, high
    n = sum(counts.values())
    values = set(counts)
    low, high = min(values), max(values)
    if values <= {0, 1} and (0 in values or has_words):
        return "thumbs", 0, 1
    if values == {1}:
        raise _ambiguous(where, counts, ("a thumb up", "[0, 1]"), ("one star of five", "[1, 5]"))
    if -1 in values and values <= {-1, 0, 1}:
        return "thumbs", -1, 1
    if low >= 0 and high <= 1:
        return "shares of 1", 0, 1
    outside = sum(count for value, count in counts.items() if not 1 <= value <= 5)
    if outside <= FEW * n and any(1 < value <= 5 for value in values):
        if n >= ENOUGH and high <= 3:
            raise _ambiguous(
                where, counts, (f"1 to {high:g}", f"[1, {high:g}]"), ("stars of five", "[1, 5]")
            )
        return "stars", 1, 5
    if low >= 0 and high <= 5:
        raise _ambiguous(
            where, counts, ("0 is the worst", "[0, 5]"), ("0 is not rated, 1 the worst", "[1, 5]")
        )
    if low >= 0 and high == 10:
        least = 0.0 if 0 in values else 1.0
        return f"{least:g} to 10", least, 10
    if low >= 0 and 50 < high <= 100:
        return "percent", 0, 100
    if low >= 0 and high < 10:
        raise _ambiguous(where, counts, (f"1 to {high:g}", f"[1, {high:g}]"), ("of ten", "[1, 10]"))
    raise _ambiguous(
        where,
        counts,
        (f"{low:g} to {high:g}", f"[{low:g}, {high:g}]"),
        ("of a hundred", "[0, 100]"),
    )


def _ambiguous(
    where: str, counts: Mapping[float, int], one: tuple[str, str], other: tuple[str, str]
) -> TwoReadings:
    shown = ", ".join(f"{value:g} ({n} times)" for value, n in Counter(counts).most_common(4))
    return TwoReadings(
        f"{where} holds the ratings {shown}, which can be read in two ways: {one[0]}, or"
        f" {other[0]}; say which in task.yaml: `columns: {{feedback: {one[1]}}}` or `columns:"
        f" {{feedback: {other[1]}}}` (lowest, highest)"
    )
