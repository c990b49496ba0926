"""What stands beside a number says whether it is a phone's, or an order's, a date or a version.

A phone number is written like one, or stands behind a word for it; a bare run of digits, a number
behind `order` or `version`, and a date are none.
"""

from __future__ import annotations

import re

from helpers.redaction.keys import Span

BEFORE = 24  # characters before a number in which its name is looked for
_CODE_WORD = re.compile(
    r"\b(?:orders?|parcels?|track(?:ing)?|shipments?|deliver(?:y|ies)|invoices?|tickets?|cases?"
    r"|ref(?:erence)?|serial|isbn|issn|ean|upc|sku|part|articles?|items?|products?|versions?"
    r"|release|build|v|rev|id|uuid|hash|epoch|timestamp|paid|amount|total|price|bestell\w*|auftrag"
    r"\w*|sendung\w*|rechnung\w*|commande|facture|pedido|factura)\b[\s:#.°-]*"
    r"(?:(?:number|numbers|no|nr|num|code|id|nummer|is|was|and)\b[\s:#.°-]*)*$",
    re.IGNORECASE,
)
_PHONE = (  # words for a phone's number
    r"phone|\bmob(?:ile)?\b|\bcell|\btele?\b|\bdial|\bsms|whatsapp|\bfax|telef|\bhandy|\bm[oó]vil"
    r"|celular|cellulare|rufnummer|t[eé]l[eé]phone|\bt[eé]l\b|\bportable|\bgsm|hotline|puhelin"
    r"|телефон|\bтел\b|电话|手机|電話|携帯|전화|फ़ोन|मोबाइल|هاتف|טלפון"
)
_PHONE_WORD = re.compile(  # or what may be one
    rf"{_PHONE}|\b(?:call(?:ed|ing)?|ring|text|signal|desk|office|home|work|card|account|konto"
    r"|reach|contact|mobil|ruf\w*|appel\w*|llam\w*|number)\b",
    re.IGNORECASE,
)
CALLED_PHONE = re.compile(rf"(?:{_PHONE})[^0-9,;]{{0,20}}$", re.IGNORECASE)
_DATE = re.compile(
    r"(?:\d{4}[-./]\d{1,2}[-./]\d{1,2}|\d{1,2}[-./]\d{1,2}[-./]\d{2,4})"
    r"(?:[T ,]*\d{1,2}(?::\d{2}){0,2}(?:\.\d+)?)?"
)
_DECIMALS = re.compile(r"[-+]?\d{1,6}[.,]\d{1,8}(?:[ ,;andy&]+[-+]?\d{1,6}(?:[.,]\d{1,8})?)*")
_CLOCK = re.compile(r"\d{1,2}:\d{2}(?::\d{2})?")


def is_written_as_phone(text: str, span: Span) -> bool:
    """Whether it is surely somebody's: international, an area code in brackets, called so."""
    before = text[max(0, span.start - BEFORE) : span.start]
    begins = before.rstrip()[-1:] + text[span.start : span.start + 1]
    is_called_so = "+" in begins or "(" in begins or _PHONE_WORD.search(before)
    return span.kind != "PHONE_NUMBER" or bool(is_called_so)


def is_code(text: str, span: Span) -> bool:
    """Whether what was taken for a phone, a card or an address of a machine is a code."""
    if span.kind in ("EMAIL_ADDRESS", "NATIONAL_ID"):
        return False
    number = text[span.start : span.end].strip()
    before = text[max(0, span.start - BEFORE) : span.start]
    if _CODE_WORD.search(before):
        return True
    if span.kind == "IP_ADDRESS":
        return _CLOCK.fullmatch(number) is not None
    if span.kind != "PHONE_NUMBER":
        return False
    start = max(0, span.start - 1)
    around = text[start : span.end + 12]
    if number.startswith("+") or text[start : start + 1] == "+":
        return False
    for pattern in (_DATE, _DECIMALS, _CLOCK):
        match = pattern.search(around)
        if match and start + match.start() <= span.start and match.end() >= len(number):
            return True
    return re.fullmatch(r"\d+", number) is not None and not _PHONE_WORD.search(before)
