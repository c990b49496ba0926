"""From a task's sources to one dataset: collect, check, deduplicate, split, publish. Every row is accounted for."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, time
from functools import cache, partial
from statistics import median
from typing import Any, NamedTuple

from pydantic import model_validator

from helpers import models, store, tasks
from helpers.curate import versions
from helpers.curate.checks import Sieved, reject, validate_examples
from helpers.curate.duplicates import deduplicate_examples
from helpers.extras.names import look_for_names
from helpers.curate.review import Decisions, apply_decisions, read_decisions, review_rows
from helpers.extras.synthetic import synthesise
from helpers.records import (
    PARTS,
    FineTuningDataset,
    Issue,
    Record,
    RejectedExample,
    TrainingExample,
    WorkbookError,
)

SOURCE_FILTERS = (
    "low_feedback",
    "out_of_date_range",
)  # choices of the reader, not findings about the data
ALARM_ROWS = 10  # a source of fewer rows raises no wipe-out alarm
MAX_VALUES = 30  # more distinct values than this are free text, not labels
FEW = 10  # test rows below which a label's score says nearly nothing
Asking = tuple[
    store.Run | None, Callable | None
]  # whose folder keeps what is made up, and how a model is asked
Labels = dict[str, dict[str, dict[str, int]]]  # field -> part -> value -> rows


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
    check_names: str = "off"
    use_synthetic: bool = False
    synthetic_share: float = 0.2
    synthetic_model: str = ""
    synthetic_base_url: str = ""
    max_cost_usd: float = 0.0

    @model_validator(mode="after")
    def _sensible(self) -> DataCollectionConfig:
        least_of = {
            "near_duplicate_threshold": 0.4,
            "leakage_threshold": 0.4,
            "wipeout_share": 0.01,
            "synthetic_share": 0.0,
        }
        for name, least in least_of.items():
            if not least <= getattr(self, name) <= 1:
                raise WorkbookError(
                    f"{name} is {getattr(self, name)}; give a number from {least} to 1.0"
                )
        if self.check_names not in ("off", "review", "mask"):
            raise WorkbookError(f"check_names is {self.check_names!r}; choose off, review or mask")
        if not 0 <= self.min_tokens <= self.max_tokens:
            raise WorkbookError(
                f"min_tokens {self.min_tokens} must not be above max_tokens {self.max_tokens}"
            )
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
        return _moment("date_from", self.date_from, time.min), _moment(
            "date_to", self.date_to, time.max
        )


def _moment(name: str, text: str, of_day: time) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise WorkbookError(
            f"{name} {text!r} is not a date; write 2026-06-01 or 2026-06-01T09:00+02:00"
        ) from None
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
    labels: Labels
    warnings: list[str]
    params: dict[str, Any]
    feedback: dict[str, Any]


def collect_training_data(config: DataCollectionConfig) -> FineTuningDataset:
    """Collect, deduplicate, validate, split and publish one immutable dataset version."""
    return versions.publish(curate(config))


def curate(
    config: DataCollectionConfig, run: store.Run | None = None, ask: Callable | None = None
) -> Curated:
    """Human rows (verified), well-rated logged and made-up ones (unverified) through every stage, in this order.

    Only `use_synthetic` needs the last two: evaluate.running.ask remembers answers and keeps to max_cost_usd.
    """
    task = tasks.load_task(config.task)
    human = tasks.load_examples(task, "human")
    logs, warnings = load_production(task, config)
    decisions = read_decisions(task)
    made = make_up(task, config, decisions, [*human.examples, *logs.examples], (run, ask))
    rows, unreadable = (
        [*human.examples, *logs.examples, *made.kept],
        [*human.unreadable, *logs.unreadable],
    )
    dropped = [
        reject(s, [i], "filter") if isinstance(s, TrainingExample) else s for s, i in logs.sample
    ]
    filtered = Sieved(
        rows, [*dropped, *made.rejected], _of("production", logs.dropped) + made.counts
    )
    reviewed, forgotten = apply_decisions(rows, decisions)
    placed = tasks.with_parts(reviewed.kept, config.seed, config.split_ratios)
    accepted = decisions.accepted
    checked = validate_examples(
        placed, task, config.base_model, config.min_tokens, config.max_tokens, accepted
    )
    named: list[tuple[TrainingExample, str]] = []
    if config.check_names != "off":
        kept, named = look_for_names(checked.kept, mask=config.check_names == "mask")
        checked = checked._replace(kept=kept)
    label = label_of(task, checked.kept)
    unique, conflicts = deduplicate_examples(
        checked.kept, label, config.near_duplicate_threshold, config.leakage_threshold, accepted
    )
    stages = (filtered, reviewed, checked, unique)
    rejected = [*unreadable, *(row for stage in stages for row in stage.rejected)]
    funnel = build_funnel(rows, unreadable, *stages)
    alarm_on_wipeout(funnel, rejected, config.wipeout_share)
    labels = label_counts(task, unique.kept)
    review = review_rows(
        conflicts, named, unique.kept, {field: partial(value_of, task, field) for field in labels}
    )
    feedback = feedback_report(unique.kept, logs, task)
    warnings += forgotten + label_warnings(labels)
    return Curated(
        task, unique.kept, rejected, review, funnel, labels, warnings, config.model_dump(), feedback
    )


def make_up(
    task: tasks.Task,
    config: DataCollectionConfig,
    decisions: Decisions,
    rows: Sequence[TrainingExample],
    asking: Asking,
) -> Sieved:
    """At most `synthetic_share` rows for each human train row that passes every check: these are the seeds."""
    if not config.use_synthetic:
        return Sieved([], [], Counter())
    run, ask = asking
    if run is None or ask is None:
        raise WorkbookError(
            "use_synthetic needs a run and a way to ask: curate.curate(config, run, evaluate.running.ask)"
        )
    placed = tasks.with_parts(
        apply_decisions(rows, decisions)[0].kept, config.seed, config.split_ratios
    )
    human = [e for e in placed if e.source == "human"]
    human = validate_examples(
        human, task, config.base_model, config.min_tokens, config.max_tokens
    ).kept
    label, near, leaks = (
        label_of(task, human),
        config.near_duplicate_threshold,
        config.leakage_threshold,
    )
    seeds = [
        e for e in deduplicate_examples(human, label, near, leaks)[0].kept if e.part == "train"
    ]
    model = models.load_model(
        config.synthetic_model or config.base_model, None, config.synthetic_base_url
    )
    asked = partial(
        ask, max_new_tokens=config.max_tokens, alone=0, task=task, run=run, usd=config.max_cost_usd
    )
    most = int(config.synthetic_share * len(seeds))
    made = synthesise(model, task, seeds, placed, label, asked, most, min(near, leaks))
    store.write_jsonl(run.private / "synthetic.jsonl", made.kept)
    return made


def _of(source: str, dropped: Mapping[str, int]) -> Counter[tuple[str, str]]:
    return Counter({(source, code): n for code, n in dropped.items()})


def load_production(
    task: tasks.Task, config: DataCollectionConfig
) -> tuple[tasks.LoadedRows, list[str]]:
    """Production rows with enough feedback and inside the dates; the others are counted, with a sample as evidence."""
    if not config.use_production:
        return tasks.LoadedRows([], [], [], Counter(), []), []
    rated = tasks.has_feedback(task)
    least, (start, end) = config.min_feedback_score if rated else 0, config.date_range

    @cache
    def low(score: float | None) -> Issue:
        said = "not rated" if score is None else f"score {score:g}"
        return Issue(
            code="low_feedback", evidence=f"{said}; wanted at least {least:g}", score=score
        )

    def wanted(score: float | None, made: datetime, guessed: bool) -> Issue | None:
        if least > 0 and (score is None or score < least):
            return low(score)
        if (start and made < start) or (end and made > end):
            note = " (the file's date: the row has none)" if guessed else ""
            return Issue(code="out_of_date_range", evidence=f"created {made.isoformat()}{note}")
        return None

    logs = tasks.load_examples(task, "production", wanted)
    if not (logs.examples or logs.dropped or logs.unreadable):
        return logs, ["no production rows: the dataset holds the human examples alone"]
    unrated = "no production row carries feedback, so min_feedback_score could not be applied"
    return logs, [] if rated else [unrated]


def build_funnel(
    rows: Sequence[TrainingExample], unreadable: Sequence[RejectedExample], *stages: Sieved
) -> list[dict[str, Any]]:
    """One row per stage and source: in = out + the sum of rejected, asserted against the rows that are left."""
    filtered, reviewed, checked, unique = (stage.counts for stage in stages)
    torn = Counter((r.example["source"], r.issues[0].code) for r in unreadable)
    leaks = Counter({key: n for key, n in unique.items() if key[1] == "potential_leakage"})
    steps = {"read": torn, "filter": filtered, "review": reviewed, "check": checked}
    steps |= {"duplicates": unique - leaks, "leakage": leaks}
    funnel = []
    left = Counter(e.source for e in rows) + Counter(r.example["source"] for r in unreadable)
    for (source, _), n in filtered.items():  # these never became examples
        left[source] += n
    for stage, counts in steps.items():
        for source in sorted(left):
            lost = {code: n for (of, code), n in sorted(counts.items()) if of == source}
            out = left[source] - sum(lost.values())
            funnel.append(
                {"stage": stage, "source": source, "in": left[source], "out": out, "rejected": lost}
            )
            left[source] = out
    kept = Counter(e.source for e in stages[-1].kept)
    if +left != kept:
        raise AssertionError(f"the funnel loses rows: {dict(left)} by count, {dict(kept)} kept")
    return funnel


def alarm_on_wipeout(
    funnel: list[dict[str, Any]], rejected: list[RejectedExample], share: float
) -> None:
    """Stop when one rule removes more than `share` of a source: far more often a wrong rule than such bad data."""
    entered: dict[str, int] = {}
    for row in funnel:
        stage, source = row["stage"], row["source"]
        if source != "synthetic" and stage in (
            "read",
            "check",
        ):  # most of what a weak model makes up may be refused
            entered[source] = row[
                "in"
            ]  # what the source filters leave out on purpose does not count
        for code, n in row["rejected"].items():
            if (
                code in SOURCE_FILTERS
                or entered.get(source, 0) < ALARM_ROWS
                or n <= share * entered[source]
            ):
                continue
            seen = next(r for r in rejected if r.stage == stage and r.example["source"] == source)
            at = f"{seen.example['file']}, line {seen.example['line']}: {seen.issues[0].evidence}"
            what = f"{code} would remove {n} of {entered[source]} {source} rows ({n / entered[source]:.0%}), for example {at}"
            raise WorkbookError(
                f"{what}; mend the data or the rule, or raise wipeout_share={share:g}"
            )


def feedback_report(
    kept: Sequence[TrainingExample], logs: tasks.LoadedRows, task: tasks.Task
) -> dict[str, Any]:
    """How the choice by feedback bends the data: who is rated, and how much was written by which model.

    Rated and unrated rows are compared on the kept rows and the sample of those that the filters dropped.
    """
    mine = [e for e in kept if e.source == "production"]
    if not mine:
        return {}
    seen = [*logs.examples, *(e for e, _ in logs.sample if isinstance(e, TrainingExample))]
    rated, unrated = (
        [e for e in seen if (e.feedback_score is not None) == yes] for yes in (True, False)
    )
    writers = Counter(str(e.meta.get("model_version") or "unknown") for e in mine)
    model, n = writers.most_common(1)[0]
    all_rows = len(logs.examples) + sum(logs.dropped.values())
    said = [
        f"{len(mine)} of {all_rows} readable rows are used; the rated ones have a median score of"
        f" {median(e.feedback_score for e in rated):g}"
        if rated
        else f"{len(mine)} of {all_rows} readable rows, none rated",
        f"{n / len(mine):.0%} of the used answers were written by {model}: what it gets wrong, a new model would learn",
    ]
    report: dict[str, Any] = {
        "rows": all_rows,
        "used": len(mine),
        "written_by": dict(writers.most_common()),
    }
    if rated and unrated:
        lengths = [median(len(e.user_text) for e in rows) for rows in (rated, unrated)]
        report |= {"median_length_rated": lengths[0], "median_length_unrated": lengths[1]}
        said.append(
            f"rated messages have a median of {lengths[0]:g} characters, unrated ones {lengths[1]:g}"
        )
        gap = _widest_gap(task, rated, unrated)
        said += [gap] if gap else []
    return report | {"said": said}


def _widest_gap(
    task: tasks.Task, rated: list[TrainingExample], unrated: list[TrainingExample]
) -> str:
    """The label whose share differs most between rated and unrated rows, in words."""
    shares = [
        Counter((f, str(v)) for e in rows for f, v in scored_values(task, e).items())
        for rows in (rated, unrated)
    ]
    gaps = {
        key: shares[0][key] / len(rated) - shares[1][key] / len(unrated)
        for key in shares[0] | shares[1]
    }
    if not gaps or len(gaps) > MAX_VALUES * len(task.scored_fields):
        return ""
    (field, value), gap = max(gaps.items(), key=lambda item: (abs(item[1]), item[0]))
    much = f"{abs(gap):.0%} of the rows {'more' if gap > 0 else 'fewer'} than among the unrated"
    return f"the widest gap: {field} {value} stands in {much}; ratings are no fair sample of the traffic"


def scored_values(task: tasks.Task, example: TrainingExample) -> dict[str, Any]:
    """The scored fields of a row's answer; {} where it has none."""
    try:
        value = json.loads(example.answer)
    except (ValueError, RecursionError):
        return {}
    return (
        {field: value.get(field) for field in task.scored_fields} if isinstance(value, dict) else {}
    )


