"""Scorers for answers that are not one exact JSON object, by `scorer:` in task.yaml.

`exact`, `contains`, `numeric:0.01`, `chrf:0.6`, `semantic:0.8`, `tool_calls`, or
`package.module:function` for your own: a function (TrainingExample, answer) -> number from 0 to 1.
A number after the colon of chrf and semantic is the least that counts as right; without it the
score itself is the accuracy.
"""

from __future__ import annotations

import importlib
import json
import math
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from helpers import models, tasks
from helpers.records import TrainingExample, WorkbookError

NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?")
TOOL_CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|$)", re.S)
REFUSAL = re.compile(
    r"\b(I(?:'m| am) (?:sorry|afraid|unable|not able)|I (?:can(?:'|no)t|won't|will not)|as an AI|I apologi[sz]e)\b",
    re.I,
)
Scorer = Callable[[TrainingExample, str], float]


def is_refusal(answer: str) -> bool:
    """Whether the answer begins with one of the usual phrases of declining."""
    return REFUSAL.search(answer.replace("’", "'")[:120]) is not None


def scorer(spec: str) -> Scorer:
    """The scorer that task.yaml names."""
    name, _, value = spec.partition(":")
    if name in SCORERS:
        try:
            number = float(value) if value else None
        except ValueError:
            raise WorkbookError(f"task.yaml: scorer {spec!r}: {value!r} is not a number") from None
        return SCORERS[name](number)
    return _custom(spec)


@lru_cache(maxsize=8)
def _custom(spec: str) -> Scorer:
    module, _, name = spec.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        known = ", ".join(SCORERS)
        raise WorkbookError(
            f"task.yaml: scorer {spec!r} is none of {known}, nor package.module:function ({error})"
        ) from None

    def checked(example: TrainingExample, answer: str) -> float:
        score = float(found(example, answer))
        if not 0 <= score <= 1:
            raise WorkbookError(
                f"scorer {spec} gave {score} for {example.id}; a score is from 0 to 1"
            )
        return score

    return checked


def exact(_: float | None) -> Scorer:
    """Equal after normalising case, white space and Unicode."""
    return lambda example, answer: float(tasks.normalise(answer) == tasks.normalise(example.answer))


def contains(_: float | None) -> Scorer:
    """The wanted answer stands somewhere in the answer, as whole words."""

    def score(example: TrainingExample, answer: str) -> float:
        wanted = tasks.normalise(example.answer)
        return float(
            bool(wanted)
            and re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", tasks.normalise(answer)) is not None
        )

    return score


def numeric(tolerance: float | None) -> Scorer:
    """The last number is the gold answer's last, within a relative tolerance (1e-6 unless said)."""

    def score(example: TrainingExample, answer: str) -> float:
        ours, wanted = _last_number(answer), _last_number(example.answer)
        close = None not in (ours, wanted) and math.isclose(
            ours, wanted, rel_tol=tolerance or 1e-6, abs_tol=1e-9
        )
        return float(close)

    return score


def _last_number(text: str) -> float | None:
    found = NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def chrf(least: float | None) -> Scorer:
    """Overlap of character n-grams (chrF, Popović 2015) with the wanted answer, by sacrebleu."""
    try:
        from sacrebleu import sentence_chrf
    except ImportError:
        raise WorkbookError('scorer chrf needs sacrebleu: pip install -e ".[text]"') from None
    return _threshold(lambda wanted, answer: sentence_chrf(answer, [wanted]).score / 100, least)


def semantic(least: float | None) -> Scorer:
    """Cosine of two embeddings (wordllama's packaged weights), never below 0."""
    embedder = models.load_embedder("scorer semantic")
    return _threshold(lambda gold, answer: float(embedder.similarity(gold, answer)), least)


def _threshold(measure: Callable[[str, str], float], least: float | None) -> Scorer:
    def score(example: TrainingExample, answer: str) -> float:
        if not (
            example.answer.strip() and answer.strip()
        ):  # nothing has no direction: its embedding is not a number
            return float(example.answer.strip() == answer.strip())
        value = min(1.0, max(0.0, measure(example.answer, answer)))
        return value if least is None else float(value >= least)

    return score


def tool_calls(_: float | None) -> Scorer:
    """The same functions called with the same arguments, in the same order."""
    return lambda example, answer: float(_wanted_calls(example) == called(answer))


def _wanted_calls(example: TrainingExample) -> list[tuple[str, Any]]:
    last = example.messages[-1]
    calls = [call.get("function", call) for call in last.tool_calls or []]
    return [_call(call) for call in calls] if calls else called(example.answer)


def called(answer: str) -> list[tuple[str, Any]]:
    """(name, arguments) of each call: <tool_call> blocks, or JSON with `name` and `arguments`."""
    found = []
    for block in TOOL_CALL.findall(answer) or [answer]:
        try:
            value = json.loads(block)
        except (ValueError, RecursionError):
            continue
        calls = value if isinstance(value, list) else [value]
        found += [_call(call.get("function", call)) for call in calls if isinstance(call, dict)]
    return found


def _call(call: Any) -> tuple[str, Any]:
    call = call if isinstance(call, dict) else {}
    arguments = call.get("arguments", call.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return str(call.get("name")), arguments
    return str(call.get("name")), arguments


SCORERS: dict[str, Callable[[float | None], Scorer]] = {
    make.__name__: make for make in (exact, contains, numeric, chrf, semantic, tool_calls)
}
