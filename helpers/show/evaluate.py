"""What 04 shows: the final comparison, the rows that flipped, and which labels are mixed up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from helpers import show, store
from helpers.records import AnswerRow, Evaluation, Finding, RungResult, TrainingExample
from helpers.show.decide import draw_scores

Rows = Sequence[AnswerRow]
MOST_FLIPS = 12  # in a table
MOST_LABELS = 20  # in a picture of counts
LEAST_REACH = 30.0  # points to each side in the picture of paired differences
TARGET_MET = {"pass": "yes", "fail": "no", "undecided": "undecided"}
CHANGED = {"pass": "better", "fail": "worse", "undecided": "unsure"}
THERE = {"fail": "YES", "pass": "no", "undecided": "unknown"}
RUNG_COLOURS = {"zero_shot": show.BASE, "fine_tuned": show.TUNED}
FLIP_COLOURS = {"lost": show.BAD, "gained": show.GOOD, "both wrong": show.BASE}
VERDICT_COLOURS = {"pass": show.GOOD, "fail": show.BAD, "inconclusive": show.UNSURE}


def comparison(evaluation: Evaluation, targets: Mapping[str, float]) -> show.Figure:
    """Base, best cheaper rung and tuned with intervals; below, the paired differences."""
    rungs = evaluation.rungs
    differences = dict(evaluation.comparison)
    for opponent, compared in evaluation.against.items():
        for metric, difference in compared.items():
            differences[f"{metric} against {opponent}"] = difference
    heights = [1.15 + 0.7 * len(rungs), 0.75 + 0.5 * len(differences)]
    figure, (scores, paired) = show.subplots(2, 1, height_ratios=heights)
    figure.set_size_inches(8.5, sum(heights) + 0.9)
    colours = [RUNG_COLOURS.get(rung.name, show.OTHER) for rung in rungs]
    draw_scores(scores, rungs, targets, colours)
    scores.set_title(f"Scores on the same {evaluation.n_test} test rows")
    _draw_differences(paired, evaluation, differences)
    figure.suptitle(
        f"Is {evaluation.version} good enough, and better? {evaluation.verdict}",
        x=0.01,
        ha="left",
        weight="bold",
    )
    return show.finished(figure)


def _draw_differences(
    axis: show.Axes, evaluation: Evaluation, differences: Mapping[str, Any]
) -> None:
    reach = LEAST_REACH
    for y, (label, compared) in enumerate(differences.items()):
        change = compared.difference
        value, low, high = (100 * share for share in (change.value, change.low, change.high))
        reach = max(reach, 1.2 * abs(low), 1.2 * abs(high))
        colour = "#555555"
        if label.startswith("accuracy"):
            colour = VERDICT_COLOURS[compared.verdict]
        axis.plot([low, high], [y, y], color=colour, lw=2.6, solid_capstyle="butt")
        axis.plot(value, y, "D", ms=8, color=colour)
        numbers = f"{value:+.0f} points [{low:+.0f}, {high:+.0f}]"
        text = f"{numbers}, {compared.gained} gained, {compared.lost} lost"
        box = {"fc": "white", "ec": "none", "pad": 1}
        axis.text(0, y - 0.2, text, ha="center", va="bottom", bbox=box)
    for threshold, line in {100 * evaluation.min_gain: "--", 0.0: "-"}.items():
        axis.axvline(threshold, color=show.TARGET, lw=1, ls=line, zorder=0)
    labels = []
    for label in differences:
        labels.append(label.replace("_", "\n", 1).replace(" against ", "\nagainst "))
    axis.set_yticks(range(len(labels)), labels)
    axis.set(xlim=(-reach, reach), ylim=(len(labels) - 0.5, -0.85))
    axis.set_title(f"Paired difference: fine_tuned minus {evaluation.best_rung}, row by row")
    axis.set_xlabel("points (right of the line: the tuned model is better), 95% interval")


def target_table(evaluation: Evaluation) -> show.Table:
    """Every target with the tuned model's estimate and whether the whole interval keeps it."""
    columns = {
        "metric": "name",
        "target": lambda finding: f"{finding.threshold:g}",
        "measured": "estimate",
        "met": lambda finding: TARGET_MET[finding.verdict],
    }
    caption = "Targets of task.yaml, decided by the bound of the interval"
    return show.table(evaluation.targets.values(), caption, columns)


def reason_table(evaluation: Evaluation) -> show.Table:
    """The verdict and every sentence it rests on."""
    return show.table(evaluation.reasons, f"04's verdict: {evaluation.verdict}", {"because": str})


