"""Personal data in a text: e-mail, card, IBAN, IP, phone and social security numbers.

Where it is, never what it is; names and addresses of people are not looked for here. Shapes and
checks of presidio-analyzer 2.2 (MIT, Microsoft), without the language models that its package
brings; phone numbers by phonenumbers. Each recogniser gives the ends of its findings.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from pathlib import Path

from helpers.redaction.keys import Span

Ends = tuple[int, int]
Recogniser = Callable[[str], Iterator[Ends]]

# countries whose phone numbers are known without a prefix
REGIONS = ("US", "GB", "DE", "FR", "ES", "IT", "NL", "SE", "PL", "IN", "BR")
# What follows a country's two check digits: n digits, a letters, c either.
IBANS = """
AD:8n12c AE:19n AL:8n16c AT:16n AZ:4c20n BA:16n BE:12n BG:4a6n8c BH:4a14c BR:23n1a1c BY:4c4n16c
CH:5n12c CR:18n CY:8n16c CZ:20n DE:18n DK:14n DO:4a20n EE:16n EG:25n ES:20n FI:14n FO:14n
FR:10n11c2n GB:4a14n GE:2c16n GI:4a15c GL:14n GR:7n16c GT:24c HR:17n HU:24n IE:4c14n IL:19n IQ:4a15n
IS:22n IT:1a10n12c JO:4a22n KW:4a22c KZ:3n13c LB:4n20c LC:4a24c LI:5n12c LT:16n LU:3n13c LV:4a13c
LY:21n MC:10n11c2n MD:20c ME:18n MK:3n10c2n MR:23n MT:4a5n18c MU:4a19n1a NL:4a10n NO:11n PK:4c16n
PL:24n PS:4c17n PT:17n QA:4a17c RO:4a16c RS:18n SA:2n18c SC:4a20n3a SE:20n SI:15n SK:20n SM:1a10n12c
TL:19n TN:20n TR:5n17c UA:6n19c VA:18n VG:4c16n XK:16n
"""
_IBAN = re.compile(
    r"(?<![A-Z0-9])([A-Z]{2}[0-9]{2}(?:[ -]?[A-Z0-9]{4}){2,6})"
    r"((?:[ -]?[A-Z0-9]{4})?)((?:[ -]?[A-Z0-9]{1,3})?)(?![A-Z0-9])"
)
MIN_DIGITS = 7  # of a phone number; fewer are house numbers, dates and prices
# A phone number's digits stand close together, or behind a word for an extension (phonenumbers' own
# limits).
_EXTENSION = r"(?:e?xt\w{0,7}|[xX#~ｘ＃～;,]|int|ｉｎｔ|доб|anexo|ｅ?ｘｔ)"
_GAP = rf"(?:[^0-9A-Za-z]{{0,4}}|\D{{0,3}}{_EXTENSION}\D{{0,5}})"
_IBAN_BEGINS = re.compile(r"[A-Za-z]{2}[ -]?\d{2}")
_DIALLED = re.compile(rf"\d(?:{_GAP}\d){{{MIN_DIGITS - 1}}}", re.IGNORECASE)
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
_SSN = re.compile(r"\b\d{3}([- .])\d{2}\1\d{4}\b")
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?)"
_IPV4 = rf"(?:{_OCTET}\.){{3}}{_OCTET}"
_H = "[0-9A-Fa-f]{1,4}"
_NET = r"(?:/(?:12[0-8]|1[01]\d|[1-9]?\d))?"
_IPV6 = "|".join(
    [rf"(?:{_H}:){{7}}{_H}", rf"(?:{_H}:){{1,7}}:", rf":(?::{_H}){{1,7}}"]
    + [rf"(?:{_H}:){{1,{7 - n}}}(?::{_H}){{1,{n}}}" for n in range(1, 6)]
    + [rf"{_H}:(?::{_H}){{1,6}}"]
)
_IPS = [
    re.compile(rf"(?<![\w:])::(?:[fF]{{4}}(?::0{{1,4}})?:)?{_IPV4}{_NET}\b"),
    re.compile(rf"(?<![\w:])(?:(?:{_H}:){{1,5}}:(?:{_H}:){{0,4}}|(?:{_H}:){{6}}){_IPV4}{_NET}\b"),
    re.compile(rf"\b{_IPV4}(?:/(?:[0-2]?\d|3[0-2]))?\b"),
    re.compile(rf"(?<![\w:])(?:{_IPV6})(?:%[0-9a-zA-Z]+)?{_NET}(?![\w:]|\.\d)"),
]


def emails(text: str) -> Iterator[Ends]:
    """Addresses whose last part is a domain that exists, or that networks use inside."""
    for match in _EMAIL.finditer(text):
        if _top_level(match[1].rpartition(".")[2]):
            yield match.span()


def _top_level(name: str) -> bool:
    try:
        return name.lower().encode("idna").decode("idna") in _words_of("top_level_domains.txt")
    except UnicodeError:
        return False


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
    for match in _CARD.finditer(text):
        digits = re.sub("[- ]", "", match[0])
        if _ISSUED.fullmatch(digits) and passes_luhn(digits):
            yield match.span()


def passes_luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of those before it."""
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return sum(n - 9 if n > 9 else n for n in doubled) % 10 == 0


