"""When the verdict of 04 disappoints: which of the usual causes the evidence speaks for, and what to do next.

Each check is a pure function of what the run has written down, and returns (is it so: True, False, None = unknown; the
evidence). None of them looks at one number alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from helpers import store, tasks
from helpers.evaluate.compare import Evaluation, Rows, compare_results, pair_rows
from helpers.evaluate.running import read_answers
from helpers.evaluate.scorers import strict_json
from helpers.evaluate.statistics import rows_to_separate
from helpers.records import FineTuningDataset, Record, TrainingExample
from helpers.tasks import hash_order

Found = tuple[bool | None, str]
RISE = 1.05  # the validation loss is 5% above its best, or still fell by 5%: more than its noise from step to step
FLAT = 0.03  # a doubling of the rows that surely brings less than three points
SHARE = 0.05  # of rows: what is worth a look
NEXT = {
    "broken_evaluation": "mend the measurement before you believe anything below",
    "template_mismatch": "compare the rendered prompt of training and of serving; train the end-of-text token",
    "overfit": "fewer epochs, a smaller rank or learning rate, or more examples",
    "underfit": "more epochs or a larger learning rate or rank; compare on validation",
    "data_quality": "read these rows side by side in 02's review and mend their labels",
    "shift": "label recent rows of the kind that is asked now, and split again",
    "wrong_tool": "STOP training: give the model the articles (rag), or a stronger model",
}


class Diagnosis(Record):
    """One possible cause: does the evidence speak for it, which, and what to do then."""

    cause: str
    found: bool | None
    evidence: str
    next_action: str


def diagnose(
    evaluation: Evaluation,
    losses: Sequence[Mapping[str, Any]],
    examples: Sequence[TrainingExample],
    answers: Mapping[str, Rows],
) -> list[Diagnosis]:
    """Every cause with its evidence: `losses` are lines of training.jsonl, `answers` the rows of each rung by its name."""
    tuned, other, base = answers["fine_tuned"], answers[evaluation.best_rung], answers["zero_shot"]
    train = [e for e in examples if e.part == "train"]
    test = [e for e in examples if e.part == "test"]
    curve = [float(line["eval_loss"]) for line in losses if line.get("eval_loss") is not None]
    found = {
        "broken_evaluation": broken_evaluation(tuned, base, train, test),
        "template_mismatch": template_mismatch(tuned),
        "overfit": overfit(curve),
        "underfit": underfit(curve, evaluation),
        "data_quality": data_quality(train, test, tuned, other),
        "shift": shift(train, test),
        "wrong_tool": wrong_tool(evaluation, test),
    }
    return [
        Diagnosis(cause=c, found=yes, evidence=said, next_action=NEXT[c])
        for c, (yes, said) in found.items()
    ]


def diagnose_run(run: store.Run, examples: Sequence[TrainingExample]) -> list[Diagnosis]:
    """`diagnose` from a run's own files; empty before 04 has measured it."""
    if not run.has("evaluation.json"):
        return []
    evaluation = Evaluation.model_validate(run.read("evaluation.json"))
    losses = (
        store.read_jsonl(run.path("training/training.jsonl"))
        if run.has("training/training.jsonl")
        else []
    )
    return diagnose(
        evaluation,
        losses,
        examples,
        {rung.name: read_answers(run, rung) for rung in evaluation.rungs},
    )


def broken_evaluation(
    tuned: Rows, base: Rows, train: Sequence[TrainingExample], test: Sequence[TrainingExample]
) -> Found:
    """The adapter does nothing, requests failed, or test questions stand in the train part."""
    seen = {tasks.normalise(e.user_text) for e in train}
    leaked = sum(tasks.normalise(e.user_text) in seen for e in test)
    same = _share([a["answer"] == b["answer"] for a, b in pair_rows(tuned, base)])
    failed = _share([bool(row.get("error")) for row in (*tuned, *base)])
    said = f"{same:.0%} of the answers are the base model's own, {failed:.0%} of the requests failed, {leaked} test rows in train"
    return same > 1 - SHARE or failed > SHARE or leaked > 0, said


def template_mismatch(tuned: Rows) -> Found:
    """Answers that do not end, or that are right but wrapped in other text: the prompt is not what was trained on."""
    scores = [row["scores"] for row in tuned]
    endless = _share([s.get("endless", 0) > 0 for s in scores])
    wrapped = _share([s.get("accuracy_tolerant", 0) > s.get("accuracy", 0) for s in scores])
    return (
        endless > SHARE or wrapped > SHARE,
        f"{endless:.0%} of the answers never end, {wrapped:.0%} are right but wrapped",
    )


def overfit(curve: Sequence[float]) -> Found:
    """The validation loss rose again after its best."""
    if len(curve) < 3:
        return None, f"{len(curve)} looks at the validation loss are too few"
    best = min(curve)
    return (
        curve[-1] > RISE * best,
        f"validation loss {best:.3f} at look {curve.index(best) + 1} of {len(curve)}, last {curve[-1]:.3f}",
    )


