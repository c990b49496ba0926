"""Served = trained: validation rows through the engine that will serve, against the model itself.

What is known to go wrong has a name: another template, an adapter without effect, answers that are
cut off; what remains is other weights, or the same ones in another precision.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from helpers import evaluate, registry, show, store
from helpers.models import Answer
from helpers.records import (
    Estimate,
    Finding,
    FindingVerdict,
    Parity,
    TrainingExample,
    WorkbookError,
)
from helpers.serve.engines import Loaded
from helpers.serve.local import Local
from helpers.serve.served import Served, open_version
from helpers.serve.starting import engine_of

RULE = "served_as_trained"  # of the gate: takes parity.json's word
MARGIN = 0.02  # what accuracy may differ, where task.yaml has no margin of its own
AT_ONCE = 16  # requests side by side: batching is part of what is checked
ALONE = 6  # of the rows, asked first and one by one for their latency: no fewer decide a target
OF_BASE = 8  # rows that the base model answers as well: enough to know its answers again
SCORED = ("fields", "scorer")  # where an accuracy is known without anybody's judgement
log = logging.getLogger(__name__)


def check_parity(
    version_id: str, engine: str = "auto", rows: int = 40, say: evaluate.Say = log.info
) -> Parity:
    """Ask the validation rows both ways, and write parity.json, which the gate reads."""
    version = registry.version_of(version_id)
    served = open_version(version, {})
    examples = served.validation_rows(rows)
    load = engine_of(engine)
    if served.model.provider == "api":
        raise WorkbookError(
            f"{version_id} lives at its provider, which evaluation asked as well: there is nothing"
            " to compare"
        )
    with contextlib.closing(load(served)) as loaded:
        parity = compare(served, examples, loaded, say)
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


def compare(
    served: Served,
    examples: Sequence[TrainingExample],
    loaded: Loaded,
    say: evaluate.Say = log.info,
) -> Parity:
    """The engine's answers against those of the model as evaluation loads it, and of its base.

    An engine that is this very model, in this process, is not loaded a second time: the same code
    would read the same files, whose sha256 was compared.
    """
    limit = served.asking.max_new_tokens
    chats = [served.chat(example.prompt) for example in examples]
    measured = evaluate.build_prompts(served.asking, served.task, examples)
    progress = show.Progress(f"asked through {loaded.engine}", len(chats), say)
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
    if isinstance(loaded, Local):
        tuned = loaded.model
    expected = tuned.answer(measured, limit)
    untuned = base.answer(measured[:OF_BASE], limit)
    together = list(answers)
    for place, (ours, theirs) in enumerate(zip(together, expected, strict=True)):
        # what else is in a batch changes the rounding; what failed in company has failed
        if ours.text != theirs.text and ours.finish != "error":
            answers[place] = loaded.answer(chats[place], limit)
            expected[place] = tuned.answer([measured[place]], limit)[0]
    findings = [
        *_known_causes(answers, expected),
        _effect(answers, expected, untuned),
        _company(served, examples, together, answers),
    ]
    explained = any(finding.verdict == "fail" for finding in findings)
    findings.append(_sameness(served, examples, answers, expected, explained))
    return Parity(
        version=served.id,
        engine=loaded.engine,
        artifact_sha256=str(served.version.metadata.get("artifact_sha256", "")),
        checked_at=store.now(),
        n=len(answers),
        equal=_equal(answers, expected),
        findings=findings,
        latency_p50=evaluate.quantile(alone, 0.5),
        latency_p95=evaluate.quantile(alone, 0.95),
    )


def _finding(name: str, failed: bool, evidence: str, remedy: str) -> Finding:
    if not failed:
        return Finding(name=name, verdict="pass", evidence=evidence)
    return Finding(name=name, verdict="fail", severity="critical", evidence=evidence, remedy=remedy)


def _equal(answers: Sequence[Answer], expected: Sequence[Answer]) -> int:
    return sum(ours.text == theirs.text for ours, theirs in zip(answers, expected, strict=True))


def _company(
    served: Served,
    examples: Sequence[TrainingExample],
    together: Sequence[Answer],
    alone: Sequence[Answer],
) -> Finding:
    """Company rounds answers otherwise; it mixes them up with no others, nor makes them worse.

    Long ones may part early from what they are alone: still they are nearer to it than to others.
    """
    shared, written = _shared(together[ALONE:], alone[ALONE:])
    elsewhere = 0
    for place, ours in enumerate(together[ALONE:], ALONE):
        others = (other for other in alone if other is not alone[place])
        elsewhere += max(_shared([ours], [other])[0] for other in others)
    worse = _difference(served, examples, together, alone)[0].high < -_margin(served)
    return _finding(
        "company",
        worse or (2 * shared < written and shared <= elsewhere),
        f"{_equal(together, alone)} of {len(alone)} answers are the same alone and in company",
        "the engine mixes up what is asked at the same time: update it, or let it batch less",
    )


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
                [
                    f"{len(others)} of {len(lengths)} prompts have another number of tokens",
                    *others[:1],
                ]
            ),
            "give the engine the chat template and tokenizer of the base model, unchanged; tools"
            " of single rows are not served",
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
        return _finding(
            "adapter_effect",
            True,
            f"the adapter changes none of {len(untuned)} answers of its base",
            "train again: it has learnt nothing",
        )
    return _finding(
        "adapter_effect",
        like_base > len(changed) / 2,
        f"{like_base} of {len(changed)} answers that tuning changed are the base model's",
        "the adapter has no effect at the engine: load it, and under this version's id",
    )


def _shared(answers: Sequence[Answer], expected: Sequence[Answer]) -> tuple[int, int]:
    """(characters that both begin with, characters of the longer one), over all pairs."""
    shared = written = 0
    for ours, theirs in zip(answers, expected, strict=True):
        pairs = zip(ours.text, theirs.text, strict=False)
        shared += sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        written += max(len(ours.text), len(theirs.text))
    return shared, written


def _cause(answers: Sequence[Answer], expected: Sequence[Answer]) -> str:
    """What differs where nothing else does: rounded weights drift late, other ones part at once."""
    shared, written = _shared(answers, expected)
    pairs = [(ours.text, theirs.text) for ours, theirs in zip(answers, expected, strict=True)]
    cause = "another quantisation"
    if all(ours.startswith(theirs) or theirs.startswith(ours) for ours, theirs in pairs):
        cause = "another stop (a stop token, or a limit of the engine's own)"
    elif 2 * shared < written:
        cause = "other weights (a swapped adapter?)"
    return f"{cause}, since {shared} of {written} characters are shared from the beginning"


def _margin(served: Served) -> float:
    return max(MARGIN, served.task.margins.get("accuracy", 0.0))


def _difference(
    served: Served,
    examples: Sequence[TrainingExample],
    answers: Sequence[Answer],
    expected: Sequence[Answer],
) -> tuple[Estimate, int, int]:
    """(by how much they score better, rows gained, rows lost); unscored tasks by their format."""
    task = served.task
    metric = "accuracy" if task.accuracy_from in SCORED else "format_compliance"

    def scores(given: Sequence[Answer]) -> list[float]:
        rows = zip(examples, given, strict=True)
        return [evaluate.score_answer(task, e, a.text, a.finish)[0][metric] for e, a in rows]

    groups = [example.group for example in examples]
    return evaluate.paired_difference(scores(answers), scores(expected), groups)


def _sameness(
    served: Served,
    examples: Sequence[TrainingExample],
    answers: Sequence[Answer],
    expected: Sequence[Answer],
    explained: bool,
) -> Finding:
    """Equal answers, or an accuracy that surely differs by no more than the margin."""
    equal = _equal(answers, expected)
    evidence = f"{equal} of {len(answers)} answers are equal"
    if equal == len(answers):
        return Finding(name="same_answers", verdict="pass", evidence=evidence)
    margin = _margin(served)
    difference, gained, lost = _difference(served, examples, answers, expected)
    few = equal < len(answers) / 2
    verdict: FindingVerdict = "undecided"
    # a format that is kept says nothing of what is in it
    if difference.low >= -margin and (served.task.accuracy_from in SCORED or not few):
        verdict = "pass"
    elif difference.high < -margin or few:
        verdict = "fail"
    evidence += (
        f"; engine minus model: {difference} ({gained} gained, {lost} lost), margin {margin:g}"
    )
    if not explained:
        evidence += f"; prompts and limits are equal: {_cause(answers, expected)}"
    return Finding(
        name="same_answers",
        verdict=verdict,
        severity=None if verdict == "pass" else "critical",
        evidence=evidence,
        remedy="" if verdict == "pass" else "serve it with --engine local, or check more rows",
        estimate=difference,
        threshold=-margin,
    )
