"""Served = trained: validation rows through the engine that will serve, against the model itself.

What is known to go wrong has a name: another template, an adapter without effect, answers that are
cut off; what remains is other weights, or the same ones in another precision.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from helpers import evaluate, registry, show, store, tasks
from helpers.models import Answer
from helpers.records import Finding, FindingVerdict, Parity, TrainingExample, WorkbookError
from helpers.serve.engines import Engine, Loaded
from helpers.serve.served import Served, open_version
from helpers.serve.starting import engine_of

RULE = "served_as_trained"  # of the gate: takes parity.json's word
MARGIN = 0.02  # what accuracy may differ, where task.yaml has no margin of its own
AT_ONCE = 16  # requests side by side: batching is part of what is checked
ALONE = 6  # of the rows, asked first and one by one for their latency: no fewer decide a target
OF_BASE = 8  # rows that the base model answers as well: enough to know its answers again
log = logging.getLogger(__name__)


def check_parity(
    version_id: str, engine: str = "auto", rows: int = 40, say: evaluate.Say = log.info
) -> Parity:
    """Ask the validation rows both ways, and write parity.json, which the gate reads."""
    version = registry.version_of(version_id)
    served = open_version(version, {})
    examples = validation_rows(served, rows)
    chosen = engine_of(engine)
    if served.model.provider == "api":
        raise WorkbookError(
            f"{version_id} lives at its provider, which evaluation asked as well: there is nothing"
            " to compare"
        )
    loaded = chosen.load(served)
    try:
        parity = compare(served, examples, loaded, chosen, say)
    finally:
        loaded.close()
    store.Run(version.run_id).save(parity)
    return parity


def check_before_promotion(
    version_id: str, rules: Sequence[Finding], engine: str = "auto", rows: int = 16
) -> list[Finding]:
    """Ask the engine that will serve where nothing else stands between a version and its promotion.

    `rules`: what the gate says now. Returns what was found, [] where there was nothing to ask. An
    engine that cannot be asked leaves the gate's rule undecided.
    """
    obstacles = [(rule.name, rule.verdict) for rule in rules if rule.verdict != "pass"]
    if obstacles != [(RULE, "undecided")]:
        return []
    try:
        return check_parity(version_id, engine, rows, show.say).findings
    except WorkbookError as error:
        return [Finding(name="answered", verdict="undecided", evidence=f"{engine}: {error}")]


def validation_rows(served: Served, limit: int) -> list[TrainingExample]:
    """The verified validation rows of the dataset that the version learnt from."""
    run = store.Run(served.version.run_id)
    rows = evaluate.choose_rows(served.task, tasks.read_dataset(run).examples, "validation", limit)
    if not rows:
        raise WorkbookError(f"run {run.id} has no verified validation row; run 02_curate again")
    return rows


def compare(
    served: Served,
    examples: Sequence[TrainingExample],
    loaded: Loaded,
    engine: Engine,
    say: evaluate.Say = log.info,
) -> Parity:
    """The engine's answers against those of the model as evaluation loads it, and of its base."""
    limit = served.asking.max_new_tokens
    chats = [served.chat(example.prompt) for example in examples]
    progress = show.Progress(f"asked through {engine.name}", len(chats), say)
    answers = []
    for chat in chats[:ALONE]:
        answers.append(loaded.answer(chat, limit))
        progress.add(1)
    alone = [answer.latency_ms for answer in answers]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for answer in pool.map(lambda chat: loaded.answer(chat, limit), chats[ALONE:]):
            answers.append(answer)
            progress.add(1)
    say("now all of the model as 04 loaded it, and its base")
    base, tuned = (each.with_asking(served.asking) for each in evaluate.load_models(served.model))
    expected = tuned.answer(chats, limit)
    untuned = base.answer(chats[:OF_BASE], limit)
    asked_again = 0
    for place, (ours, theirs) in enumerate(zip(answers, expected, strict=True)):
        if ours.text != theirs.text:  # what else is in a batch changes the rounding
            asked_again += 1
            answers[place] = loaded.answer(chats[place], limit)
            expected[place] = tuned.answer([chats[place]], limit)[0]
    if asked_again:
        say(f"{asked_again} of {len(chats)} differed and were asked once more, alone, of both")
    equal = sum(ours.text == theirs.text for ours, theirs in zip(answers, expected, strict=True))
    findings = [*_known_causes(answers, expected), _effect(answers, expected, untuned)]
    explained = any(finding.verdict == "fail" for finding in findings)
    findings.append(_sameness(served, examples, answers, expected, explained))
    return Parity(
        version=served.id,
        engine=engine.name,
        artifact_sha256=str(served.version.metadata.get("artifact_sha256", "")),
        checked_at=store.now(),
        n=len(answers),
        equal=equal,
        findings=findings,
        latency_p50=evaluate.quantile(alone, 0.5),
        latency_p95=evaluate.quantile(alone, 0.95),
    )


