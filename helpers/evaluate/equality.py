"""When two answers are the same: JSON by value at every depth, text by script."""

from __future__ import annotations

import re
import unicodedata
from functools import reduce
from typing import Any

from helpers import tasks

Json = dict[str, Any]

# Scripts without spaces between words (Han, kana, Thai, Lao, Khmer, Burmese), and Hangul, whose
# words carry their particles.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
)
# accents, and the vowel signs of Hebrew, Arabic and India's scripts: Python's \\w leaves them out
SIGNS = "\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0900-\u0963\u0966-\u0dff"
LETTER = rf"(?:[^\W{UNSPACED}]|[{SIGNS}])"  # of a script that has words, a digit, or _
_UNSEEN = "\u00ad\u061c\u200b\u200c\u200d\u200e\u200f\u2060\ufe0e\ufe0f\ufeff"
_ONE_MARK = str.maketrans("−–—‒‐⁄〜∼’‘ʼ“”„«»٫٬٪", '-----/~~\'\'\'""""".\'%', _UNSEEN)
_RAISED = re.compile("[⁻⁰¹²³⁴-⁹]+")
_PART = re.compile(r"(?<=\d)[¼-¾⅐-⅞]")  # as in 1½


def plain_text(text: str) -> str:
    """One spelling: width, minus signs, quotes, ASCII digits, spaces; no mark that nobody sees.

    10² is 10^2, and 1½ is 1 1/2: Unicode's own rule makes them 102 and 11/2.
    """
    if not text.isascii():
        text = _RAISED.sub(r"^\g<0>", _PART.sub(r" \g<0>", text))
        text = unicodedata.normalize("NFKC", text).translate(_ONE_MARK)
        text = "".join(str(unicodedata.decimal(c, c)) for c in text)
    return " ".join(text.split())


def same_json(gold: Any, answer: Any, schema: Any, root: Json) -> bool:
    """Whether two JSON values are equal: numbers by value, keys in any order; true is not 1.

    Lists are equal in order, or in any order where the schema says `uniqueItems` or `x-order:
    any`. `root` is what its references point into.
    """
    kinds = {type(gold), type(answer)}
    if kinds == {int, float}:
        return float(str(gold)) == float(str(answer))  # as texts, so that none is too large
    if len(kinds) > 1:
        return False
    if kinds == {str}:
        return plain_text(gold) == plain_text(answer)
    schema = whole_schema(schema, root)
    if kinds == {list}:
        return _same_list(gold, answer, schema, root)
    if kinds != {dict}:
        return gold == answer
    known = schema.get("properties", {})
    other = schema.get("additionalProperties", {})
    return gold.keys() == answer.keys() and all(
        same_json(value, answer[key], known.get(key, other), root) for key, value in gold.items()
    )


def _same_list(gold: list[Any], answer: list[Any], schema: Json, root: Json) -> bool:
    any_order = schema.get("uniqueItems") or schema.get("x-order") == "any"
    items = schema.get("items") or {}
    left = list(answer)
    for value in gold:
        open_ones = enumerate(left if any_order else left[:1])
        place = next((i for i, each in open_ones if same_json(value, each, items, root)), None)
        if place is None:
            return False
        del left[place]
    return not left


def whole_schema(schema: Any, root: Json, above: tuple[str, ...] = ()) -> Json:
    """A schema with all that it refers to, or is put together from; each reference but once."""
    if not isinstance(schema, dict):
        return {}
    parts = [part for word in ("anyOf", "oneOf", "allOf") for part in schema.get(word, ())]
    reference = str(schema.get("$ref", ""))
    if reference.startswith("#/") and reference not in above:
        parts.append(reduce(_child, reference[2:].split("/"), root))
        above = (*above, reference)
    whole = schema
    for part in parts:
        more = whole_schema(part, root, above)
        properties = more.get("properties", {}) | whole.get("properties", {})
        whole = more | whole | {"properties": properties}
    return whole


def _child(place: Any, key: str) -> Any:
    return place.get(key, {}) if isinstance(place, dict) else {}


def same_text(gold: str, answer: str) -> bool:
    """Equal after normalising, or as JSON where the gold answer is an object or a list."""
    if folded(gold) == folded(answer):
        return folded(gold) != ""
    try:
        wanted, said = (tasks.DECODER.decode(text.strip()) for text in (gold, answer))
    except (ValueError, RecursionError):
        return False
    return isinstance(wanted, dict | list) and same_json(wanted, said, {}, {})


def folded(text: str) -> str:
    """One spelling, in any case."""
    return tasks.normalise(plain_text(text))