def flip_table(
    evaluation: Evaluation,
    examples: Sequence[TrainingExample],
    tuned: Rows,
    other: Rows,
    show_text: bool,
) -> show.HTML:
    """Rows to open one by one: losses, then gains, then what both got wrong (masked headless)."""
    rung = evaluation.best_rung
    gold = {example.id: example for example in examples}
    theirs = {row.id: row for row in other}
    right = {row.id for row in (*tuned, *other) if row.scores.get("accuracy")}
    kinds = {row_id: kind for kind, ids in evaluation.flips.items() for row_id in ids}
    folds = {kind: [] for kind in FLIP_COLOURS}
    for row in tuned:
        kind = kinds.get(row.id, "both wrong")
        if row.id in right and row.id not in kinds:
            continue
        texts = {
            "asked": gold[row.id].user_text,
            "wanted": gold[row.id].answer,
            "tuned said": row.answer,
            f"{rung} said": theirs[row.id].answer,
        }
        folds[kind].append(_flip(kind, row, texts, show_text))
    counts = ", ".join(f"{len(rows)} {kind}" for kind, rows in folds.items())
    page = f"<p>Against {escape(rung)}: {counts}</p>"
    for rows in folds.values():
        page += "\n".join(rows[:MOST_FLIPS])
    return show.html(page)


def _flip(kind: str, row: AnswerRow, texts: Mapping[str, str], show_text: bool) -> str:
    """One row that opens on a click: its texts side by side."""
    shown = {name: show.masked(text, show_text, 2000) for name, text in texts.items()}
    square = f'<span aria-hidden="true" style="color:{FLIP_COLOURS[kind]}">■</span>'
    title = escape(f"{kind} · {row.id} · {shown['asked'][:90]}")
    body = _side_by_side(shown)
    if row.format_reason and show.may_show(show_text):
        body += escape(row.format_reason)
    return f"<details><summary>{square} {title}</summary>{body}</details>"


def _side_by_side(texts: Mapping[str, str]) -> str:
    """Each text under its name, in columns of one width."""
    style = f"{show.CELL};width:{100 // len(texts)}%"
    cells = ""
    for name, text in texts.items():
        cells += f'<td style="{style}"><b>{escape(name)}</b><br>{escape(text)}</td>'
    return f'<table style="width:100%"><tr>{cells}</tr></table>'


def slice_table(evaluation: Evaluation) -> show.Table:
    """Slices of the test rows, the worst first; p is corrected for looking at all (Holm)."""
    columns = {
        "slice": "name",
        "difference": "estimate",
        "rows": "evidence",
        "p, corrected": "p",
        "verdict": lambda finding: CHANGED[finding.verdict],
    }
    caption = (
        f"Tuned minus {evaluation.best_rung} by slice; intervals are of one slice alone, the"
        " verdict goes by p"
    )
    return show.table(evaluation.slices, caption, columns)


def learning_curve(rungs: Mapping[int, RungResult], targets: Mapping[str, float]) -> show.Figure:
    """Validation accuracy, with its interval, over the percent of rows that the model learnt."""
    figure, axis = show.subplots(figsize=(6.5, 3.6))
    colour = show.TUNED
    for percent, rung in rungs.items():
        score = rung.results.accuracy
        axis.plot([percent, percent], [score.low, score.high], color=colour)
        axis.plot(percent, score.value, "o", color=colour)
        axis.text(percent + 1, score.value, f"{100 * score.value:.0f}%")
    target = targets.get("accuracy")
    if target is not None:
        axis.axhline(target, color=show.TARGET, ls="--", label=f"target {target:.0%}")
        axis.legend()
    axis.set(xlim=(0, 108), ylim=(-0.03, 1.03), xticks=list(rungs), ylabel="accuracy")
    axis.set_xlabel("percent of the rows that a training takes")
    axis.set_title(f"Learning curve on {rung.n} validation rows, 95% intervals")
    return show.finished(figure)


def diagnosis_table(causes: Sequence[Finding]) -> show.Table:
    """Every usual cause, whether the evidence speaks for it, and what to do if it does."""
    columns = {
        "cause": show.name_of,
        "found": lambda cause: THERE[cause.verdict],
        "evidence": "evidence",
        "next": lambda cause: cause.remedy if cause.verdict == "fail" else None,
    }
    rows = sorted(causes, key=lambda cause: cause.verdict != "fail")
    return show.table(rows, "What the evidence speaks for (04_evaluate gives it)", columns)