def _finding(name: str, failed: bool, evidence: str, remedy: str) -> Finding:
    if not failed:
        return Finding(name=name, verdict="pass", evidence=evidence)
    return Finding(name=name, verdict="fail", severity="critical", evidence=evidence, remedy=remedy)


def _known_causes(answers: Sequence[Answer], expected: Sequence[Answer]) -> list[Finding]:
    """Every row is answered, read as the model was trained to read it, and answered to the end."""
    n = len(answers)
    errors = [answer.error or "" for answer in answers if answer.finish == "error"]
    pairs = list(zip(answers, expected, strict=True))
    lengths = [(ours.tokens_in, theirs.tokens_in) for ours, theirs in pairs if ours.tokens_in]
    others = [f"{ours} instead of {theirs}" for ours, theirs in lengths if ours != theirs]
    cut = sum(ours.finish == "length" and theirs.finish == "stop" for ours, theirs in pairs)
    return [
        _finding(
            "answered",
            bool(errors),
            ": ".join([f"{len(errors)} of {n} requests failed", *errors[:1]]),
            "mend the engine, then check again",
        ),
        _finding(
            "template",
            bool(others),
            ", such as ".join(
                [f"{len(others)} of {n} prompts have another number of tokens", *others[:1]]
            ),
            "give the engine the chat template and tokenizer of the base model, unchanged",
        ),
        _finding(
            "truncation",
            cut > 0,
            f"{cut} of {n} answers are cut off",
            "raise the engine's own limit of tokens",
        ),
    ]


def _effect(
    answers: Sequence[Answer], expected: Sequence[Answer], untuned: Sequence[Answer]
) -> Finding:
    """Where the tuned model answers otherwise than its base, the engine does too."""
    rows = zip(answers, expected, untuned, strict=False)  # the base was asked about the first ones
    changed = [(ours.text, base.text) for ours, tuned, base in rows if tuned.text != base.text]
    like_base = sum(ours == base for ours, base in changed)
    if not changed:
        evidence = f"the adapter changes none of {len(untuned)} answers of its base"
        return _finding("adapter_effect", True, evidence, "train again: it has learnt nothing")
    evidence = f"{like_base} of {len(changed)} answers that tuning changed are the base model's"
    failed = like_base > len(changed) / 2
    remedy = "the adapter has no effect at the engine: load it, and under this version's id"
    return _finding("adapter_effect", failed, evidence, remedy)


def _weights_or_precision(answers: Sequence[Answer], expected: Sequence[Answer]) -> str:
    """What differs where nothing else does: rounded weights drift late, other ones part at once."""
    shared = written = 0
    for ours, theirs in zip(answers, expected, strict=True):
        pairs = zip(ours.text, theirs.text, strict=False)
        shared += sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        written += max(len(ours.text), len(theirs.text))
    cause = "another quantisation"
    if 2 * shared < written:
        cause = "other weights (a swapped adapter?)"
    return f"{cause}, since {shared} of {written} characters are shared from the beginning"


def _sameness(
    served: Served,
    examples: Sequence[TrainingExample],
    answers: Sequence[Answer],
    expected: Sequence[Answer],
    explained: bool,
) -> Finding:
    """Equal answers, or an accuracy that surely differs by no more than the margin."""
    equal = sum(ours.text == theirs.text for ours, theirs in zip(answers, expected, strict=True))
    evidence = f"{equal} of {len(answers)} answers are equal"
    if equal == len(answers):
        return Finding(name="same_answers", verdict="pass", evidence=evidence)
    task = served.task
    margin = max(MARGIN, task.margins.get("accuracy", 0.0))

    def scores(given: Sequence[Answer]) -> list[float]:
        metric = "accuracy" if task.accuracy_from in ("fields", "scorer") else "format_compliance"
        rows = zip(examples, given, strict=True)
        return [evaluate.score_answer(task, e, a.text, a.finish)[0][metric] for e, a in rows]

    groups = [example.group for example in examples]
    difference, gained, lost = evaluate.paired_difference(scores(answers), scores(expected), groups)
    verdict: FindingVerdict = "undecided"
    if difference.low >= -margin:
        verdict = "pass"
    elif difference.high < -margin or equal < len(answers) / 2:
        verdict = "fail"
    evidence += (
        f"; engine minus model: {difference} ({gained} gained, {lost} lost), margin {margin:g}"
    )
    if not explained:
        evidence += f"; prompts and limits are equal: {_weights_or_precision(answers, expected)}"
    return Finding(
        name="same_answers",
        verdict=verdict,
        severity=None if verdict == "pass" else "critical",
        evidence=evidence,
        remedy="" if verdict == "pass" else "serve it with --engine local, or check more rows",
        estimate=difference,
        threshold=-margin,
    )
