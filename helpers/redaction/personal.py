"""Personal data in a text: where it is, never what it is.

Names and addresses of people are not looked for here.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache

from helpers.redaction.keys import Span
from helpers.redaction.recognisers import RECOGNISERS

MIN_DIGITS = 7  # fewer are house numbers, dates and prices

# A phone number's digits stand close together, or behind a word for an extension (phonenumbers' own
# limits).
_EXTENSION = r"(?:e?xt\w{0,7}|[xX#~ｘ＃～;,]|int|ｉｎｔ|доб|anexo|ｅ?ｘｔ)"
_GAP = rf"(?:[^0-9A-Za-z]{{0,4}}|\D{{0,3}}{_EXTENSION}\D{{0,5}})"
_IBAN = re.compile(r"[A-Za-z]{2}[ -]?\d{2}")
_DIALLED = re.compile(rf"\d(?:{_GAP}\d){{{MIN_DIGITS - 1}}}", re.IGNORECASE)


@lru_cache(maxsize=8192)
def find_personal_data(text: str) -> tuple[Span, ...]:
    """Card, e-mail, IBAN, IP, phone and social security numbers.

    A recogniser runs only where its finding is possible.
    """
    digits = _digits_in(text)
    many_digits = digits >= MIN_DIGITS
    possible = {
        "EMAIL_ADDRESS": "@" in text,
        "IP_ADDRESS": text.count(".") >= 3 or text.count(":") >= 2,
        "PHONE_NUMBER": many_digits and _DIALLED.search(text) is not None,
        "CREDIT_CARD": digits >= 12,
        "US_SSN": digits >= 9,
        "IBAN_CODE": many_digits and _IBAN.search(text) is not None,
    }
    return _findings(text, [kind for kind in RECOGNISERS if possible[kind]])


def _digits_in(text: str) -> int:
    return sum(map(str.isdigit, text))


def _findings(text: str, kinds: Collection[str]) -> tuple[Span, ...]:
    spans = set()
    for kind in kinds:
        for recogniser in RECOGNISERS[kind]:
            for start, end in recogniser(text):
                if kind != "PHONE_NUMBER" or _digits_in(text[start:end]) >= MIN_DIGITS:
                    spans.add(Span(kind, start, end))
    return tuple(sorted(spans, key=lambda span: (span.start, span.end, span.kind)))
