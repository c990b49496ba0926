"""Personal data and secrets in many texts: each text once, here or by another engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import NamedTuple

from helpers.redaction import Span, find_personal_data, find_secrets


class Findings(NamedTuple):
    """What one text holds."""

    personal: tuple[Span, ...]
    secrets: tuple[Span, ...]


NOTHING = Findings((), ())  # one for all texts that hold nothing: there may be millions
# is told which texts will be asked for, and gives the function that tells the findings of one
Search = Callable[[Iterable[str]], Callable[[str], Findings]]


def search_here(texts: Iterable[str]) -> Callable[[str], Findings]:
    """The search of this process: a text is searched when it is first asked for."""
    known = {}

    def findings_of(text: str) -> Findings:
        key = digest(text)
        if key not in known:
            known[key] = search_text(text)
        return known[key]

    return findings_of


def digest(text: str) -> bytes:
    """128 bits that stand for a text where millions are too many to hold: no two share them."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def search_text(text: str) -> Findings:
    """What one text holds."""
    findings = Findings(find_personal_data(text), find_secrets(text))
    return findings if any(findings) else NOTHING


def search_texts(texts: Iterable[str]) -> list[Findings]:
    """The same of many."""
    return [search_text(text) for text in texts]
