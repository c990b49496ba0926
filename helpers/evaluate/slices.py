"""Where a good average hides a loss: the paired difference within parts of the test rows."""

from __future__ import annotations

import statistics as python_statistics
from collections import defaultdict
from collections.abc import Sequence

from helpers.evaluate import statistics
from helpers.evaluate.compare import Pair, scores_of
from helpers.evaluate.scorers import strict_json
from helpers.records import Finding, TrainingExample
from helpers.tasks import Task

MIN_ROWS = 10  # in smaller ones nothing could be shown, and each look costs the others some power


def slices_of(task: Task, examples: Sequence[TrainingExample]) -> dict[str, set[str]]:
    """slice -> ids: every gold value of a field with fixed choices, and long or short questions."""
    if not examples:
        return {}
    slices: dict[str, set[str]] = defaultdict(set)
    properties = (task.schema or {}).get("properties", {})
    fields = [name for name in task.scored_fields if "enum" in properties.get(name, {})]
    middle = python_statistics.median([len(example.user_text) for example in examples])
    for example in examples:
        gold = strict_json(example.answer) or {}
        length = "longer" if len(example.user_text) > middle else "shorter"
        slices[f"{length} questions"].add(example.id)
        for name in fields:
            slices[f"{name} = {gold.get(name)}"].add(example.id)
    worth_a_look = {}
    for name, ids in sorted(slices.items()):
        if MIN_ROWS <= len(ids) < len(examples):
            worth_a_look[name] = ids
    return worth_a_look


def compare_slices(
    task: Task, examples: Sequence[TrainingExample], pairs: Sequence[Pair]
) -> list[Finding]:
    """Every slice's paired difference in accuracy, worst first; pass: surely better, fail: worse.

    The interval is of the slice alone; the verdict goes by p, corrected for all slices (Holm).
    """
    compared = []
    for name, ids in slices_of(task, examples).items():
        compared.append(_compare(name, [pair for pair in pairs if pair[0].id in ids]))
    compared = [finding for finding in compared if finding is not None]
    corrected = statistics.holm([finding.p for finding in compared])
    results = []
    for finding, p in zip(compared, corrected, strict=True):
        verdict = "undecided"
        if p <= 1 - statistics.LEVEL:
            verdict = "pass" if finding.estimate.value > 0 else "fail"
        results.append(finding.model_copy(update={"p": p, "verdict": verdict}))
    return sorted(results, key=lambda finding: (finding.estimate.value, finding.name))


def _compare(name: str, pairs: Sequence[Pair]) -> Finding | None:
    """One slice, with its p as it is before the correction; None where no row has an accuracy."""
    ours, theirs, groups = scores_of(pairs, "accuracy")
    if not groups:
        return None
    difference, gained, lost = statistics.paired_difference(ours, theirs, groups)
    changes = [a - b for a, b in zip(ours, theirs, strict=True)]
    effective = statistics.effective_rows(changes, groups)
    n = len(changes)
    return Finding(
        name=name,
        verdict="undecided",
        evidence=f"{gained} gained, {lost} lost",
        estimate=difference,
        p=statistics.p_value(gained * effective / n, lost * effective / n, effective),
    )
