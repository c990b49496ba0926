"""What a reader sees: tables, notes, figures, made from records alone; nothing is changed here."""

from __future__ import annotations

import base64
import inspect
import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING, Any, TypeVar

from helpers import parameters, store
from helpers.records import Estimate, Finding

if TYPE_CHECKING:
    from IPython.display import HTML, Code
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

# Okabe-Ito: told apart by colour-blind readers, and in grey print by their lightness. They mark
# lines, bars and borders, never letters: on one of the two themes each is too pale to be read.
BASE = "#999999"
OTHER = "#56B4E9"
TUNED = "#D55E00"
TARGET = "#000000"
GOOD = "#009E73"
BAD = "#CC79A7"
UNSURE = "#E69F00"
NOTE_COLOURS = {"note": OTHER, "good": GOOD, "warning": UNSURE}
Columns = Sequence[str] | Mapping[str, str | Callable[[Any], Any]]
TIMES = 500  # at most that progress over rows is drawn anew
T = TypeVar("T")
CAPTION = "text-align: left; font-weight: bold; white-space: nowrap"
CELL = (
    "text-align: left; vertical-align: top; padding: .3em .6em; max-width: 60ch;"
    " white-space: pre-wrap; overflow-wrap: break-word"
)


@dataclass(frozen=True)
class Table:
    """A frame with its caption; its looks stand in the cells, so that no viewer takes them away."""

    data: DataFrame
    caption: str = ""

    def to_html(self) -> str:
        """Every cell in full, without the index; the keyboard scrolls it where it is too wide."""
        page = ""
        if self.caption:
            page = f'<caption style="{CAPTION}">{escape(self.caption)}</caption>'
        names = [f'<th scope="col" style="{CELL}">{escape(str(c))}</th>' for c in self.data.columns]
        page += f"<thead><tr>{''.join(names)}</tr></thead><tbody>"
        for row in self._rows():
            cells = [f'<td dir="auto" style="{CELL}">{escape(cell)}</td>' for cell in row]
            page += f"<tr>{''.join(cells)}</tr>"
        name = escape(self.caption or "table", quote=True)
        region = f'role="group" aria-label="{name}" tabindex="0" style="overflow-x:auto"'
        return f"<div {region}><table>{page}</tbody></table></div>"

    _repr_html_ = to_html

    def to_string(self) -> str:
        """The same as plain text."""
        return "\n".join(" ".join(row) for row in [map(str, self.data.columns), *self._rows()])

    def _rows(self) -> list[list[str]]:
        return [[words(value) for value in row] for row in self.data.itertuples(index=False)]


def table(rows: Iterable[Any], caption: str = "", columns: Columns | None = None) -> Table:
    """Rows (records or dicts) as a table with its caption; `.data` is the bare frame. Without rows
    the caption says so, since headings alone look like something that was lost.

    `columns` names them, or maps each name to where its cells come from: "results.accuracy" of the
    row, or a function of it. Without them they are all that the first row has.
    """
    import pandas as pd

    rows = list(rows)
    if not rows:
        caption = f"{caption or 'rows'}: none"
    if columns is None:
        columns = list(dict(rows[0])) if rows else []
    if not isinstance(columns, Mapping):
        columns = dict(zip(columns, columns, strict=True))
    cells = []
    for row in rows:
        cells.append([_cell(_value(row, source)) for source in columns.values()])
    return Table(pd.DataFrame(cells, columns=list(columns)), caption)


def _value(row: Any, source: str | Callable[[Any], Any]) -> Any:
    if callable(source):
        return source(row)
    if isinstance(row, Mapping):
        return row.get(source)
    for name in source.split("."):
        row = getattr(row, name) if row is not None else None
    return row


def pairs(left: str, right: str, values: Mapping[str, Any], caption: str) -> Table:
    """A table of two columns: each name with its value."""
    rows = [{left: name.replace("_", " "), right: value} for name, value in values.items()]
    return table(rows, caption)


def words(value: Any) -> str:
    """A table's cell as text: numbers in few digits, "-" where there is nothing."""
    value = _cell(value)
    if value is None or value != value:  # NaN, where a row has no such cell
        return "-"
    if type(value) is int:
        return f"{value:,}"
    return number(value) if isinstance(value, float) else str(value)


