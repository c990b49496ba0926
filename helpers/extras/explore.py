"""What notebooks/more/02_explore looks at: thresholds, a map of the texts, and quality against quantity."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from helpers import tasks
from helpers.curate.duplicates import similar
from helpers.records import TrainingExample

DRAWS = 20


def threshold_rows(
    examples: Sequence[TrainingExample], thresholds: Sequence[float], each: int = 2
) -> list[dict[str, Any]]:
    """For each threshold: how many pairs it merges, and the least similar of them, which show whether it is too low."""
    texts = list(dict.fromkeys(tasks.normalise(e.user_text) for e in examples))
    pairs = sorted(
        (s, texts[i], texts[j]) for i, j, s in similar(texts, texts, min(thresholds)) if i < j
    )
    rows = []
    for threshold in thresholds:
        merged = [pair for pair in pairs if pair[0] >= threshold]
        shown = {"threshold": threshold, "pairs": len(merged)}
        rows += [shown | {"jaccard": s, "one": a, "other": b} for s, a, b in merged[:each]] or [
            shown
        ]
    return rows


def positions(texts: Sequence[str]) -> list[tuple[float, float]]:
    """Two coordinates per text: truncated SVD of its tf-idf words (Deerwester et al. 1990)."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(sublinear_tf=True, stop_words="english").fit_transform(texts)
    points = TruncatedSVD(3, random_state=7).fit_transform(
        words
    )  # the first direction is only the length
    return [(float(x), float(y)) for x, y in points[:, 1:]]


def learnt(
    rows: Sequence[TrainingExample],
    n: int,
    wrong: float,
    test: Sequence[TrainingExample],
    label: Any,
) -> dict[str, Any]:
    """Share of test rows that a simple text classifier gets right, learnt from n of the rows, over DRAWS random draws.

    A share `wrong` of the drawn labels is swapped for another one first. (ComplementNB on tf-idf words: seconds, not the
    hours that as many adapters would take, so it shows the trade, not your model's number.)
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.naive_bayes import ComplementNB
    from sklearn.pipeline import make_pipeline

    scores, known = [], sorted({label(e) for e in rows})
    for seed in range(DRAWS):
        rng = random.Random(seed)
        drawn = rng.sample(list(rows), min(n, len(rows)))
        given = [
            rng.choice([v for v in known if v != label(e)]) if rng.random() < wrong else label(e)
            for e in drawn
        ]
        model = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), ComplementNB(alpha=0.3)
        )
        guesses = model.fit([e.user_text for e in drawn], given).predict(
            [e.user_text for e in test]
        )
        scores.append(
            sum(guess == label(e) for guess, e in zip(guesses, test, strict=True)) / len(test)
        )
    scores.sort()
    return {
        "rows": len(drawn),
        "wrong labels": wrong,
        "right": sum(scores) / DRAWS,
        "lowest": scores[0],
        "highest": scores[-1],
    }
