"""Dataset versions: examples, manifest, and dataset.json, which names the one that a run made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar

from pydantic import ConfigDict, Field, SkipValidation

from helpers.records.base import Artifact, Record
from helpers.records.examples import Part, TrainingExample
from helpers.records.rows import chosen


class DatasetMetadata(Record):
    """Where a dataset version came from; the same facts as its manifest.json."""

    version: str
    task: str
    created_at: datetime
    fingerprint: str
    params: dict[str, Any]


class Splits(Record):
    """Rows per part."""

    train: int
    validation: int
    test: int


class FineTuningDataset(Record):
    """All kept examples of one immutable version, each with its part."""

    examples: SkipValidation[Sequence[TrainingExample]]  # a list, or Rows
    metadata: DatasetMetadata
    splits: Splits

    def part(self, name: Part) -> Sequence[TrainingExample]:
        """The examples of one part, in file order."""
        return chosen(self.examples, lambda example: example.part == name)


class FunnelRow(Record):
    """One stage and source: in = out + sum of rejected, each row under its first code."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True
    )

    stage: str
    source: str
    rows_in: int = Field(alias="in")
    rows_out: int = Field(alias="out")
    rejected: dict[str, int]

    @property
    def adds_up(self) -> bool:
        """Whether every row that came in went out or was rejected."""
        return self.rows_in == self.rows_out + sum(self.rejected.values())

    @property
    def losses(self) -> str:
        """The rejected rows in words, such as `low_feedback 3, contains_pii 1`; "-" for none."""
        return ", ".join(f"{code} {n}" for code, n in self.rejected.items()) or "-"


class ColumnReading(Record):
    """What one column of a source was taken for; `use` is our name for it, or "not used"."""

    name: str
    use: str
    how: str = ""  # its convention in words, with examples


class SourceReading(Record):
    """What was read, and how: one source file."""

    file: str
    source: str
    rows: int
    format: str
    form: str  # encoding and dialect
    columns: list[ColumnReading] = Field(default_factory=list)
    changes: dict[str, int] = Field(default_factory=dict)  # what was reinterpreted: rows


class Manifest(Artifact):
    """manifest.json, the last file of a dataset version."""

    FILE: ClassVar[str] = "manifest.json"
    WRITTEN_BY: ClassVar[str] = "02_curate"

    version: str
    created_at: datetime
    task: str
    params: dict[str, Any]
    counts: dict[str, int]
    funnel: list[FunnelRow]
    splits: Splits
    fingerprint: str
    tool_versions: dict[str, str]
    labels: dict[str, dict[str, dict[str, int]]] = Field(default_factory=dict)
    feedback: dict[str, Any] = Field(default_factory=dict)
    warnings: list[str] = Field(default_factory=list)
    readings: list[SourceReading] = Field(default_factory=list)

    @property
    def limits(self) -> list[str]:
        """How many of the rows were kept, and what the others were rejected for."""
        came = {row.source: row.rows_in for row in reversed(self.funnel)}
        stayed = {row.source: row.rows_out for row in self.funnel}
        codes = sum((Counter(row.rejected) for row in self.funnel), Counter())
        if not codes:
            return []
        losses = ", ".join(f"{code} {n}" for code, n in codes.most_common())
        return [f"{sum(stayed.values()):,} of {sum(came.values()):,} rows kept; {losses}"]


class DatasetPointer(Artifact):
    """dataset.json: the version that a run made."""

    FILE: ClassVar[str] = "dataset.json"
    WRITTEN_BY: ClassVar[str] = "02_curate"

    version: str
    fingerprint: str