def value_of(task: tasks.Task, field: str, example: TrainingExample) -> str:
    """The value of one scored field as text (a text task's field is `answer`)."""
    values = (
        scored_values(task, example)
        if task.scored_fields
        else {"answer": tasks.normalise(example.answer)[:60]}
    )
    value = values.get(field)
    return value if isinstance(value, str) else store.canonical(value)


def label_of(
    task: tasks.Task, examples: Sequence[TrainingExample]
) -> Callable[[TrainingExample], str | None]:
    """A function example -> label, equal for equal answers; None for free text, where no two answers conflict.

    The label is the scored fields; in a text task the answer itself, when `examples` have few different ones.
    """
    if task.scored_fields:
        return lambda example: store.canonical(scored_values(task, example))
    if task.schema is not None or len({tasks.normalise(e.answer) for e in examples}) <= MAX_VALUES:
        return lambda example: tasks.normalise(example.answer)
    return lambda _: None


def label_counts(task: tasks.Task, examples: Sequence[TrainingExample]) -> Labels:
    """Rows of every value in every part, for each scored field that is a label (text tasks: for the answer)."""
    found: defaultdict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    for example in examples:
        values = (
            scored_values(task, example)
            if task.scored_fields
            else {"answer": tasks.normalise(example.answer)[:60]}
        )
        for field, value in values.items():
            found[field][
                example.part or "train", value if isinstance(value, str) else store.canonical(value)
            ] += 1
    return {
        field: {p: {v: n for (part, v), n in sorted(counts.items()) if part == p} for p in PARTS}
        for field, counts in found.items()
        if len({value for _, value in counts}) <= MAX_VALUES
    }


def label_warnings(labels: Labels) -> list[str]:
    """One sentence per field whose rarer values have too few test rows to be scored on their own."""
    said = []
    for field, parts in labels.items():
        in_test = {
            value: parts["test"].get(value, 0) for counts in parts.values() for value in counts
        }
        if rare := [f"{value} ({n})" for value, n in sorted(in_test.items()) if n < FEW]:
            said.append(
                f"fewer than {FEW} test rows for {field} {', '.join(rare)}: no score per value there"
            )
    return said
