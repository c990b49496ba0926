"""What is not as it should be: JSON, texts, rows and YAML with something odd in them, by a seed."""

from __future__ import annotations

import csv
import io
import json
import random
from typing import Any

TEXTS = [
    "",
    " ",
    "x",
    "\x00",
    "\x1b[2J",
    "\u202e",
    "\ud800",
    "é" * 300,
    "a\nb",
    "=1+1",
    "$x_{",
    "{a}",
]
TEXTS += ["../../../etc/passwd", "/tmp/x", "-1", "1e999", "NaN", "null", "9" * 5000, "<b>", "%s%n"]
NUMBERS = [0, -1, 1, 1.5, 1e308, 1e999, -1e999, 10**400, float("nan"), True]
RAW = [b"", b"null", b"1", b"[]", b"{}", b'"x"', b"{", b"[" * 100_000, b"\xff\xfe\x00", b"<html>"]
RAW += [b"NaN", b"9" * 5000, b'{"a":' * 50_000, b'{"data": 1}', b"\xef\xbb\xbf{}", b"{} {}"]


def value(draw: random.Random, depth: int = 0) -> Any:
    """Any value that JSON knows, and some that it does not."""
    kind = draw.randrange(6 if depth < 3 else 4)
    if kind == 0:
        return draw.choice(TEXTS)
    if kind == 1:
        return draw.choice(NUMBERS)
    if kind == 2:
        return None
    if kind == 3:
        return draw.choice([[], {}])
    entries = [value(draw, depth + 1) for _ in range(draw.randrange(4))]
    if kind == 4:
        return entries
    return {draw.choice(TEXTS[:12]): entry for entry in entries}


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value inside a value."""
    found = [path]
    pairs = content.items() if isinstance(content, dict) else ()
    if isinstance(content, list):
        pairs = enumerate(content[:3])
    for key, entry in pairs:
        found += places(entry, (*path, key))
    return found


def changed(draw: random.Random, content: Any) -> Any:
    """A copy in which one value is odd, missing, or somewhere else."""
    content = json.loads(json.dumps(content))
    path = draw.choice(places(content))
    if not path:
        return value(draw)
    holder = content
    for key in path[:-1]:
        holder = holder[key]
    match draw.randrange(4):
        case 0 if isinstance(holder, dict):
            del holder[path[-1]]
        case 1:
            holder[path[-1]] = [holder[path[-1]]]
        case 2 if isinstance(holder, dict):
            holder[draw.choice(TEXTS)] = holder.pop(path[-1])
        case _:
            holder[path[-1]] = value(draw)
    return content


def spoilt(draw: random.Random, data: bytes) -> bytes:
    """A text of JSON that is odd: in a value, in its bytes, or as a whole."""
    kind = draw.randrange(8)
    if kind == 0:
        return draw.choice(RAW)
    if kind == 1:
        at = draw.randrange(len(data) + 1)
        return data[:at] + draw.choice([b"", b"\xff", b'"', b"}", b"]", b"\x00"]) + data[at + 1 :]
    content = json.loads(data)
    for _ in range(draw.choice([1, 1, 2, 4])):
        content = changed(draw, content)
    return json.dumps(content).encode()


def table(draw: random.Random, rows: list[dict[str, Any]]) -> bytes:
    """Rows as CSV of some dialect, quoted well or not."""
    file = io.StringIO()
    names = [name for name in rows[0] if draw.random() < 0.95] or ["a"]
    writer = csv.writer(file, delimiter=draw.choice(",;\t|"), quoting=csv.QUOTE_MINIMAL)
    writer.writerow(names)
    for row in rows:
        cells = [row.get(name) for name in names]
        cells = [draw.choice(TEXTS) if draw.random() < 0.2 else cell for cell in cells]
        writer.writerow([json.dumps(c) if isinstance(c, list | dict) else c for c in cells])
    data = file.getvalue().encode(draw.choice(["utf-8", "utf-8", "utf-16", "latin-1"]), "replace")
    if draw.random() < 0.3:
        at = draw.randrange(len(data) + 1)
        data = data[:at] + draw.choice([b'"', b"\n", b"\x00", b"\xff", b",,,,"]) + data[at:]
    return data
