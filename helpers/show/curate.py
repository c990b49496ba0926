"""What 02 shows: where rows were lost, how the parts look, and why a row was left out."""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers import show, store
from helpers.records import PARTS, FineTuningDataset, RejectedExample

if TYPE_CHECKING:
    from IPython.display import HTML
    from matplotlib.figure import Figure
    from pandas.io.formats.style import Styler

PART_COLOURS = {"train": "#0072B2", "validation": "#E69F00", "test": "#009E73"}
SOURCE_COLOURS = {"human": "#0072B2", "production": "#E69F00", "synthetic": "#CC79A7"}
STAGES = (
    "readable",
    "well rated, in time",
    "not dropped by a reviewer",
    "passed the checks",
    "no copy",
    "no leak",
)
MAX_BARS = 12


def funnel_table(funnel: Iterable[Mapping[str, Any]]) -> Styler:
    """One row per stage and source: in = out + rejected, with the rejected rows by their first code."""
    rows = []
    for row in sorted(funnel, key=lambda r: r["source"]):
        lost = ", ".join(f"{code} {n}" for code, n in row["rejected"].items()) or "-"
        rows.append(
            {key: row[key] for key in ("source", "stage", "in")}
            | {"rejected": lost, "out": row["out"]}
        )
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
        axis.set_title(
            f"{source}: {left[0]:,} rows read, {left[-1]:,} kept", fontsize=10, loc="left"
        )
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1, 0].set_xlabel("rows")
    plt.close(figure)
    return figure


def parts_table(dataset: FineTuningDataset) -> Styler:
    """Rows, groups and sources per part."""
    rows = []
    for part in PARTS:
        examples = dataset.part(part)
        groups, verified = (
            len({e.group for e in examples}),
            sum(e.quality == "verified" for e in examples),
        )
        counts = {"groups": groups, "verified": verified, "unverified": len(examples) - verified}
        rows.append({"part": part, "rows": len(examples), **counts})
    return show.table(rows, f"Dataset {dataset.metadata.version}")


def parts_figure(
    dataset: FineTuningDataset, labels: Mapping[str, Mapping[str, Mapping[str, int]]]
) -> Figure:
    """Length of the user's text per part and, for the first labelled field, each value's share of its part."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, 2 if labels else 1, figsize=(10, 3.6), squeeze=False, layout="constrained"
    )
    lengths = [[len(e.user_text) for e in dataset.part(part)] for part in PARTS]
    names = [f"{part}\nn={len(found)}" for part, found in zip(PARTS, lengths, strict=True)]
    look = {
        "orientation": "horizontal",
        "patch_artist": True,
        "whis": (2.5, 97.5),
        "medianprops": {"color": "black"},
    }
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
        axis.bar(
            at,
            [parts[part].get(v, 0) / n for v in values],
            0.25,
            label=part,
            color=PART_COLOURS[part],
        )
    axis.set_xticks(
        range(len(values)),
        [v[:14] for v in values],
        rotation=0 if max(map(len, values)) <= 4 else 35,
    )
    axis.set_ylabel("share of the part")
    more = f" (the {MAX_BARS} most frequent of {len(totals)})" if len(totals) > MAX_BARS else ""
    axis.set_title(f"{field}{more}", fontsize=10, loc="left")
    axis.legend(
        frameon=False,
        fontsize=9,
        ncols=3,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        borderaxespad=0,
    )


def rejected_table(rejected: Iterable[RejectedExample], show_text: bool, each: int = 50) -> HTML:
    """Rejected rows to browse, one fold per code: where the row is, what was seen (masked), and what it matched."""
    from IPython.display import HTML

    by_code: defaultdict[str, list[dict[str, str]]] = defaultdict(list)
    for row in rejected:
        issue, where = row.issues[0], f"{row.example['file']}:{row.example['line']}"
        score = "" if issue.score is None else f"{issue.score:.2f}"
        matched = {"evidence": issue.evidence, "matched": issue.matched_id or "", "score": score}
        text = show.masked(row.example.get("excerpt") or "", show_text)
        by_code[issue.code].append({"row": where, "id": row.example["id"], **matched, "text": text})
    folds = []
    for code, rows in sorted(by_code.items()):
        shown = f" (the first {each} here, all in rejected.jsonl)" if len(rows) > each else ""
        table = show.table(rows[:each]).to_html()
        folds.append(
            f"<details><summary>{escape(code)}: {len(rows)} rows{shown}</summary>{table}</details>"
        )
    return HTML("".join(folds) or "Nothing was rejected.")


def review_table(review: Sequence[Mapping[str, str]], show_text: bool, rows: int = 10) -> Styler:
    """The first rows that a person should decide about."""
    short = []
    for row in review[:rows]:
        texts = {
            "input": show.masked(row["input"], show_text),
            "output": show.masked(row["output"], show_text, 90),
        }
        short.append({"id": row["id"], "why": row["why"], **texts})
    return show.table(
        short, "For a person to decide" if short else "Nothing waits for a person to decide"
    )


def review_editor(path: Path, rows: int = 20) -> Any:
    """review.csv as a table to decide in: keep, fix (with the right answer) or drop; Save writes the file."""
    if store.headless():
        return show.note(
            f"{path.name}: fill in `decision` and `reviewer`; the next run applies it."
        )
    import ipywidgets as w

    lines = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    reviewer, save, said = w.Text(description="reviewer"), w.Button(description="Save"), w.Label()
    boxes, wide = [], w.Layout(width="28em")
    for line in lines[:rows]:
        texts = [
            w.HTML(f"<small>{escape(line[key])}</small>", layout=wide) for key in ("input", "why")
        ]
        decision = w.Dropdown(
            options=["", "keep", "fix", "drop"],
            value=line["decision"],
            layout=w.Layout(width="6em"),
        )
        boxes.append(
            (
                line,
                decision,
                w.Text(value=line["corrected_output"] or line["output"], layout=wide),
                texts,
            )
        )

    def write(_: Any) -> None:
        for line, decision, output, _texts in boxes:
            fixed = output.value if decision.value == "fix" else ""
            line |= {
                "decision": decision.value,
                "corrected_output": fixed,
                "reviewer": reviewer.value,
            }
        text = io.StringIO()
        writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        store.write_text(path, text.getvalue())
        said.value = f"saved: {sum(bool(d.value) for _, d, _, _ in boxes)} decisions"

    save.on_click(write)
    return w.VBox(
        [
            *(w.HBox([texts[0], d, o, texts[1]]) for _, d, o, texts in boxes),
            w.HBox([reviewer, save, said]),
        ]
    )


def map_figure(points: Sequence[tuple[float, float]], labels: Sequence[str]) -> Figure:
    """Texts in the plane of their two strongest word patterns, coloured by label."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for k, label in enumerate(sorted(set(labels))):
        x, y = zip(*(p for p, own in zip(points, labels, strict=True) if own == label), strict=True)
        axis.scatter(
            x,
            y,
            s=14,
            alpha=0.7,
            label=label,
            color=plt.cm.tab10(k % 10),
            marker="os^Dvx"[k // 10 % 6],
        )
    axis.set_xlabel("first direction")
    axis.set_ylabel("second direction")
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    axis.spines[["top", "right"]].set_visible(False)
    plt.close(figure)
    return figure
