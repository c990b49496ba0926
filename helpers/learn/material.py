"""Made-up material for exercises: leaks that were planted, and candidates that are no better."""

from __future__ import annotations

import random
from collections.abc import Iterator

from helpers import evaluate, tasks
from helpers.records import AnswerRow, Evaluation, verdict_of

Scores = list[int]  # 1 right, 0 wrong, row by row
SEED = 20


def planted_leaks(leaks: int = 11) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """(train texts by id, test texts by id, ids of the train rows that repeat a test row).

    Messages of the shipped task; the leaks are test messages with a greeting, other case or one
    word less, as they come back in real data.
    """
    task = tasks.load_task("support_triage")
    texts = [example.user_text for example in tasks.load_examples(task, source="human").examples]
    rng = random.Random(SEED)
    picked = rng.sample(list(dict.fromkeys(texts)), 120)
    test = {f"test-{n}": text for n, text in enumerate(picked[:40])}
    train = {f"train-{n}": text for n, text in enumerate(picked[40:])}
    leaked = sorted(rng.sample(list(train), leaks))
    for n, (row, source) in enumerate(zip(leaked, rng.sample(list(test), leaks), strict=True)):
        shorter = " ".join(test[source].split()[:-1])
        train[row] = [f"Hello, {test[source]}", test[source].upper(), shorter][n % 3]
    return train, test, leaked


def null_candidates(count: int = 20, rows: int = 118) -> list[tuple[Scores, Scores]]:
    """(tuned, other) scores of candidates that are no better: each row a coin of its own."""
    rng = random.Random(SEED)
    return [(_scores(rng, rows, 0.45), _scores(rng, rows, 0.45)) for _ in range(count)]


def good_candidates(count: int = 5, rows: int = 118) -> list[tuple[Scores, Scores]]:
    """The same of candidates that are better by thirty points."""
    rng = random.Random(SEED)
    return [(_scores(rng, rows, 0.65), _scores(rng, rows, 0.35)) for _ in range(count)]


def _scores(rng: random.Random, rows: int, share: float) -> Scores:
    return [int(rng.random() < share) for _ in range(rows)]


def promotions_by_rule() -> list[dict[str, str | int]]:
    """How many of twenty candidates that are no better each rule promotes, and of five good."""
    rules = {
        "tuned is not worse": lambda gain: gain.value >= 0,
        "five points more": lambda gain: gain.value >= 0.05,
        "the whole interval is above zero": lambda gain: gain.low > 0,
    }
    rows = []
    for rule, promotes in rules.items():
        row: dict[str, str | int] = {"rule": rule}
        for kind, pairs in {"no better": null_candidates(), "better": good_candidates()}.items():
            gains = [evaluate.paired_difference(ours, theirs)[0] for ours, theirs in pairs]
            row[f"promoted of {len(pairs)} that are {kind}"] = sum(map(promotes, gains))
        rows.append(row)
    return rows


def judged_on_noise(evaluation: Evaluation, task: tasks.Task) -> Iterator[Evaluation]:
    """What 04 says of each of twenty candidates that are no better, the luckiest last.

    `evaluation` is a real one: what it says of dataset and fingerprints stays.
    """
    others = [f for f in evaluation.findings if f.name in ("fingerprints", "dataset_checks")]
    for scores in sorted(null_candidates(), key=lambda pair: sum(pair[0])):
        ours, theirs = map(_answers, scores)
        compared = evaluate.compare_results(ours, theirs, task, evaluation.min_gain)
        findings = evaluate.findings_against(task, {evaluation.best_rung: compared})
        accuracy = evaluate.proportion(scores[0])
        results = evaluation.fine_tuned_model.model_copy(update={"accuracy": accuracy})
        targets = evaluate.check_targets(task, results)
        changes = {
            "fine_tuned_model": results,
            "comparison": compared,
            "n_test": len(ours),
            "findings": [*findings, *others],
            "targets": targets,
            "verdict": verdict_of([*findings, *others, *targets.values()]),
            "reasons": [finding.evidence for finding in findings],
            "regression": False,
        }
        yield evaluation.model_copy(update=changes)


def _answers(scores: Scores) -> list[AnswerRow]:
    """Answers of which only the scores are known."""
    nothing = {"answer": "", "latency_ms": 0.0, "tokens_in": 0, "tokens_out": 0}
    return [
        AnswerRow(id=str(k), group=str(k), scores={"accuracy": score}, **nothing)
        for k, score in enumerate(scores)
    ]
