"""When two answers are the same: JSON by value at every depth, text by script, numbers by value."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from typing import Any, NamedTuple

from helpers import tasks

# Scripts without spaces between words (Han, kana, Thai, Lao, Khmer, Burmese), and Hangul, whose
# words carry their particles.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
)
_RUN = re.compile(f"[{UNSPACED}]+")
_LETTER = rf"[^\W{UNSPACED}]"  # of a script that has words, a digit, or _
_MINUS = str.maketrans("−–—‒﹣－⁄", "------/")
_SPELLED = {"thousand": 1e3, "k": 1e3, "million": 1e6, "mio": 1e6, "billion": 1e9, "bn": 1e9}
_SPELLED |= {"mrd": 1e9, "trillion": 1e12}
_DIGITS = r"(?:\d{1,3}(?: \d{3})+(?!\d)|\d+(?:[.,'’]\d+)*)(?:[.,]\d+)?(?:e[-+]?\d+)?"
_DATE = re.compile(r"(?<!\d)(?:(\d{4})-(\d{1,2})-(\d{1,2})|(\d{1,2})\.(\d{1,2})\.(\d{4}))(?!\d)")
_QUANTITY = re.compile(
    rf"(?P<sign>(?<![\w)])[-+])?(?P<first>{_DIGITS})"
    rf"(?:(?P<join>/| ?- ?| to )(?P<second>{_DIGITS}))?"
    r"(?P<percent> ?%)?(?: ?(?P<word>thousand|k|million|mio|billion|bn|mrd|trillion)\b)?"
)
_ASIDE = re.compile(r"\([^()]*\)")


class Quantity(NamedTuple):
    """The last number of a text, or what is no single number: a range, a list, a date."""

    value: float | None
    text: str
    is_percent: bool = False


def plain_text(text: str) -> str:
    """One spelling: compatibility forms and width, one minus sign, ASCII digits, single spaces."""
    text = unicodedata.normalize("NFKC", text).translate(_MINUS)
    if not text.isascii():
        text = "".join(str(unicodedata.decimal(c, c)) for c in text)
    return " ".join(text.split())


def same_json(gold: Any, answer: Any, schema: dict[str, Any] | None = None) -> bool:
    """Whether two JSON values are equal: numbers by value, keys in any order; true is not 1.

    Lists are equal in order, or in any order where the schema says `uniqueItems` or `x-order:
    any`, or where there is no schema to ask.
    """
    if isinstance(gold, bool) or isinstance(answer, bool):
        return gold is answer
    if isinstance(gold, int | float) and isinstance(answer, int | float):
        return gold == answer or float(gold) == float(answer)
    if isinstance(gold, str) and isinstance(answer, str):
        return plain_text(gold) == plain_text(answer)
    if isinstance(gold, dict) and isinstance(answer, dict):
        return _same_object(gold, answer, schema)
    if isinstance(gold, list) and isinstance(answer, list):
        return _same_list(gold, answer, schema)
    return gold is None and answer is None


def _same_object(
    gold: dict[str, Any], answer: dict[str, Any], schema: dict[str, Any] | None
) -> bool:
    if gold.keys() != answer.keys():
        return False
    of_keys: dict[str, Any] = {} if schema is None else schema.get("properties", {})
    unknown = None if schema is None else {}
    return all(same_json(v, answer[key], of_keys.get(key, unknown)) for key, v in gold.items())


def _same_list(gold: list[Any], answer: list[Any], schema: dict[str, Any] | None) -> bool:
    if len(gold) != len(answer):
        return False
    items = None
    in_order = False
    if schema is not None:
        items = schema.get("items")
        items = items if isinstance(items, dict) else {}
        in_order = not (schema.get("uniqueItems") or schema.get("x-order") == "any")
    if in_order:
        return all(same_json(a, b, items) for a, b in zip(gold, answer, strict=True))
    left = list(answer)
    for value in gold:
        place = next((i for i, other in enumerate(left) if same_json(value, other, items)), None)
        if place is None:
            return False
        del left[place]
    return True


def same_text(gold: str, answer: str) -> bool:
    """Equal after normalising, or as JSON where the gold answer is an object or a list."""
    if _folded(gold) == _folded(answer):
        return _folded(gold) != ""
    try:
        values = json.loads(gold), json.loads(answer)
    except (ValueError, RecursionError):
        return False
    return isinstance(values[0], dict | list) and same_json(*values, {})


def _folded(text: str) -> str:
    return tasks.normalise(plain_text(text))


def holds(answer: str, gold: str) -> bool:
    """Whether the gold answer stands in the answer as words or numbers of their own, by script."""
    word = _folded(gold)
    if not word:
        return False
    before = ""
    after = ""
    if re.match(_LETTER, word[0]):
        before = f"(?<!{_LETTER})"
    if re.match(_LETTER, word[-1]):
        after = f"(?!{_LETTER})"
    if word[0].isdigit():
        before += r"(?<![-\d])(?<!\d[.,])"
    if word[-1].isdigit():
        after += r"(?!\d|[.,]\d)"
    return re.search(before + re.escape(word) + after, _folded(answer)) is not None


def spaced_out(text: str) -> str:
    """Runs of scripts without spaces as pairs of characters, so that a word index knows them."""

    def pairs(match: re.Match[str]) -> str:
        run = match[0]
        grams = [run[i : i + 2] for i in range(max(1, len(run) - 1))]
        return f" {' '.join(grams)} "

    return _RUN.sub(pairs, text)


def same_number(gold: str, answer: str, tolerance: float, mark: str = "") -> bool:
    """Whether the last number, date or range of both is the same; `mark` stands before decimals."""
    one = last_quantity(gold, mark)
    other = last_quantity(answer, mark)
    if one is None or other is None:
        return False
    if one.value is None or other.value is None:
        return one.text == other.text
    values = {other.value, other.value / 100} if other.is_percent else {other.value}
    if one.is_percent:
        values = {other.value} if other.is_percent else {other.value, other.value * 100}
    return any(math.isclose(v, one.value, rel_tol=tolerance, abs_tol=1e-9) for v in values)


def last_quantity(text: str, mark: str = "") -> Quantity | None:
    """The last number of a text; what stands in brackets counts only where nothing else does."""
    text = plain_text(text).casefold()
    outside = _ASIDE.sub(" ", text)
    text = outside if any(char.isdigit() for char in outside) else text
    dates = list(_DATE.finditer(text))
    quantities = list(_QUANTITY.finditer(text))
    if dates and (not quantities or quantities[-1].start() <= dates[-1].end()):
        year, month, day, *german = dates[-1].groups()
        if year is None:
            day, month, year = german
        return Quantity(None, f"{int(year)}-{int(month):02}-{int(day):02}")
    if not quantities:
        return None
    match = quantities[-1]
    value = _number(match["first"], mark)
    if value is None:
        return Quantity(None, match["first"])
    if match["join"]:
        second = _number(match["second"], mark)
        if match["join"] != "/" or not second:
            return Quantity(None, f"{match['first']}-{match['second']}")
        value /= second
    if match["sign"] == "-":
        value = -value
    value *= _SPELLED.get(match["word"] or "", 1)
    return Quantity(value, match[0], match["percent"] is not None)


def _number(text: str, mark: str) -> float | None:
    """A number in English or continental spelling; None: a list, or no grouping at all."""
    text = re.sub(r"['’ ]", "", text)
    head, e, exponent = text.partition("e")
    mark = mark or _decimal_mark(head)
    other = "," if mark == "." else "."
    if not re.fullmatch(rf"(?:\d+|\d{{1,3}}(?:[{other}]\d{{3}})+)(?:[{mark}]\d+)?", head):
        return None
    return float(head.replace(other, "").replace(mark, ".") + e + exponent)


def _decimal_mark(number: str) -> str:
    """Of two marks the last; a comma before exactly three digits groups them, as do several."""
    marks = re.findall("[.,]", number)
    groups = len(set(marks)) == 1 and (
        len(marks) > 1 or re.fullmatch(r"[1-9]\d{0,2},\d{3}", number)
    )
    if groups:
        return "." if marks[0] == "," else ","
    return marks[-1] if marks else "."
