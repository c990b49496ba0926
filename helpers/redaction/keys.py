"""Where a text holds keys, tokens and passwords.

keys.txt has their kinds: of each, words of which one must be there, and its published shape. Every
shape is bounded on both sides of that word, so that searching takes time linear in the text.
"""

from __future__ import annotations

import base64
import binascii
import re
from bisect import bisect_left, bisect_right
from contextlib import suppress
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
LANGUAGES = (  # "password" elsewhere
    "kennwort|mot de passe|contraseña|senha|wachtwoord|hasło|şifre|heslo|lösenord|passord|jelszó"
    "|adgangskode|salasana|parola|parolă|lozinka|kata sandi|mật khẩu|κωδικός|пароль|סיסמה"
    "|كلمة المرور|पासवर्ड|รหัสผ่าน|密码|密碼|パスワード|비밀번호"
)
NAMES = (
    rf"(?:pass(?:word|wort|wd|phrase|code)?|pwd|mdp|{LANGUAGES}"
    r"|(?:client[_ -]?|shared[_ -]?|app[_ -]?)?secret(?:[_ -]?(?:access[_ -]?)?key)?"
    r"|(?:api|access|private|preshared|signing|account|auth|session|security|refresh|bot|encryption"
    r"|subscription|master|deploy|identity)[_ -]?(?:key|token)|credentials?)"
)
QUOTE = r"(?:\\{0,3}[\"']|&(?:quot|#39|#34|#x27);)?"  # plain, escaped in JSON, or in HTML
POLICY = (  # what is said about a secret and is none: expires_in_3600s, 6-digit-code, min8chars
    r"(?:(?:expire[sd]?|valid|renewed|rotated)[_-](?:in|for|at|on|after|every|until)[_-][\w-]{1,40}"
    r"|(?:(?:min|max)(?:imum)?|at[_-]least|up[_-]to)?[_-]?\d{1,3}[_-]?"
    r"(?:digit|char|character|bit|letter|symbol|word|day|hour|minute|second)s?"
    r"(?:[_-][a-z]{1,20}){0,4})"
    r"[.)]?(?![^\s\"',;])"
)
# between a name and a value: also as an option, an element, an entry
_NAMED = (
    rf"(?:{NAMES}{QUOTE}\s{{0,3}}(?:(?:\bis\b|\bist\b)?\s?(?:=>|[:=：]|\s[–—-]\s)"
    rf"|(?<=[\"']),|\b(?:is|ist|lautet|est|es|jest)\b|[éè—–]|value=|</key>\s{{0,9}}<string>)"
    rf"|<[\w:.-]{{0,30}}{NAMES}>"
    rf"|--(?:[a-z-]{{0,20}}-)?{NAMES}{QUOTE},?\s)\s{{0,3}}b?{QUOTE}"
)
# Behind the name of a secret a value with a digit, which need not be one; of letters alone where
# both stand in quotes, or in a list of settings. For texts in small letters
SUSPICIOUS = re.compile(
    rf"{_NAMED}(?!{POLICY})"
    r"((?=[^\s\"',;]{0,100}\d)(?=[^\s\"',;]{0,100}[a-z])[^\s\"',;]{8,200})"
    rf"|[\"'](?:\w{{0,30}}_)?{NAMES}\\{{0,3}}[\"']\s?:\s?\\{{0,3}}[\"']([^\"'\n]{{6,200}})(?=[\"'])"
    r"|(?<![?&\w-])(?:\w{1,40}[._])?(?:pg)?(?:password|passwd|pwd)=(?![\w.]{0,60}[(,)\[])"
    r"(?:[\"'{]([^\"'}\n]{6,200})[\"'}]|([^\s;\"'{&]{8,200}))"
    r"|(?<![a-z])(?:\w{1,30}_)?(?:password|passwd|pwd|secret_key)\s?[:=]\s?[\"']"
    r"([^\"'\n]{6,200})[\"']"
    r"|(?m:^[ \t]{0,20}(?:[\w.-]{1,40}_)?(?:password|passwd|pwd) = ([^\s\"'()\[\],]{8,200})$)"
)
NAME_HINTS = re.compile(  # one of them is in each of those names
    rf"pass|pwd|mdp|secret|key|token|credential|{LANGUAGES}"
)
_RUN = re.compile("[A-Za-z0-9_.~+/=%-]{15}")  # what has none holds only a key that may be shorter
_ENCODED = re.compile(
    r"(?:\\[nrtbf]|(?<![A-Za-z0-9+/_-]))([A-Za-z0-9+/_-]{24,65536}={0,2})"  # at a word's start
)
# An escape, or a line's end, as a program, a mail or a page spells it, or what has no width
_GAP = re.compile(
    r"(%[2-7][0-9A-Fa-f]|\\u00[2-7][0-9A-Fa-f])"
    r"|[\"']?[ \t]{0,100}[+\\=]?(?:\r?\n|\\r\\n|\\n|<br ?/?>)[ \t>|]{0,100}[\"']?"
    r"|[\u00ad\u200b-\u200d\u2060\ufeff]"
)
_REMAINDER = re.compile(r"(?=\S{0,300}(?:\d|[a-z][A-Z]))[\w/+=.-]{6,}")


