"""01 looks at the rows that 02 will keep: else a leak is a right answer, and examples differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from helpers import curate
from helpers.evaluate import Say
from helpers.records import TrainingExample
from helpers.tasks import Task


def without_leaks(
    task: Task, examples: Sequence[TrainingExample], say: Say
) -> list[TrainingExample]:
    """The examples without the verified copies and leaks that 02 rejects, by its own rule."""
    verified = [example for example in examples if example.quality == "verified"]
    stage = curate.deduplicate_examples(verified, curate.label_of(task, verified))
    if not stage.rejected:
        return list(examples)
    codes: Counter[str] = Counter()
    for loss, n in stage.counts.items():
        codes[loss.code] += n
    named = ", ".join(f"{n} {code}" for code, n in sorted(codes.items()))
    say(f"{len(stage.rejected)} of {len(verified)} verified rows left out, as 02 will: {named}")
    kept = {example.id for example in stage.kept}
    return [e for e in examples if e.quality != "verified" or e.id in kept]
