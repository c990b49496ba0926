"""Texts and values without what others must not see."""

from __future__ import annotations

import base64
import html
import os
import re
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from typing import Any
from urllib.parse import quote, unquote

from helpers.redaction.keys import NAMES, Span, find_secrets
from helpers.redaction.recognisers import personal_data_of_message

SECRET_VARIABLE = re.compile(
    r"(KEYS?|TOKENS?|SECRETS?|PASSWORD|PASSWD|PASSPHRASE|_PASS|_PWD|_PAT|_AUTH|CREDENTIALS?|DSN"
    r"|CONNECTION_STRING|DATABASE_URL|NOTIFY_URLS?|(HEARTBEAT|WEBHOOK)(_URL)?)$",
    re.IGNORECASE,
)
SECRET_NAME = re.compile(
    rf"(?:.*[_ .-]|.*[a-z](?=[A-Z]))?(?i:{NAMES}|authorization|(?:set-)?cookie"
    r"|(?:database|notify|heartbeat)_urls?|connection[_-]?string|client[_-]key[_-]data|_?auth)"
)
# a count, or the name of a way to sign in: no secret
_SETTING = re.compile(
    r"\w*(?:(?:KEY|TOKEN|SECRET)S=\d+|_(?:AUTH|PAT)=(?:\d+|[a-z]+))", re.IGNORECASE
)
LEAST = 8  # characters of a value: shorter ones would turn up everywhere,
OWN_WORDS = (  # and so would these, which open nothing
    "practice",
    "embedded",
    "localhost",
    "127.0.0.1",
    "required",
    "optional",
    "disabled",
    "password",
)
MARK = "[secret]"
MARKS = {  # of the kinds of personal data
    "EMAIL_ADDRESS": "[e-mail]",
    "CREDIT_CARD": "[card]",
    "IBAN_CODE": "[iban]",
    "NATIONAL_ID": "[id number]",
    "PHONE_NUMBER": "[phone]",
}
_MAY_BE = re.compile(r"\d\d|[@＠]")  # what is personal holds one of them
# what moves a terminal's cursor or turns its text around; a tab and a line break may stay
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell begins that a spreadsheet computes


def redact(text: str) -> str:
    """Replace keys by [secret]: values of *_KEY, *_TOKEN, … in the environment, known shapes."""
    return _without_keys(text, _environment())


def without_secrets(text: str) -> str:
    """`redact`, and what is surely personal: for messages, which may quote anything."""
    return _without_any(text, _environment())


@lru_cache(maxsize=4_000)  # an executed copy is written once a cell, with much the same texts
def _without_any(text: str, environment: tuple[str, ...], name: str = "") -> str:
    """Keys go first: what is personal may be a part of one. The name tells what a number is."""
    hidden = _without_personal(name + _without_keys(text, environment))
    return hidden.removeprefix(name) if hidden.startswith(name) else _without_any(text, environment)


def _without_personal(text: str) -> str:
    if _MAY_BE.search(text) is None:
        return text
    return _masked(text, ((span, MARKS[span.kind]) for span in personal_data_of_message(text)))


def _without_keys(text: str, environment: tuple[str, ...]) -> str:
    for value in _spellings(environment):
        text = text.replace(value, MARK)
    text = without_surrogates(text)
    return _masked(text, ((span, MARK) for span in find_secrets(text)))


@cache
def _is_secret(variable: str) -> bool:
    return SECRET_VARIABLE.search(variable) is not None


def _environment() -> tuple[str, ...]:
    """What the environment keeps secret at this moment."""
    return tuple(
        os.environ[name]
        for name in os.environ
        if _is_secret(name) and not _SETTING.fullmatch(f"{name}={os.environ[name]}")
    )


