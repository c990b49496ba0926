"""Immutable dataset versions: a folder named by its content, its manifest written last."""

from __future__ import annotations

import os
import shutil
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

from helpers import processes, store, tasks
from helpers.curate.labels import LabelCounts
from helpers.curate.review import review_csv
from helpers.records import (
    PARTS,
    DatasetMetadata,
    FineTuningDataset,
    FunnelRow,
    Manifest,
    RejectedExample,
    SourceReading,
    Splits,
    TrainingExample,
    WorkbookError,
    few_collections,
    in_order,
)

TOOLS = ("phonenumbers", "rensa", "jsonschema", "transformers")
CONTENT = {"id", "messages", "source", "quality", "part", "group", "parent_id"}
LIMITS = (
    "- Human rows are verified; production rows are not: their answers were only rated well by a"
    " customer.",
    "- Synthetic rows, where there are any, are not either: the model that made them up only agreed"
    " with itself.",
    "- Looked for: cards, e-mails, IBANs, IPs, keys, phone numbers (of 11 countries, or with a"
    " country's prefix), numbers that some 40 states give to a person. Not for names, addresses and"
    " numbers of other states.",
    "- rejected.jsonl says why each row was left out; review.csv lists what a person is to decide.",
)


@dataclass(frozen=True)
class Curated:
    """The dataset-to-be with its evidence, before it is published."""

    task: tasks.Task
    examples: Sequence[TrainingExample]  # a list, or Rows
    funnel: list[FunnelRow]
    rejected: Sequence[RejectedExample] = field(default_factory=list)
    review: list[dict[str, str]] = field(default_factory=list)  # rows of review.csv
    labels: LabelCounts = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    params: dict[str, Any] = field(default_factory=dict)
    feedback: Sequence[str] = ()  # how the choice by feedback bends the data
    readings: list[SourceReading] = field(default_factory=list)  # what was read, and how

    def part(self, name: str) -> Sequence[TrainingExample]:
        """The examples of one part."""
        return in_order(self.examples, self.places[name])

    @cached_property
    def places(self) -> dict[str, array[int]]:
        """Part -> the places of its examples."""
        places = {part: array("q") for part in PARTS}
        for place, example in enumerate(self.examples):
            places[example.part or "train"].append(place)
        return places


def content_fingerprint(examples: Sequence[TrainingExample]) -> str:
    """sha256 over the rows' sorted hashes: what is learnt and judged, not when it was read."""
    rows = (example.model_dump(mode="json", include=CONTENT) for example in examples)
    return store.fingerprint(sorted(map(store.fingerprint, rows)))


@few_collections()
def publish_dataset(curated: Curated) -> FineTuningDataset:
    """Write datasets/<version>/ in one step; the same content again keeps its first manifest."""
    fingerprint = content_fingerprint(curated.examples)
    folder = store.home() / "datasets" / f"{curated.task.name}-{fingerprint[:12]}"
    path = folder / Manifest.FILE
    with store.lock():
        if not path.exists():
            _write_folder(folder, curated, _manifest_of(curated, folder.name, fingerprint))
    manifest = Manifest.parse(store.read_json(path), str(path))
    if manifest.fingerprint != fingerprint:
        raise WorkbookError(
            f"{folder} holds other content than its name says; move that folder away and run again"
        )
    facts = manifest.model_dump(include=set(DatasetMetadata.model_fields))
    return FineTuningDataset(
        examples=in_order(curated.examples, [*chain(*curated.places.values())]),
        metadata=DatasetMetadata(**facts),
        splits=manifest.splits,
    )


def _manifest_of(curated: Curated, name: str, fingerprint: str) -> Manifest:
    return Manifest(
        version=name,
        created_at=store.now(),
        task=curated.task.name,
        params=curated.params,
        counts=dict(sorted(Counter(e.source for e in curated.examples).items())),
        funnel=curated.funnel,
        splits=Splits(**{part: len(places) for part, places in curated.places.items()}),
        fingerprint=fingerprint,
        tool_versions={tool: version(tool) for tool in TOOLS},
        labels=curated.labels,
        feedback={"notes": [*curated.feedback]},
        warnings=curated.warnings,
        readings=curated.readings,
    )


