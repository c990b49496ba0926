"""What 02 shows: where rows were lost, how the parts look, and why a row was left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from helpers import show
from helpers.records import PARTS, FineTuningDataset, RejectedExample

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas.io.formats.style import Styler

PART_COLOURS = {"train": "#0072B2", "validation": "#E69F00", "test": "#009E73"}
SOURCE_COLOURS = {"human": "#0072B2", "production": "#E69F00", "synthetic": "#CC79A7"}
STAGES = ("readable", "well rated, in time", "not dropped by a reviewer", "passed the checks", "no copy", "no leak")
MAX_BARS = 12


def funnel_table(funnel: Iterable[Mapping[str, Any]]) -> Styler:
    """One row per stage and source: in = out + rejected, with the rejected rows by their first code."""
    rows = []
    for row in sorted(funnel, key=lambda r: r["source"]):
        lost = ", ".join(f"{code} {n}" for code, n in row["rejected"].items()) or "-"
        rows.append({key: row[key] for key in ("source", "stage", "in")} | {"rejected": lost, "out": row["out"]})
    return show.table(rows, "Every row in, by source and stage")


def funnel_figure(funnel: Sequence[Mapping[str, Any]]) -> Figure:
    """Rows left after each stage, one panel per source."""
    import matplotlib.pyplot as plt

    sources = sorted({row["source"] for row in funnel})
    size = (7.5, 0.9 + 1.9 * len(sources))
    figure, axes = plt.subplots(len(sources), 1, figsize=size, squeeze=False, layout="constrained")
    for axis, source in zip(axes[:, 0], sources, strict=True):
        rows = [row for row in funnel if row["source"] == source]
        left = [rows[0]["in"], *(row["out"] for row in rows)]
        axis.barh(["rows in the file", *STAGES], left, color=SOURCE_COLOURS[source])
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
        groups, verified = len({e.group for e in examples}), sum(e.quality == "verified" for e in examples)
        counts = {"groups": groups, "verified": verified, "unverified": len(examples) - verified}
        rows.append({"part": part, "rows": len(examples), **counts})
    return show.table(rows, f"Dataset {dataset.metadata.version}")


def parts_figure(dataset: FineTuningDataset, labels: Mapping[str, Mapping[str, Mapping[str, int]]]) -> Figure:
    """Length of the user's text per part and, for the first labelled field, each value's share of its part."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2 if labels else 1, figsize=(10, 3.6), squeeze=False, layout="constrained")
    lengths = [[len(e.user_text) for e in dataset.part(part)] for part in PARTS]
    names = [f"{part}\nn={len(found)}" for part, found in zip(PARTS, lengths, strict=True)]
    look = {"orientation": "horizontal", "patch_artist": True, "whis": (2.5, 97.5), "medianprops": {"color": "black"}}
    boxes = axes[0, 0].boxplot([found or [0] for found in lengths], tick_labels=names, **look)
    for box, part in zip(boxes["boxes"], PARTS, strict=True):
        box.set_facecolor(PART_COLOURS[part])
    axes[0, 0].invert_yaxis()
    axes[0, 0].set_xlabel("characters of the user's text (whiskers: 95% of rows)")
    if labels:
        _shares(axes[0, 1], *next(iter(labels.items())))
    for axis in axes[0]:
        axis.spines[["top", "right"]].set_visible(False)
    plt.close(figure)
    return figure


def _shares(axis: Any, field: str, parts: Mapping[str, Mapping[str, int]]) -> None:
    """Grouped bars: the share of every label within each part, the most frequent labels first."""
    totals = sum((Counter(counts) for counts in parts.values()), Counter())
    values = [value for value, _ in totals.most_common(MAX_BARS)]
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
    shown: Counter[str] = Counter()
    rows = []
    for row in sorted(rejected, key=lambda r: r.issues[0].code):
        issue, where = row.issues[0], f"{row.example['file']}:{row.example['line']}"
        shown[issue.code] += 1
        if shown[issue.code] <= each:
            score = "" if issue.score is None else f"{issue.score:.2f}"
            matched = {"evidence": issue.evidence, "matched": issue.matched_id or "", "score": score}
            text = show.masked(row.example.get("excerpt") or "", show_text)
            rows.append({"code": issue.code, "row": where, **matched, "text": text})
    return show.table(rows, f"Up to {each} rejected rows per code; rejected.jsonl holds them all")


def review_table(review: Sequence[Mapping[str, str]], show_text: bool, rows: int = 10) -> Styler:
    """The first rows that a person should decide about."""
    short = []
    for row in review[:rows]:
        texts = {"input": show.masked(row["input"], show_text), "output": show.masked(row["output"], show_text, 90)}
        short.append({"id": row["id"], "why": row["why"], **texts})
    return show.table(short, "For a person to decide" if short else "Nothing waits for a person to decide")
