"""Numbers that a state gives to a person: check digits by python-stdnum, else the word beside.

national_ids.txt has them. A number is found where its shape and its check digits are right, and
where it is called so, unless nothing else is written like it; behind a word for a code it is none.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from importlib import import_module
from itertools import chain
from pathlib import Path

from helpers.redaction.context import CALLED_CODE

NEAR = 24  # characters between a number and its name
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
    """The name as a word near the end, and no digit behind it.

    A name! is an ordinary word, too, and stands at the end.
    """
    if name.endswith("!"):
        return re.compile(rf"\b{name[:-1]} (?:(?:no|nr|number|is|es) )*$")
    word = name
    if name.upper() != name:  # in scripts without capitals words stand together
        word = rf"\b{name}" if len(name) >= 6 else rf"\b{name}\b"  # or a longer word's beginning
    return re.compile(rf"{word}[^0-9|]{{0,{NEAR}}}$")


@cache
def _by_name() -> dict[str, list[tuple[re.Pattern[str], re.Pattern[str], Callable[[str], bool]]]]:
    """A name ("": none is needed): where it stands, shapes of numbers, and their check digits."""
    rows = defaultdict(list)
    table = Path(__file__).with_name("national_ids.txt").read_text("utf-8")
    for module, words, shape in re.findall(r"^([^#\t]+)\t(.+)\t(.+)$", table, re.MULTILINE):
        shape = re.sub(r"<(\d+)>", lambda m: rf"[0-9](?:[ ./-]?[0-9]){{{int(m[1]) - 1}}}", shape)
        number = re.compile(_BOUNDS % shape)
        is_valid = bool if module == "-" else import_module(f"stdnum.{module}").is_valid
        if words != "-" and module not in UNCHECKED:
            words += f"|{COMMON}"
        for name in re.sub(r"[^\w!|]+", " ", words.removeprefix("-")).split("|"):
            rows[name.strip("!")].append((_beside(name), number, is_valid))
    return rows


def national_numbers(text: str) -> Iterator[tuple[int, int]]:
    """Where a text holds a person's number of one of these states."""
    words = _words_of(text)
    called = (rows for name, rows in _by_name().items() if name in words)
    for beside, shape, is_valid in chain.from_iterable(called):
        for match in shape.finditer(text):
            with suppress(Exception):  # stdnum stumbles, as over birth places that it has not
                number = re.sub("[ ./]", "", match[0])
                if _is_called_so(text, match, beside) and is_valid(number):
                    yield match.span()


def _is_called_so(text: str, match: re.Match[str], beside: re.Pattern[str]) -> bool:
    """Whether the name stands before, and no word for a code between.

    What begins with four letters is no code.
    """
    before = text[max(0, match.start() - 2 * NEAR) : match.start()]
    is_code = CALLED_CODE.search(before) and not match[0][:4].isalpha()
    return not is_code and beside.search(_words_of(before)) is not None
