"""Personal data in a text: where it is, never what it is.

Presidio's recognisers are used directly: its engine wants a spaCy model, and finds no more of these
kinds at half the speed. Names and addresses are not looked for here.
"""

from __future__ import annotations

import logging
import re
from functools import cache, lru_cache
from typing import Any

from helpers.redaction.keys import Span

MIN_SCORE = 0.4  # presidio's score of a phone number without context
MIN_DIGITS = 7  # fewer are house numbers, dates and prices
REGIONS = ("US", "GB", "DE", "FR", "ES", "IT", "NL", "SE", "PL", "IN", "BR")

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
    recognisers = [r for r in _recognisers() if possible.get(r.supported_entities[0], many_digits)]
    return _findings(text, recognisers)


def _digits_in(text: str) -> int:
    return sum(map(str.isdigit, text))


def _findings(text: str, recognisers: list[Any]) -> tuple[Span, ...]:
    spans = set()
    for recogniser in recognisers:
        for result in recogniser.analyze(text, recogniser.supported_entities, None):
            phone = result.entity_type == "PHONE_NUMBER"
            if phone and _digits_in(text[result.start : result.end]) < MIN_DIGITS:
                continue
            if result.score >= MIN_SCORE:
                spans.add(Span(result.entity_type, result.start, result.end))
    return tuple(sorted(spans, key=lambda span: (span.start, span.end, span.kind)))


@cache
def _recognisers() -> list[Any]:
    from presidio_analyzer import predefined_recognizers as known
    from tldextract import TLDExtract

    # It logs the values that it could not validate.
    logging.getLogger("presidio-analyzer").disabled = True
    email = known.EmailRecognizer()
    # Its own check fetches the list of public suffixes from the network; the packaged list will do.
    suffixes = TLDExtract(suffix_list_urls=(), cache_dir=None)
    email.validate_result = lambda text: suffixes(text).fqdn != ""
    return [
        email,
        known.PhoneRecognizer(supported_regions=REGIONS),
        known.PhoneRecognizer(supported_regions=(None,), leniency=0),
        known.CreditCardRecognizer(),
        known.IbanRecognizer(),
        known.IpRecognizer(),
        known.UsSsnRecognizer(),
    ]
