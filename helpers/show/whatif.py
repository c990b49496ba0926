"""What follows when one thing is moved: seen at once by hand; where nobody looks, a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from helpers import show

Follows = Callable[..., str]  # the values, in the order of the choices -> what follows, in words


def what_if(
    caption: str, choices: Mapping[str, Sequence[Any]], start: Sequence[Any], follows: Follows
) -> Any:
    """A list to choose from for each of `choices` (label -> values), and below what follows.

    Where nobody looks, and in viewers without widgets, a table: `start`, and every choice that
    differs from it in one thing.
    """
    rows = []
    for values in _one_thing_moved(list(choices.values()), start):
        row = dict(zip(choices, values, strict=True))
        rows.append(row | {"what follows": follows(*values)})
    static = show.table(rows, caption)
    if show.unattended():
        return static
    import ipywidgets

    class WhatIf(ipywidgets.VBox):
        def _repr_mimebundle_(self, **which: Any) -> dict[str, Any]:
            return super()._repr_mimebundle_(**which) | {"text/html": static.to_html()}

    boxes = []
    for (label, values), value in zip(choices.items(), start, strict=True):
        options = [(show.words(option), option) for option in values]
        box = ipywidgets.Dropdown(
            options=options,
            value=value,
            description=label,
            style={"description_width": "initial"},
            layout=ipywidgets.Layout(width="max-content"),
        )
        boxes.append(box)
    result = ipywidgets.HTML()

    def tell(_: Any = None) -> None:
        text = escape(follows(*(box.value for box in boxes)))
        result.value = f'<div role="status" style="white-space:pre-wrap">{text}</div>'

    for box in boxes:
        box.observe(tell, "value")
    tell()
    return WhatIf([ipywidgets.HTML(f"<b>{escape(caption)}</b>"), *boxes, result])


def _one_thing_moved(choices: Sequence[Sequence[Any]], start: Sequence[Any]) -> list[Sequence[Any]]:
    """`start`, then each other value of each choice with the rest as they were."""
    moved = [start]
    for place, values in enumerate(choices):
        for value in values:
            if value != start[place]:
                moved.append([*start[:place], value, *start[place + 1 :]])
    return moved
