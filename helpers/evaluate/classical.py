"""The cheapest rung: TF-IDF and logistic regression, a classifier per field of the answer.

Where answers are made of labels, it is often as good as a tuned language model at a thousandth of
the cost, so nobody should pay for training before it was tried.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from helpers import models, store, tasks
from helpers.evaluate.scorers import Examples, strict_json
from helpers.models import Answer
from helpers.records import Message, TrainingExample, WorkbookError
from helpers.tasks import Task

CLASSICAL = "classical"  # the rung's name, and what its Asking calls the model
WHOLE = ""  # the field's name where the whole answer is one label
MISSING = "(missing)"  # a field that an answer leaves out
LEAST_REPEATED = 0.8  # of the train rows: their value occurs again, so it is a label and no text
FEWEST_ROWS = 20
CONVERGED = 300  # steps of the optimiser; more change no answer
MOST_FEATURES = 30_000
WORD = r"(?u)\b\w+\b"  # a single digit is a word too
Labels = dict[str, list[str]]  # field -> its value in each row, as JSON


def learnable(examples: Examples) -> list[TrainingExample]:
    """The verified rows of the train part that have an answer."""
    return [e for e in examples if e.quality == "verified" and e.part == "train" and e.answer]


def classifier_rows(task: Task, examples: Examples) -> list[TrainingExample]:
    """What it may learn from: their answers that are asked for."""
    return [turn for example in learnable(examples) for turn in tasks.asked_turns(task, example)]


def labels_of(task: Task, examples: Examples) -> Labels:
    """Every field's values, as JSON texts; of a task without a schema the whole answer is one."""
    if task.schema is None:
        return {WHOLE: [example.answer for example in examples]}
    objects = [strict_json(example.answer) or {} for example in examples]
    names = dict.fromkeys(name for value in objects for name in value)
    return {name: [spelled(value, name) for value in objects] for name in names}


def spelled(value: Mapping[str, Any], name: str) -> str:
    """A field's value as a label: its JSON."""
    return json.dumps(value[name], ensure_ascii=False) if name in value else MISSING


def label_fields(task: Task, examples: Examples) -> Labels:
    """The scored fields whose values are labels, with them; "" is a text task's whole answer."""
    labels = labels_of(task, examples)
    scored = [name for name in task.scored_fields or labels if name in labels]
    return {name: labels[name] for name in scored if repeated(labels[name]) >= LEAST_REPEATED}


def repeated(values: Sequence[str]) -> float:
    """The share of rows whose value occurs in another row too: near 1 for labels, 0 for texts."""
    counts = Counter(values)
    return sum(counts[value] > 1 for value in values) / max(1, len(values))


def why_not(task: Task, train: Examples) -> str:
    """Why no classifier can answer this task; "" when one can."""
    if task.accuracy_from in ("judge", "human"):
        return "its answers are texts that people or a model judge"
    rows = classifier_rows(task, train)
    if len(rows) < FEWEST_ROWS:
        return f"the train part holds {len(rows)} verified rows; {FEWEST_ROWS} are needed"
    labels = labels_of(task, rows)
    for name in task.scored_fields or labels:
        values = labels.get(name, [])
        if repeated(values) < LEAST_REPEATED:
            what = f"field {name}" if name else "the answer"
            return f"{what} is free text ({len(set(values))} values in {len(rows)} rows)"
    return ""


class ClassicalModel:
    """Answers a chat by its user turns, one classifier a field; deterministic and on this machine.

    Fields that the task does not score get their most frequent value.
    """

    provider = "local"
    is_loopback = True
    name = CLASSICAL
    spec = CLASSICAL

    def __init__(self, task: Task, train: Examples) -> None:
        reason = why_not(task, train)
        if reason:
            raise WorkbookError(f"rung {CLASSICAL}: {reason}; leave it out of `rungs`")
        rows = sorted(classifier_rows(task, train), key=lambda example: example.id)
        self.texts = [models.question(example.messages) for example in rows]
        self.labels = labels_of(task, rows)
        self.scored = task.scored_fields or list(self.labels)
        self.fingerprint = store.fingerprint([CLASSICAL, self.texts, self.labels, self.scored])
        self._classifiers = {}  # of scikit-learn, by field
        self._words = None

    def answer(self, chats: Sequence[list[Message]], max_new_tokens: int) -> list[Answer]:
        """One answer a chat, in order; no limit applies to labels."""
        if not self._classifiers:
            self._learn()
        started = time.monotonic()
        features = self._words.transform([models.question(chat) for chat in chats])
        columns = {name: model.predict(features) for name, model in self._classifiers.items()}
        milliseconds = 1000 * (time.monotonic() - started)
        answers = []
        for labels in zip(*columns.values(), strict=True):
            text = _as_text(dict(zip(columns, map(str, labels), strict=True)))
            answers.append(Answer(text=text, latency_ms=milliseconds, finish="stop"))
        return answers

    def count_tokens(self, chat: list[Message]) -> int:
        """It reads words, not tokens."""
        return 0

    def _learn(self) -> None:
        """A classifier per field, over the same words."""
        from sklearn.dummy import DummyClassifier
        from sklearn.linear_model import LogisticRegression

        self._words = vectoriser()
        features = self._words.fit_transform(self.texts)
        for name, values in self.labels.items():
            model = DummyClassifier(strategy="most_frequent")
            if name in self.scored and len(set(values)) > 1:
                model = LogisticRegression(C=10, max_iter=CONVERGED)
            self._classifiers[name] = model.fit(features, values)


def _as_text(fields: Mapping[str, str]) -> str:
    """The answer that the labels make: the label itself, or compact JSON."""
    if WHOLE in fields:
        return fields[WHOLE]
    values = {name: json.loads(text) for name, text in fields.items() if text != MISSING}
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))


def vectoriser() -> Any:
    """TF-IDF of words, and of their parts so that it works in any script."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_union

    words = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, max_features=MOST_FEATURES, token_pattern=WORD
    )
    parts = TfidfVectorizer(
        analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, max_features=MOST_FEATURES
    )
    return make_union(words, parts)
