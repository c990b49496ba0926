"""Numbers that a state gives to a person: check digits by python-stdnum, else the word beside.

national_ids.txt has them. A number is found where its shape and its check digits are right, and
where it is called so, unless nothing else is written like it; behind a word for a code it is none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

from helpers.redaction.context import CALLED_CODE

NEAR = 24  # characters between a number and its name
STEM = 6  # letters of a name with which a longer word may begin
COMMON = (  # names of all that have check digits
    "tax id|taxid|tax identification|national id|nationalid|national number|national identity"
    "|identity number|identity card|social security|personal id|personal number|personalnumber"
    "|citizen id|citizen number|ausweisnummer|ausweisnr|personalausweis|carte d identité"
    "|numéro d identité|documento de identidad"
)
UNCHECKED = ("-", "us.ssn", "us.itin")  # nearly every number of that length would do
_BOUNDS = (  # 12-3456789 is a company's
    r"(?<![0-9A-Za-z])(?<![0-9][.,/-])(?![0-9]{2}-[0-9]{7}(?![0-9]))"
    r"(?:%s)(?![0-9A-Za-z])(?![.,/-][0-9])"
)


def _words_of(text: str) -> str:
    """A text in small letters, its words divided by single spaces (taxId, "tax-id": tax id).

    Where a sentence ends stands |.
    """
    text = re.sub(r"[!?]|\.\s+(?=[A-Z])", "|", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text))
    return re.sub(r"[^\w|]+|_+", " ", f" {text.lower()} ")


def _beside(name: str) -> re.Pattern[str]:
    """The name before # as a word, and no digit between; or soon behind #.

    A name! is an ordinary word, too, and stands directly before.
    """
    if name.endswith("!"):
        return re.compile(rf"\b{name[:-1]} (?:(?:no|nr|number|is|es) )*#")
    word = name
    if name.upper() != name:  # in scripts without capitals words stand together
        word = rf"\b{name}" if len(name) >= STEM else rf"\b{name}\b"
    return re.compile(rf"{word}[^0-9|#]{{0,{NEAR}}}#|#[^0-9|]{{0,9}}{word}")


@cache
def _by_name() -> list[tuple[str, re.Pattern[str], re.Pattern[str], Callable[[str], bool]]]:
    """A name ("": none is needed), where it stands, the number's shape, and its check digits."""
    rows = []
    table = Path(__file__).with_name("national_ids.txt").read_text("utf-8")
    for module, words, shape in re.findall(r"^([^#\t]+)\t(.+)\t(.+)$", table, re.MULTILINE):
        shape = re.sub(r"<(\d+)>", lambda m: rf"[0-9](?:[ ./-]?[0-9]){{{int(m[1]) - 1}}}", shape)
        is_valid = bool if module == "-" else import_module(f"stdnum.{module}").is_valid
        if words != "-" and module not in UNCHECKED:
            words += f"|{COMMON}"
        for name in re.sub(r"[^\w!|]+", " ", words.removeprefix("-")).split("|"):
            rows.append((name.strip("!"), _beside(name), re.compile(_BOUNDS % shape), is_valid))
    return rows


def national_numbers(text: str) -> Iterator[tuple[int, int]]:
    """Where a text holds a person's number of one of these states."""
    words = _words_of(text)
    for name, beside, shape, is_valid in _by_name():
        for match in shape.finditer(text) if name in words else ():
            if _is_called_so(text, match, beside) and _is_right(match[0], is_valid):
                yield match.span()


def _is_called_so(text: str, match: re.Match[str], beside: re.Pattern[str]) -> bool:
    """Whether the name stands beside, and no word for a code directly before.

    What begins with four letters is no code.
    """
    before = text[max(0, match.start() - 2 * NEAR) : match.start()]
    behind = text[match.end() : match.end() + NEAR]
    if CALLED_CODE.search(before) and not match[0][:4].isalpha():
        return False
    if not behind.startswith((" ", "(")):  # else the next value's name
        behind = ""
    return beside.search(f"{_words_of(before)}#{_words_of(behind)}") is not None


def _is_right(number: str, is_valid: Callable[[str], bool]) -> bool:
    try:
        return is_valid(re.sub("[ ./]", "", number))
    except Exception:  # stdnum stumbles over some, such as a birth place that cn.ric does not know
        return False
