"""Personal data and secrets in many texts at once, by two child processes.

Plain children on pipes instead of `multiprocessing`, which would run a script without a main guard again and whose
workers outlive a parent that is killed; so it works from a notebook too.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache

from helpers import store
from helpers.curate.personal import Span, find_personal_data, find_secrets

AT_LEAST = 20_000  # texts, some 10,000 rows; fewer are searched before two children have started (6 s of processor each)
PROCESSES = 2
Found = tuple[tuple[Span, ...], tuple[Span, ...]]  # personal data, secrets
_CHILD = [sys.executable, "-c", "from helpers.curate.searching import answer; answer()"]


def search_ahead(texts: Iterable[str]) -> Callable[[str], Found]:
    """Begin to search `texts` and return at once: the function gives the findings of any text, waiting where it must.

    What the children leave, because there are few texts or because they could not start, it searches itself.
    """
    distinct = list(dict.fromkeys(texts))
    pool, found = ThreadPoolExecutor(PROCESSES), dict[str, Found]()
    parts = [distinct[i::PROCESSES] for i in range(PROCESSES) if len(distinct) >= AT_LEAST]
    waiting = [pool.submit(_in_a_child, part) for part in parts]
    pool.shutdown(wait=False)

    def look_up(text: str) -> Found:
        while waiting:
            found.update(waiting.pop().result())
        return found[text] if text in found else _search(text)

    return look_up


@lru_cache(maxsize=1024)
def _search(text: str) -> Found:
    return find_personal_data(text), find_secrets(text)


def _in_a_child(texts: list[str]) -> dict[str, Found]:
    path = os.pathsep.join(filter(None, [str(store.PROJECT), os.environ.get("PYTHONPATH")]))
    with suppress(OSError, EOFError, pickle.UnpicklingError):
        child = subprocess.run(
            _CHILD,
            input=pickle.dumps(texts),
            capture_output=True,
            env=os.environ | {"PYTHONPATH": path},
        )
        return dict(zip(texts, pickle.loads(child.stdout), strict=True))
    return {}


def answer() -> None:
    """As the child: the findings of the texts on stdin."""
    pickle.dump([_search(text) for text in pickle.load(sys.stdin.buffer)], sys.stdout.buffer)
