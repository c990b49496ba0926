"""The production log: which of its rows may teach, and how choosing them by feedback bends the data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cache
from statistics import median

from helpers import tasks
from helpers.curate.config import DataCollectionConfig
from helpers.curate.labels import MAX_VALUES, scored_values
from helpers.records import Issue, Record, TrainingExample

Filter = Callable[[float | None, datetime, bool], Issue | None]  # score, time, is it guessed


class FeedbackReport(Record):
    """Who is rated, and how much was written by which model; lengths are medians of characters."""

    rows: int = 0  # readable rows of the log
    used: int = 0
    written_by: dict[str, int] = {}
    median_length_rated: float | None = None
    median_length_unrated: float | None = None
    notes: list[str] = ["No production rows were used."]


def load_production(
    task: tasks.Task, config: DataCollectionConfig
) -> tuple[tasks.LoadedRows, list[str]]:
    """Production rows with enough feedback and inside the dates, and what to warn of.

    The others are counted, with a sample as evidence.
    """
    if not config.use_production:
        return tasks.LoadedRows([], [], [], Counter(), []), []
    rated = tasks.has_feedback(task)
    logs = tasks.load_examples(task, "production", _filter_of(config, rated))
    if not (logs.examples or logs.dropped or logs.unreadable):
        return logs, ["no production rows: the dataset holds the human examples alone"]
    if not rated:
        return logs, [
            "no production row carries feedback, so min_feedback_score could not be applied"
        ]
    return logs, []


def _filter_of(config: DataCollectionConfig, rated: bool) -> Filter:
    """Why a row is left out, by its score and time; without any rated row scores are not looked at."""
    least = config.min_feedback_score if rated else 0
    start, end = config.date_range

    @cache  # a log has millions of rows and five scores
    def low_feedback(score: float | None) -> Issue:
        rating = "not rated" if score is None else f"score {score:g}"
        evidence = f"{rating}; wanted at least {least:g}"
        return Issue(code="low_feedback", evidence=evidence, score=score)

    def issue_of(score: float | None, created_at: datetime, guessed: bool) -> Issue | None:
        if least > 0 and (score is None or score < least):
            return low_feedback(score)
        if (start and created_at < start) or (end and created_at > end):
            note = " (the file's date: the row has none)" if guessed else ""
            evidence = f"created {created_at.isoformat()}{note}"
            return Issue(code="out_of_date_range", evidence=evidence)
        return None

    return issue_of


def feedback_report(
    kept: Sequence[TrainingExample], logs: tasks.LoadedRows, task: tasks.Task
) -> FeedbackReport:
    """How the choice by feedback bends the data.

    Rated and unrated rows are compared on the readable rows and the sample of those left out.
    """
    used = [example for example in kept if example.source == "production"]
    if not used:
        return FeedbackReport()
    seen = list(logs.examples)
    for row, _ in logs.sample:
        if isinstance(row, TrainingExample):
            seen.append(row)
    rated = [example for example in seen if example.feedback_score is not None]
    unrated = [example for example in seen if example.feedback_score is None]
    writers = Counter(str(example.meta.get("model_version") or "unknown") for example in used)
    rows = len(logs.examples) + sum(logs.dropped.values())
    report = FeedbackReport(
        rows=rows,
        used=len(used),
        written_by=dict(writers.most_common()),
        notes=_notes(rows, rated, writers),
    )
    if not (rated and unrated):
        return report
    rated_length = median(len(example.user_text) for example in rated)
    unrated_length = median(len(example.user_text) for example in unrated)
    comparison = (
        f"rated messages have a median of {rated_length:g} characters,"
        f" unrated ones {unrated_length:g}"
    )
    notes = [*report.notes, comparison, *_widest_gap(task, rated, unrated)]
    return report.model_copy(
        update={
            "median_length_rated": rated_length,
            "median_length_unrated": unrated_length,
            "notes": notes,
        }
    )


def _notes(rows: int, rated: Sequence[TrainingExample], writers: Counter[str]) -> list[str]:
    used = writers.total()
    rating = f"{used} of {rows} readable rows, none rated"
    if rated:
        score = median(example.feedback_score for example in rated)
        rating = (
            f"{used} of {rows} readable rows are used; the rated ones have a median score of"
            f" {score:g}"
        )
    [(writer, n)] = writers.most_common(1)
    return [
        rating,
        f"{n / used:.0%} of the used answers were written by {writer}: what it gets wrong, a new"
        " model would learn",
    ]


def _widest_gap(
    task: tasks.Task, rated: Sequence[TrainingExample], unrated: Sequence[TrainingExample]
) -> list[str]:
    """The label whose share differs most between rated and unrated rows, in words; [] for free text."""
    shares = _label_shares(task, rated)
    others = _label_shares(task, unrated)
    gaps = {label: shares[label] - others[label] for label in shares | others}
    if not gaps or len(gaps) > MAX_VALUES * len(task.scored_fields):
        return []
    (name, value), gap = max(gaps.items(), key=lambda item: (abs(item[1]), item[0]))
    direction = "more" if gap > 0 else "fewer"
    return [
        f"the widest gap: {name} {value} stands in {abs(gap):.0%} of the rows {direction} than among"
        " the unrated; ratings are no fair sample of the traffic"
    ]


def _label_shares(
    task: tasks.Task, examples: Sequence[TrainingExample]
) -> Counter[tuple[str, str]]:
    """(field, value) -> share of the rows."""
    shares: Counter[tuple[str, str]] = Counter()
    for example in examples:
        for name, value in scored_values(task, example).items():
            shares[name, str(value)] += 1
    for label, n in shares.items():
        shares[label] = n / len(examples)
    return shares
