"""The production log: which of its rows may teach, and how choosing by feedback bends the data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cache
from itertools import chain
from statistics import median

from helpers import tasks
from helpers.curate.config import DataCollectionConfig
from helpers.records import Issue, Rows, TrainingExample

Filter = Callable[[float | None, datetime, bool], Issue | None]  # score, time, is it guessed


def load_production(
    task: tasks.Task, config: DataCollectionConfig
) -> tuple[tasks.LoadedRows, list[str]]:
    """Production rows with enough feedback and inside the dates, and what to warn of.

    The others are counted, with a sample as evidence.
    """
    if not config.use_production:
        return tasks.LoadedRows(Rows(), [], Counter(), []), []
    from helpers.extras import lake

    selected = lake.select(task, *config.date_range, config.min_feedback_score)
    logs = tasks.load_examples(
        task,
        "production",
        make_filter=lambda rated: _filter_of(config, rated),
        path=selected and selected.path,
    )
    if selected:
        logs = logs._replace(dropped=logs.dropped + selected.dropped)
    if not (logs.examples or logs.dropped or logs.unreadable):
        return logs, ["no production rows: the dataset holds the human examples alone"]
    if logs.rated:
        return logs, []
    return logs, ["no production row carries feedback, so min_feedback_score could not be applied"]


def _filter_of(config: DataCollectionConfig, rated: bool) -> Filter:
    """Why a row is left out, by its score and time; scores count where any row is rated."""
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


def feedback_notes(kept: Sequence[TrainingExample], logs: tasks.LoadedRows) -> list[str]:
    """How the choice by feedback bends the data: ratings are no fair sample of the traffic.

    The scores are those of the readable rows and of the sample of those left out.
    """
    writers = Counter()
    for example in kept if logs.examples else ():
        if example.source == "production":
            writers[str(example.meta.get("model_version") or "unknown")] += 1
    if not writers:
        return ["No production rows were used."]
    seen = chain(logs.examples, (row for row, _ in logs.sample if isinstance(row, TrainingExample)))
    scores = [example.feedback_score for example in seen if example.feedback_score is not None]
    rows = len(logs.examples) + sum(logs.dropped.values())
    rating = ", none rated"
    if scores:
        rating = f" are used; the rated ones have a median score of {median(scores):g}"
    writer, n = writers.most_common(1)[0]
    used = writers.total()
    return [
        f"{used} of {rows} readable rows{rating}",
        f"{n / used:.0%} of the used answers were written by {writer}: what it gets wrong, a"
        " new model would learn",
    ]
