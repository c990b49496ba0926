"""One label at a time: what a good average hides where some labels are rare.

Precision: of the rows answered with a label, the share that has it. Recall: of the rows that have
it, the share answered with it. Macro-F1: the mean over labels of 2PR/(P + R), each counting alike.
"""

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain, compress
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
    answered = {row.id: row for row in rows}
    examples = [example for example in examples if example.id in answered]
    scores = []
    labels = labels_of(task, examples)
    for field in task.scored_fields or labels:
        gold = labels.get(field, [])
        if not gold or repeated(gold) < LEAST_REPEATED:
            continue
        answers = [_answered(field, answered[example.id].answer) for example in examples]
        pairs = list(zip(gold, answers, strict=True))
        groups = [answered[example.id].group for example in examples]
        scores.append(FieldScores(field, macro_f1(pairs, groups), _scores(pairs, groups)))
    return scores


def _answered(field: str, answer: str) -> str:
    if not field:
        return answer.strip()
    value = strict_json(answer)
    return json.dumps(value[field]) if value and field in value else ""


def _scores(pairs: Pairs, groups: Sequence[str]) -> list[LabelScore]:
    scores = []
    for label in sorted({gold for gold, _ in pairs}):
        is_gold = [gold == label for gold, _ in pairs]
        is_said = [said == label for _, said in pairs]
        precision = _share_of(is_gold, is_said, groups)
        recall = _share_of(is_said, is_gold, groups)
        name = label.strip('"')
        outside = bool(OUTSIDE.search(name))
        scores.append(LabelScore(name, recall.n, precision, recall, outside))
    return sorted(scores, key=lambda score: (not score.is_out_of_scope, score.rows, score.label))


def _share_of(hits: Sequence[bool], among: Sequence[bool], groups: Sequence[str]) -> Estimate:
    """The share of hits among some of the rows, whose groups count as clusters."""
    chosen = list(compress(zip(hits, groups, strict=True), among))
    return proportion([float(hit) for hit, _ in chosen], [group for _, group in chosen])


def macro_f1(pairs: Pairs, groups: Sequence[str]) -> Estimate:
    """The mean F1 over the gold labels, with its percentile-bootstrap interval over groups."""
    labels = sorted({gold for gold, _ in pairs})
    clusters: dict[str, Pairs] = defaultdict(list)
    for pair, group in zip(pairs, groups, strict=True):
        clusters[group].append(pair)
    rng = random.Random(0)
    draws = []
    for _ in range(DRAWS):
        drawn = rng.choices(list(clusters.values()), k=len(clusters))
        draws.append(_macro(list(chain(*drawn)), labels))
    draws.sort()
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
