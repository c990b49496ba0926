"""What 02 shows: where rows were lost, how the parts look, and why a row was left out."""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from helpers import show, store, tasks
from helpers.records import (
    PARTS,
    FineTuningDataset,
    FunnelRow,
    RejectedExample,
    SourceReading,
    WorkbookError,
)
from helpers.show.whatif import what_if

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
Counts = Mapping[str, Mapping[str, int]]  # part -> value -> rows
Labels = Mapping[str, Counts]  # of each field


def readings_table(readings: Iterable[SourceReading]) -> show.Table:
    """What was read, and how: each file, its columns, and what was reinterpreted."""
    rows = []
    for reading in readings:
        seen = [(f"{reading.rows} rows of {reading.source}", f"{reading.format}; {reading.form}")]
        seen += [(f"column {c.name}: {c.use}", c.how or "as it is") for c in reading.columns]
        seen += [(change, f"{n} rows") for change, n in reading.changes.items()]
        rows += [{"file": reading.file, "what": what, "how": how} for what, how in seen]
    return show.table(rows, "What was read, and how")


def funnel_table(funnel: Iterable[FunnelRow]) -> show.Table:
    """One row per stage and source: in = out + rejected, the rejected by their first code."""
    columns = {
        "source": "source",
        "stage": "stage",
        "in": "rows_in",
        "rejected": "losses",
        "out": "rows_out",
    }
    rows = sorted(funnel, key=lambda row: row.source)
    return show.table(rows, "Every row in, by source and stage", columns)


def funnel_figure(funnel: Sequence[FunnelRow]) -> show.Figure:
    """Rows left after each stage, one panel per source."""
    sources = sorted({row.source for row in funnel})
    size = (7.5, 0.9 + 1.9 * len(sources))
    figure, axes = show.subplots(len(sources), 1, figsize=size, squeeze=False)
    for axis, source in zip(axes[:, 0], sources, strict=True):
        rows = [row for row in funnel if row.source == source]
        left = [rows[0].rows_in, *(row.rows_out for row in rows)]
        axis.barh(["rows in the file", *STAGES], left, color=SOURCE_COLOURS[source])
        before = left[0]
        for y, n in enumerate(left):
            lost = f"  (−{before - n:,})" if before > n else ""
            axis.text(n, y, f" {n:,}{lost}", va="center")
            before = n
        axis.invert_yaxis()
        title = f"{source}: {left[0]:,} rows read, {left[-1]:,} kept"
        axis.set(xlim=(0, max(left) * 1.22 + 1), title=title)
    axes[-1, 0].set_xlabel("rows")
    return show.finished(figure)


def parts_table(dataset: FineTuningDataset) -> show.Table:
    """Rows, groups and sources per part."""
    rows = []
    for part in PARTS:
        examples = dataset.part(part)
        verified = sum(example.quality == "verified" for example in examples)
        rows.append(
            {
                "part": part,
                "rows": len(examples),
                "groups": len({example.group for example in examples}),
                "verified": verified,
                "unverified": len(examples) - verified,
            }
        )
    return show.table(rows, f"Dataset {dataset.metadata.version}")


def parts_figure(dataset: FineTuningDataset, labels: Labels) -> show.Figure:
    """Length of the user's text per part; for the first label, its values' shares of each part."""
    panels = 2 if labels else 1
    figure, axes = show.subplots(1, panels, figsize=(10, 3.6), squeeze=False)
    _draw_lengths(axes[0, 0], dataset)
    for field, parts in list(labels.items())[:1]:
        _draw_shares(axes[0, 1], field, parts)
    return show.finished(figure)


def _draw_lengths(axis: Any, dataset: FineTuningDataset) -> None:
    """A box for the lengths of every part."""
    texts = {part: [example.user_text for example in dataset.part(part)] for part in PARTS}
    lengths = [list(map(len, of_part)) or [0] for of_part in texts.values()]
    names = [f"{part}\nn={len(of_part)}" for part, of_part in texts.items()]
    boxes = axis.boxplot(
        lengths,
        tick_labels=names,
        orientation="horizontal",
        patch_artist=True,
        whis=(2.5, 97.5),
        medianprops={"color": "black"},
    )
    for box, part in zip(boxes["boxes"], PARTS, strict=True):
        box.set_facecolor(PART_COLOURS[part])
    axis.invert_yaxis()
    axis.set_xlabel("characters of the user's text (whiskers: 95% of rows)")


