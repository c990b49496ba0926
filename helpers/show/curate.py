"""What 02 shows: where rows were lost, how the parts look, and why a row was left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from helpers import show
from helpers.records import PARTS, FineTuningDataset, RejectedExample

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from pandas.io.formats.style import Styler

PART_COLOURS = {"train": "#0072B2", "validation": "#E69F00", "test": "#009E73"}
SOURCE_COLOURS = {"human": "#0072B2", "production": "#E69F00", "synthetic": "#CC79A7"}
STAGES = {
    "read": "readable",
    "filter": "well rated, in time",
    "check": "passed the checks",
    "duplicates": "no copy",
    "leakage": "no leak",
}
MAX_BARS = 12


def _whole(frame: pd.DataFrame) -> Styler:
    """The frame with its caption and every cell in full: a plain frame cuts evidence off at 50 characters."""
    return frame.style.hide(axis="index").set_caption(frame.attrs.get("caption", "")).format(escape="html")


def funnel_table(funnel: Iterable[Mapping[str, Any]]) -> Styler:
    """One row per stage and source: in = out + rejected, with the rejected rows by their first code."""
    rows = []
    for row in funnel:
        lost = ", ".join(f"{code} {n}" for code, n in row["rejected"].items()) or "-"
        rows.append(
            {"source": row["source"], "stage": row["stage"], "in": row["in"], "rejected": lost, "out": row["out"]}
        )
    return _whole(show.table(sorted(rows, key=lambda r: r["source"]), "Every row in, by source and stage"))


def funnel_figure(funnel: Sequence[Mapping[str, Any]]) -> Figure:
    """Rows left after each stage, one panel per source."""
    import matplotlib.pyplot as plt

    sources = sorted({row["source"] for row in funnel})
    height = 0.9 + 1.9 * max(1, len(sources))
    figure, axes = plt.subplots(max(1, len(sources)), 1, figsize=(7.5, height), squeeze=False, layout="constrained")
    for axis, source in zip(axes[:, 0], sources, strict=False):
        rows = [row for row in funnel if row["source"] == source]
        names = ["rows in the file", *(STAGES.get(row["stage"], row["stage"]) for row in rows)]
        left = [rows[0]["in"], *(row["out"] for row in rows)]
        axis.barh(names, left, color=SOURCE_COLOURS.get(source, show.COLOURS["base"]))
        for y, n in enumerate(left):
            lost = f"  (−{left[y - 1] - n:,})" if y and left[y - 1] > n else ""
            axis.text(n, y, f" {n:,}{lost}", va="center", fontsize=9)
        axis.invert_yaxis()
        axis.set_xlim(0, max(left) * 1.22 + 1)
        axis.set_title(f"{source}: {left[0]:,} rows read, {left[-1]:,} kept", fontsize=10, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1, 0].set_xlabel("rows")
    plt.close(figure)
    return figure


def parts_table(dataset: FineTuningDataset) -> Styler:
    """Rows, groups and sources per part."""
    rows = []
    for part in PARTS:
        examples = dataset.part(part)
        rows.append(
            {
                "part": part,
                "rows": len(examples),
                "groups": len({e.group for e in examples}),
                "verified": sum(e.quality == "verified" for e in examples),
                "unverified": sum(e.quality != "verified" for e in examples),
            }
        )
    return _whole(show.table(rows, f"Dataset {dataset.metadata.version}"))


def parts_figure(dataset: FineTuningDataset, labels: Mapping[str, Mapping[str, Mapping[str, int]]]) -> Figure:
    """Length of the user's text per part and, for the first labelled field, each value's share of its part."""
    import matplotlib.pyplot as plt

    field = next(iter(labels), None)
    figure, axes = plt.subplots(
        1, 2 if field else 1, figsize=(10 if field else 5.5, 3.6), squeeze=False, layout="constrained"
    )
    lengths = [[len(e.user_text) for e in dataset.part(part)] or [0] for part in PARTS]
    names = [f"{part}\nn={len(dataset.part(part))}" for part in PARTS]
    boxes = axes[0, 0].boxplot(
        lengths, orientation="horizontal", tick_labels=names, patch_artist=True, whis=(2.5, 97.5)
    )
    for box, median, part in zip(boxes["boxes"], boxes["medians"], PARTS, strict=True):
        box.set_facecolor(PART_COLOURS[part])
        median.set_color("black")
    axes[0, 0].invert_yaxis()
    axes[0, 0].set_xlabel("characters of the user's text (whiskers: 95% of rows)")
    if field:
        _shares(axes[0, 1], field, labels[field])
    for axis in axes[0]:
        axis.spines[["top", "right"]].set_visible(False)
    plt.close(figure)
    return figure


def _shares(axis: Any, field: str, parts: Mapping[str, Mapping[str, int]]) -> None:
    """Grouped bars: the share of every label within each part, the most frequent labels first."""
    totals: dict[str, int] = {}
    for counts in parts.values():
        for value, n in counts.items():
            totals[value] = totals.get(value, 0) + n
    values = sorted(totals, key=lambda v: -totals[v])[:MAX_BARS]
    for k, part in enumerate(PARTS):
        n = max(1, sum(parts[part].values()))
        at = [i + (k - 1) * 0.27 for i in range(len(values))]
        axis.bar(at, [parts[part].get(v, 0) / n for v in values], 0.25, label=part, color=PART_COLOURS[part])
    axis.set_xticks(range(len(values)), [v[:14] for v in values], rotation=0 if max(map(len, values)) <= 4 else 35)
    axis.set_ylabel("share of the part")
    more = f" (the {MAX_BARS} most frequent of {len(totals)})" if len(totals) > MAX_BARS else ""
    axis.set_title(f"{field}{more}", fontsize=10, loc="left")
    axis.legend(frameon=False, fontsize=9, ncols=3, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0)


def rejected_table(rejected: Iterable[RejectedExample], show_text: bool, each: int = 3) -> Styler:
    """A few rejected rows per code: where the row is, what was seen (masked), and what it matched."""
    shown: dict[str, int] = {}
    rows = []
    for row in sorted(rejected, key=lambda r: r.issues[0].code):
        issue = row.issues[0]
        shown[issue.code] = shown.get(issue.code, 0) + 1
        if shown[issue.code] > each:
            continue
        rows.append(
            {
                "code": issue.code,
                "row": f"{row.example['file']}:{row.example['line']}",
                "evidence": issue.evidence,
                "matched": issue.matched_id or "",
                "score": "" if issue.score is None else f"{issue.score:.2f}",
                "text": show.masked(row.example.get("excerpt") or "", show_text),
            }
        )
    return _whole(show.table(rows, f"Up to {each} rejected rows per code; rejected.jsonl holds them all"))


def review_table(review: Iterable[Mapping[str, str]], show_text: bool, rows: int = 10) -> Styler:
    """The first rows that a person should decide about."""
    short = [
        {
            "id": r["id"],
            "why": r["why"],
            "input": show.masked(r["input"], show_text),
            "output": show.masked(r["output"], show_text, 90),
        }
        for r in list(review)[:rows]
    ]
    return _whole(show.table(short, "For a person to decide", columns=["id", "why", "input", "output"]))