def ibans(text: str) -> Iterator[Ends]:
    """Account numbers with right check digits (ISO 7064) in their country's form.

    What looks like a last group may be the next word, so that shorter ones are tried as well.
    """
    for match in _IBAN.finditer(text):
        for group in (3, 2, 1):
            end = match.end(group)
            if _is_iban(re.sub("[- ]", "", text[match.start() : end])):
                yield match.start(), end
                break


def _is_iban(text: str) -> bool:
    """ISO 7064: the number, letters as 10 to 35 and its first four signs last, is 1 modulo 97."""
    country = _forms().get(text[:2])
    if country is None or not country.match(text, 4):
        return False
    return int("".join(str(int(sign, 36)) for sign in text[4:] + text[:4])) % 97 == 1


@cache
def _forms() -> dict[str, re.Pattern[str]]:
    signs = {"n": "[0-9]", "a": "[A-Z]", "c": "[a-zA-Z0-9]"}
    forms = {}
    for entry in IBANS.split():
        country, _, form = entry.partition(":")
        parts = re.findall(r"(\d+)([nac])", form)
        forms[country] = re.compile("".join(f"{signs[kind]}{{{n}}}" for n, kind in parts))
    return forms


def addresses(text: str) -> Iterator[Ends]:
    """IP addresses of both versions that one machine has; one inside another is not named."""
    spans = set()
    for shape in _IPS:
        for match in shape.finditer(text):
            try:
                address = ipaddress.ip_interface(match[0]).ip
            except ValueError:
                continue
            if not any(address in network for network in _everybodys()):
                spans.add(match.span())
    yield from _outermost(spans)


def security_numbers(text: str) -> Iterator[Ends]:
    """US social security numbers that may have been issued."""
    for match in _SSN.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        impossible = digits[3:5] == "00" or digits[5:] == "0000" or digits[:3] in ("000", "666")
        example = len(set(digits)) == 1 or digits in ("123456789", "987654320", "078051120")
        if not impossible and not example:
            yield match.span()


def phones(text: str) -> Iterator[Ends]:
    """Numbers that are valid in one of REGIONS, then those that begin with a country's prefix."""
    for numbers in (_numbers(text, REGIONS, 1), _numbers(text, (None,), 0)):
        for start, end in _outermost(numbers):
            if _digits_in(text[start:end]) >= MIN_DIGITS:
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


RECOGNISERS: dict[str, Recogniser] = {
    "EMAIL_ADDRESS": emails,
    "PHONE_NUMBER": phones,
    "CREDIT_CARD": cards,
    "IBAN_CODE": ibans,
    "IP_ADDRESS": addresses,
    "US_SSN": security_numbers,
}


@lru_cache(maxsize=8192)
def find_personal_data(text: str) -> tuple[Span, ...]:
    """Card, e-mail, IBAN, IP, phone and social security numbers.

    A recogniser runs only where its finding is possible.
    """
    digits = _digits_in(text)
    many_digits = digits >= MIN_DIGITS
    possible = {
        "EMAIL_ADDRESS": "@" in text or "%40" in text,
        "IP_ADDRESS": text.count(".") >= 3 or text.count(":") >= 2,
        "PHONE_NUMBER": many_digits and _DIALLED.search(text) is not None,
        "CREDIT_CARD": digits >= 12,
        "US_SSN": digits >= 9,
        "IBAN_CODE": many_digits and _IBAN_BEGINS.search(text) is not None,
    }
    spans = set()
    for kind, recogniser in RECOGNISERS.items():
        if possible[kind]:
            spans |= {Span(kind, start, end) for start, end in recogniser(text)}
    return tuple(sorted(spans, key=lambda span: (span.start, span.end, span.kind)))


def _digits_in(text: str) -> int:
    return sum(map(str.isdigit, text))
