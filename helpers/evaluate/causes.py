"""When 04 disappoints: which of the usual causes the evidence speaks for, and what to do.

Each check is a pure function of what the run has written down. Its finding fails where the cause is
there, and is undecided where too little is known. None of them looks at one number alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from helpers import store, tasks
from helpers.evaluate.compare import pair_rows
from helpers.evaluate.limits import cut_short
from helpers.evaluate.running import Rows, read_answers
from helpers.evaluate.scorers import Examples, strict_json
from helpers.records import Evaluation, Finding

# the validation loss is 5% above its best, or still fell by 5%: more than its noise between steps
RISE = 1.05
SHARE = 0.05  # of rows: what is worth a look
FEW_LOOKS = 3  # at the validation loss: fewer say nothing
REMEDY = {
    "broken_evaluation": "mend the measurement before you believe anything below",
    "template_mismatch": (
        "compare the rendered prompt of training and of serving; train the end-of-text token"
    ),
    "overfit": "fewer epochs, a smaller rank or learning rate, or more examples",
    "underfit": "more epochs or a larger learning rate or rank; compare on validation",
    "data_quality": "read these rows side by side in 02's review and mend their labels",
    "wrong_tool": "STOP training: give the model the articles (rag), or a stronger model",
}


def diagnose_run(run: store.Run, examples: Examples) -> list[Finding]:
    """Every cause with its evidence, from the run's own files; empty before 04 has measured it."""
    if not run.has(Evaluation):
        return []
    evaluation = run.load(Evaluation)
    losses = []
    if run.has("training/training.jsonl"):
        losses = store.read_jsonl(run.path("training/training.jsonl"))
    curve = [float(line["eval_loss"]) for line in losses if line.get("eval_loss") is not None]
    answers = {rung.name: read_answers(run, rung) for rung in evaluation.rungs}
    tuned = answers["fine_tuned"]
    train, test = ([e for e in examples if e.part == part] for part in ("train", "test"))
    return [
        broken_evaluation(tuned, answers["zero_shot"], train, test),
        template_mismatch(test, tuned),
        *judge_curve(curve, evaluation),
        data_quality(train, test, tuned, answers[evaluation.best_rung]),
        wrong_tool(evaluation, test),
    ]


def _finding(name: str, is_there: bool | None, evidence: str) -> Finding:
    """fail where the cause is there; None: too little is known."""
    verdict = {True: "fail", False: "pass", None: "undecided"}[is_there]
    return Finding(name=name, verdict=verdict, evidence=evidence, remedy=REMEDY[name])


def _share(of: Iterable[bool]) -> float:
    """The share of what is true."""
    flags = list(of)
    return sum(flags) / max(1, len(flags))


def broken_evaluation(tuned: Rows, base: Rows, train: Examples, test: Examples) -> Finding:
    """The adapter does nothing, requests failed, right answers were cut, train knows the test."""
    seen = {tasks.normalise(example.user_text) for example in train}
    leaked = sum(tasks.normalise(example.user_text) in seen for example in test)
    same = _share(ours.answer == theirs.answer for ours, theirs in pair_rows(tuned, base))
    failed = _share(bool(row.error) for row in (*tuned, *base))
    evidence = (
        f"{same:.0%} of the answers are the base model's own, {failed:.0%} of the requests failed,"
        f" {leaked} test rows in train"
    )
    cut = len(cut_short(test, tuned))
    if cut:
        evidence += f", {cut} answers cut at max_new_tokens before the gold answer's length"
    is_there = same > 1 - SHARE or failed > SHARE or leaked > 0 or cut > SHARE * len(tuned)
    return _finding("broken_evaluation", is_there, evidence)


def template_mismatch(test: Examples, tuned: Rows) -> Finding:
    """Answers that never end, or right ones wrapped in other text: not the prompt of training.

    What the limit cut short is no sign of it. One answer to everything is a training that failed.
    """
    cut = cut_short(test, tuned)
    endless = _share(row.scores.get("endless", 0) > 0 and row.id not in cut for row in tuned)
    scores = [row.scores for row in tuned]
    wrapped = _share(s.get("accuracy_tolerant", 0) > s.get("accuracy", 0) for s in scores)
    evidence = f"{endless:.0%} of the answers never end, {wrapped:.0%} are right but wrapped"
    if len(tuned) > len({row.answer for row in tuned}) == 1:
        evidence += "; all answers are the same text: look at the loss curve of 03 first"
    return _finding("template_mismatch", endless > SHARE or wrapped > SHARE, evidence)


def judge_curve(curve: Sequence[float], evaluation: Evaluation) -> list[Finding]:
    """Overfit: the validation loss rose after its best. Underfit: it still fell, and misses."""
    looks = len(curve)
    if looks < FEW_LOOKS:
        reason = f"{looks} looks at the validation loss are too few"
        return [_finding(name, None, reason) for name in ("overfit", "underfit")]
    best = min(curve)
    before, last = curve[-2:]
    look = curve.index(best) + 1
    rise = f"validation loss {best:.3f} at look {look} of {looks}, last {last:.3f}"
    fell = max(before, 1e-9) / max(last, 1e-9)
    target = evaluation.targets.get("accuracy")
    is_short = target is None or target.verdict != "pass"
    fall = f"the last step took the validation loss down by {1 - 1 / fell:.0%}, to {last:.3f}"
    return [
        _finding("overfit", last > RISE * best, rise),
        _finding("underfit", fell > RISE and is_short, fall),
    ]


def data_quality(train: Examples, test: Examples, tuned: Rows, other: Rows) -> Finding:
    """Equal questions answered differently in train, or two models agree against the label."""
    answers = defaultdict(set)
    for example in train:
        answers[tasks.normalise(example.user_text)].add(tasks.normalise(example.answer))
    conflicts = sum(len(texts) > 1 for texts in answers.values())
    gold = {example.id: _read(example.answer) for example in test}
    doubted = []
    for ours, theirs in pair_rows(tuned, other):
        answer = _read(ours.answer)
        agreed = answer == _read(theirs.answer) != gold.get(ours.id, answer)
        scores = {"format_compliance": 1.0} | ours.scores  # noise speaks of no label
        if agreed and answer and scores["format_compliance"] == 1 != scores.get("accuracy"):
            doubted.append(ours.id)
    evidence = (
        f"{conflicts} questions of train have two answers; in {len(doubted)} test rows both models"
        " agree against the label"
    )
    if doubted:
        evidence += f" {doubted[:5]}"
    is_there = conflicts > SHARE * max(len(answers), 1) or len(doubted) > SHARE * len(tuned)
    return _finding("data_quality", is_there, evidence)


def _read(answer: str) -> Any:
    return strict_json(answer) or tasks.normalise(answer)


def wrong_tool(evaluation: Evaluation, test: Examples) -> Finding:
    """The task is about facts in articles, or rag is not beaten, and the verdict is bad."""
    named = _share(bool(example.meta.get("articles")) for example in test)
    gain = evaluation.comparison.get("accuracy")
    unbeaten = evaluation.best_rung == "rag" and (gain is None or gain.verdict != "pass")
    opponent = f"the rung to beat is {evaluation.best_rung}"
    if unbeaten:
        opponent = "rag is not surely beaten"
    is_there = evaluation.verdict != "pass" and (named > 0.5 or unbeaten)
    evidence = f"{named:.0%} of the test rows name articles; {opponent}"
    return _finding("wrong_tool", is_there, evidence)
