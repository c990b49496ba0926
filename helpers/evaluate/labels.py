"""One label at a time: what a good average hides where some labels are rare.

Precision: of the rows answered with a label, the share that has it. Recall: of the rows that have
it, the share answered with it. Macro-F1: the mean over labels of 2PR/(P + R), each counting alike.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from typing import NamedTuple

from helpers.evaluate.classical import LEAST_REPEATED, labels_of, repeated
from helpers.evaluate.running import Rows
from helpers.evaluate.scorers import strict_json
from helpers.evaluate.statistics import proportion
from helpers.records import Estimate, TrainingExample
from helpers.tasks import Task

MACRO = "macro-F1"
DRAWS = 400  # bootstrap resamples; the interval's ends move by less than a point beyond
OUTSIDE = re.compile(r"out.?of.?scope|\boos\b|^none$|^other$|^unknown$", re.I)
Pairs = list[tuple[str, str]]  # (gold label, answered label), as JSON texts


class LabelScore(NamedTuple):
    """How one label of a field is answered."""

    label: str
    rows: int  # that have it
    precision: Estimate
    recall: Estimate
    is_out_of_scope: bool  # by its name: what must not be taken for something else


class FieldScores(NamedTuple):
    """A field's labels, out of scope first and then the rarest, and their macro-F1."""

    field: str
    macro_f1: Estimate
    labels: list[LabelScore]


def label_scores(task: Task, examples: Sequence[TrainingExample], rows: Rows) -> list[FieldScores]:
    """Of every scored field that has labels; a text task of labels has one field, ""."""
    answered = {row.id: row.answer for row in rows}
    examples = [example for example in examples if example.id in answered]
    scores = []
    labels = labels_of(task, examples)
    for field in task.scored_fields or labels:
        gold = labels.get(field, [])
        if not gold or repeated(gold) < LEAST_REPEATED:
            continue
        answers = [_answered(field, answered[example.id]) for example in examples]
        pairs = list(zip(gold, answers, strict=True))
        scores.append(FieldScores(field, macro_f1(pairs), _scores(pairs)))
    return scores


def _answered(field: str, answer: str) -> str:
    if not field:
        return answer.strip()
    value = strict_json(answer)
    return json.dumps(value[field]) if value and field in value else ""


def _scores(pairs: Pairs) -> list[LabelScore]:
    scores = []
    for label in sorted({gold for gold, _ in pairs}):
        precision = proportion([float(gold == label) for gold, said in pairs if said == label])
        recall = proportion([float(said == label) for gold, said in pairs if gold == label])
        name = label.strip('"')
        outside = bool(OUTSIDE.search(name))
        scores.append(LabelScore(name, recall.n, precision, recall, outside))
    return sorted(scores, key=lambda score: (not score.is_out_of_scope, score.rows, score.label))


def macro_f1(pairs: Pairs) -> Estimate:
    """The mean F1 over the gold labels, with its percentile-bootstrap interval over rows."""
    labels = sorted({gold for gold, _ in pairs})
    rng = random.Random(0)
    draws = sorted(_macro(rng.choices(pairs, k=len(pairs)), labels) for _ in range(DRAWS))
    low = draws[int(0.025 * DRAWS)]
    high = draws[int(0.975 * DRAWS) - 1]
    value = _macro(pairs, labels)
    return Estimate(value=value, low=min(low, value), high=max(high, value), n=len(pairs))


def _macro(pairs: Pairs, labels: Sequence[str]) -> float:
    right = dict.fromkeys(labels, 0)
    total = dict.fromkeys(labels, 0)  # of gold and answers together: F1 = 2·right / total
    for gold, said in pairs:
        total[gold] += 1
        if said in total:
            total[said] += 1
        right[gold] += gold == said
    present = [label for label in labels if total[label]]
    return sum(2 * right[label] / total[label] for label in present) / max(1, len(present))
