"""Scorers for answers that are not one exact JSON object, by `scorer:` in task.yaml.

`exact`, `contains`, `numeric:0.01`, `chrf:0.6`, `semantic:0.8`, `tool_calls`, or
`package.module:function` for your own: a function (TrainingExample, answer) -> number from 0 to 1.
A number after the colon of chrf and semantic is the least that counts as right; without it the
score itself is the accuracy.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable
from functools import lru_cache, partial

from helpers import models, tasks
from helpers.records import TrainingExample, WorkbookError, read_calls, same_calls

NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?")
REFUSAL = re.compile(
    r"\b(I(?:'m| am) (?:sorry|afraid|unable|not able)|I (?:can(?:'|no)t|won't|will not)|as an AI"
    r"|I apologi[sz]e)\b",
    re.I,
)
Scorer = Callable[[TrainingExample, str], float]


def is_refusal(answer: str) -> bool:
    """Whether the answer begins with one of the usual phrases of declining."""
    return REFUSAL.search(answer.replace("’", "'")[:120]) is not None


def scorer(spec: str) -> Scorer:
    """The scorer that task.yaml names."""
    name, _, value = spec.partition(":")
    if name not in SCORERS:
        return _custom(spec)
    try:
        number = float(value) if value else None
    except ValueError:
        raise WorkbookError(f"task.yaml: scorer {spec!r}: {value!r} is not a number") from None
    return partial(SCORERS[name], number=number)


@lru_cache(maxsize=8)
def _custom(spec: str) -> Scorer:
    module, _, name = spec.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        known = ", ".join(SCORERS)
        raise WorkbookError(
            f"task.yaml: scorer {spec!r} is none of {known}, nor package.module:function ({error})"
        ) from None

    def checked(example: TrainingExample, answer: str) -> float:
        score = float(function(example, answer))
        if not 0 <= score <= 1:
            raise WorkbookError(
                f"scorer {spec} gave {score} for {example.id}; a score is from 0 to 1"
            )
        return score

    return checked


def exact(example: TrainingExample, answer: str, number: float | None) -> float:
    """Equal after normalising case, white space and Unicode."""
    return float(tasks.normalise(answer) == tasks.normalise(example.answer))


def contains(example: TrainingExample, answer: str, number: float | None) -> float:
    """The gold answer stands somewhere in the answer, as whole words."""
    gold = tasks.normalise(example.answer)
    words = rf"(?<!\w){re.escape(gold)}(?!\w)"
    return float(gold != "" and re.search(words, tasks.normalise(answer)) is not None)


def numeric(example: TrainingExample, answer: str, number: float | None) -> float:
    """The last number is the gold answer's last, within a relative tolerance (1e-6 unless said)."""
    gold = _last_number(example.answer)
    last = _last_number(answer)
    if gold is None or last is None:
        return 0.0
    return float(math.isclose(last, gold, rel_tol=number or 1e-6, abs_tol=1e-9))


def _last_number(text: str) -> float | None:
    numbers = NUMBER.findall(text)
    return float(numbers[-1].replace(",", "")) if numbers else None


def chrf(example: TrainingExample, answer: str, number: float | None) -> float:
    """Overlap of character n-grams (chrF, Popović 2015) with the gold answer, by sacrebleu."""
    try:
        from sacrebleu import sentence_chrf
    except ImportError:
        raise WorkbookError('scorer chrf needs sacrebleu: pip install -e ".[text]"') from None
    return _similarity(
        lambda gold, answer: sentence_chrf(answer, [gold]).score / 100, example, answer, number
    )


def semantic(example: TrainingExample, answer: str, number: float | None) -> float:
    """Cosine of two embeddings (wordllama's packaged weights), never below 0."""
    embedder = models.load_embedder("scorer semantic")
    return _similarity(embedder.similarity, example, answer, number)


def _similarity(
    measure: Callable[[str, str], float], example: TrainingExample, answer: str, least: float | None
) -> float:
    """A similarity from 0 to 1, or whether it is at least `least`; only nothing is like nothing."""
    gold = example.answer.strip()
    if not gold or not answer.strip():  # nothing has no direction: its embedding is not a number
        return float(gold == answer.strip())
    value = min(1.0, max(0.0, float(measure(example.answer, answer))))
    return value if least is None else float(value >= least)


def tool_calls(example: TrainingExample, answer: str, number: float | None) -> float:
    """The same functions called with the same arguments, in any order; text where gold is text."""
    gold = example.calls or read_calls(example.answer)[1]
    calls = read_calls(answer)[1]
    return float(same_calls(gold, calls) and bool(calls or answer.strip()))


SCORERS: dict[str, Callable[..., float]] = {  # (example, answer, the number after the colon)
    "exact": exact,
    "contains": contains,
    "numeric": numeric,
    "chrf": chrf,
    "semantic": semantic,
    "tool_calls": tool_calls,
}
