"""Personal data in a text: e-mail, card, IBAN, IP, phone and national numbers.

Where it is, never what it is; names and addresses of people are not looked for here. Shapes and
checks of presidio-analyzer 2.2 (MIT, Microsoft), without the language models that its package
brings; phone numbers by phonenumbers, check digits by python-stdnum. Each recogniser gives the ends
of its findings.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path

from helpers.redaction.context import BEFORE, CALLED_PHONE, is_code
from helpers.redaction.keys import Span
from helpers.redaction.national import national_numbers

Ends = tuple[int, int]
Recogniser = Callable[[str], Iterator[Ends]]

# countries whose phone numbers are known without a prefix
REGIONS = ("US", "GB", "DE", "FR", "ES", "IT", "NL", "SE", "PL", "IN", "BR")
_IBAN = re.compile(
    r"(?<![A-Z0-9])([A-Z]{2}[0-9]{2}(?:[ -]?[A-Z0-9]{4}){2,6})"
    r"((?:[ -]?[A-Z0-9]{4})?)((?:[ -]?[A-Z0-9]{1,3})?)(?![A-Z0-9])",
    re.IGNORECASE,
)
MIN_DIGITS = 7  # of a phone number; fewer are house numbers, dates and prices
# A phone number's digits stand close together, or behind a word for an extension (phonenumbers' own
# limits).
_EXTENSION = r"(?:e?xt\w{0,7}|[xX#~ｘ＃～;,]|int|ｉｎｔ|доб|anexo|ｅ?ｘｔ)"
_GAP = rf"(?:[^0-9A-Za-z]{{0,4}}|\D{{0,3}}{_EXTENSION}\D{{0,5}})"
_DIALLED = re.compile(rf"\d(?:{_GAP}\d){{{MIN_DIGITS - 1}}}", re.IGNORECASE)
# A message holds numbers of all kinds. A phone's begins with +, stands behind a word for it, or is
# written as nothing else: (030) 123 4567, 415-555-2671, 06 12 34 56 78.
_PREFIXED = re.compile(  # no decimal, such as +1.23456789, but +1.4155552671
    r"(?<![\w+.])\+(?!(?!(?:[17]\.[2-9]\d{9}|[2-9]\d{1,2}\.[1-9]\d{8,10})(?!\d))\d+\.\d+(?![\d.]))"
    r"[1-9]\d{0,2}[ ./()-]{0,2}\d(?:[ ./()-]{0,2}\d){6,12}(?!\d)"
)
_CANDIDATE = re.compile(r"(?<![\w+.,])\(?[0-9](?:[ ./()-]{0,2}[0-9]){6,13}(?![\w%]|[.,:/-][0-9])")
_OWN_FORM = re.compile(
    r"\([0-9]{2,5}\)[ ./-]?[0-9]{2,4}(?:[ ./-]?[0-9]{2,4}){1,3}"
    r"|[2-9][0-9]{2}([.-])[2-9][0-9]{2}\1[0-9]{4}|0[0-9]{1,4}(?:[ ./-]{1,2}[0-9]{2,8}){2,4}"
)
_LOCAL = r"[!#$%&'*+\-/=?^_`{|}~\w]"
_EMAIL = re.compile(  # no git@host:path, and no 100%40
    rf"\b(?!git@[\w.-]{{1,200}}[:/][\w~/])(?!\d{{1,3}}(?:\.\d{{1,2}})?%40)"
    rf"(?:{_LOCAL}[!#$%&'*+\-/=?^_`{{|}}~.\w]{{0,126}}{_LOCAL}|{_LOCAL})"
    r"(?:@|%40)(\w+(?:-+\w+)*(?:\.\w+(?:-+\w+)*)+)\b"
)
# four digits at a time, or 4-6-5; no part of a fraction such as 0.4444444444444444 or .44
_CARD = re.compile(
    r"(?<!\w)(?<![\d\s=:,(\[-]\.)[1-6]\d{3}(?:(?:[- ]?\d{4}){2}[- ]?\d{1,7}|[- ]?\d{6}[- ]?\d{4,5})"
    r"(?!\w|\.0*[1-9])"
)
_ISSUED = re.compile(  # the beginnings and lengths of cards' numbers (ISO/IEC 7812)
    r"4(?:\d{12}|\d{15}|\d{18})|5[0-58]\d{14}|6\d{14,18}|3[47]\d{13}|3[0689]\d{12}|35\d{14}"
    r"|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|1\d{14}"
)
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?)"
_IPV4 = rf"(?:{_OCTET}\.){{3}}{_OCTET}"
_H = "[0-9A-Fa-f]{0,4}"
_NET = r"(?:/(?:12[0-8]|1[01]\d|[1-9]?\d))?"
_IPS = [  # what looks like one: the library judges
    re.compile(rf"\b{_IPV4}(?:/(?:[0-2]?\d|3[0-2]))?\b"),
    re.compile(
        rf"(?<![\w:])(?:{_H}:){{2,8}}(?:{_IPV4}|{_H})(?:%[0-9a-zA-Z]+)?{_NET}(?![\w:]|\.\d)"
    ),
]


def emails(text: str) -> Iterator[Ends]:
    """Addresses whose last part is a domain that exists, or that networks use inside."""
    for match in _EMAIL.finditer(text):
        name = match[1].rpartition(".")[2].lower()
        with suppress(UnicodeError):
            if name.encode("idna").decode("idna") in _words_of("top_level_domains.txt"):
                yield match.span()


@cache
def _words_of(name: str) -> frozenset[str]:
    """What a table of this folder holds, without its comments."""
    lines = Path(__file__).with_name(name).read_text(encoding="utf-8").splitlines()
    return frozenset(" ".join(line for line in lines if not line.startswith("#")).split())


@cache
def _everybodys() -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    return [ipaddress.ip_network(network) for network in _words_of("networks.txt")]


def cards(text: str) -> Iterator[Ends]:
    """Numbers of cards, whose last digit is a check digit (Luhn)."""
    from stdnum import luhn

    for match in _CARD.finditer(text):
        digits = re.sub("[- ]", "", match[0])
        if _ISSUED.fullmatch(digits) and luhn.is_valid(digits):
            yield match.span()


def ibans(text: str) -> Iterator[Ends]:
    """Account numbers with right check digits (ISO 7064) in their country's form.

    What looks like a last group may be the next word, so that shorter ones are tried as well.
    """
    from stdnum import iban

    for match in _IBAN.finditer(text):
        for group in (3, 2, 1):
            end = match.end(group)
            if iban.is_valid(text[match.start() : end], check_country=False):
                yield match.start(), end
                break


def addresses(text: str) -> Iterator[Ends]:
    """IP addresses of both versions that one machine has; one inside another is not named."""
    spans = set()
    for shape in _IPS:
        for match in shape.finditer(text):
            with suppress(ValueError):
                address = ipaddress.ip_interface(match[0]).ip
                if not any(address in network for network in _everybodys()):
                    spans.add(match.span())
    yield from _outermost(spans)


def phones(text: str) -> Iterator[Ends]:
    """Numbers that are valid in one of REGIONS, then those that begin with a country's prefix."""
    for numbers in (_numbers(text, REGIONS, 1), _numbers(text, (None,), 0)):
        for start, end in _outermost(numbers):
            if _digits_in(text[start:end]) >= MIN_DIGITS:
                yield start, end


