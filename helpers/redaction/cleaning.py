"""Texts and values without what others must not see."""

from __future__ import annotations

import base64
import html
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache, lru_cache, partial
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
SPELLINGS: tuple[Callable[[str], str], ...] = (  # of a secret, as it is found in texts
    str,
    unquote,
    quote,
    partial(quote, safe=""),
    html.escape,
    lambda secret: repr(secret)[1:-1],
    lambda secret: json.dumps(secret)[1:-1],
    lambda secret: json.dumps(secret, ensure_ascii=False)[1:-1],
    lambda secret: base64.b64encode(secret.encode()).decode().rstrip("="),
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


def without_secrets(text: str, key: Any = "") -> str:
    """`redact`, and what is surely personal: for messages, which may quote anything.

    The key under which a text stands tells what its numbers are.
    """
    return _without_any(text, _environment(), f"{key}: " if key else "")


@lru_cache(maxsize=4_000)  # an executed copy is written once a cell, with much the same texts
def _without_any(text: str, environment: tuple[str, ...], name: str = "") -> str:
    """Keys go first: what is personal may be a part of one."""
    named = name + _without_keys(text, environment)
    spans = personal_data_of_message(named) if _MAY_BE.search(named) else ()
    hidden = masked(named, spans, lambda span: MARKS[span.kind])
    return hidden.removeprefix(name) if hidden.startswith(name) else _without_any(text, environment)


def _without_keys(text: str, environment: tuple[str, ...]) -> str:
    text = without_surrogates(text)
    for value in _spellings(environment):
        text = text.replace(value, MARK)
    return masked(text, find_secrets(text), lambda _: MARK)


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
    for secret in map(without_surrogates, secrets):
        parts = {secret, *re.split(r"[\s,]+", secret)}
        keys = {part.partition(":")[2] for part in parts}
        parts |= {key for key in keys if not key.startswith(("/", "\\", "~", "."))}
        values |= {spelling(part) for part in parts for spelling in SPELLINGS}
    values -= {value for value in values if len(value) < LEAST or value in OWN_WORDS}
    return sorted(values, key=len, reverse=True)


def masked(text: str, spans: Iterable[Span], mark: Callable[[Span], str]) -> str:
    """The text with a mark for each of its findings."""
    parts = []
    end = 0
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        if span.start >= end:  # an overlapping finding is swallowed by the one before it
            parts += [text[end : span.start], mark(span)]
        end = max(end, span.end)
    return "".join(parts) + text[end:]


def clean(value: Any, key: Any = "") -> Any:
    """A value for others to read: every text in it, keys included, `without_secrets`.

    Records become what they are spelt as; the lines of a notebook's cell are judged together. The
    key under which a value stands tells whether it is a secret, and what a number is.
    """
    if _is_secret_entry(str(key), value):
        return MARK
    if isinstance(value, str):
        return value if key == "image/png" else without_secrets(value, key)  # no text, and long
    if hasattr(value, "model_dump"):
        return clean(value.model_dump(mode="json"), key)
    if isinstance(value, Mapping):
        cleaned: dict[Any, Any] = {}
        for name, entry in value.items():
            shown = clean(name)
            if shown in cleaned:  # two addresses, say
                shown = f"{shown} {len(cleaned) + 1}"
            cleaned[shown] = clean(entry, name)
        return cleaned
    if isinstance(value, list | tuple):
        if _is_one_text(value):
            return without_secrets("".join(value)).splitlines(keepends=True)
        return [clean(entry) for entry in value]
    return _clean_number(value, key) if isinstance(value, int | float) else value


def _is_one_text(lines: Any) -> bool:
    """Whether a list is how notebooks spell a text: its lines, each but the last with its end."""
    is_text = len(lines) > 1 and all(isinstance(line, str) for line in lines)
    return is_text and all(line.endswith("\n") for line in lines[:-1])


def _is_secret_entry(key: str, value: Any) -> bool:
    """Whether the key says that a text, a list or a long number is one."""
    is_other = isinstance(value, list) or (type(value) is int and abs(value) >= 10 ** (LEAST - 1))
    may_be = isinstance(value, str) or (is_other and not key.endswith("pass"))  # as in tests_pass
    return bool(value) and may_be and SECRET_NAME.fullmatch(key) is not None


def _clean_number(value: float, key: Any) -> Any:
    """A number that is a card's, or what its key calls it; alone a short one says nothing."""
    least = 0 if key and type(value) is int else 1e12
    if not least < abs(value) < 1e20 or abs(value) // 1e14 == 1:  # 1 and 14 digits: rather an id
        return value
    digits = str(abs(value)).removesuffix(".0")  # as pandas has it beside an empty cell
    text = without_secrets(digits, key)
    return value if text == digits else text


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