class Kind(NamedTuple):
    """A kind of key: its name, words of which a text must hold one, and its shape."""

    name: str
    words: tuple[str, ...]
    shape: re.Pattern[str]
    is_short: bool  # or may be


@cache
def kinds() -> list[Kind]:
    """Those of keys.txt."""
    table = []
    for line in Path(__file__).with_name("keys.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            name, words, shape = line.split("\t")
            shape = shape.replace("<start>", START).replace("<word>", "[A-Za-z0-9_-]")
            kind = name.strip("*")
            table.append(Kind(kind, tuple(words.split("|")), re.compile(shape), kind != name))
    return table


@cache
def _words() -> list[tuple[str, Kind]]:
    return [(word, kind) for kind in kinds() for word in kind.words]


def find_secrets(text: str) -> tuple[Span, ...]:
    """Keys, tokens, passwords; also in base64 and broken over lines. In the order of the text.

    A merely suspicious text (`password: …`) is not certain.
    """
    spans = {*_plain(text), *_encoded(text), *_seen_through(text)}
    return tuple(sorted(spans, key=lambda span: (span.start, -span.end)))


def _plain(text: str) -> list[Span]:
    lower = text.replace("İ", "I").lower()  # of the same length: no other letter becomes two
    spans = []
    may_be_long = _RUN.search(text) is not None
    for kind in dict.fromkeys(kind for word, kind in _words() if word in lower):
        if may_be_long or kind.is_short:
            spans += [Span(kind.name, *m.span(m.lastindex or 0)) for m in kind.shape.finditer(text)]
    if NAME_HINTS.search(lower):
        for match in SUSPICIOUS.finditer(lower):
            spans.append(Span("named_secret", *match.span(match.lastindex or 0), False))
    return spans


def _encoded(text: str) -> list[Span]:
    """Base64 of a text that holds a key."""
    spans = []
    for match in _ENCODED.finditer(text):
        word = match[1].rstrip("=").replace("-", "+").replace("_", "/")
        with suppress(binascii.Error, UnicodeDecodeError):
            inner = base64.b64decode(word[: len(word) - (len(word) % 4 == 1)] + "==").decode()
            if any(span.certain for span in (*_plain(inner), *_encoded(inner))):
                spans.append(Span("encoded_secret", *match.span(1)))
    return spans


def _seen_through(text: str) -> list[Span]:
    """Keys that line breaks divide, or that are spelt in escapes, as URLs and JSON have them.

    They are found in the text without both, and shown where they stand.
    """
    gaps = [gap for gap in _GAP.finditer(text) if gap[1] or _REMAINDER.match(text, gap.end())]
    if not gaps:
        return []
    places: list[int] = []  # in the text, of each character of the joined one
    joined = ""
    end = 0
    for gap in gaps:
        sign = chr(int(gap[1][-2:], 16)) if gap[1] else ""
        joined += text[end : gap.start()] + sign
        places += [*range(end, gap.start()), *[gap.start()] * len(sign)]
        end = gap.end()
    places += range(end, len(text))
    joined += text[end:]
    starts = [gap.start() for gap in gaps]
    spans = []
    for span in (*_plain(joined), *_encoded(joined)):
        start, last = places[span.start], places[span.end - 1]
        crossed = gaps[bisect_left(starts, start) : bisect_right(starts, last)]
        if crossed and span.certain:
            end = max(last + 1, crossed[-1].end())
            spans.append(Span(span.kind, start, end))
    return spans
