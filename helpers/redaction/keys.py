"""Where a text holds keys, tokens and passwords.

keys.txt has their kinds: of each, words of which one must be there, and its published shape. Every
shape is bounded on both sides of that word, so that searching takes time linear in the text.
"""

from __future__ import annotations

import base64
import binascii
import re
from bisect import bisect_right
from functools import cache
from pathlib import Path
from typing import NamedTuple


class Span(NamedTuple):
    """A finding: its kind, where it stands, and whether it is certain enough to reject the row."""

    kind: str
    start: int
    end: int
    certain: bool = True


# Before a key stands no letter or digit, unless it ends an escape: \n, \u000a, %0A.
START = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrtbf])|(?<=\\u[0-9A-Fa-f]{4})|(?<=%[0-9A-Fa-f]{2}))"
NAMES = (
    r"(?:pass(?:word|wort|wd|phrase|code)?|pwd|kennwort|mot de passe|contraseña|senha|wachtwoord"
    r"|пароль|密码|密碼|パスワード|비밀번호"
    r"|(?:client[_ -]?|shared[_ -]?|app[_ -]?)?secret(?:[_ -]?(?:access[_ -]?)?key)?"
    r"|(?:api|access|private|signing|account|auth|session|security|refresh|bot|encryption"
    r"|subscription|master|deploy)[_ -]?(?:key|token)|credentials?)"
)
QUOTE = r"(?:\\{0,3}[\"']|&(?:quot|#39|#34|#x27);)?"  # plain, escaped in JSON, or in HTML
POLICY = (  # what is said about a secret and is none: expires_in_3600s, 6-digit-code, min8chars
    r"(?:(?:expire[sd]?|valid|renewed|rotated)[_-](?:in|for|at|on|after|every|until)[_-][\w-]{1,40}"
    r"|(?:(?:min|max)(?:imum)?|at[_-]least|up[_-]to)?[_-]?\d{1,3}[_-]?"
    r"(?:digit|char|character|bit|letter|symbol|word|day|hour|minute|second)s?(?:[_-][a-z]{1,20}){0,4})"
    r"[.)]?(?![^\s\"',;])"
)
# behind the name of a secret, also as an option or an element: a value with a digit, which need
# not be one; for texts in small letters
SUSPICIOUS = re.compile(
    rf"(?:{NAMES}{QUOTE}\s{{0,3}}(?:=>|[:=：]|\bis\b)|<[\w:.-]{{0,30}}{NAMES}>"
    rf"|--(?:[a-z-]{{0,20}}-)?{NAMES}{QUOTE},?\s)\s{{0,3}}{QUOTE}(?!{POLICY})"
    r"((?=[^\s\"',;]{0,100}\d)(?=[^\s\"',;]{0,100}[a-z])[^\s\"',;]{8,200})"
)
NAME_HINTS = re.compile(  # one of them is in each of those names
    "pass|pwd|secret|key|token|credential|kennwort|contraseña|senha|wachtwoord|пароль|密码|密碼"
    "|パスワード|비밀번호"
)
# What has no run of so many characters holds a key of these kinds alone
_RUN = re.compile("[A-Za-z0-9_.~+/=%-]{15}")
SHORT = ("private_key", "password_in_url", "password_in_query", "authorization", "login", "cookie")
_ENCODED = re.compile(
    r"(?:\\[nrtbf]|(?<![A-Za-z0-9+/_-]))([A-Za-z0-9+/_-]{24,65536}={0,2})"  # at a word's start
)
_BREAK = re.compile(r"[ \t]{0,100}(?:\r?\n|\\r\\n|\\n)[ \t>|]{0,100}")
_REMAINDER = re.compile(r"(?=\S{0,300}(?:\d|[a-z][A-Z]))[\w/+=.-]{6,}")


class Kind(NamedTuple):
    """A kind of key: its name, words of which a text must hold one, and its shape."""

    name: str
    words: list[str]
    shape: re.Pattern[str]


@cache
def kinds() -> list[Kind]:
    """Those of keys.txt."""
    table = []
    for line in Path(__file__).with_name("keys.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            name, words, shape = line.split("\t")
            shape = shape.replace("<start>", START).replace("<word>", "[A-Za-z0-9_-]")
            table.append(Kind(name, words.split("|"), re.compile(shape)))
    return table


def find_secrets(text: str) -> tuple[Span, ...]:
    """Keys, tokens, passwords; also in base64 and broken over lines. In the order of the text.

    A merely suspicious text (`password: …`) is not certain.
    """
    spans = {*_plain(text), *_encoded(text), *_broken(text)}
    return tuple(sorted(spans, key=lambda span: (span.start, -span.end)))


def _plain(text: str) -> list[Span]:
    lower = text.replace("İ", "I").lower()  # of the same length: no other letter becomes two
    spans = []
    may_be_long = _RUN.search(text) is not None
    for kind in kinds():
        if (may_be_long or kind.name in SHORT) and any(word in lower for word in kind.words):
            spans += [Span(kind.name, *m.span(m.lastindex or 0)) for m in kind.shape.finditer(text)]
    if NAME_HINTS.search(lower):
        spans += [Span("named_secret", *m.span(1), False) for m in SUSPICIOUS.finditer(lower)]
    return spans


def _encoded(text: str) -> list[Span]:
    """Base64 of a text that holds a key."""
    spans = []
    for match in _ENCODED.finditer(text):
        word = match[1].rstrip("=").replace("-", "+").replace("_", "/")
        try:
            inner = base64.b64decode(word[: len(word) - (len(word) % 4 == 1)] + "==").decode()
        except (binascii.Error, UnicodeDecodeError):
            continue
        if any(span.certain for span in _plain(inner)):
            spans.append(Span("encoded_secret", *match.span(1)))
    return spans


def _broken(text: str) -> list[Span]:
    """Keys that a line break divides: found in the text without breaks, shown where they stand."""
    if "\n" not in text and "\\n" not in text:
        return []
    breaks = list(_BREAK.finditer(text))
    if not any(_REMAINDER.match(text, gap.end()) for gap in breaks):
        return []
    joined = _BREAK.sub("", text)
    places = []  # of the breaks in the joined text
    removed = 0
    for gap in breaks:
        places.append(gap.start() - removed)
        removed += gap.end() - gap.start()
    spans = []
    for span in (*_plain(joined), *_encoded(joined)):
        first = bisect_right(places, span.start)
        last = bisect_right(places, span.end - 1)
        crossed = breaks[first:last]
        # a whole key at a line's end stays apart from an ordinary word below it
        if crossed and span.certain and all(_REMAINDER.match(text, g.end()) for g in crossed):
            before = breaks[first - 1].end() - places[first - 1] if first else 0
            until = breaks[last - 1].end() - places[last - 1]
            spans.append(Span(span.kind, span.start + before, span.end + until))
    return spans
