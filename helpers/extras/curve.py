"""Would more data help? Smaller parts of a dataset, and what a learning curve over them says."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from helpers import evaluate, store, tasks
from helpers.records import AnswerRow, FineTuningDataset
from helpers.tasks import Task

FLAT = 0.03  # a doubling of the rows that surely brings less than three points


def part_of(dataset: FineTuningDataset, percent: int, learnt: Container[str]) -> FineTuningDataset:
    """The dataset with `percent` of the train rows that are learnt; small parts lie in larger ones.

    `learnt` are ids of token rows (train.Preflight.train): all parts take the rows of one training,
    or a limit of tokens would make two of them the same. An example may have several (ID#1, …).
    """
    train = [e for e in dataset.part("train") if e.id in learnt or f"{e.id}#1" in learnt]
    train.sort(key=lambda example: tasks.hash_order(example.id))
    kept = {example.id for example in train[: max(1, round(len(train) * percent / 100))]}
    examples = [e for e in dataset.examples if e.part != "train" or e.id in kept]
    name = {
        "version": f"{dataset.metadata.version}-{percent}",
        "fingerprint": store.fingerprint(sorted(kept)),
    }
    return dataset.model_copy(
        update={
            "examples": examples,
            "metadata": dataset.metadata.model_copy(update=name),
            "splits": dataset.splits.model_copy(update={"train": len(kept)}),
        }
    )


def read_curve(answers: Mapping[int, Sequence[AnswerRow]], task: Task) -> str:
    """What the last step of a learning curve says; `answers` by percent of the train rows."""
    *_, half, whole = sorted(answers)
    task = task.model_copy(update={"replace": "better"})
    gain = evaluate.compare_results(answers[whole], answers[half], task).get("accuracy")
    if gain is None:
        return "the answers have no accuracy, so the curve says nothing"
    step = f"from {half}% to {whole}% of the rows: {gain.difference}"
    if gain.verdict == "pass":
        advice = "More examples still help: label more before you change anything else"
    elif gain.difference.high < FLAT:
        advice = (
            "The curve is flat: more of the same rows will not help; look at labels, prompt and"
            " model"
        )
    else:
        needed = evaluate.rows_to_separate(gain.gained, gain.lost, gain.difference.n)
        advice = "Undecided: a tie"
        if needed:
            advice = f"Undecided; about {needed} validation rows would show it"
    return f"{step}. {advice}"