def number(value: float | None) -> str:
    """Three digits, or all of them from 1,000 on; "-" for none."""
    if value is None:
        return "-"
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"


def _cell(value: Any) -> Any:
    if isinstance(value, Estimate):
        if not value.n:
            return "unknown"
        interval = ""
        if value.has_interval and value.low < value.high:
            interval = f" [{number(value.low)}, {number(value.high)}]"
        return f"{number(value.value)}{interval} n={value.n}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:%Y-%m-%d %H:%M}" if isinstance(value, datetime) else value


def name_of(finding: Finding) -> str:
    """Its name, as words."""
    return finding.name.replace("_", " ")


def html(page: str) -> HTML:
    """Markup as a cell shows it; what others wrote is escaped in it already."""
    from IPython.display import HTML

    return HTML(page)


def note(text: str, kind: str = "note") -> HTML:
    """A one-paragraph box below a cell: `kind` is note, good, or warning."""
    style = f"border-left:4px solid {NOTE_COLOURS[kind]};padding:.3em .8em;margin:.3em 0"
    return html(f'<div style="{style}">{escape(text)}</div>')


def source(function: Callable[..., Any]) -> Code:
    """The source of the one function that matters in a notebook, beside its call."""
    from IPython.display import Code

    return Code(inspect.getsource(function), language="python")


def may_show(show_text: bool) -> bool:
    """Whether texts may be seen: by hand, and headless those that come with the workbook."""
    return show_text and (not store.headless() or os.environ.get("WORKBOOK_SHIPPED_TASK") == "1")


def masked(text: str, show_text: bool, length: int = 60) -> str:
    """`text` where it may be seen; else only its first and last characters and its length."""
    if may_show(show_text):
        return shortened(store.redact(text), length)
    if len(text) <= 8:
        return "…"
    return f"{text[:2]}…{text[-2:]} ({len(text)} characters)"


def shortened(text: str, length: int) -> str:
    """The text, or its beginning where it is longer."""
    return text if len(text) <= length else text[: length - 1] + "…"


def say(text: str) -> None:
    """One progress line: to the notebook by hand, to the run's log headless."""
    sys.stdout.write(store.redact(text) + "\n")
    sys.stdout.flush()


class Progress:
    """Rows done, their rate and the time left: a bar in a notebook, else lines.

    A line is said at each tenth, or after half a minute; never two in two seconds. The rate is that
    of what was done since the first `done` ones.
    """

    def __init__(
        self,
        label: str,
        total: int,
        say: Callable[[str], Any] = say,
        unit: str = "rows",
        done: int = 0,
    ) -> None:
        self.label = label
        self.total = total
        self.unit = unit
        self.done = done
        self._begun = done
        self._say = say
        self._started = time.monotonic()
        self._told = (done, self._started)  # rows and time of the last line
        self._bar = None

    def add(self, rows: int) -> None:
        """So many more are done."""
        self.reach(self.done + rows)

    def reach(self, rows: int) -> None:
        """So many are done in all; to be told less than before changes nothing."""
        now = time.monotonic()
        if not self.done < rows <= self.total:
            return
        self.done = rows
        told, at = self._told
        if kernel() and not unattended():
            if now - at > 0.2 or (rows == self.total and self._bar):
                self._told = (rows, now)
                self.draw(now)
        elif now - at > (2 if 10 * (rows - told) >= self.total else 30):
            self._told = (rows, now)
            self._say(self.text(now))

    def text(self, now: float) -> str:
        """few_shot: 24 of 60 rows, 1.2 a second, 30 s left."""
        amount = f"{self.label}: {self.done} of {self.total} {self.unit}"
        if self.done == self._begun:
            return amount
        rate = (self.done - self._begun) / max(now - self._started, 1e-9)
        seconds = (self.total - self.done) / rate
        left = f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"
        return f"{amount}, {rate:.3g} a second, {left} left"

    def draw(self, now: float) -> None:
        """The bar as it is now, in the place of the one before."""
        name = escape(self.label, quote=True)
        bar = f'<progress max="{self.total}" value="{self.done}" aria-label="{name}"></progress>'
        self._bar = redraw(html(f"{bar} {escape(self.text(now))}"), self._bar)


