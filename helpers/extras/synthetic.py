"""Rows that a model makes up, off by default: each from one human train row, kept only if it is new and its label holds.

Models answer greedily here, so variety comes from the seeds and from the ways to vary them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from helpers import models, store, tasks
from helpers.curate.checks import Sieved, reject
from helpers.curate.duplicates import Label, jaccard, shingles
from helpers.models import Answer, Model
from helpers.records import Issue, Message, TrainingExample

WAYS = (
    "Write it as another person about another case would.",
    "Write it much shorter.",
    "Write it with more detail.",
    "Write it in a hurry, with a slip of the pen.",
)
TRIES = 3  # questions to the model for each row wanted, at most
BATCH = 16  # questions asked at a time; it is stopped after the batch that brings enough
Rows = Sequence[TrainingExample]
Ask = Callable[[Model, Sequence[list[Message]]], Sequence[Answer]]


def synthesise(
    model: Model,
    task: tasks.Task,
    seeds: Rows,
    rows_there: Rows,
    label: Label,
    ask: Ask,
    most: int,
    novelty: float,
) -> Sieved:
    """Up to `most` unverified train rows, each the child of one seed and of its group, and why others were refused.

    A row is refused when it cannot be read, is as like one of `rows_there` or of the made rows as `novelty` (Jaccard), or when
    the model, asked the new question alone, labels it otherwise (free text has no label, so nothing can differ).
    """
    models.check_may_send(task, model)
    formed = getattr(model, "with_schema", lambda schema: model)
    known = [(e.id, shingles(tasks.normalise(e.user_text))) for e in rows_there]
    ordered = sorted(seeds, key=lambda e: tasks.hash_order(f"synthetic:{e.id}"))
    attempts = [
        (ordered[i % len(ordered)], WAYS[i % len(WAYS)])
        for i in range(TRIES * most if ordered else 0)
    ]
    kept, rejected, counts = [], [], Counter()
    for start in range(0, len(attempts), BATCH):
        batch = attempts[start : start + BATCH]
        told = ask(formed(_schema(task)), [_request(task, seed, way) for seed, way in batch])
        made = [
            _child(seed, *_read(task, answer), model.name)
            for (seed, _), answer in zip(batch, told, strict=True)
        ]
        again = ask(formed(task.schema), [tasks.render(task, example) for example in made])
        for example, second in zip(made, again, strict=True):
            issue = _refusal(
                example,
                _child(example, example.user_text, second.text, model.name),
                label,
                known,
                novelty,
            )
            if issue:
                rejected.append(reject(example, [issue], "filter"))
                counts["synthetic", issue.code] += 1
            elif len(kept) < most:
                kept.append(example)
                known.append((example.id, shingles(tasks.normalise(example.user_text))))
        if len(kept) == most:
            break
    return Sieved(kept, rejected, counts)


def _schema(task: tasks.Task) -> dict[str, Any]:
    """{input, output}, the output by the task's own schema; its definitions move to where its references point."""
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
    said = (
        "You write examples for the task below: a new input and the one right output for it, as one JSON object"
        f' {{"input": ..., "output": ...}} and nothing else.\n\nThe task:\n{task.instructions_full}'
    )
    shown = store.dumps({"input": seed.user_text, "output": output})
    asked = f"An example:\n{shown}\n\nWrite a new one with the same output and an input of its own. {way}"
    return [Message(role="system", content=said), Message(role="user", content=asked)]


def _read(task: tasks.Task, answer: Answer) -> tuple[str, str]:
    """(input, output) of what the model said; ("", "") when it is not in the form that was asked for."""
    try:
        said = json.loads(answer.text[answer.text.index("{") : answer.text.rindex("}") + 1])
        output = said["output"] if task.schema is None else store.dumps(said["output"])
        return said["input"].strip(), output.strip()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "", ""


def _child(parent: TrainingExample, text: str, answer: str, writer: str) -> TrainingExample:
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


def _refusal(
    example: TrainingExample,
    again: TrainingExample,
    label: Label,
    known: Sequence[tuple[str, set[str]]],
    novelty: float,
) -> Issue | None:
    """Why a made-up row is not wanted."""
    if not example.user_text or not example.answer:
        return Issue(
            code="invalid_format", evidence='the model did not give {"input": ..., "output": ...}'
        )
    mine = shingles(tasks.normalise(example.user_text))
    score, matched = max((jaccard(mine, grams), row_id) for row_id, grams in known)
    if score >= novelty:
        evidence = f"not new: character 5-gram Jaccard {score:.2f}"
        return Issue(
            code="near_duplicate", evidence=evidence, matched_id=matched, score=round(score, 4)
        )
    if label(example) != label(again):
        return Issue(
            code="low_feedback",
            evidence="the model, asked the new question alone, labels it otherwise",
        )
    return None