def _write_folder(folder: Path, curated: Curated, manifest: Manifest) -> None:
    """The version's files in a hidden folder, then one rename: a killed run leaves no version.

    What killed runs left goes first: whoever writes here holds the home's lock, which we hold now
    (a pid says nothing of another container's processes).
    """
    for leftover in folder.parent.glob(".*.partial"):
        processes.discard(leftover)
    shutil.rmtree(folder, ignore_errors=True)  # without a manifest: an older workbook was killed
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    written = [
        *(store.write_jsonl(partial / f"{part}.jsonl", curated.part(part)) for part in PARTS),
        store.write_jsonl(partial / "rejected.jsonl", curated.rejected),
        store.write_text(partial / "review.csv", review_csv(curated.review)),
        store.write_text(partial / "card.md", data_card(manifest)),
        store.write_json(partial / Manifest.FILE, manifest),
    ]
    lost = [path.name for path in written if not path.exists()]
    if lost:
        raise WorkbookError(
            f"{', '.join(lost)} of {partial} vanished while the dataset was written; see what"
            " deletes files there, and run again"
        )
    partial.rename(folder)


def data_card(manifest: Manifest) -> str:
    """What the dataset is, where it came from and what is known to be wrong with it: Markdown."""
    funnel = [
        f"| {row.stage} | {row.source} | {row.rows_in} | {row.losses} | {row.rows_out} |"
        for row in manifest.funnel
    ]
    lines = [
        f"# Dataset {manifest.version}",
        "",
        f"Task `{manifest.task}`, made {manifest.created_at.isoformat()}.",
        "",
        "| part | rows |",
        "|---|---|",
        *(f"| {part} | {n} |" for part, n in manifest.splits),
        "",
        "| stage | source | in | rejected | out |",
        "|---|---|---|---|---|",
        *funnel,
        "",
    ]
    if "production" in manifest.counts:
        lines += ["## Where the logged rows come from", ""]
        lines += [*(f"- {note}" for note in manifest.feedback["notes"]), ""]
    lines += ["## Known limits", "", *(f"- {text}" for text in manifest.warnings), *LIMITS, ""]
    return "\n".join(lines)


def check_dataset(
    dataset: FineTuningDataset, funnel: Sequence[FunnelRow], min_examples: int
) -> str:
    """What must hold before anything is trained on a dataset; the sentence to show when it does."""
    for row in funnel:
        if not row.adds_up:
            raise WorkbookError(
                f"the funnel does not add up at {row.stage}, {row.source}: {row}", 1
            )
    part_of = {}
    for example in dataset.examples:
        if part_of.setdefault(example.group, example.part) != example.part:
            raise WorkbookError(
                f"group {example.group} stands in two parts; give its rows the same `split`"
            )
        if example.quality != "verified" and example.part != "train":
            raise WorkbookError(
                f"unverified row {example.id} stands in {example.part}; only train may hold it"
            )
    verified = sum(example.quality == "verified" for example in dataset.examples)
    lack = " and ".join(f"no {part}" for part in PARTS if not dataset.part(part))
    if lack:
        raise _too_little(f"{lack} rows", dataset, funnel)
    if verified < min_examples:
        raise _too_little(f"{verified} verified rows, min_examples={min_examples}", dataset, funnel)
    return (
        f"{verified} verified rows, {len(dataset.examples)} in all; every row read is kept or"
        " accounted for."
    )


def _too_little(
    lack: str, dataset: FineTuningDataset, funnel: Sequence[FunnelRow]
) -> WorkbookError:
    """What there is too little of, and what took the rows."""
    human = [row for row in funnel if row.source == "human" and row.rejected]
    lost = ", ".join(f"{row.losses} of {row.rows_in} human rows" for row in human)
    path = store.home() / "datasets" / dataset.metadata.version / "rejected.jsonl"
    return WorkbookError(
        f"too little data to train and judge a model: {lack}; left out: {lost or 'no row'}, the"
        f" reasons stand in {path}; mend those rows or add verified examples"
    )