def rating_table(
    evaluation: Evaluation,
    table: Sequence[Mapping[str, str]],
    run: store.Run,
    show_text: bool,
    write: Callable[..., Any],
) -> show.HTML | Any:
    """By hand, for tasks judged by people or a model: a blind A/B table whose clicks `write` keeps.

    It feeds no later cell: the next run of the notebook reads ratings.csv. Headless, and for other
    tasks, one sentence.
    """
    if evaluation.ratings is None:
        return show.note("A scorer decides this task, so there is nothing to rate.")
    rated = f"{evaluation.ratings.rated} answers are rated by {evaluation.ratings.by}"
    if show.unattended() or not show_text:
        return show.note(
            f"{rated}; to rate the others by hand, fill `choice` in {run.path('private/blind.csv')}"
            f" and save it as {run.path('private/ratings.csv')}"
        )
    import ipywidgets

    rows = [dict(row) for row in table]
    lines = [ipywidgets.HTML(f"<b>Which would you send as it is?</b> {rated}")]
    choices = [("open", ""), *((name, name) for name in ("A", "B", "both", "neither"))]
    for row in rows:

        def keep(change: Any, row: dict[str, str] = row) -> None:
            row["choice"] = change["new"]
            write(run.private / "ratings.csv", rows)

        buttons = ipywidgets.ToggleButtons(
            options=choices,
            value=row["choice"],
            description="better",
            style={"button_width": "70px"},
        )
        buttons.observe(keep, names="value")
        texts = {name: row[name] for name in ("asked", "A", "B")}
        lines += [ipywidgets.HTML(_side_by_side(texts)), buttons]
    return ipywidgets.VBox(lines)


def label_table(fields: Sequence[Any]) -> show.Table:
    """Each label's precision and recall, out of scope first, then the rarest; macro-F1 on top.

    `fields` are evaluate's FieldScores (rooms above show are not imported here).
    """
    rows = []
    for field in fields:
        name = field.field or "answer"
        rows.append({"label": f"{name}: macro-F1", "precision": field.macro_f1})
        for label in field.labels:
            shown = f"{label.label} (out of scope)" if label.is_out_of_scope else label.label
            rows.append({"label": shown, "precision": label.precision, "recall": label.recall})
    caption = "Label by label: each counts alike, however rare (95% intervals; n = rows)"
    return show.table(rows, caption, ["label", "precision", "recall"])


def confusion(fields: Sequence[Any], show_text: bool) -> show.Figure | show.HTML | show.Table:
    """Gold against answered labels of the first of evaluate's FieldScores; of many, a table.

    An answer that is no label is shown by hand alone, and while such columns are few.
    """
    if not fields:
        return show.note("No scored field has labels, so there is nothing to mix up.")
    counts = Counter(fields[0].pairs)
    labels = {gold for gold, _ in counts}
    columns = labels | {said for _, said in counts}
    if not show.may_show(show_text) or len(labels) <= MOST_LABELS < len(columns):
        pairs = [
            (gold, said if said in labels else "(none of these)") for gold, said in fields[0].pairs
        ]
        counts = Counter(pairs)
    right = sum(n for (gold, said), n in counts.items() if gold == said)
    title = f"{fields[0].field or 'answer'}: {right} of {counts.total()} right"
    return _matrix(title, counts) if len(labels) <= MOST_LABELS else _mistakes(title, counts)


def _mistakes(title: str, counts: Counter[tuple[str, str]]) -> show.Table:
    mistakes = []
    for (gold, said), n in counts.most_common():
        if gold != said:
            mistakes.append({"gold": gold, "answered": said[:80], "rows": n})
    return show.table(mistakes[:MOST_LABELS], f"{title}; most frequent mistakes")


def _matrix(title: str, counts: Counter[tuple[str, str]]) -> show.Figure:
    labels = sorted({gold for gold, _ in counts})
    columns = labels + sorted({answered for _, answered in counts} - set(labels))
    width = 2.4 + 0.55 * len(columns)
    height = 1.8 + 0.45 * len(labels)
    figure, axis = show.subplots(figsize=(width, height))
    shades = [[counts[gold, answered] for answered in columns] for gold in labels]
    most = 2 * max(counts.values())  # no shade so dark that black is not read on it
    axis.imshow(shades, cmap="Blues", vmin=0, vmax=most, aspect="auto")
    for (gold, answered), n in counts.items():
        x = columns.index(answered)
        y = labels.index(gold)
        axis.text(x, y, n, ha="center", va="center")
    names = [show.shortened(column, 14) for column in columns]
    axis.set_xticks(range(len(columns)), names, rotation=45, ha="right")
    names = [show.shortened(label, 30) for label in labels]
    axis.set_yticks(range(len(labels)), names)
    axis.set(xlabel="answered", ylabel="gold", title=title)
    return show.finished(figure)