def told(rows: Iterable[T], total: int, label: str, say: Callable[[str], Any] = say) -> Iterator[T]:
    """The rows one by one; how many are done of all is told, TIMES at most."""
    progress = Progress(label, total, say)
    for number, row in enumerate(rows, 1):
        yield row
        if number % (1 + total // TIMES) == 0:
            progress.reach(number)
    progress.reach(total)


def kernel() -> Any:
    """IPython's shell, where this runs in one; else None."""
    return sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None


def unattended() -> bool:
    """Whether nobody looks while it runs: under `workbook run`, or papermill that sets values."""
    history = kernel().user_ns.get("In", []) if kernel() else []
    return store.headless() or any(cell.startswith(parameters.INJECTED) for cell in history)


def redraw(what: Any, handle: Any) -> Any:
    """Show something in the place of what `handle` shows (None: in a new one); its handle."""
    from IPython.display import display

    if handle is None:
        return display(what, display_id=True)
    handle.update(what)
    return handle


def time_cells() -> None:
    """By hand: each later cell that takes more than two seconds says for how long it works.

    A sign of life where nothing can be counted, as while a library is loaded; rows have Progress.
    """
    if kernel() and not unattended():
        kernel().events.register("pre_run_cell", _time_cell)


def _time_cell(_: Any) -> None:
    """Before a cell runs: its clock starts, and ends with the cell."""
    events = kernel().events
    done = threading.Event()
    clock = threading.Thread(target=_tick, args=[done], daemon=True)

    def stop(_: Any) -> None:
        events.unregister("post_run_cell", stop)
        done.set()
        clock.join()

    events.register("post_run_cell", stop)
    clock.start()


def _tick(done: threading.Event) -> None:
    """Draw the seconds anew each second, from the second one on."""
    started = time.monotonic()
    line = None
    while not done.wait(1 if line else 2):
        seconds = time.monotonic() - started
        line = redraw(html(f'<small role="timer">at work for {seconds:.0f} s</small>'), line)
    if line:
        seconds = time.monotonic() - started
        redraw(html(f"<small>this cell took {seconds:.0f} s</small>"), line)


# those that know the letters which matplotlib's own lacks, where they are installed
FONTS = (
    "Noto Sans CJK SC, Noto Sans CJK JP, Noto Sans CJK KR, Microsoft YaHei, PingFang SC, Yu Gothic,"
    " Hiragino Sans, Malgun Gothic, WenQuanYi Zen Hei, Noto Sans Devanagari, Noto Sans Bengali,"
    " Noto Sans Tamil, Noto Sans Thai, Nirmala UI, Leelawadee UI, Arial Unicode MS"
)
LOOKS = {  # of every figure
    "text.parse_math": False,  # the $ of a label is drawn as it stands, and is no formula
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def subplots(*shape: int, **looks: Any) -> Any:
    """matplotlib's figure and axes, in the looks of the workbook."""
    import matplotlib.pyplot as plt
    from matplotlib.font_manager import fontManager

    others = sorted({font.name for font in fontManager.ttflist if font.name in FONTS.split(", ")})
    plt.rcParams.update(LOOKS | {"font.family": ["DejaVu Sans", *others]})
    return plt.subplots(*shape, **looks)


def alt_text(figure: Figure) -> str:
    """What a figure shows, in words: its own titles, axes, legends and labels; bare numbers not."""
    from matplotlib.text import Text

    words = []
    for text in figure.findobj(Text):
        word = " ".join(text.get_text().split())
        if any(map(str.isalpha, word)) and word not in words:
            words.append(word)
    return "; ".join(words) or "a figure"


def figure_html(figure: Figure) -> str:
    """The figure as an image with its alt text, for readers who do not see it."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=figure.dpi, facecolor="white", bbox_inches="tight")
    data = base64.b64encode(picture.getvalue()).decode()
    alt = escape(alt_text(figure), quote=True)
    return f'<img alt="{alt}" style="max-width: 100%" src="data:image/png;base64,{data}">'


def finished(figure: Figure) -> Figure:
    """The figure as a cell's value: shown once, and in a kernel with its alt text.

    (matplotlib's inline backend forgets other formatters when it starts: hence for each figure.)
    """
    import matplotlib.pyplot as plt

    plt.close(figure)
    if kernel() is not None:
        formatter = kernel().display_formatter.formatters["text/html"]
        formatter.for_type_by_name("matplotlib.figure", "Figure", figure_html)
    return figure
