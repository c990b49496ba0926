"""Rows that only a person can judge: labels that may be wrong, texts that may say the same.

Both need the extra `curate`; without it there are none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from helpers import models, tasks
from helpers.curate import LabelFunctions, Question
from helpers.records import TrainingExample, WorkbookError

MAX_RANKED = 20_000  # rows ranked for label errors and compared by meaning; more are a sample
OFTEN = 5  # rows that a label needs to be learnt
MEANING = 0.75  # cosine of a rephrased text with the same numbers
MEANING_ALONE = 0.85  # and where there are no numbers
CANDIDATES = 10  # closest texts looked at for each
CHUNK = 1000  # texts embedded at a time
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
Suspect = tuple[TrainingExample, str, float]  # a row, the field, and how good its label looks


def doubtful_labels(examples: Sequence[TrainingExample], labels: LabelFunctions) -> list[Question]:
    """The probable label errors as questions, worst first."""
    return [
        Question(example, f"{name} may be wrong (quality {quality:.2f})")
        for example, name, quality in rank_labels(examples, labels)
    ]


def rank_labels(examples: Sequence[TrainingExample], labels: LabelFunctions) -> list[Suspect]:
    """(example, field, quality) of probable label errors, worst first.

    cleanlab on out-of-fold ComplementNB chances: Northcutt et al. 2021, "Confident learning".
    Labels too rare to learn are left out.
    """
    try:
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores
    except ImportError:
        return []
    import numpy as np

    ranked = examples[:MAX_RANKED]
    suspects: list[Suspect] = []
    for name, label in labels.items():
        values = [label(example) for example in ranked]
        counts = Counter(values)
        learnable = [i for i, value in enumerate(values) if counts[value] >= OFTEN]
        _, classes = np.unique([values[i] for i in learnable], return_inverse=True)
        if len(classes) == 0 or classes.max() == 0:
            continue
        rows = [ranked[i] for i in learnable]
        chances = _out_of_fold_chances(rows, classes)
        quality = get_label_quality_scores(classes, chances)
        for i in np.flatnonzero(find_label_issues(classes, chances, n_jobs=1)):
            suspects.append((rows[i], name, float(quality[i])))
    return sorted(suspects, key=lambda suspect: suspect[2])


def _out_of_fold_chances(examples: Sequence[TrainingExample], classes: Any) -> Any:
    """(examples, classes) chances by a classifier that never saw the row."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.model_selection import cross_val_predict
    from sklearn.naive_bayes import ComplementNB

    texts = [tasks.normalise(example.user_text) or "-" for example in examples]
    words = TfidfVectorizer(
        ngram_range=(1, 2),
        sublinear_tf=True,
        # a text without any word, as of emoji alone, is one
        token_pattern=r"\b\w\w+\b|\A(?:\W|\b\w\b)+\Z",
    ).fit_transform(texts)
    return cross_val_predict(ComplementNB(alpha=0.3), words, classes, cv=5, method="predict_proba")


def close_in_meaning(examples: Sequence[TrainingExample]) -> list[Question]:
    """Train rows that may say in other words what a validation or test row says, closest first."""
    train = [*islice((e for e in examples if e.part == "train"), MAX_RANKED)]
    judged = [*islice((e for e in examples if e.part != "train"), MAX_RANKED // 4)]
    texts = [example.user_text for example in train]
    judged_texts = [example.user_text for example in judged]
    try:
        pairs = sorted(rephrased(texts, judged_texts), key=lambda pair: -pair[2])
    except WorkbookError:  # the extra `curate` is not installed
        return []
    return [
        Question(
            train[i], f"may rephrase {judged[j].part} row {judged[j].id} (cosine {cosine:.2f})"
        )
        for i, j, cosine in pairs
    ]


def rephrased(texts: Sequence[str], others: Sequence[str]) -> Iterator[tuple[int, int, float]]:
    """(i, j, cosine) of the text j of `others`, but itself, that each text may rephrase.

    Rephrasing keeps the numbers, and the same story with other numbers is another question: so
    texts with numbers must share half of them, and texts without must be closer. Chosen on GSM8K's
    even test rows (docs/decisions.md).
    """
    import numpy as np

    if not texts or not others:
        return
    vectors = models.embed(others)
    numbers = [set(_NUMBER.findall(text)) for text in others]
    for start in range(0, len(texts), CHUNK):
        chunk = texts[start : start + CHUNK]
        for i, cosines in enumerate(models.embed(chunk) @ vectors.T, start):
            own_numbers = set(_NUMBER.findall(texts[i]))
            best = np.argpartition(-cosines, min(CANDIDATES, len(others)) - 1)[:CANDIDATES]
            for j in best[np.argsort(-cosines[best])].tolist():
                close = cosines[j] >= _least_cosine(own_numbers, numbers[j])
                if close and texts[i] is not others[j]:
                    yield i, j, float(cosines[j])
                    break


def _least_cosine(numbers: set[str], others: set[str]) -> float:
    """How close two texts with these numbers must be to count as rephrased; inf: never."""
    if not numbers and not others:
        return MEANING_ALONE
    shares_half = len(numbers & others) * 2 >= len(numbers | others)
    return MEANING if shares_half else float("inf")
