"""Scorers for answers that are not one exact JSON object, by `scorer:` in task.yaml.

`exact`, `contains`, `numeric:0.01`, `chrf:0.6`, `semantic:0.8`, `tool_calls`, or
`package.module:function` for your own: a function (TrainingExample, answer) -> number from 0 to 1.
A number after the colon of chrf and semantic is the least that counts as right; without it the
score itself is the accuracy.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from functools import lru_cache, partial

from helpers import models
from helpers.evaluate import equality
from helpers.records import TrainingExample, WorkbookError, read_calls, same_calls

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
    """Equal after normalising case, white space and Unicode; JSON is equal by its values."""
    return float(equality.same_text(example.answer, answer))


def contains(example: TrainingExample, answer: str, number: float | None) -> float:
    """The gold answer stands somewhere in the answer, as whole words or numbers."""
    return float(equality.holds(answer, example.answer))


def numeric(example: TrainingExample, answer: str, number: float | None) -> float:
    """The last number is the gold answer's last, within a relative tolerance (1e-6 unless said)."""
    return float(equality.same_number(example.answer, answer, number or 1e-6))


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
    if not gold and not calls:
        return exact(example, answer, None)
    return float(same_calls(gold, calls))


SCORERS: dict[str, Callable[..., float]] = {  # (example, answer, the number after the colon)
    "exact": exact,
    "contains": contains,
    "numeric": numeric,
    "chrf": chrf,
    "semantic": semantic,
    "tool_calls": tool_calls,
}
