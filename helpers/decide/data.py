"""What 01 looks at in the rows before any training is paid for: copies, leaks, and wrong labels.

A cross-validated classifier (TF-IDF, logistic regression) tells each row's label from the others.
Where it is surest it should be right: errors of a hard task lie where it is unsure, wrong labels
lie anywhere. So the share of given labels that it contradicts in its surest rows estimates the
share of wrong labels (confident learning: Northcutt, Jiang & Chuang, JAIR 2021, 70:1373-1411).
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from typing import Any

from helpers import curate, evaluate, models
from helpers.records import Finding, TrainingExample, WorkbookError
from helpers.tasks import Task

SUREST = 3  # the surest 1 in 3 rows of each predicted label
FEWEST_ROWS = 100
FEWEST_OF_LABEL = 5  # rows; rarer labels are left out
FOLDS = 5
NEARLY = 1e-3  # of convergence: half of the time, and the same rows but for one in a hundred
NOISY = 0.15  # surely more wrong labels than this: mend them first
LEAST_SKILL = 0.25  # of the way from guessing to perfect; below, words do not tell the labels
REMEDY = "fix labels first: look at the rows that 02's review lists, and label them again"


def without_leaks(
    task: Task, examples: Sequence[TrainingExample]
) -> tuple[list[TrainingExample], str]:
    """(the examples without verified copies and leaks, by 02's rule; what was left out, in words).

    WorkbookError where no validation rows are left.
    """
    verified = [example for example in examples if example.quality == "verified"]
    stage = curate.deduplicate_examples(verified, curate.label_of(task, verified))
    codes = Counter(row.issues[0].code for row in stage.rejected)
    named = ", ".join(f"{n} {code}" for code, n in sorted(codes.items()))
    lost = f"{len(stage.rejected)} of {len(verified)} verified rows"
    if not any(example.part == "validation" for example in stage.kept):
        raise WorkbookError(
            f"no validation rows are left: {lost} were left out by {named or 'any rule'}; add"
            " verified rows that are no near copies of others, or give validation a larger share"
            " in split_ratios"
        )
    if not stage.rejected:
        return list(examples), ""
    left_out = f"{lost} left out as copies or leaks: {named} (02 checks more)"
    kept = {example.id for example in stage.kept}
    return [e for e in examples if e.quality != "verified" or e.id in kept], left_out


def label_noise(task: Task, examples: Sequence[TrainingExample]) -> list[Finding]:
    """A finding per scored field that has labels: fail where they are surely noisy.

    Verified rows of train and validation alone; the test part is left alone.
    """
    rows = [e for e in examples if e.quality == "verified" and e.part in ("train", "validation")]
    if task.accuracy_from in ("judge", "human") or len(rows) < FEWEST_ROWS:
        return []
    fields = [(name, tuple(labels)) for name, labels in evaluate.label_fields(task, rows).items()]
    return _noise_of_each(tuple(models.question(e.messages) for e in rows), tuple(fields))


@functools.lru_cache(maxsize=1)  # the verdict and its what-if table ask about the same rows
def _noise_of_each(
    texts: tuple[str, ...], fields: tuple[tuple[str, tuple[str, ...]], ...]
) -> list[Finding]:
    features = evaluate.vectoriser().fit_transform(texts)
    findings = [noise_of(name, features, values) for name, values in fields]
    return [finding for finding in findings if finding is not None]


def noise_of(name: str, features: Any, labels: Sequence[str]) -> Finding | None:
    """What the surest rows say of one field; None where too few rows share their labels.

    `features` is a sparse matrix (rows, words); `labels` has a label a row.
    """
    import numpy

    counts = Counter(labels)
    places = [i for i, label in enumerate(labels) if counts[label] >= FEWEST_OF_LABEL]
    given = numpy.array([labels[i] for i in places])
    if len(places) < FEWEST_ROWS or len(set(given)) < 2:
        return None
    predicted, sureness = _out_of_fold(features[places], given)
    surest: list[int] = []
    for label in sorted(set(predicted)):
        own = numpy.flatnonzero(predicted == label)
        own = own[numpy.argsort(-sureness[own], kind="stable")]
        surest += own[: -(-len(own) // SUREST)].tolist()
    wrong = evaluate.proportion([float(given[i] != predicted[i]) for i in surest])
    chance = max(counts.values()) / len(labels)
    skill = (1 - wrong.value - chance) / (1 - chance)
    what = f"field {name}" if name else "the answers"
    if skill < LEAST_SKILL:
        verdict, evidence = "undecided", f"{what}: the words alone do not tell the labels"
    else:
        verdict = "fail" if wrong.low > NOISY else "pass"
        evidence = (
            f"{what}: about {wrong.value:.0%} of the labels are wrong"
            f" [{wrong.low:.0%}, {wrong.high:.0%}], by {wrong.n} rows of which a cross-validated"
            " classifier is surest"
        )
    return Finding(
        name=f"label_noise_{name or 'answer'}",
        verdict=verdict,
        evidence=evidence,
        remedy=REMEDY,
        estimate=wrong,
        threshold=NOISY,
    )


def _out_of_fold(features: Any, given: Any) -> tuple[Any, Any]:
    """(predicted label, its probability) of each row, by models that did not see it."""
    import numpy
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    model = LogisticRegression(C=1, tol=NEARLY, max_iter=evaluate.CONVERGED)
    chances = cross_val_predict(model, features, given, cv=folds, method="predict_proba")
    classes = numpy.unique(given)  # in the order of the columns
    return classes[chances.argmax(axis=1)], chances.max(axis=1)