@lru_cache(maxsize=8)
def _spellings(secrets: tuple[str, ...]) -> list[str]:
    """Secret values as others may spell them, each of a list alone; longest first.

    Of NAME:KEY also the key, which is no path.
    """
    values = set()
    for secret in secrets:
        parts = {secret, *re.split(r"[\s,]+", secret)}
        keys = {part.partition(":")[2] for part in parts}
        for part in parts | {key for key in keys if not key.startswith(("/", "\\", "~", "."))}:
            encoded = base64.b64encode(part.encode(errors="replace")).decode().rstrip("=")
            values |= {part, unquote(part), quote(part, safe=""), html.escape(part), encoded}
    values -= {value for value in values if len(value) < LEAST or value in OWN_WORDS}
    return sorted(values, key=len, reverse=True)


def _masked(text: str, marked: Iterable[tuple[Span, str]]) -> str:
    parts = []
    end = 0
    for span, mark in marked:
        if span.start >= end:  # an overlapping finding is swallowed by the one before it
            parts += [text[end : span.start], mark]
        end = max(end, span.end)
    return "".join(parts) + text[end:]


def clean(value: Any) -> Any:
    """A value for others to read: every text in it, keys included, `without_secrets`.

    Records become what they are spelt as; the lines of a notebook's cell are judged together.
    """
    if isinstance(value, str):
        return without_secrets(value)
    if hasattr(value, "model_dump"):
        return clean(value.model_dump(mode="json"))
    if isinstance(value, Mapping):
        return {clean(key): _clean_entry(key, entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        if _is_one_text(value):
            return without_secrets("".join(value)).splitlines(keepends=True)
        return [clean(entry) for entry in value]
    is_long = isinstance(value, int | float) and 1e12 < abs(value) < 1e20
    if is_long and abs(value) // 1e14 != 1:  # a card's number is one; 1 and 14 digits: rather an id
        digits = str(abs(value)).removesuffix(".0")  # as pandas has it beside an empty cell
        text = without_secrets(digits)
        return value if text == digits else text
    return value


def _is_one_text(lines: Any) -> bool:
    """Whether a list is how notebooks spell a text: its lines, each but the last with its end."""
    is_text = len(lines) > 1 and all(isinstance(line, str) for line in lines)
    return is_text and all(line.endswith("\n") for line in lines[:-1])


def _clean_entry(key: Any, entry: Any) -> Any:
    if key == "image/png" and isinstance(entry, str):  # no text, and long
        return entry
    is_list = isinstance(entry, list) and not str(key).endswith("pass")  # as in tests_pass
    if entry and (is_list or isinstance(entry, str)) and SECRET_NAME.fullmatch(str(key)):
        return MARK
    is_number = type(entry) is int and abs(entry) < 1e20 and abs(entry) // 1e14 != 1  # as in clean
    if not is_number and not isinstance(entry, str):
        return clean(entry)
    text = _without_any(str(entry), _environment(), f"{key}: ")
    return entry if text == str(entry) else text


def outline(value: Any, most: int = 24) -> str:
    """What a cell looks like, for an error that must not quote it: kind, length, and its shape.

    Letters are shown as x and X, digits as 9, and the rest as it is.
    """
    if value is None or isinstance(value, bool):
        return str(value)
    text = str(value)
    kind = "text" if isinstance(value, str) else type(value).__name__
    shape = re.sub(r"[^\W\d_]", "x", re.sub(r"\d", "9", text[:most]))
    return f"{kind} of {len(text)} characters, like {printable(shape)!r}"


def printable(text: str) -> str:
    """A text for a terminal: nothing in it moves the cursor or turns the line around."""
    return _CONTROL.sub("�", text)


def without_surrogates(text: str) -> str:
    """`text` without lone surrogates, which no file and no tokenizer takes."""
    return text.encode("utf-8", "replace").decode("utf-8")


def as_csv_cell(text: str) -> str:
    """A cell that spreadsheets show and do not compute: ' before what begins like a formula."""
    return f"'{text}" if text.startswith((*_FORMULA, "'")) else text


def from_csv_cell(cell: str) -> str:
    """What `as_csv_cell` was given; cells that people typed stay as they are."""
    return cell[1:] if cell.startswith(tuple(f"'{start}" for start in (*_FORMULA, "'"))) else cell
