"""From a task's sources to one dataset: collect, check, deduplicate. Every row is accounted for."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import chain

from helpers import models, show, store, tasks
from helpers.curate.alarms import alarm_on_lost_labels, alarm_on_wipeout
from helpers.curate.checks import validate_examples
from helpers.curate.config import DataCollectionConfig
from helpers.curate.corrections import live_corrections
from helpers.curate.duplicates import PairFinder, Pairs, deduplicate_examples, pairs_here
from helpers.curate.labels import (
    LabelCounts,
    label_counts,
    label_functions,
    label_of,
    label_warnings,
    misspelled,
)
from helpers.curate.production import feedback_notes, load_production
from helpers.curate.review import ASK, apply_decisions, read_decisions, review_rows
from helpers.curate.searching import Search, search_here
from helpers.curate.stages import Loss, Question, Say, Stage, build_funnel, rejection
from helpers.curate.versions import Curated, publish_dataset
from helpers.records import (
    Asking,
    FineTuningDataset,
    Issue,
    Message,
    SourceReading,
    TrainingExample,
    beside,
    few_collections,
    in_order,
)

MANY = 200_000  # rows that one process searches and compares alone
# what is written beside a row -> what was done to it
CHANGES = {
    "masked": "personal data replaced by its kind",
    "review": "decided by a reviewer",
    "accepted": "taken back by accept.csv",
}
Ask = Callable[[Sequence[list[Message]], Asking], Sequence[models.Answer]]


def collect_training_data(config: DataCollectionConfig) -> FineTuningDataset:
    """Collect, deduplicate, validate, split and publish one immutable dataset version."""
    return publish_dataset(curate(config))


@few_collections()
def curate(
    config: DataCollectionConfig,
    run: store.Run | None = None,
    ask: Ask | None = None,
    say: Say = show.say,
) -> Curated:
    """Human rows (verified), well-rated logged and made-up ones (unverified), through every stage.

    Only `use_synthetic` needs `run` and `ask`: whose folder keeps what is made up, and how a model
    is asked. What is being done is told to `say`.
    """
    task = tasks.load_task(config.task)
    logs, warnings = load_production(task, config)
    human = tasks.load_examples(task, "human")
    human_ids = {example.id for example in human.examples}
    corrections, unread = live_corrections(task, human_ids) if config.use_production else ([], [])
    decisions, outdated = read_decisions(task).about(row.example for row in corrections)
    waiting = [row for row in corrections if row.example.id not in decisions.reviewed]
    for row in corrections:
        if row.example.id in decisions.reviewed:
            logs.examples.append(row.example)

    collected = collect(human, logs, config)
    read = [rows.reading for rows in (human, logs) if rows.reading is not None]
    decisions, changed = decisions.about(collected.kept)
    accepted = decisions.accepted
    if config.use_synthetic:
        from helpers.extras import synthetic

        collected = synthetic.add_rows(collected, decisions, task, config, run, ask)
    reviewed = apply_decisions(collected.kept, decisions)
    search, pairs_of = long_steps(config, len(reviewed.kept))
    say(f"{len(reviewed.kept):,} rows read; checking format, length, personal data, keys")
    checked = validate_examples(reviewed.kept, task, config, accepted, search, say)
    named = check_names(checked.kept, config.check_names)
    say(f"{len(named.kept):,} rows left; looking for copies and leaks")
    unique = deduplicate_examples(
        named.kept,
        label_of(task, named.kept),
        config.near_duplicate_threshold,
        config.leakage_threshold,
        accepted,
        pairs_of,
    )
    say(f"{len(unique.kept):,} rows left; choosing rows for review")
    stages = [collected, reviewed, checked, named, unique]

    rejected = beside(collected.kept)  # on disk where those are
    for row in chain.from_iterable(stage.rejected for stage in stages):
        rejected.append(row)
    funnel = build_funnel(stages)
    alarm_on_wipeout(funnel, rejected, config.wipeout_share)
    alarm_on_lost_labels(task, reviewed.kept, rejected, config.wipeout_share)
    labels = label_counts(task, unique.kept)
    if human.rated:
        warnings += _rated_low_and_kept(unique.kept, config.min_feedback_score, read)
    warnings += [*unread, *outdated, *changed, *decisions.without_rows(collected.kept)]
    return Curated(
        task=task,
        examples=unique.kept,
        rejected=rejected,
        review=review_of(task, unique, named, labels, waiting),
        funnel=funnel,
        labels=labels,
        warnings=[*warnings, *checked.notes, *label_warnings(labels)],
        params=config.model_dump(),
        feedback=feedback_notes(unique.kept, logs),
        readings=[*readings_of(read, named.kept), *reading_of_live(task, corrections)],
    )


def _rated_low_and_kept(
    examples: Sequence[TrainingExample], least: float, read: list[SourceReading]
) -> list[str]:
    """A warning about human rows that would be left out if they were logged; counted in `read`."""
    low = sum(e.source == "human" and (e.feedback_score or least) < least for e in examples)
    if not low:
        return []
    kept = f"rated below {least:g} and kept: verified rows are not rejected for ratings"
    read[0] = read[0].model_copy(update={"changes": read[0].changes | {kept: low}})
    return [f"{low} human {'row is' if low == 1 else 'rows are'} {kept}"]


def readings_of(
    read: Sequence[SourceReading], kept: Sequence[TrainingExample]
) -> list[SourceReading]:
    """How each file was read, and what was changed afterwards in the rows that stayed."""
    changes = defaultdict(Counter)
    for example in kept:
        changes[example.source].update(CHANGES[name] for name in CHANGES if name in example.meta)
    readings = []
    for reading in read:
        changed = Counter(reading.changes) + changes[reading.source]
        readings.append(reading.model_copy(update={"changes": dict(changed)}))
    return readings


def reading_of_live(task: tasks.Task, corrections: Sequence[Question]) -> list[SourceReading]:
    """The live log, where users corrected answers in it."""
    if not corrections:
        return []
    n = len(corrections)
    return [
        SourceReading(
            file=f"live/{task.registry_name}",
            source="production",
            rows=n,
            format="live log",
            form="answers that users corrected",
            changes={"corrected by a user: asked in review.csv, learnt once decided": n},
        )
    ]


def long_steps(config: DataCollectionConfig, rows: int) -> tuple[Search, PairFinder]:
    """How texts are searched and compared: here, of many rows by more processes, or by Ray's."""
    if config.engine == "local" and rows < MANY:
        return search_here, pairs_here
    from helpers.extras import big

    engine = big.engine_of(config.engine, config.engine_address)

    def pairs_of(
        texts: Sequence[str], protected: Sequence[bool], near: float, across: float
    ) -> tuple[Pairs, Pairs]:
        with closing(engine):
            return big.like_pairs(engine.map, texts, protected, near, across)

    return engine.search, pairs_of


