"""Immutable dataset versions: a folder named by its content, its manifest written last."""

from __future__ import annotations

import csv
import io
import shutil
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers import store
from helpers.curate.review import COLUMNS
from helpers.records import (
    PARTS,
    DatasetMetadata,
    FineTuningDataset,
    Splits,
    TrainingExample,
    WorkbookError,
)

if TYPE_CHECKING:
    from helpers.curate.collect import Curated

TOOLS = ("presidio-analyzer", "redact-secret", "rensa", "jsonschema", "transformers")
LIMITS = (
    "- Human rows are verified; production rows are not: their answers were only rated well by a customer.",
    "- Synthetic rows, where there are any, are not either: the model that made them up only agreed with itself.",
    "- Looked for: cards, e-mails, IBANs, IPs, phone and social security numbers, keys. Not for names and addresses.",
    "- rejected.jsonl says why each row was left out; review.csv lists what a person should decide.",
)


def content_fingerprint(examples: list[TrainingExample]) -> str:
    """sha256 over the sorted hashes of the rows: what is learnt and judged, not when or where it was read."""
    fields = {"id", "messages", "source", "quality", "part", "group", "parent_id"}
    return store.fingerprint(
        sorted(store.fingerprint(e.model_dump(mode="json", include=fields)) for e in examples)
    )


def publish(curated: Curated) -> FineTuningDataset:
    """Write datasets/<version>/ in one step; the same content published again keeps its first manifest."""
    print_ = content_fingerprint(curated.examples)
    name = f"{curated.task.name}-{print_[:12]}"
    folder = store.home() / "datasets" / name
    splits = Counter(e.part for e in curated.examples)
    manifest = {
        "version": name,
        "created_at": store.now().isoformat(),
        "task": curated.task.name,
        "params": curated.params,
        "counts": dict(sorted(Counter(e.source for e in curated.examples).items())),
        "funnel": curated.funnel,
        "splits": {part: splits[part] for part in PARTS},
        "fingerprint": print_,
        "tool_versions": {tool: version(tool) for tool in TOOLS},
        "labels": curated.labels,
        "feedback": curated.feedback,
        "warnings": curated.warnings,
    }
    with store.lock():
        if not (folder / "manifest.json").exists():
            _write_folder(folder, curated, manifest)
    manifest = store.read_json(folder / "manifest.json")
    if manifest["fingerprint"] != print_:
        raise WorkbookError(
            f"{folder} holds other content than its name says; move that folder away and run again"
        )
    metadata = DatasetMetadata(**{key: manifest[key] for key in DatasetMetadata.model_fields})
    examples = sorted(curated.examples, key=lambda e: PARTS.index(e.part or "train"))
    return FineTuningDataset(
        examples=examples, metadata=metadata, splits=Splits(**manifest["splits"])
    )


def _write_folder(folder: Path, curated: Curated, manifest: dict[str, Any]) -> None:
    """The version's files in a hidden folder, then one rename: a killed run leaves no version; its leftovers go first."""
    for leftover in [*folder.parent.glob(".*.partial"), *folder.parent.glob(folder.name)]:
        shutil.rmtree(leftover)
    partial = folder.with_name(f".{folder.name}.partial")
    for part in PARTS:
        store.write_jsonl(
            partial / f"{part}.jsonl", [e for e in curated.examples if e.part == part]
        )
    store.write_jsonl(partial / "rejected.jsonl", curated.rejected)
    review = io.StringIO()
    writer = csv.DictWriter(review, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(curated.review)
    store.write_text(partial / "review.csv", review.getvalue())
    store.write_text(partial / "card.md", data_card(manifest))
    store.write_json(partial / "manifest.json", manifest)
    partial.rename(folder)


def check_dataset(
    dataset: FineTuningDataset, funnel: list[dict[str, Any]], min_examples: int
) -> str:
    """What must hold before anything is trained on a dataset; the sentence to show when it does."""
    for row in funnel:
        if row["in"] != row["out"] + sum(row["rejected"].values()):
            raise WorkbookError(
                f"the funnel does not add up at {row['stage']}, {row['source']}: {row}", 1
            )
    part_of: dict[str, str | None] = {}
    for example in dataset.examples:
        if part_of.setdefault(example.group, example.part) != example.part:
            raise WorkbookError(
                f"group {example.group} stands in two parts; give its rows the same `split`"
            )
        if example.quality != "verified" and example.part != "train":
            raise WorkbookError(
                f"unverified row {example.id} stands in {example.part}; only train may hold it"
            )
    verified = sum(e.quality == "verified" for e in dataset.examples)
    lack = " and ".join(f"no {part}" for part in PARTS if not dataset.part(part))
    if lack or verified < min_examples:
        lack = f"{lack} rows" if lack else f"{verified} verified rows, min_examples={min_examples}"
        raise WorkbookError(
            f"too little data to train and judge a model: {lack}; add verified examples"
        )
    return f"{verified} verified rows, {len(dataset.examples)} in all; every row read is kept or accounted for."


def compare_versions(old: str, new: str) -> dict[str, list[str]]:
    """Ids of the rows that version `new` has added, removed, moved to another part or given another answer."""
    before, after = (
        {row["id"]: row for part in PARTS for row in _part_rows(name, part)} for name in (old, new)
    )
    both = [row_id for row_id in after if row_id in before]
    return {
        "added": [row_id for row_id in after if row_id not in before],
        "removed": [row_id for row_id in before if row_id not in after],
        "moved": [i for i in both if before[i]["part"] != after[i]["part"]],
        "relabelled": [i for i in both if before[i]["messages"][-1] != after[i]["messages"][-1]],
    }


def _part_rows(version_name: str, part: str) -> list[dict[str, Any]]:
    path = store.home() / "datasets" / version_name / f"{part}.jsonl"
    if not path.exists():
        raise WorkbookError(
            f"{path} is missing; `ls {path.parent.parent}` shows the dataset versions there are"
        )
    return store.read_jsonl(path)


def data_card(manifest: dict[str, Any]) -> str:
    """What the dataset is, where it came from and what is known to be wrong with it, as Markdown."""
    lines = [
        f"# Dataset {manifest['version']}",
        "",
        f"Task `{manifest['task']}`, made {manifest['created_at']}.",
        "",
    ]
    lines += [
        "| part | rows |",
        "|---|---|",
        *(f"| {p} | {n} |" for p, n in manifest["splits"].items()),
        "",
    ]
    lines += ["| stage | source | in | rejected | out |", "|---|---|---|---|---|"]
    for row in manifest["funnel"]:
        lost = ", ".join(f"{code} {n}" for code, n in row["rejected"].items()) or "-"
        lines.append(f"| {row['stage']} | {row['source']} | {row['in']} | {lost} | {row['out']} |")
    if manifest["feedback"]:
        lines += [
            "",
            "## Where the logged rows come from",
            "",
            *(f"- {said}" for said in manifest["feedback"]["said"]),
        ]
    lines += [
        "",
        "## Known limits",
        "",
        *(f"- {warning}" for warning in manifest["warnings"]),
        *LIMITS,
    ]
    return "\n".join(lines) + "\n"
