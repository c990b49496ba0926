"""The encoding of a text file, judged over all of its bytes; afterwards it is read strictly."""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from helpers.records import WorkbookError

MARKS = (  # the longer ones first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
SAMPLE = 2**20  # bytes that a guess looks at
OFTEN = ("cp1251", "cp1250", "cp1252", "gb18030", "shift_jis")  # what is shown to choose from
LETTERS = 20  # bytes beyond ASCII from which a file is in another alphabet, not just broken
# What Western European words are spelled with, without those that Central European ones look like.
WESTERN = frozenset("äöüÄÖÜßéèàçâêîôùûëïñáíóúÁÉÍÓÚÀÈÇÑÊÔåÅøØæÆ€£§°²³½¼×«»„“”‘’–—…·•¿¡®©\xa0")
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")  # in no text
_SIGN_IN_WORD = re.compile("[a-zA-Z][°²³½¼×«»„“”¿¡®©·][a-zA-Z]")


class TwoReadings(WorkbookError):
    """A file that can be read in several ways; the message says them, and the line that decides."""

    def __init__(self, problem: str, key: str, options: Sequence[str]) -> None:
        """`key` is of task.yaml, such as `columns.dates`; `options` as YAML spells its values."""
        self.problem = problem
        self.key = key
        self.options = tuple(options)
        section, _, name = key.rpartition(".")
        pattern = f"`{section}: {{{{{name}: {{}}}}}}`" if section else f"`{name}: {{}}`"
        lines = " or ".join(map(pattern.format, options))
        super().__init__(f"{problem}; say which in task.yaml: {lines}")


class Encoding(NamedTuple):
    """How a file's bytes are read, and in words why."""

    name: str
    why: str


def encoding_of(path: Path, setting: str = "") -> Encoding:
    """UTF-8 where the file is UTF-8 but for a few broken bytes, else what its bytes speak for.

    `setting` is task.yaml's `encoding`. WorkbookError where two alphabets fit alike.
    """
    if setting:
        try:
            return Encoding(codecs.lookup(setting).name, "as task.yaml says")
        except LookupError:
            raise WorkbookError(f"task.yaml: encoding {setting!r} is not known") from None
    with open(path, "rb") as file:
        head = file.read(SAMPLE)
    for mark, name in MARKS:
        if head.startswith(mark):
            return Encoding(name, "its byte order mark")
    for place, name in enumerate(("utf-16-be", "utf-16-le")):
        if head[place:2000:2].count(0) > len(head[:2000]) / 4:
            return Encoding(name, "every second byte is 0")
    broken, letters = _utf8_faults(path)
    if not broken:
        return Encoding("utf-8", "all of its bytes")
    if letters > broken or _CONTROL.search(head):
        return Encoding("utf-8", f"but for {broken} broken bytes")
    return _guessed(path, head, broken)


def _utf8_faults(path: Path) -> tuple[int, int]:
    """(bytes that are no UTF-8, characters beyond ASCII that are) of a file."""
    broken = letters = 0
    with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
        while text := file.read(SAMPLE):
            if not text.isascii():
                broken += text.count("\ufffd")
                letters += sum(char > "\x7f" for char in text)
    return broken, letters - broken


def _guessed(path: Path, head: bytes, broken: int) -> Encoding:
    """Windows-1252 where it spells Western words and nothing else; other alphabets are asked for.

    Detectors take one alphabet for another (docs/decisions.md), and a wrong one is a wrong text.
    """
    text = head.decode("cp1252", "replace")
    beyond = {char for char in text if char > "\x7f"}
    if beyond <= WESTERN and not _SIGN_IN_WORD.search(text):
        return Encoding("cp1252", "all of its letters are Western ones")
    if broken < LETTERS:
        return Encoding("utf-8", f"but for {broken} broken bytes")
    start = next(place for place, byte in enumerate(head) if byte > 0x7F)
    some = head[start : start + 12]
    shown = {}
    for name in OFTEN:
        with suppress(UnicodeDecodeError):
            head.decode(name)
            shown[name] = f"{name} ({some.decode(name, 'ignore')!r})"
    raise TwoReadings(
        f"{path} is not UTF-8 from byte {start} on, and may be {', or '.join(shown.values())}:"
        " save it as UTF-8, or choose one",
        "encoding",
        list(shown),
    )
