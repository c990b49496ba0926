"""A rule that removes most of a source, or of a label: far more often wrong than such bad data."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from helpers import tasks
from helpers.curate.labels import label_counts, label_functions
from helpers.curate.stages import NO_ANSWER
from helpers.records import FunnelRow, RejectedExample, TrainingExample, WorkbookError, chosen

SOURCE_FILTERS = ("low_feedback", "out_of_date_range")  # choices, no faults of the data
COPIES = ("exact_duplicate", "near_duplicate", "potential_leakage")
NO_LOSS = (*SOURCE_FILTERS, *COPIES)  # say nothing about a label
ALARM_ROWS = 10  # a source, or a label, of fewer rows raises no alarm
FEW_TEST_ROWS = 5  # of a label: losing fewer says nothing
REMEDIES = {"contains_pii": " (codes are allowed in task.yaml: `allow: {order_number: 'REGEX'}`)"}


def alarm_on_wipeout(
    funnel: Sequence[FunnelRow], rejected: Sequence[RejectedExample], share: float
) -> None:
    """Stop when one rule removes more than `share` of a source."""
    entered = {}
    for row in funnel:
        if row.source == "synthetic":  # most of what a weak model makes up may be refused
            continue
        if row.stage in ("read", "check"):  # what the source filters leave out does not count
            entered[row.source] = row.rows_in
        n = entered[row.source]
        for code, lost in row.rejected.items():
            if code in SOURCE_FILTERS or n < ALARM_ROWS or lost <= share * n:
                continue
            place = (row.stage, row.source, code)
            seen = next(
                r for r in rejected if (r.stage, r.example["source"], r.issues[0].code) == place
            )
            loss = f"{code} would remove {lost} of {n} {row.source} rows ({lost / n:.0%})"
            raise _alarm(loss, seen)


def alarm_on_lost_labels(
    task: tasks.Task,
    placed: Sequence[TrainingExample],
    rejected: Sequence[RejectedExample],
    share: float,
) -> None:
    """Stop when one rule removes more than `share` of a label's human rows, or all its test rows.

    A rule that is wrong for one label alone is lost in the sums over a source.
    """
    of_id = {row.example["id"]: row for row in rejected if row.issues[0].code not in NO_LOSS}
    if share >= 1 or not of_id:
        return
    human = chosen(placed, lambda example: example.source == "human")
    values = label_functions(task, label_counts(task, human))
    rows = Counter()  # of a label, and of it in a part
    losses = defaultdict(list)  # (label, code) -> the part of each lost row, and why it is
    for example in human:
        for name, value_of in values.items():
            label = f"{value_of(example)!r} of {name}"
            rows.update([label, (label, example.part)])
            if example.id in of_id:
                row = of_id[example.id]
                losses[label, row.issues[0].code].append((example.part, row))
    for (label, code), lost in losses.items():
        n_test = sum(part == "test" for part, _ in lost)
        loses = ""
        if len(lost) > share * rows[label]:
            loses = f"{len(lost)} of its {rows[label]} rows"
        elif n_test == rows[label, "test"] >= FEW_TEST_ROWS:
            loses = f"all of its {n_test} test rows"
        if loses and rows[label] >= ALARM_ROWS:
            raise _alarm(f"the label {label[:40]} would lose {loses} to {code}", lost[0][1])


def _alarm(loss: str, seen: RejectedExample) -> WorkbookError:
    """The error about what one rule removes, with one of its rows and the remedy."""
    issue = seen.issues[0]
    remedy = REMEDIES.get(issue.code, "")
    if NO_ANSWER in issue.evidence:
        remedy = ": give these rows an answer, or delete them"
    return WorkbookError(
        f"{loss}, for example {seen.example['file']}, line {seen.example['line']}:"
        f" {issue.evidence}; mend the data or the rule{remedy}, or leave these rows out with"
        " wipeout_share=1"
    )
