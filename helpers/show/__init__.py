"""What a reader sees: tables, notes, figures, made from records alone; nothing is changed here."""

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
UNSURE = "#E69F00"
VERDICT_COLOURS = {
    "pass": COLOURS["good"],
    "fail": COLOURS["bad"],
    "inconclusive": UNSURE,  # of a run or a comparison
    "undecided": UNSURE,  # of a finding
}
NOTE_COLOURS = {"note": COLOURS["other"], "good": COLOURS["good"], "warning": UNSURE}
CELL = (
    "text-align: left; vertical-align: top; max-width: 60ch; white-space: pre-wrap;"
    " overflow-wrap: break-word"
)


def table(
    rows: Iterable[Record | Mapping[str, Any]], caption: str = "", columns: list[str] | None = None
) -> Styler:
    """Rows (records or dicts) as an HTML table with its caption and every cell in full.

    `.data` is the bare frame.
    """
    import pandas as pd

    cells = [{name: _cell(value) for name, value in dict(row).items()} for row in rows]
    if columns is None and cells:
        columns = list(cells[0])
    frame = pd.DataFrame(cells, columns=columns)
    looks = [
        {"selector": "th, td", "props": CELL},
        {"selector": "caption", "props": "text-align: left; white-space: nowrap"},
    ]
    styler = frame.style.hide(axis="index").set_caption(escape(caption)).set_table_styles(looks)
    return styler.format(_shown, escape="html", na_rep="-")


def _shown(value: Any) -> Any:
    return number(value) if isinstance(value, float) else value


def number(value: float | None) -> str:
    """Three digits, or all of them from 1,000 on; "-" for none."""
    if value is None:
        return "-"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _cell(value: Any) -> Any:
    if isinstance(value, Estimate):
        if not value.n:
            return "unknown"
        return f"{number(value.value)} [{number(value.low)}, {number(value.high)}] n={value.n}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return value


def note(text: str, kind: str = "note") -> HTML:
    """A one-paragraph box below a cell: `kind` is note, good, or warning."""
    from IPython.display import HTML

    style = f"border-left:4px solid {NOTE_COLOURS[kind]};padding:.3em .8em;margin:.3em 0"
    return HTML(f'<div style="{style}">{escape(text)}</div>')


def source(function: Callable[..., Any]) -> Code:
    """The source of the one function that matters in a notebook, beside its call."""
    from IPython.display import Code

    return Code(inspect.getsource(function), language="python")


def masked(text: str, show_text: bool, length: int = 60) -> str:
    """`text` by hand; headless only its first and last characters and its length."""
    if show_text and not store.headless():
        text = store.redact(text)
        return text if len(text) <= length else text[: length - 1] + "…"
    if len(text) <= 8:
        return "…"
    return f"{text[:2]}…{text[-2:]} ({len(text)} characters)"


def say(text: str) -> None:
    """One progress line: to the notebook by hand, to the run's log headless."""
    sys.stdout.write(store.redact(text) + "\n")
    sys.stdout.flush()
