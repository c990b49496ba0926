"""Personal data and secrets in a text: where they are, never what they are.

Presidio's recognisers are used directly: its engine wants a spaCy model, and finds no more of these
kinds at half the speed. Names and addresses are not looked for here.
"""

from __future__ import annotations

import logging
import re
from functools import cache, lru_cache
from typing import Any, NamedTuple

MAX_SCAN = 20_000  # characters looked at where a row is left out for its length anyway
MIN_SCORE = 0.4  # presidio's score of a phone number without context
MIN_DIGITS = 7  # fewer are house numbers, dates and prices
REGIONS = ("US", "GB", "DE", "FR", "ES", "IT", "NL", "SE", "PL", "IN", "BR")
# What redact-secret leaves out: a key block that was cut off, keys of a newer shape, a bare AWS
# secret behind its name.
_CUT_KEYS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*"
    r"|\b(?:sk-[A-Za-z0-9_-]{20,}|hf_[A-Za-z0-9]{20,}|AKIA[0-9A-Z]{16})\b"
    r"|(?i:\b(?:aws|secret))\W[^\n]{0,20}?(?<![A-Za-z0-9/+])[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+])",
    re.DOTALL,
)

# A phone number's digits stand close together, or behind a word for an extension (phonenumbers' own
# limits).
_EXTENSION = r"(?:e?xt\w{0,7}|[xX#~ｘ＃～;,]|int|ｉｎｔ|доб|anexo|ｅ?ｘｔ)"
_GAP = rf"(?:[^0-9A-Za-z]{{0,4}}|\D{{0,3}}{_EXTENSION}\D{{0,5}})"
_IBAN = re.compile(r"[A-Za-z]{2}[ -]?\d{2}")
_DIALLED = re.compile(rf"\d(?:{_GAP}\d){{{MIN_DIGITS - 1}}}", re.IGNORECASE)


class Span(NamedTuple):
    """A finding: its kind, where it stands, and whether it is certain enough to reject the row."""

    kind: str
    start: int
    end: int
    certain: bool = True


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


def find_secrets(text: str) -> tuple[Span, ...]:
    """Keys, tokens and private keys; a merely suspicious text (`password: …`) is not certain."""
    import redact_secret

    spans = [
        Span(result.type, result.start, result.end, certain=result.detector != "generic-token")
        for result in redact_secret.scan(text)
    ]
    for match in _CUT_KEYS.finditer(text):
        spans.append(Span("private_key_or_token", match.start(), match.end()))
    return tuple(sorted(spans, key=lambda span: (span.start, span.end)))


def without_surrogates(text: str) -> str:
    """`text` without lone surrogates, which no file and no tokenizer takes."""
    return text.encode("utf-8", "replace").decode("utf-8")


def masked_text(text: str) -> str:
    """The first MAX_SCAN characters, every finding replaced by its kind in brackets."""
    text = without_surrogates(text)[:MAX_SCAN]
    spans = sorted(
        (*find_personal_data(text), *find_secrets(text)), key=lambda span: (span.start, -span.end)
    )
    masked = ""
    end = 0
    for span in spans:
        if span.start >= end:  # an overlapping finding is swallowed by the one before it
            masked += f"{text[end : span.start]}[{span.kind}]"
        end = max(end, span.end)
    return masked + text[end:]


def excerpt(text: str, length: int = 60) -> str:
    """The masked beginning of a text: at most `length` characters, never over two thirds of it."""
    masked = " ".join(masked_text(text[: 20 * length]).split())
    if not masked:
        return ""
    return masked[: min(length, len(masked) * 2 // 3)] + "…"