def collect(human: tasks.LoadedRows, logs: tasks.LoadedRows, config: DataCollectionConfig) -> Stage:
    """The rows of both sources with their parts, without those that cannot be read or are dropped.

    A logged row whose id a human row has gets one by its content; an answer that somebody called
    bad is nothing to learn from.
    """
    stage = Stage.of(human.examples)
    for row in (*human.unreadable, *logs.unreadable):
        stage.rejected.append(row)
        stage.counts[Loss("read", row.example["source"], row.issues[0].code)] += 1
    for row, issue in logs.sample:
        if isinstance(row, TrainingExample):
            row = rejection(row, [issue], "filter")
        stage.rejected.append(row)
    for example in chain(human.examples, _logged(human, logs)):
        if example.preference is not None and example.preference.label is False:
            evidence = "its label says that the answer is bad, or was passed over"
            issue = Issue(code="low_feedback", evidence=evidence)
            stage.reject(example, [issue], "filter")
        else:
            stage.keep(tasks.with_part(example, config.seed, config.split_ratios))
    for code, n in logs.dropped.items():
        stage.counts[Loss("filter", "production", code)] += n
    return stage


def _logged(human: tasks.LoadedRows, logs: tasks.LoadedRows) -> Iterator[TrainingExample]:
    """The logged rows, each with an id that no human row has."""
    human_ids = {example.id for example in human.examples} if logs.examples else set()
    for example in logs.examples:
        if example.id in human_ids:
            content = tasks.content_id(example.messages)
            example = example.model_copy(update={"id": f"{content}-{example.meta['line']}"})
        yield example


def check_names(examples: list[TrainingExample], mode: str) -> Stage:
    """Names and addresses found by a packaged model: `mode` is off, review or mask."""
    if mode == "off":
        return Stage(examples)
    from helpers.extras import names

    return names.look_for_names(examples, mask=mode == "mask")


def review_of(
    task: tasks.Task, unique: Stage, named: Stage, labels: LabelCounts, waiting: Sequence[Question]
) -> list[dict[str, str]]:
    """What a person should decide: conflicts, names, doubtful labels, rephrasings, spot checks.

    First of all what users corrected, which is no part of the dataset before it is decided.
    """
    from helpers.extras import doubts

    ids, rated = [], set()
    for place, example in enumerate(unique.kept):  # read once: they may lie on disk
        ids.append(example.id)
        if example.feedback_score and example.quality != "verified":
            rated.add(place)
    order = sorted(range(len(ids)), key=lambda place: tasks.hash_order(f"review:{ids[place]}"))
    drawn = in_order(unique.kept, order)
    some_rated = in_order(unique.kept, [place for place in order if place in rated][:ASK])
    questions = [
        *waiting,
        *unique.questions,
        *named.questions,
        *misspelled(task, drawn, labels),
        *doubts.doubtful_labels(drawn, label_functions(task, labels))[:ASK],
        *doubts.close_in_meaning(drawn)[:ASK],
        *(Question(row, f"rated {row.feedback_score:g}: is it right?") for row in some_rated),
        *(Question(row, "random sample") for row in drawn[:ASK]),
    ]
    asked = {question.example.id for question in questions}
    kept = in_order(unique.kept, [place for place, row_id in enumerate(ids) if row_id in asked])
    return review_rows(questions, chain((row.example for row in waiting), kept))
