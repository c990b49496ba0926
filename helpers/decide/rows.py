"""01 looks at no copies and leaks, which 02 rejects: else a leak is a right answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from helpers import curate
from helpers.records import TrainingExample, WorkbookError
from helpers.tasks import Task


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
