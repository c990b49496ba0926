"""What notebooks/more/02_explore looks at: thresholds, quality against quantity."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from helpers import curate, tasks
from helpers.records import TrainingExample, WorkbookError

DRAWS = 20


def threshold_rows(
    examples: Sequence[TrainingExample], thresholds: Sequence[float], each: int = 2
) -> list[dict[str, Any]]:
    """For each threshold: how many pairs it merges, and the `each` least similar of them.

    They show whether it is too low.
    """
    texts = list(dict.fromkeys(tasks.normalise(example.user_text) for example in examples))
    similar, _ = curate.pairs_here(texts, [False] * len(texts), min(thresholds), 1.0)
    pairs = sorted((score, texts[i], texts[j]) for i, j, score in similar if i < j)
    rows: list[dict[str, Any]] = []
    for threshold in thresholds:
        merged = [pair for pair in pairs if pair[0] >= threshold]
        summary = {"threshold": threshold, "pairs": len(merged)}
        if not merged:
            rows.append(summary)
        for score, text, other in merged[:each]:
            rows.append(summary | {"jaccard": score, "one": text, "other": other})
    return rows


def field_to_learn(labels: curate.LabelFunctions) -> str:
    """The first label field; WorkbookError where a task's answers hold none."""
    if not labels:
        raise WorkbookError(
            "these answers hold no labels (free text, or numbers), so no classifier can be taught"
            " here: what follows in this notebook is for tasks with labels"
        )
    return next(iter(labels))


@dataclass(frozen=True)
class Exam:
    """The test rows of the comparison, and what labels a row."""

    examples: Sequence[TrainingExample]
    label: Callable[[TrainingExample], str]

    def mark(self, rows: Sequence[TrainingExample], labels: Sequence[str]) -> float:
        """Share of test rows that a simple text classifier gets right, learnt from these rows."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.naive_bayes import ComplementNB
        from sklearn.pipeline import make_pipeline

        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        model = make_pipeline(words, ComplementNB(alpha=0.3))
        model.fit([row.user_text for row in rows], labels)
        gold = [self.label(example) for example in self.examples]
        return float(model.score([example.user_text for example in self.examples], gold))


def learn(
    rows: Sequence[TrainingExample], n: int, wrong_share: float, exam: Exam
) -> dict[str, Any]:
    """What a simple text classifier gets right that learnt from n of the rows, over DRAWS draws.

    A share of the drawn labels is swapped for another one first. (ComplementNB on tf-idf words:
    seconds, not the hours that as many adapters would take, so it shows the trade, not your model's
    number.) Without rows nothing is learnt.
    """
    if not rows:
        return {"rows": 0, "wrong labels": wrong_share}
    known = sorted({exam.label(row) for row in rows})
    scores = []
    for seed in range(DRAWS):
        rng = random.Random(seed)
        drawn = rng.sample(list(rows), min(n, len(rows)))
        labels = []
        for row in drawn:
            label = exam.label(row)
            if rng.random() < wrong_share:
                label = rng.choice([value for value in known if value != label])
            labels.append(label)
        scores.append(exam.mark(drawn, labels))
    return {
        "rows": min(n, len(rows)),
        "wrong labels": wrong_share,
        "right": sum(scores) / DRAWS,
        "lowest": min(scores),
        "highest": max(scores),
    }
