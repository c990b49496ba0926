"""Where a good average hides a loss: the paired difference within parts of the test rows, corrected for looking at many."""

from __future__ import annotations

import statistics as plain_statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from helpers.evaluate import statistics
from helpers.evaluate.scorers import strict_json
from helpers.records import Estimate, Record, TrainingExample
from helpers.tasks import Task

MIN_ROWS = 10  # smaller slices are left out: nothing could be shown, and each look costs the others some of their power


class SliceResult(Record):
    """Tuned minus other on the rows of one slice; `p_holm` is corrected for all slices looked at."""

    slice: str
    difference: Estimate  # its 95% interval is of this slice alone; `verdict` goes by p_holm
    gained: int
    lost: int
    p_holm: float
    verdict: Literal["better", "worse", "unsure"]


def slices_of(task: Task, examples: Sequence[TrainingExample]) -> dict[str, set[str]]:
    """slice -> ids: every wanted value of a scored field with fixed choices, and shorter or longer questions."""
    found: dict[str, set[str]] = defaultdict(set)
    properties = (task.schema or {}).get("properties", {})
    fields = [name for name in task.scored_fields if "enum" in properties.get(name, {})]
    middle = plain_statistics.median([len(e.user_text) for e in examples]) if examples else 0
    for example in examples:
        wanted = strict_json(example.answer) or {}
        found["longer questions" if len(example.user_text) > middle else "shorter questions"].add(
            example.id
        )
        for name in fields:
            found[f"{name} = {wanted.get(name)}"].add(example.id)
    return {
        name: ids for name, ids in sorted(found.items()) if MIN_ROWS <= len(ids) < len(examples)
    }


def compare_slices(
    task: Task,
    examples: Sequence[TrainingExample],
    pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
) -> list[SliceResult]:
    """Every slice's paired difference in accuracy, worst first (Holm over all slices)."""
    compared = []
    for name, ids in slices_of(task, examples).items():
        rows = [
            pair
            for pair in pairs
            if pair[0]["id"] in ids and all("accuracy" in row["scores"] for row in pair)
        ]
        if rows:
            scores = ([pair[side]["scores"]["accuracy"] for pair in rows] for side in (0, 1))
            groups = [ours["group"] for ours, _ in rows]
            difference, gained, lost = statistics.paired_difference(*scores, groups)
            worth = statistics.effective_rows(
                [a["scores"]["accuracy"] - b["scores"]["accuracy"] for a, b in rows], groups
            )
            p = statistics.p_value(gained * worth / len(rows), lost * worth / len(rows), worth)
            compared.append((name, difference, gained, lost, p))
    results = []
    for (name, difference, gained, lost, _), p in zip(
        compared, statistics.holm([c[4] for c in compared]), strict=True
    ):
        sure = "better" if difference.value > 0 else "worse"
        verdict = sure if p <= 1 - statistics.LEVEL else "unsure"
        results.append(
            SliceResult(
                slice=name,
                difference=difference,
                gained=gained,
                lost=lost,
                p_holm=p,
                verdict=verdict,
            )
        )
    return sorted(results, key=lambda r: (r.difference.value, r.slice))
