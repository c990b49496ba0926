"""From a task's sources to one dataset: collect, check, deduplicate, split, publish. Every row is accounted for."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, time
from typing import Any, NamedTuple

from pydantic import model_validator

from helpers import tasks
from helpers.curate.checks import Sieved, reject, suspicious, validate_examples
from helpers.curate.duplicates import Conflict, deduplicate_examples
from helpers.curate.labels import label_counts, label_of, label_warnings
from helpers.curate.personal import masked_text
from helpers.curate.versions import publish
from helpers.records import FineTuningDataset, Issue, Record, RejectedExample, TrainingExample, WorkbookError

SOURCE_FILTERS = ("low_feedback", "out_of_date_range")  # choices of the reader, not findings about the data
SAMPLE = 1000  # rejected rows kept as evidence for the source filters together
ALARM_ROWS = 10  # a source of fewer rows raises no wipe-out alarm


class DataCollectionConfig(Record):
    """What 02's parameters say; names and defaults are those of the flat vocabulary."""

    task: str = "support_triage"
    base_model: str = "embedded"
    seed: int = 7
    split_ratios: dict[str, float]
    use_production: bool = True
    min_feedback_score: float = 4.0
    date_from: str = ""
    date_to: str = ""
    min_tokens: int = 4
    max_tokens: int = 512
    near_duplicate_threshold: float = 0.8
    leakage_threshold: float = 0.6
    wipeout_share: float = 0.5

    @model_validator(mode="after")
    def _sensible(self) -> DataCollectionConfig:
        for name in ("near_duplicate_threshold", "leakage_threshold"):
            if not 0.4 <= getattr(self, name) <= 1:
                raise WorkbookError(f"{name} is {getattr(self, name)}; give a similarity from 0.4 to 1.0")
        if not 0 < self.wipeout_share <= 1:
            raise WorkbookError(f"wipeout_share is {self.wipeout_share}; give a share above 0, up to 1.0 (no alarm)")
        if not 0 <= self.min_tokens <= self.max_tokens:
            raise WorkbookError(f"min_tokens {self.min_tokens} must not be above max_tokens {self.max_tokens}")
        start, end = self.date_range
        if start and end and start > end:
            raise WorkbookError(f"date_from {self.date_from} is after date_to {self.date_to}")
        return self

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> DataCollectionConfig:
        """The configuration that a notebook's parameters (its globals()) spell, field by field."""
        return cls(**{name: parameters[name] for name in cls.model_fields if name in parameters})

    @property
    def date_range(self) -> tuple[datetime | None, datetime | None]:
        """First and last moment, both inclusive; a bare date_to means the end of that day, no zone means UTC."""
        return _moment("date_from", self.date_from, time.min), _moment("date_to", self.date_to, time.max)


def _moment(name: str, text: str, of_day: time) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise WorkbookError(f"{name} {text!r} is not a date; write 2026-06-01 or 2026-06-01T09:00+02:00") from None
    if len(text) <= 10:  # a date without a time
        moment = datetime.combine(moment.date(), of_day)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class Curated(NamedTuple):
    """The dataset-to-be with its evidence, before it is published."""

    task: tasks.Task
    examples: list[TrainingExample]
    rejected: list[RejectedExample]
    review: list[dict[str, str]]
    funnel: list[dict[str, Any]]
    labels: dict[str, dict[str, dict[str, int]]]
    warnings: list[str]
    params: dict[str, Any]


def collect_training_data(config: DataCollectionConfig) -> FineTuningDataset:
    """Collect, deduplicate, validate, split and publish one immutable dataset version."""
    return publish(curate(config))


def curate(config: DataCollectionConfig) -> Curated:
    """Human rows (verified) and well-rated production rows (unverified) through every stage, in this order."""
    task = tasks.load_task(config.task)
    loaded = [tasks.load_examples(task, "human")]
    if config.use_production:
        loaded.append(tasks.load_examples(task, "production"))
    rows = [example for source in loaded for example in source.examples]
    unreadable = [row for source in loaded for row in source.unreadable]
    filtered, warnings = filter_production(rows, config)
    placed = create_splits(filtered.kept, config.seed, config.split_ratios)
    checked = validate_examples(placed, task, config.base_model, config.min_tokens, config.max_tokens)
    unique, conflicts = deduplicate_examples(
        checked.kept, label_of(task, checked.kept), config.near_duplicate_threshold, config.leakage_threshold
    )
    rejected = [*unreadable, *filtered.rejected, *checked.rejected, *unique.rejected]
    funnel = build_funnel(rows, unreadable, filtered, checked, unique)
    alarm_on_wipeout(funnel, rejected, config.wipeout_share)
    labels = label_counts(task, unique.kept)
    params = config.model_dump()
    review = review_rows(conflicts, unique.kept)
    return Curated(task, unique.kept, rejected, review, funnel, labels, warnings + label_warnings(labels), params)


def create_splits(examples: Iterable[TrainingExample], seed: int, ratios: dict[str, float]) -> list[TrainingExample]:
    """Each example with its part: verified rows by a hash of seed and group, unverified rows always in train."""
    return tasks.with_parts(examples, seed, ratios)


