"""Where a good average hides a loss: in parts of the test rows, and in rare labels.

Precision: of the rows answered with a label, the share that has it. Recall: of the rows that have
it, the share answered with it. Macro-F1: the mean over labels of 2PR/(P + R), each counting alike.
"""

from __future__ import annotations

import random
import re
import statistics as python_statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain, compress
from typing import NamedTuple

from helpers import store
from helpers.evaluate import equality, statistics
from helpers.evaluate.classical import label_fields, spelled
from helpers.evaluate.compare import Pair, scores_of
from helpers.evaluate.running import Rows
from helpers.evaluate.scorers import Examples, strict_json
from helpers.records import AnswerRow, Estimate, Finding
from helpers.redaction import find_personal_data
from helpers.tasks import Task

MIN_ROWS = 10  # in smaller ones nothing could be shown, and each look costs the others some power
DRAWS = 400  # bootstrap resamples; the interval's ends move by less than a point beyond
OUTSIDE = re.compile(r"out.?of.?scope|\boos\b|^none$|^other$|^unknown$", re.I)
Texts = Sequence[str]
Pairs = list[tuple[str, str]]  # (gold label, answered label), as JSON texts


def slices_of(task: Task, examples: Examples) -> dict[str, set[str]]:
    """slice -> ids: every gold label of a field, and long or short questions."""
    if not examples:
        return {}
    slices = defaultdict(set)
    middle = python_statistics.median([len(example.user_text) for example in examples])
    for example in examples:
        length = "longer" if len(example.user_text) > middle else "shorter"
        slices[f"{length} questions"].add(example.id)
    for field, labels in label_fields(task, examples).items():
        names = _names(task, field, labels)
        for example, label in zip(examples, labels, strict=True):
            slices[f"{field or 'answer'} = {names[label]}"].add(example.id)
    return {
        name: ids for name, ids in sorted(slices.items()) if MIN_ROWS <= len(ids) < len(examples)
    }


def compare_slices(task: Task, examples: Examples, pairs: Sequence[Pair]) -> list[Finding]:
    """Every slice's paired difference in accuracy, worst first; pass: surely better, fail: worse.

    The interval is of the slice alone; the verdict goes by p, corrected for all slices (Holm).
    """
    compared = []
    for name, ids in slices_of(task, examples).items():
        scores = scores_of([pair for pair in pairs if pair[0].id in ids], "accuracy")
        if not scores[0]:
            continue
        difference, gained, lost = statistics.paired_difference(*scores)
        p = statistics.paired_p(*scores)
        compared.append((name, f"{gained} gained, {lost} lost", difference, p))
    corrected = statistics.holm([p for *_, p in compared])
    findings = []
    for (name, evidence, difference, _), p in zip(compared, corrected, strict=True):
        verdict = "undecided"
        if p <= 1 - statistics.LEVEL:
            verdict = "pass" if difference.value > 0 else "fail"
        findings.append(
            Finding(name=name, verdict=verdict, evidence=evidence, estimate=difference, p=p)
        )
    return sorted(findings, key=lambda finding: (finding.estimate.value, finding.name))


# --- labels ---------------------------------------------------------------------------------------


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
    pairs: Pairs  # of every row


def label_scores(task: Task, examples: Examples, rows: Rows) -> list[FieldScores]:
    """Of every scored field that has labels; a text task of labels has one field, ""."""
    answered = {row.id: row for row in rows}
    examples = [example for example in examples if example.id in answered]
    rows = [answered[example.id] for example in examples]
    groups = [row.group for row in rows]
    scores = []
    for field, gold in label_fields(task, examples).items():
        said = [_said(field, row, label) for row, label in zip(rows, gold, strict=True)]
        pairs = list(zip(gold, said, strict=True))
        names = _names(task, field, gold)
        labels = _scores(pairs, groups, names)
        named = [(names[label], names.get(answer, answer)) for label, answer in pairs]
        scores.append(FieldScores(field, macro_f1(pairs, groups), labels, named))
    return scores


def _said(field: str, row: AnswerRow, gold: str) -> str:
    """The label that an answer gives: as gold spells it where the scorer takes it for the same."""
    if row.scores.get(f"field_{field}" if field else "accuracy") == 1:
        return gold
    if not field:
        return row.answer.strip() or "(empty)"
    value = strict_json(row.answer)
    return "(no JSON)" if value is None else spelled(value, field)


def _names(task: Task, field: str, labels: Texts) -> dict[str, str]:
    """What each label is called in records and tables; "3" is not 3.

    What the schema does not list may be a text or a person: it is known by its hash.
    """
    schema = task.schema or {}
    properties = equality.whole_schema(schema, schema).get("properties", {})
    listed = equality.whole_schema(properties.get(field), schema).get("enum", ())
    names = {}
    for label in set(labels):
        name = label.strip('"')
        if re.fullmatch(r"-?\d.*|true|false|null", name):
            name = label
        if name not in listed and (len(name) > 40 or find_personal_data(name)):
            name = f"a value, {store.fingerprint(label)[:6]}"
        names[label] = name
    return names


def _scores(pairs: Pairs, groups: Texts, names: Mapping[str, str]) -> list[LabelScore]:
    scores = []
    for label in sorted({gold for gold, _ in pairs}):
        is_gold = [gold == label for gold, _ in pairs]
        is_said = [said == label for _, said in pairs]
        precision = _share_of(is_gold, is_said, groups)
        recall = _share_of(is_said, is_gold, groups)
        name = names[label]
        outside = bool(OUTSIDE.search(name))
        scores.append(LabelScore(name, recall.n, precision, recall, outside))
    return sorted(scores, key=lambda score: (not score.is_out_of_scope, score.rows, score.label))


def _share_of(hits: Sequence[bool], among: Sequence[bool], groups: Texts) -> Estimate:
    """The share of hits among some of the rows, whose groups count as clusters."""
    values = [float(hit) for hit in compress(hits, among)]
    return statistics.proportion(values, list(compress(groups, among)))


def macro_f1(pairs: Pairs, groups: Texts) -> Estimate:
    """The mean F1 over the gold labels, with its percentile-bootstrap interval over groups."""
    labels = sorted({gold for gold, _ in pairs})
    clusters = defaultdict(list)
    for pair, group in zip(pairs, groups, strict=True):
        clusters[group].append(pair)
    rng = random.Random(0)
    chats = list(clusters.values())
    draws = []
    for _ in range(DRAWS):
        drawn = rng.choices(chats, k=len(chats))
        draws.append(_macro(list(chain(*drawn)), labels))
    draws.sort()
    value = _macro(pairs, labels)
    low = draws[int(0.025 * DRAWS)]
    high = draws[int(0.975 * DRAWS) - 1]
    if low == high:  # nothing varies, so the rows say how little that is known
        share = statistics.proportion([float(gold == said) for gold, said in pairs], groups)
        low, high = share.low, share.high
    return statistics.in_interval(value, low, high, len(pairs))


def _macro(pairs: Pairs, labels: Texts) -> float:
    right = dict.fromkeys(labels, 0)
    total = dict.fromkeys(labels, 0)  # of gold and answers together: F1 = 2·right / total
    for gold, said in pairs:
        total[gold] += 1
        if said in total:
            total[said] += 1
        right[gold] += gold == said
    scores = [2 * right[label] / total[label] for label in labels if total[label]]
    return sum(scores) / max(1, len(scores))
