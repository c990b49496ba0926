"""What a reader sees: tables, notes, figures. Everything here is made from records alone and changes nothing."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from helpers import store
from helpers.records import Estimate, Record

if TYPE_CHECKING:
    from IPython.display import HTML, Code
    from pandas.io.formats.style import Styler

# Okabe-Ito: told apart by colour-blind readers, and in grey print by their lightness.
COLOURS = {
    "base": "#999999",
    "other": "#56B4E9",
    "tuned": "#D55E00",
    "target": "#000000",
    "good": "#009E73",
    "bad": "#CC79A7",
}
VERDICT_COLOURS = {"pass": COLOURS["good"], "fail": COLOURS["bad"], "inconclusive": "#E69F00"}
CELL = "text-align: left; vertical-align: top; max-width: 60ch; white-space: pre-wrap; overflow-wrap: break-word"


def table(
    rows: Iterable[Record | Mapping[str, Any]], caption: str = "", columns: list[str] | None = None
) -> Styler:
    """Rows (records or dicts) as an HTML table with its caption and every cell in full; `.data` is the plain frame."""
    import pandas as pd

    plain = [{key: _cell(value) for key, value in dict(row).items()} for row in rows]
    frame = pd.DataFrame(plain, columns=columns or (list(plain[0]) if plain else None))
    looks = [
        {"selector": "th, td", "props": CELL},
        {"selector": "caption", "props": "text-align: left; white-space: nowrap"},
    ]
    styler = frame.style.hide(axis="index").set_caption(escape(caption)).set_table_styles(looks)
    return styler.format(
        lambda value: number(value) if isinstance(value, float) else value,
        escape="html",
        na_rep="-",
    )


def number(value: float | None) -> str:
    """A number as short as it can be read: three digits, or all of them from 1,000 on; "-" for none."""
    return "-" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _cell(value: Any) -> Any:
    if isinstance(value, Estimate):
        return (
            f"{number(value.value)} [{number(value.low)}, {number(value.high)}] n={value.n}"
            if value.n
            else "unknown"
        )
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value


def note(text: str, kind: str = "note") -> HTML:
    """A one-paragraph box below a cell: `kind` is note, good, or warning."""
    from IPython.display import HTML

    colour = {
        "note": COLOURS["other"],
        "good": COLOURS["good"],
        "warning": VERDICT_COLOURS["inconclusive"],
    }[kind]
    return HTML(
        f'<div style="border-left:4px solid {colour};padding:.3em .8em;margin:.3em 0">{escape(text)}</div>'
    )


def source(function: Callable[..., Any]) -> Code:
    """The source of the one function that matters in a notebook, beside its call."""
    from IPython.display import Code

    return Code(inspect.getsource(function), language="python")


def masked(text: str, show_text: bool, length: int = 60) -> str:
    """`text` by hand; headless only its first and last characters and its length."""
    if show_text and not store.headless():
        text = store.redact(text)
        return text if len(text) <= length else text[: length - 1] + "…"
    return f"{text[:2]}…{text[-2:]} ({len(text)} characters)" if len(text) > 8 else "…"


def say(text: str) -> None:
    """One progress line: to the notebook by hand, to the run's log headless."""
    sys.stdout.write(store.redact(text) + "\n")
    sys.stdout.flush()