def _draw_shares(axis: Any, field: str, parts: Counts) -> None:
    """Grouped bars: the share of every label within each part, the most frequent labels first."""
    totals = Counter()
    for counts in parts.values():
        totals.update(counts)
    values = [value for value, _ in totals.most_common(MAX_BARS)]
    for k, part in enumerate(PARTS):
        n = max(1, sum(parts[part].values()))
        places = [i + (k - 1) * 0.27 for i in range(len(values))]
        shares = [parts[part].get(value, 0) / n for value in values]
        axis.bar(places, shares, 0.25, label=part, color=PART_COLOURS[part])
    names = [value[:14] for value in values]
    rotation = 0 if max(map(len, names)) <= 4 else 35
    axis.set_xticks(range(len(names)), names, rotation=rotation)
    axis.set_ylabel("share of the part")
    axis.set_title(f"{field} ({len(values)} of {len(totals)} values)")
    axis.legend(ncols=3, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0)


def rejected_table(
    rejected: Iterable[RejectedExample],
    show_text: bool,
    funnel: Iterable[FunnelRow] = (),
    each: int = 50,
) -> show.HTML:
    """Rejected rows, a fold per code: where each is, what was seen (masked), what it matched.

    `funnel` says how many there are of each code: of some stages only a sample is kept.
    """
    by_code = defaultdict(list)
    for row in rejected:
        issue = row.issues[0]
        by_code[issue.code].append(
            {
                "row": f"{row.example['file']}:{row.example['line']}",
                "id": row.example["id"],
                "evidence": issue.evidence,
                "matched": issue.matched_id,
                "score": issue.score,
                "text": show.masked(row.example.get("excerpt") or "", show_text),
            }
        )
    totals = Counter()
    for stage in funnel:
        totals.update(stage.rejected)
    folds = ""
    for code, rows in sorted(by_code.items()):
        title = f"{code}: {max(totals[code], len(rows)):,} rows, {len(rows):,} of them in"
        title += f" rejected.jsonl, {min(len(rows), each)} here"
        table = show.table(rows[:each]).to_html()
        folds += f"<details><summary>{escape(title)}</summary>{table}</details>"
    return show.html(folds or "Nothing was rejected.")


def review_table(
    review: Sequence[Mapping[str, str]], show_text: bool, rows: int = 10
) -> show.Table:
    """The first rows that a person should decide about."""
    shown = []
    for row in review[:rows]:
        asked = show.masked(row["input"], show_text)
        answer = show.masked(row["output"], show_text, 90)
        shown.append({"id": row["id"], "why": row["why"], "input": asked, "output": answer})
    return show.table(shown, "For a person to decide")


def review_editor(path: Path, rows: int = 10) -> Any:
    """review.csv as pages to decide in: keep, fix (with the right answer) or drop.

    Every decision is in the file as soon as it is signed: a kernel that restarts loses none.
    """
    if show.unattended():
        text = f"{path.name}: fill in `decision` and `reviewer`; the next run applies it."
        return show.note(text)
    editor = ReviewEditor(path, rows)
    return editor.widget if editor.lines else show.note("Nothing waits for a person to decide.")


