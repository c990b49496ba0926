"""Numbers that a state gives to a person: check digits by python-stdnum, else the word beside.

national_ids.txt has them. A number is found where its shape and its check digits are right, and
where it is called so, unless nothing else is written like it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

NEAR = 40  # characters beside a number in which its name is looked for
Kinds = list[tuple[str, Callable[[str], bool]]]  # a shape, and whether check digits are right
COMMON = (  # names of all of them
    "tax id|taxid|tax number|tax identification|national id|nationalid|national number"
    "|national identity|identity number|identity card|identification number|social security"
    "|personal id|personal number|personalnumber|citizen id|citizen number|steuernummer|ausweis"
    "|carte d identité|numéro d identité|documento de identidad|codice fiscale"
)


def _words_of(text: str) -> str:
    """A text in small letters, its words divided by single spaces (tax_id, "tax-id": tax id)."""
    return re.sub(r"[\W_]+", " ", f" {text.lower()} ")


@cache
def _by_name() -> list[tuple[str, re.Pattern[str], Kinds]]:
    """Every name ("": none is needed), what its numbers look like, and what they may be."""
    named = defaultdict(list)
    table = Path(__file__).with_name("national_ids.txt").read_text("utf-8")
    for module, words, shape in re.findall(r"^([^#\t]+)\t(.+)\t(.+)$", table, re.MULTILINE):
        shape = re.sub(r"<(\d+)>", lambda m: rf"[0-9](?:[ ./-]?[0-9]){{{int(m[1]) - 1}}}", shape)
        is_valid = bool if module == "-" else import_module(f"stdnum.{module}").is_valid
        for name in [""] if words == "-" else f"{words}|{COMMON}".split("|"):
            named[re.sub(r"[\W_]+", " ", name)].append((shape, is_valid))
    rows = []
    for name, kinds in named.items():
        shapes = "|".join(shape for shape, _ in kinds)
        bounds = r"(?<![0-9A-Za-z])(?<![0-9][.,/-])(?:%s)(?![0-9A-Za-z])(?![.,/-][0-9])"
        rows.append((name, re.compile(bounds % shapes), kinds))
    return rows


def national_numbers(text: str) -> Iterator[tuple[int, int]]:
    """Where a text holds a person's number of one of these states."""
    words = _words_of(text)
    for name, shape, kinds in _by_name():
        for match in shape.finditer(text) if name in words else ():
            beside = f"{text[max(0, match.start() - NEAR) : match.start()]} "
            beside += text[match.end() : match.end() + NEAR // 2]
            checks = (check for form, check in kinds if re.fullmatch(form, match[0]))
            number = re.sub("[ ./]", "", match[0])
            if name in _words_of(beside) and any(is_valid(number) for is_valid in checks):
                yield match.span()
