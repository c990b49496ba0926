"""What a checkpoint says after an exercise: right, or what was expected and what came instead."""

from __future__ import annotations

import ast
import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

from helpers import show

STUB = 'raise NotImplementedError("your turn")'
LONGEST = 120  # characters of a value that is quoted


class NotYet(AssertionError):
    """An answer that is not right yet; the message says what was expected, and what came."""

    def _render_traceback_(self) -> list[str]:
        return [f"Not yet. {self}"]


def check(function: Callable[..., Any], *cases: Sequence[Any]) -> Any:
    """Try a learner's function on cases (arguments, expected result, why); say "right" aloud.

    A fourth item of a case is what the arguments should be afterwards. NotYet for the first case
    that fails, and for a newer attempt at the same function that could not be run.
    """
    name = getattr(function, "__name__", repr(function))
    _refuse_older_attempt(name)
    for arguments, expected, why, *after in cases:
        call = f"{name}({', '.join(map(_quoted, arguments))})"
        mine = copy.deepcopy(list(arguments))
        try:
            result = function(*mine)
        except NotImplementedError:
            raise NotYet(f"{name} is still open: complete the function above.") from None
        except Exception as error:
            raise NotYet(
                f"{call} stopped with {type(error).__name__}: {error}. Expected is {expected!r}."
            ) from None
        if not same(result, expected):
            raise NotYet(
                f"{call} should be {_quoted(expected)}, yours gives {_quoted(result)}: {why}."
            )
        if after and not same(mine, list(after[0])):
            raise NotYet(
                f"{name} should leave {_quoted(after[0])} behind, yours leaves"
                f" {_quoted(tuple(mine))}: {why}."
            )
    return show.note(f"Right: {name} gives what is expected in all {len(cases)} cases.", "good")


def same(result: Any, expected: Any) -> bool:
    """Equal, of the same kind, and numbers up to rounding; True is no 1. What numpy or pandas
    computed is as good as Python's own."""
    if hasattr(result, "tolist"):
        result = result.tolist()
        if isinstance(result, list) and isinstance(expected, tuple):
            result = tuple(result)
    if isinstance(expected, bool) or isinstance(result, bool):
        return result is expected
    if isinstance(expected, float) and isinstance(result, int | float):
        return math.isclose(result, expected, rel_tol=1e-6, abs_tol=1e-9)
    if isinstance(expected, list | tuple) and type(result) is type(expected):
        pairs = zip(result, expected, strict=False)
        return len(result) == len(expected) and all(same(mine, theirs) for mine, theirs in pairs)
    return bool(result == expected)


def _quoted(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"


def _refuse_older_attempt(name: str) -> None:
    """A cell with a syntax error defines nothing: the kernel would judge the attempt before it."""
    history = show.kernel().user_ns.get("In", []) if show.kernel() else []
    attempts = ["", *(source for source in history if f"def {name}(" in source)]
    try:
        ast.parse(attempts[-1])
    except SyntaxError as error:
        raise NotYet(
            f"Your newest {name} has a syntax error in line {error.lineno} ({error.msg}), so the"
            " older one would be judged; mend it, run its cell, then this one."
        ) from None