class ReviewEditor:
    """The widget over one review.csv; rows that nobody touched here stay as they are."""

    def __init__(self, path: Path, per_page: int) -> None:
        import ipywidgets as w

        self.path = path
        self.per_page = per_page
        self.lines = self._read()
        self.first = 0  # row on top of the page
        self.unsaved = {}  # id -> what was decided here
        self.name = w.Text(description="your name", placeholder="signs your decisions")
        self.back = w.Button(description="Earlier rows", icon="arrow-left")
        self.further = w.Button(description="More rows", icon="arrow-right")
        self.message = w.HTML("Decide and sign: each decision is saved at once.")
        self.place = w.HTML()
        self.page = w.VBox()
        self.name.observe(lambda _: self.save(), "value")
        self.back.on_click(lambda _: self.turn(-per_page))
        self.further.on_click(lambda _: self.turn(per_page))
        buttons = w.HBox([self.back, self.further])
        self.widget = w.VBox([self.name, self.message, self.place, self.page, buttons])
        self.turn(0)

    def _read(self) -> list[dict[str, str]]:
        """The rows of the file, which a spreadsheet may have saved."""
        lines = []
        for number, row, _ in tasks.read_rows(self.path):
            if not isinstance(row, dict):
                raise WorkbookError(f"{self.path}, line {number}: {row}")
            lines.append({name: store.from_csv_cell(cell) for name, cell in row.items()})
        return lines

    def turn(self, by: int) -> None:
        """Show another page of rows."""
        self.first = max(0, min(self.first + by, len(self.lines) - 1))
        last = min(self.first + self.per_page, len(self.lines))
        self.back.disabled = self.first == 0
        self.further.disabled = last == len(self.lines)
        boxes = [self._row(number) for number in range(self.first, last)]
        self.page.children = boxes
        self.place.value = f"<b>Rows {self.first + 1} to {last} of {len(self.lines)}</b>"

    def _row(self, number: int) -> Any:
        import ipywidgets as w

        line = self.lines[number] | self.unsaved.get(self.lines[number]["id"], {})
        signed = f" · decided by {line['reviewer']}" if line["reviewer"] else ""
        title = f"Row {number + 1} of {len(self.lines)}: {line['why']}{signed}"
        text = w.HTML(f"<b>{escape(title)}</b><br>{escape(line['input'])}")
        decision = w.Dropdown(
            options=["", "keep", "fix", "drop"], value=line["decision"], description="decision"
        )
        shown = line["corrected_output"] or line["output"]
        answer = w.Textarea(
            value=shown,
            description="answer",
            rows=min(8, 2 + len(shown) // 80),
            layout=w.Layout(width="60em", max_width="100%"),
        )

        def decide(_: Any) -> None:
            correction = answer.value if decision.value == "fix" else ""
            changes = {"decision": decision.value, "corrected_output": correction}
            self.unsaved[line["id"]] = changes
            self.save()

        decision.observe(decide, "value")
        answer.observe(decide, "value")
        return w.VBox([text, w.HBox([decision, answer], layout=w.Layout(flex_flow="row wrap"))])

    def save(self) -> None:
        """Write what was decided here, signed; without a name, or a correction, say so."""
        name = self.name.value.strip()
        if self.unsaved and not name:
            return self.say(f"NOT saved yet: {len(self.unsaved)} decisions wait for your name.")
        self.lines = self._read()  # with what others decided meanwhile
        waiting = []
        for number, line in enumerate(self.lines):
            changes = self.unsaved.get(line["id"], {})
            answer = changes.get("corrected_output", "").strip()
            if changes.get("decision") == "fix" and answer in ("", line["output"].strip()):
                waiting.append(number + 1)
            elif changes:
                self.lines[number] = line | self.unsaved.pop(line["id"]) | {"reviewer": name}
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.lines[0]), lineterminator="\r\n")
        writer.writeheader()
        for line in self.lines:
            writer.writerow({column: store.as_csv_cell(cell) for column, cell in line.items()})
        store.write_text(self.path, text.getvalue())
        decided_rows = sum(bool(line["decision"]) for line in self.lines)
        said = f"Saved at {store.now():%H:%M:%S} UTC: {decided_rows} of {len(self.lines)} decided."
        if waiting:
            said += f" NOT saved: row {', '.join(map(str, waiting))}, `fix` needs the right answer."
        self.say(said)

    def say(self, text: str) -> None:
        """One line under the name."""
        again = "After a kernel restart run this cell again: what is saved comes back."
        self.message.value = f"{escape(text)} {again}"


def threshold_at(pairs: Sequence[Mapping[str, Any]]) -> Any:
    """How many pairs a threshold merges; `pairs` are explore.threshold_rows."""
    counts = {row["threshold"]: row["pairs"] for row in pairs}

    def follows(threshold: float) -> str:
        return f"pairs that are merged: {counts[threshold]:,}; one row of each is left out"

    return what_if("Another threshold", {"threshold": list(counts)}, [max(counts)], follows)