def telephones(text: str) -> Iterator[Ends]:
    """The phone numbers of a message, where most numbers are none."""
    for match in _PREFIXED.finditer(text):
        yield match.span()
    for match in _CANDIDATE.finditer(text):
        start, end = match.span()
        if is_code(text, Span("PHONE_NUMBER", start, end)):
            continue
        is_called_so = CALLED_PHONE.search(text[max(0, start - BEFORE) : start])
        is_short = re.fullmatch("[0-9]{1,8}", match[0])  # rather a count or a date
        if (is_called_so and not is_short) or (
            _OWN_FORM.fullmatch(match[0]) and any(phones(match[0]))
        ):
            yield start, end


def _numbers(text: str, regions: tuple[str | None, ...], leniency: int) -> set[Ends]:
    from phonenumbers import PhoneNumberMatcher

    return {
        (match.start, match.end)
        for region in regions
        for match in PhoneNumberMatcher(text, region, leniency=leniency)
    }


def _outermost(spans: set[Ends]) -> list[Ends]:
    """The spans that no other one holds, from left to right."""
    kept: list[Ends] = []
    right = 0  # no other one that began so far ends behind this
    for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
        if end > right:
            kept.append((start, end))
            right = end
    return kept


IN_MESSAGES: dict[str, Recogniser] = {
    "EMAIL_ADDRESS": emails,
    "PHONE_NUMBER": telephones,
    "CREDIT_CARD": cards,
    "IBAN_CODE": ibans,
    "NATIONAL_ID": national_numbers,
}
RECOGNISERS = IN_MESSAGES | {"PHONE_NUMBER": phones, "IP_ADDRESS": addresses}
# digits of other scripts, full-width letters, odd spaces and dashes; and what has no width at all
_ODD = re.compile(r"(?![\x00-\x7f])[\d\s\uff01-\uff5e\u2010-\u2015\u2212]")
_UNSEEN = re.compile("[\u00ad\u200b-\u200d\u2060\ufeff]")


def _plain(odd: re.Match[str]) -> str:
    """The plain character that stands for the same."""
    if odd[0].isdecimal():
        return str(unicodedata.decimal(odd[0]))
    plain = {"Zs": " ", "Pd": "-", "Sm": "-"}
    return plain.get(unicodedata.category(odd[0])) or unicodedata.normalize("NFKC", odd[0])


@lru_cache(maxsize=8192)
def find_personal_data(text: str) -> tuple[Span, ...]:
    """Card, e-mail, IBAN, IP, phone and national numbers."""
    return _search(text, RECOGNISERS)


def personal_data_of_message(text: str) -> tuple[Span, ...]:
    """The same in what a program says: no addresses of machines, and surely a phone's number."""
    return _search(text, IN_MESSAGES)


def _search(text: str, recognisers: Mapping[str, Recogniser]) -> tuple[Span, ...]:
    """A recogniser runs only where its finding is possible, on the text in plain characters."""
    places = [*range(len(text))]
    if _UNSEEN.search(text):
        places = [place for place, sign in enumerate(text) if not _UNSEEN.match(sign)]
        text = _UNSEEN.sub("", text)
    if not text.isascii():
        text = _ODD.sub(_plain, text)
    digits = _digits_in(text)
    many_digits = digits >= MIN_DIGITS
    possible = {
        "EMAIL_ADDRESS": "@" in text or "%40" in text,
        "IP_ADDRESS": text.count(".") >= 3 or text.count(":") >= 2,
        "PHONE_NUMBER": many_digits and _DIALLED.search(text) is not None,
        "CREDIT_CARD": digits >= 12,
        "IBAN_CODE": many_digits,
        "NATIONAL_ID": digits >= 4,
    }
    spans = {
        Span(kind, places[start], places[end - 1] + 1)
        for kind, recogniser in recognisers.items()
        if possible[kind]
        for start, end in recogniser(text)
    }
    return tuple(sorted(spans, key=lambda span: (span.start, span.end, span.kind)))


def _digits_in(text: str) -> int:
    return sum(map(str.isdigit, text))