def underfit(curve: Sequence[float], evaluation: Evaluation) -> Found:
    """The validation loss was still falling when training ended, and the accuracy target is not met."""
    if len(curve) < 3:
        return None, f"{len(curve)} looks at the validation loss are too few"
    falls = [a / b for a, b in pairwise(curve) if b > 0]
    target = evaluation.targets.get("accuracy")
    short = target is None or target.met != "yes"
    return (
        falls[-1] > RISE and short,
        f"the last step took the validation loss down by {1 - 1 / falls[-1]:.0%}, to {curve[-1]:.3f}",
    )


def data_quality(
    train: Sequence[TrainingExample], test: Sequence[TrainingExample], tuned: Rows, other: Rows
) -> Found:
    """Equal questions with different answers in train, or test rows where two models agree on another answer than wanted."""
    answers: dict[str, set[str]] = {}
    for example in train:
        answers.setdefault(tasks.normalise(example.user_text), set()).add(
            tasks.normalise(example.answer)
        )
    conflicts = sum(len(given) > 1 for given in answers.values())
    wanted, doubted = {e.id: _read(e.answer) for e in test}, []
    for ours, theirs in pair_rows(tuned, other):
        said = _read(ours["answer"])
        if said == _read(theirs["answer"]) != wanted.get(ours["id"], said) and said not in ("", {}):
            doubted.append(ours["id"])
    said = f"{conflicts} questions of train have two answers; in {len(doubted)} test rows both models agree against the label"
    return conflicts > SHARE * max(len(answers), 1) or len(doubted) > SHARE * len(
        tuned
    ), f"{said} {doubted[:5] or ''}".strip()


def _read(answer: str) -> Any:
    return strict_json(answer) or tasks.normalise(answer)


def shift(train: Sequence[TrainingExample], test: Sequence[TrainingExample]) -> Found:
    """Test questions are of another length than train questions (Kolmogorov-Smirnov), or use words train never had."""
    if min(len(train), len(test)) < 20:
        return None, "fewer than 20 rows on one side"
    from scipy.stats import ks_2samp

    words = [[tasks.normalise(e.user_text).split() for e in part] for part in (train, test)]
    p = float(ks_2samp(*[[len(text) for text in part] for part in words]).pvalue)
    cut = max(
        1, len(words[0]) // 5
    )  # how many new words a fifth of train brings to the rest is what to expect
    expected, new = _new_words(words[0][cut:], words[0][:cut]), _new_words(words[0], words[1])
    said = f"lengths differ with p = {p:.2g}; {new:.0%} of the test words are new, {expected:.0%} were to be expected"
    return p < 0.01 or new > 1.5 * expected + SHARE, said


def _new_words(known: Sequence[Sequence[str]], texts: Sequence[Sequence[str]]) -> float:
    vocabulary = {word for text in known for word in text}
    return _share([word not in vocabulary for text in texts for word in text])


def wrong_tool(evaluation: Evaluation, test: Sequence[TrainingExample]) -> Found:
    """The task is about facts that stand in articles, or rag is not beaten while the target is missed."""
    named = _share([bool(e.meta.get("articles")) for e in test])
    gain = evaluation.comparison.get("accuracy")
    unbeaten = evaluation.best_rung == "rag" and (gain is None or gain.verdict != "pass")
    beaten = (
        "rag is not surely beaten" if unbeaten else f"the rung to beat is {evaluation.best_rung}"
    )
    return evaluation.verdict != "pass" and (
        named > 0.5 or unbeaten
    ), f"{named:.0%} of the test rows name articles; {beaten}"


def part_of(dataset: FineTuningDataset, percent: int) -> FineTuningDataset:
    """The dataset with only the first `percent` of its train rows by sha256(id): smaller parts lie within larger ones."""
    train = sorted(dataset.part("train"), key=lambda e: hash_order(e.id))
    kept = {e.id for e in train[: max(1, round(len(train) * percent / 100))]}
    examples = [e for e in dataset.examples if e.part != "train" or e.id in kept]
    named = {
        "version": f"{dataset.metadata.version}-{percent}",
        "fingerprint": store.fingerprint(sorted(kept)),
    }
    metadata, splits = (
        dataset.metadata.model_copy(update=named),
        dataset.splits.model_copy(update={"train": len(kept)}),
    )
    return dataset.model_copy(update={"examples": examples, "metadata": metadata, "splits": splits})


def read_curve(answers: Mapping[int, Rows], task: tasks.Task) -> str:
    """What the last step of a learning curve says: `answers` on the same validation rows by percent of the train rows."""
    *_, half, whole = sorted(answers)
    gain = compare_results(
        answers[whole], answers[half], task.model_copy(update={"replace": "better"})
    ).get("accuracy")
    if gain is None:
        return "the answers have no accuracy, so the curve says nothing"
    step = f"from {half}% to {whole}% of the train rows: {gain.difference}"
    if gain.verdict == "pass":
        return f"{step}. More examples still help: label more before you change anything else"
    if gain.difference.high < FLAT:
        return f"{step}. The curve is flat: more of the same rows will not help; look at labels, prompt and model"
    needed = rows_to_separate(gain.gained, gain.lost, gain.difference.n)
    return (
        f"{step}. Undecided; about {needed} validation rows would show it"
        if needed
        else f"{step}. Undecided: a tie"
    )


def _share(hits: Sequence[bool]) -> float:
    return sum(hits) / len(hits) if hits else 0.0
