"""Rows that a model makes up, off by default: each from one human train row.

One is kept only if it is new and its label holds. Models answer greedily here, so variety comes
from the seeds and from the ways to vary them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import cycle, islice
from typing import Any

from helpers import curate, models, store, tasks
from helpers.curate import Ask, DataCollectionConfig, Decisions, Label, Stage
from helpers.records import Asking, Issue, Message, TrainingExample, WorkbookError

WAYS = (
    "Write it as another person about another case would.",
    "Write it much shorter.",
    "Write it with more detail.",
    "Write it in a hurry, with a slip of the pen.",
)
LONGEST_TEXT = 512  # tokens that a made-up example may take
TRIES = 3  # questions to the model for each row in demand, at most
BATCH = 16  # questions asked at a time; it is stopped after the batch that brings enough


def add_rows(
    collected: Stage,
    decisions: Decisions,
    task: tasks.Task,
    config: DataCollectionConfig,
    run: store.Run | None,
    ask: Ask | None,
) -> Stage:
    """The collected rows and those that a model makes up from them; the run keeps these too."""
    if run is None or ask is None:
        raise WorkbookError(
            "use_synthetic needs a run and a way to ask: curate.curate(config, run, ask), where"
            " ask(prompts, asking) gives the answers, as notebook 02 does"
        )
    reviewed = curate.apply_decisions(collected.kept, decisions)
    placed = tasks.with_parts(reviewed.kept, config.seed, config.split_ratios)
    made = make_up(placed, task, config, ask)
    store.write_jsonl(run.private / "synthetic.jsonl", made.kept)
    for example in made.kept:
        collected.keep(example)
    for row in made.rejected:
        collected.rejected.append(row)
    collected.counts += made.counts
    return collected


def make_up(
    placed: Sequence[TrainingExample], task: tasks.Task, config: DataCollectionConfig, ask: Ask
) -> Stage:
    """At most `synthetic_share` new rows for each human train row that passes every check.

    Those are the seeds. A new row is unverified, stands in train, and is the child of one seed and
    of its group. It is refused when it cannot be read, when it is too like one of `placed` or of
    the made rows, or when the model, asked the new question alone, labels it otherwise (free text
    has no label, so nothing can differ).
    """
    writer = models.load_model(
        config.synthetic_model or config.base_model, base_url=config.synthetic_base_url
    )
    models.check_may_send(task, writer)
    example_form = Asking(
        rung="synthetic",
        model=writer.spec,
        max_new_tokens=LONGEST_TEXT,
        response_format=_schema(task),
    )
    answer_form = example_form.model_copy(update={"response_format": task.schema})
    seeds, label = _seeds(placed, task, config)
    most = int(config.synthetic_share * len(seeds))
    threshold = min(config.near_duplicate_threshold, config.leakage_threshold)
    known = [(example.id, _shingles(example)) for example in placed]
    attempts = islice(zip(cycle(seeds), cycle(WAYS), strict=False), TRIES * most)
    stage = Stage()
    while batch := list(islice(attempts, BATCH)):
        answers = ask([_request(task, seed, way) for seed, way in batch], example_form)
        children = []
        for (seed, _), answer in zip(batch, answers, strict=True):
            children.append(_child(seed, *_read(task, answer.text), writer.name))
        questions = [tasks.render(task, child) for child in children]
        for child, second in zip(children, ask(questions, answer_form), strict=True):
            again = _child(child, child.user_text, second.text, writer.name)
            issue = _not_new(child, known, threshold) or _unsure(child, again, label)
            if issue:
                stage.reject(child, [issue], "filter")
            elif len(stage.kept) < most:
                stage.kept.append(child)
                known.append((child.id, _shingles(child)))
        if len(stage.kept) == most:
            break
    return stage


def _not_new(
    child: TrainingExample, known: Sequence[tuple[str, set[str]]], threshold: float
) -> Issue | None:
    """Why a made-up row is no row, or none below the threshold of all that are known."""
    if not child.user_text or not child.answer:
        evidence = 'the model did not give {"input": ..., "output": ...}'
        return Issue(code="invalid_format", evidence=evidence)
    grams = _shingles(child)
    score, matched_id = max((curate.jaccard(grams, other), row_id) for row_id, other in known)
    if score < threshold:
        return None
    return Issue(
        code="near_duplicate",
        evidence=f"not new: character 5-gram Jaccard {score:.2f}",
        matched_id=matched_id,
        score=round(score, 4),
    )


def _shingles(example: TrainingExample) -> set[str]:
    return curate.shingles(tasks.normalise(example.user_text))


def _seeds(
    placed: Sequence[TrainingExample], task: tasks.Task, config: DataCollectionConfig
) -> tuple[list[TrainingExample], Label]:
    """The human train rows that would be kept, in the order of their hash, and what labels them."""
    human = [example for example in placed if example.source == "human"]
    checked = curate.validate_examples(human, task, config).kept
    label = curate.label_of(task, checked)
    unique = curate.deduplicate_examples(
        checked, label, config.near_duplicate_threshold, config.leakage_threshold
    ).kept
    seeds = [example for example in unique if example.part == "train"]
    return sorted(seeds, key=lambda seed: tasks.hash_order(f"synthetic:{seed.id}")), label


def _schema(task: tasks.Task) -> dict[str, Any]:
    """{input, output}, the output by the task's own schema.

    The schema's definitions move to where its references point.
    """
    output = dict(task.schema or {"type": "string"})
    shared = {key: output.pop(key) for key in ("$defs", "definitions") if key in output}
    fields = {"input": {"type": "string"}, "output": output}
    return {
        "type": "object",
        "properties": fields,
        "required": list(fields),
        "additionalProperties": False,
        **shared,
    }


def _request(task: tasks.Task, seed: TrainingExample, way: str) -> list[Message]:
    output = seed.answer if task.schema is None else json.loads(seed.answer)
    shown = store.dumps({"input": seed.user_text, "output": output})
    instructions = (
        "You write examples for the task below: a new input and the one right output for it, as one"
        ' JSON object {"input": ..., "output": ...} and nothing else.\n\n'
        f"The task:\n{task.instructions_full}"
    )
    request = (
        f"An example:\n{shown}\n\n"
        f"Write a new one with the same output and an input of its own. {way}"
    )
    return [Message(role="system", content=instructions), Message(role="user", content=request)]


def _read(task: tasks.Task, text: str) -> tuple[str, str]:
    """(input, output) of a model's answer; ("", "") when it is not in the form asked for."""
    try:
        row = json.loads(text[text.index("{") : text.rindex("}") + 1])
        output = row["output"] if task.schema is None else store.dumps(row["output"])
        return row["input"].strip(), output.strip()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "", ""


def _child(parent: TrainingExample, text: str, answer: str, writer: str) -> TrainingExample:
    """The parent's row with another text and answer, made up by the model `writer`."""
    key = store.fingerprint([parent.id, text, answer])
    changes = {
        "id": f"synthetic-{key[:16]}",
        "messages": [Message(role="user", content=text), Message(role="assistant", content=answer)],
        "source": "synthetic",
        "quality": "unverified",
        "part": "train",
        "parent_id": parent.id,
        "feedback_score": None,
        "meta": {"file": "synthetic.jsonl", "sha256": key, "model_version": writer},
    }
    return parent.model_copy(update=changes)


def _unsure(child: TrainingExample, again: TrainingExample, label: Label) -> Issue | None:
    if label(child) == label(again):
        return None
    evidence = "the model, asked the new question alone, labels it otherwise"
    return Issue(code="low_feedback", evidence=evidence)