def filter_production(rows: Sequence[TrainingExample], config: DataCollectionConfig) -> tuple[Sieved, list[str]]:
    """Production rows with enough feedback and inside the dates; the evidence is a sample, the counts are not."""
    logs = [e for e in rows if e.source == "production"]
    rated = sum(e.feedback_score is not None for e in logs)
    warnings = []
    if config.use_production and not logs:
        warnings.append("no production rows: the dataset holds the human examples alone")
    if logs and not rated:
        warnings.append("no production row carries feedback, so min_feedback_score could not be applied")
    start, end = config.date_range
    kept: list[TrainingExample] = []
    dropped: dict[str, list[tuple[TrainingExample, Issue]]] = {code: [] for code in SOURCE_FILTERS}
    for example in rows:
        issue = None
        if example.source == "production":
            issue = _low_feedback(example, config.min_feedback_score if rated else 0) or _date(example, start, end)
        if issue is None:
            kept.append(example)
        else:
            dropped[issue.code].append((example, issue))
    counts = Counter({("production", code): len(pairs) for code, pairs in dropped.items() if pairs})
    each = SAMPLE // len(SOURCE_FILTERS)
    sample = [pair for pairs in dropped.values() for pair in sorted(pairs, key=_lot)[:each]]
    return Sieved(kept, [reject(example, [issue], "filter") for example, issue in sample], counts), warnings


def _lot(pair: tuple[TrainingExample, Issue]) -> str:
    """A fixed random order, the same whatever the file's order."""
    return hashlib.sha256(pair[0].id.encode("utf-8", "surrogatepass")).hexdigest()


def _low_feedback(example: TrainingExample, least: float) -> Issue | None:
    score = example.feedback_score
    if least <= 0 or (score is not None and score >= least):
        return None
    said = "not rated" if score is None else f"score {score:g}"
    return Issue(code="low_feedback", evidence=f"{said}; wanted at least {least:g}", score=score)


def _date(example: TrainingExample, start: datetime | None, end: datetime | None) -> Issue | None:
    if not (start and example.created_at < start) and not (end and example.created_at > end):
        return None
    guessed = " (the file's date: the row has none)" if example.meta.get("created_at_guessed") else ""
    return Issue(code="out_of_date_range", evidence=f"created {example.created_at.isoformat()}{guessed}")


def build_funnel(
    rows: Sequence[TrainingExample],
    unreadable: Sequence[RejectedExample],
    filtered: Sieved,
    checked: Sieved,
    unique: Sieved,
) -> list[dict[str, Any]]:
    """One row per stage and source: in = out + the sum of rejected, asserted against the rows themselves."""
    torn = Counter((r.example["source"], r.issues[0].code) for r in unreadable)
    leaks = Counter({key: n for key, n in unique.counts.items() if key[1] == "potential_leakage"})
    stages = [("read", torn), ("filter", filtered.counts), ("check", checked.counts)]
    stages += [("duplicates", unique.counts - leaks), ("leakage", leaks)]
    funnel = []
    left = Counter(e.source for e in rows) + Counter(r.example["source"] for r in unreadable)
    sources = sorted(left)
    for stage, counts in stages:
        for source in sources:
            lost = {code: n for (of, code), n in sorted(counts.items()) if of == source}
            out = left[source] - sum(lost.values())
            funnel.append({"stage": stage, "source": source, "in": left[source], "out": out, "rejected": lost})
            left[source] = out
    kept = Counter(e.source for e in unique.kept)
    for source in sources:
        if left[source] != kept[source]:
            raise AssertionError(f"the funnel loses {source} rows: {left[source]} by count, {kept[source]} kept")
    return funnel


def alarm_on_wipeout(funnel: list[dict[str, Any]], rejected: list[RejectedExample], share: float) -> None:
    """Stop when one rule removes more than `share` of a source: far more often a wrong rule than such bad data."""
    entered: dict[str, int] = {}
    for row in funnel:
        stage, source = row["stage"], row["source"]
        if stage in ("read", "check"):
            entered[source] = row["in"]  # what the source filters leave out on purpose does not count
        for code, n in row["rejected"].items():
            if code in SOURCE_FILTERS or entered[source] < ALARM_ROWS or n <= share * entered[source]:
                continue
            seen = next(r for r in rejected if r.stage == stage and r.example["source"] == source)
            at = f"{seen.example['file']}, line {seen.example['line']}: {seen.issues[0].evidence}"
            raise WorkbookError(
                f"{code} would remove {n} of {entered[source]} {source} rows ({n / entered[source]:.0%}; the alarm is "
                f"wipeout_share={share:g}), for example {at}; mend the data or the rule, or set wipeout_share to 1.0 "
                "if that is meant"
            )


def review_rows(conflicts: list[Conflict], kept: list[TrainingExample]) -> list[dict[str, str]]:
    """What a person should decide: both sides of every label conflict, and rows that look like holding a secret."""
    why: dict[str, tuple[TrainingExample, str]] = {}
    for example, other, score in conflicts:
        for one, two in ((example, other), (other, example)):
            why.setdefault(one.id, (one, f"label_conflict with {two.id} (Jaccard {score:.2f})"))
    why |= {e.id: (e, said) for e in kept if e.id not in why and (said := suspicious(e))}
    return [
        {
            "id": example.id,
            "source": example.source,
            "input": masked_text(example.user_text),
            "output": masked_text(example.answer),
            "why": reason,
            "decision": "",
            "corrected_output": "",
            "reviewer": "",
        }
        for example, reason in why.values()
    ]
