"""What stands beside a number says whether it is a phone's, or an order's, a date or a version.

A phone number is written like one, or stands behind a word for it; a bare run of digits, a number
behind `order` or `version`, and a date are none.
"""

from __future__ import annotations

import re

from helpers.redaction.keys import Span

BEFORE = 24  # characters before a number in which its name is looked for
_NUMBER = r"(?:numbers?|num(?:[ée]ro)?|n[uú]mero|numer|nummer|vat|n[or]|n[º°]|code|id)"
CODE = (  # words for what has a number, of shops above all
    r"(?:orders?|parcels?|packages?|track(?:ing)?|shipments?|invoices?|receipts?|tickets?|cases?"
    r"|confirmation|booking|serial|batch|lot|po|fv|ein|cnpj|isbn|issn|imei|ean|gtin|upc|sku|part"
    r"|articles?|items?|products?|models?|versions?|release|build|rev|ref(?:erence)?|réf(?:érence)?"
    r"|bestell\w*|auftrag\w*|sendung\w*|rechnung\w*|artikel\w*|vorgang\w*|pak+et\w*"
    r"|commande|facture|colis|suivi|pedido|fac?tura|env[ií]o|paquete|encomenda|ordine|fattura"
    r"|pacco|zam[oó]wieni\w*|paczk\w*|faktur\w*|zending\w*|factuur\w*|beställning\w*|заказ\w*"
    rf"|(?:kunden|customer|account|konto|delivery)[ _-]?{_NUMBER})"
)
_GAP = r"(?![^\W_])(?:(?:(?<=n[or])|(?<=r[eé]f))\.)?[\s:#\"'=_-]*"
CALLED_CODE = re.compile(
    rf"(?<![^\W_]){CODE}{_NUMBER}?{_GAP}(?:(?:{_NUMBER}|d|is|was){_GAP})*$", re.IGNORECASE
)
_OTHERWISE = re.compile(
    rf"(?<![^\W_])(?:v|id|uuid|hash|epoch|timestamp|amount|total|price){_GAP}$", re.IGNORECASE
)
_PHONE = (  # words for a phone's number; also customer_phone, workPhone
    r"(?:(?<![^\W_])|(?-i:(?<=[a-z]{2})(?=[A-Z])))"
    r"(?:(?:cell|mobile|home|work)?phone|mob(?:ile?)?|mobil(?=n)|cell|tele?|tél|dial"
    r"|sms|whatsapp|(?:tele)?fax|t[eé]l[eé](?:f\w*|phone)|handy|m[oó]vil|celular|cellulare|ruf(?=n)"
    rf"|portable|gsm|hotline|puhelin\w*|телефон\w*|тел)s?(?:[ _-]?{_NUMBER})?\b"
    r"|电话|手机|電話|携帯|전화|फ़ोन|मोबाइल|هاتف|טלפון"
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
_CLOCK = re.compile(r"\d{1,2}:\d{2}(?::\d{2})?|\d{1,2}[.:]\d{2} ?- ?\d{1,2}[.:]\d{2}")


def _before(text: str, span: Span) -> str:
    return text[max(0, span.start - BEFORE) : span.start]


def is_written_as_phone(text: str, span: Span) -> bool:
    """Whether it is surely somebody's: international, an area code in brackets, called so."""
    before = _before(text, span)
    begins = before.rstrip()[-1:] + text[span.start : span.start + 1]
    is_called_so = "+" in begins or "(" in begins or _PHONE_WORD.search(before)
    return span.kind != "PHONE_NUMBER" or bool(is_called_so)


def is_code(text: str, span: Span) -> bool:
    """Whether what was taken for a phone, a card or an address of a machine is rather a code."""
    if has_sign_of_code(text, span):
        return True
    before = _before(text, span)
    is_bare = re.fullmatch(r"\d+\s*", text[span.start : span.end]) and before[-1:] != "+"
    return span.kind == "PHONE_NUMBER" and bool(is_bare) and not _PHONE_WORD.search(before)


def has_sign_of_code(text: str, span: Span) -> bool:
    """Whether something says that it is a code; of bare digits, a phone's or not, nothing does."""
    start = max(0, span.start - 1)
    around = text[start : span.end + 12]
    is_phone = span.kind == "PHONE_NUMBER"
    if is_phone and re.match(r"[^\w+(]?(?:\+|\(\+?\d{1,5}\))", around):
        return False
    before = _before(text, span)
    if CALLED_CODE.search(before) or _OTHERWISE.search(before):
        return span.kind not in ("EMAIL_ADDRESS", "NATIONAL_ID")
    shapes = (_DATE, _DECIMALS, _CLOCK) if is_phone else ()
    matches = (shape.search(text, start, span.end + 12) for shape in shapes)
    return any(m and m.start() <= span.start and m.end() >= span.end for m in matches)
