"""What a stage of curation gives, and the funnel that adds up over all stages.

Every stage takes rows and returns a Stage: the rows it kept, the evidence for the others, how many
those are, and what a person should look at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from helpers.curate.personal import excerpt
from helpers.records import FunnelRow, Issue, RejectedExample, TrainingExample, beside
from helpers.redaction import without_surrogates

RULE_VERSION = "curate-2"
FUNNEL = ("read", "filter", "review", "check", "duplicates", "leakage")
NO_ANSWER = "the last message is not the assistant's answer"
Say = Callable[[str], Any]


class Loss(NamedTuple):
    """Where rows were lost, and why: the first code of each."""

    stage: str
    source: str
    code: str


class Question(NamedTuple):
    """A row that a person should look at, and why; and the answer that may be the right one."""

    example: TrainingExample
    why: str
    correction: str = ""


@dataclass
class Stage:
    """What one stage made of its rows; `counts` is whole where `rejected` is only a sample."""

    kept: Sequence[TrainingExample] = field(default_factory=list)  # a list, or Rows
    rejected: Sequence[RejectedExample] = field(default_factory=list)
    counts: Counter[Loss] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)  # of the rows kept, where counted
    questions: list[Question] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what was decided over all rows

    @classmethod
    def of(cls, examples: Iterable[TrainingExample], notes: Iterable[str] = ()) -> Stage:
        """One that has decided nothing yet: its rows will lie where the examples lie."""
        return cls(beside(examples), beside(examples), notes=[*notes])

    def keep(self, example: TrainingExample) -> None:
        """Keep a row, counted by its source."""
        self.kept.append(example)
        self.sources[example.source] += 1

    def reject(self, example: TrainingExample, issues: list[Issue], stage: str) -> None:
        """Leave a row out, counted under its first code."""
        self.rejected.append(rejection(example, issues, stage))
        self.counts[Loss(stage, example.source, issues[0].code)] += 1


def rejection(example: TrainingExample, issues: list[Issue], stage: str) -> RejectedExample:
    """The log entry of a row left out: enough to find and judge it again, nothing that leaks."""
    return RejectedExample(
        example={
            "id": without_surrogates(example.id),
            "source": example.source,
            **{name: example.meta.get(name) for name in ("file", "line", "sha256")},
            "excerpt": excerpt(example.user_text),
        },
        issues=issues,
        stage=stage,
        rule_version=RULE_VERSION,
    )


def build_funnel(stages: Sequence[Stage]) -> list[FunnelRow]:
    """One row per stage and source; AssertionError when the counts do not lead to the rows left."""
    losses = sum((stage.counts for stage in stages), Counter())
    left = Counter(stages[0].sources)
    for loss, n in stages[0].counts.items():  # these never became examples
        left[loss.source] += n
    funnel = []
    for name in FUNNEL:
        for source in sorted(left):
            place = (name, source)
            lost = {loss.code: n for loss, n in sorted(losses.items()) if loss[:2] == place}
            rows_in = left[source]
            left[source] -= sum(lost.values())
            funnel.append(
                FunnelRow(
                    stage=name, source=source, rows_in=rows_in, rows_out=left[source], rejected=lost
                )
            )
    kept = stages[-1].sources
    if +left != kept:
        raise AssertionError(f"the funnel loses rows: {dict(left)} by count, {dict(kept)} kept")
    return funnel
