"""Personal data and secrets in many texts at once, by two child processes.

Plain children on pipes instead of `multiprocessing`, which would run a script without a main guard
again and whose workers outlive a parent that is killed; so it works from a notebook too.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple

from helpers import processes
from helpers.redaction import Span, find_personal_data, find_secrets

# Texts, of some 10,000 rows: fewer are searched before two children have started, which takes 6 s
# of processor each.
AT_LEAST = 20_000
CHILDREN = 2
_CHILD = [sys.executable, "-c", "from helpers.curate.searching import answer; answer()"]


class Findings(NamedTuple):
    """What one text holds."""

    personal: tuple[Span, ...]
    secrets: tuple[Span, ...]


NOTHING = Findings((), ())
# begins to search texts, and gives the function that tells the findings of one
Search = Callable[[Iterable[str]], Callable[[str], Findings]]


def search_ahead(texts: Iterable[str]) -> Callable[[str], Findings]:
    """Begin to search `texts` and return at once: the function gives the findings of any text.

    It waits where it must. What the children leave, because there are few texts or because they
    could not start, it searches itself.
    """
    distinct = list(dict.fromkeys(texts))
    pool = ThreadPoolExecutor(CHILDREN)
    searches = []
    if len(distinct) >= AT_LEAST:
        searches = [pool.submit(_search_in_child, distinct[i::CHILDREN]) for i in range(CHILDREN)]
    pool.shutdown(wait=False)
    known: dict[str, Findings] = {}

    def look_up(text: str) -> Findings:
        while searches:
            known.update(searches.pop().result())
        return known[text] if text in known else search_text(text)

    return look_up


@lru_cache(maxsize=1024)
def search_text(text: str) -> Findings:
    """What one text holds."""
    findings = Findings(find_personal_data(text), find_secrets(text))
    return findings if any(findings) else NOTHING


def search_texts(texts: Iterable[str]) -> list[Findings]:
    """The same of many."""
    return [search_text(text) for text in texts]


def _search_in_child(texts: list[str]) -> dict[str, Findings]:
    environment = processes.child_environment()
    with suppress(OSError, EOFError, pickle.UnpicklingError):
        child = subprocess.run(
            _CHILD, input=pickle.dumps(texts), capture_output=True, env=environment
        )
        return dict(zip(texts, pickle.loads(child.stdout), strict=True))
    return {}


def answer() -> None:
    """As the child: the findings of the texts on stdin."""
    texts = pickle.load(sys.stdin.buffer)
    pickle.dump(search_texts(texts), sys.stdout.buffer)
