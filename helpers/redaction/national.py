"""Numbers that a state gives to a person: check digits by python-stdnum, else the word beside.

national_ids.txt has them. A number is found where its shape and its check digits are right, and
where it is called so, unless nothing else is written like it; behind a word for a code it is none.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

from helpers.redaction.context import CALLED_CODE, CODE

NEAR = 24  # characters between a number and its name
STEM = 6  # letters of a name with which a longer word may begin
Kinds = list[tuple[str, Callable[[str], bool]]]  # a shape, and whether check digits are right
COMMON = (  # names of all that have check digits
    "tax id|taxid|tax identification|national id|nationalid|national number|national identity"
    "|identity number|identity card|social security|personal id|personal number|personalnumber"
    "|citizen id|citizen number|ausweisnummer|ausweisnr|personalausweis|carte d identité"
    "|numéro d identité|documento de identidad"
)
UNCHECKED = ("-", "us.ssn", "us.itin")  # nearly every number of that length would do
_CODE_BETWEEN = re.compile(rf"\b{CODE}\b")


def _words_of(text: str) -> str:
    """A text in small letters, its words divided by single spaces (taxId, "tax-id": tax id).

    Where a sentence ends stands |.
    """
    text = re.sub(r"[!?]|\.\s+(?=[A-Z])", "|", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text))
    return re.sub(r"[^\w|]+|_+", " ", f" {text.lower()} ")


def _beside(name: str) -> re.Pattern[str] | None:
    """The name before # as a word, and no digit between; or soon behind #.

    A name! is an ordinary word, too, and stands directly before.
    """
    if not name:
        return None
    if name.endswith("!"):
        return re.compile(rf"\b{name[:-1]}(?P<between> (?:(?:no|nr|number|is|es) )*)#")
    word = name
    if name.upper() != name:  # in scripts without capitals words stand together
        word = rf"\b{name}" if len(name) >= STEM else rf"\b{name}\b"
    return re.compile(rf"{word}(?P<between>[^0-9|#]{{0,{NEAR}}})#|#[^0-9|]{{0,9}}{word}")


@cache
def _by_name() -> list[tuple[str, re.Pattern[str] | None, re.Pattern[str], Kinds]]:
    """Every name ("": none is needed), where it stands, what its numbers look like, and may be."""
    named = defaultdict(list)
    table = Path(__file__).with_name("national_ids.txt").read_text("utf-8")
    for module, words, shape in re.findall(r"^([^#\t]+)\t(.+)\t(.+)$", table, re.MULTILINE):
        shape = re.sub(r"<(\d+)>", lambda m: rf"[0-9](?:[ ./-]?[0-9]){{{int(m[1]) - 1}}}", shape)
        is_valid = bool if module == "-" else import_module(f"stdnum.{module}").is_valid
        if words != "-" and module not in UNCHECKED:
            words += f"|{COMMON}"
        for name in words.removeprefix("-").split("|"):
            named[re.sub(r"[^\w!]+|_+", " ", name)].append((shape, is_valid))
    rows = []
    for name, kinds in named.items():
        shapes = "|".join(shape for shape, _ in kinds)
        bounds = (  # 12-3456789 is a company's
            r"(?<![0-9A-Za-z])(?<![0-9][.,/-])(?![0-9]{2}-[0-9]{7}(?![0-9]))"
            r"(?:%s)(?![0-9A-Za-z])(?![.,/-][0-9])"
        )
        rows.append((name, _beside(name), re.compile(bounds % shapes), kinds))
    return rows


def national_numbers(text: str) -> Iterator[tuple[int, int]]:
    """Where a text holds a person's number of one of these states."""
    words = _words_of(text)
    for name, beside, shape, kinds in _by_name():
        for match in shape.finditer(text) if name.strip("!") in words else ():
            if _is_called_so(text, match, beside) and _is_right(match[0], kinds):
                yield match.span()


def _is_called_so(text: str, match: re.Match[str], beside: re.Pattern[str] | None) -> bool:
    """Whether the name stands beside, and no word for a code between or directly before.

    What begins with four letters is no code.
    """
    before = text[max(0, match.start() - 2 * NEAR) : match.start()]
    between = None
    if beside is not None:
        behind = text[match.end() : match.end() + NEAR]
        if not behind.startswith((" ", "(")):  # else the next value's name
            behind = ""
        called = beside.search(f"{_words_of(before)}#{_words_of(behind)}")
        if called is None:
            return False
        between = called["between"]
    if match[0][:4].isalpha():
        return True
    if between is None:
        return CALLED_CODE.search(before) is None
    return _CODE_BETWEEN.search(between) is None


def _is_right(number: str, kinds: Kinds) -> bool:
    """Whether the check digits of one kind are right; stdnum stumbles over some numbers."""
    digits = re.sub("[ ./]", "", number)
    for shape, is_valid in kinds:
        try:
            if re.fullmatch(shape, number) and is_valid(digits):
                return True
        except Exception:  # KeyError of cn.ric: no such birth place
            continue
    return False
