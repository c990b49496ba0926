"""Scorers: pure functions of (task, example, answer text), each from 0 to 1.

Answers that are not one exact JSON object are scored by `scorer:` in task.yaml: `exact`,
`contains`, `numeric:0.01`, `chrf:0.6`, `semantic:0.8`, `tool_calls`, or `package.module:function`
for your own: a function (TrainingExample, answer) -> number from 0 to 1. A number after the colon
of chrf and semantic is the least that counts as right; without it the score itself is the accuracy.
"""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Callable, Sequence
from functools import lru_cache, partial

from helpers import models, store, tasks
from helpers.evaluate import equality, quantities
from helpers.evaluate.equality import Json
from helpers.records import TrainingExample, WorkbookError, read_calls, same_calls
from helpers.tasks import Task

Examples = Sequence[TrainingExample]
Scorer = Callable[[TrainingExample, str], float]
REFUSAL = re.compile(
    r"\b(I(?:'m| am) (?:sorry|afraid|unable|not able)|I (?:can(?:'|no)t|won't|will not)|as an AI"
    r"|I apologi[sz]e)\b",
    re.I,
)
MAX_BLOCKS = 20  # braces that the tolerant reading tries, so that endless answers stay cheap


def score_answer(
    task: Task, example: TrainingExample, answer: str, finish: str = "stop"
) -> tuple[dict[str, float], str]:
    """(one answer's scores by name, why its format is refused or "")."""
    reason = _refusal_of(task, example, answer, finish)
    scores = {
        "endless": finish == "length",
        "empty": not answer.strip(),
        "refusal": REFUSAL.search(answer.replace("’", "'")[:120]) is not None,
        "format_compliance": not reason,
    }
    if task.schema is not None:
        tolerant = tolerant_json(answer)
        fits = tolerant is not None and not schema_reason(tolerant, task.schema)
        scores["format_tolerant"] = fits or not reason
        if task.accuracy_from == "fields":
            scores |= _field_scores(task, example, answer, tolerant)
    mark = task.columns.get("decimal", "")
    if task.accuracy_from == "scorer":
        how = scorer("tool_calls" if example.calls else task.scorer, mark)
        scores["accuracy"] = how(example, answer) if answer.strip() else 0.0
    elif task.scorer != "exact":  # shown beside an accuracy that comes from elsewhere
        name = task.scorer.partition(":")[0]
        scores[name] = scorer(task.scorer, mark)(example, answer)
    return {name: float(value) for name, value in scores.items()}, reason


def _refusal_of(task: Task, example: TrainingExample, answer: str, finish: str) -> str:
    """Why the format is refused, of an answer or of its calls."""
    tools = example.tools or task.tools
    calls = read_calls(answer)[1] if tools else []
    if calls:
        return tasks.calls_reason(calls, tools)
    return "no call" if example.calls else format_reason(answer, task.schema, finish)


def _field_scores(
    task: Task, example: TrainingExample, answer: str, tolerant: Json | None
) -> dict[str, bool]:
    """accuracy: every scored field equal in the strictly read answer; broken JSON cannot serve.

    Where the gold answer calls tools, the calls are all that counts.
    """
    if example.calls:
        names = ["accuracy", "accuracy_tolerant", *(f"field_{n}" for n in task.scored_fields)]
        return dict.fromkeys(names, bool(tool_calls(example, answer, None)))
    gold = strict_json(example.answer)
    strict = strict_json(answer)
    if gold is None:
        path = task.folder / example.meta.get("file", "example")
        raise WorkbookError(
            f"{path}, line {example.meta.get('line', '?')}: the answer of {example.id} is not one"
            " JSON object, or a key stands twice in it; mend that row"
        )
    names = task.scored_fields or list(gold | (strict or {}))  # a schema may declare none
    right = {name: field_equal(gold, strict, name, task.schema) for name in names}
    tolerated = all(field_equal(gold, tolerant, name, task.schema) for name in names)
    hits = {f"field_{name}": right[name] for name in task.scored_fields}
    is_right = strict is not None and all(right.values())
    return {"accuracy": is_right, "accuracy_tolerant": tolerated} | hits


def field_equal(gold: Json, answer: Json | None, name: str, schema: Json | None = None) -> bool:
    """Whether a field has the same JSON value on both sides, or is on neither; true is not 1."""
    if answer is None or (name in gold) != (name in answer):
        return False
    root = schema or {}
    field = equality.whole_schema(root, root).get("properties", {}).get(name)
    return equality.same_json(gold.get(name), answer.get(name), field, root)


def strict_json(text: str) -> Json | None:
    """The answer as one JSON object and nothing else but white space; None when it is not that."""
    try:
        value = tasks.DECODER.decode(text.strip())
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def tolerant_json(text: str) -> Json | None:
    """The first {…} block that reads as JSON, whatever stands around it."""
    start = -1
    for _ in range(MAX_BLOCKS):
        start = text.find("{", start + 1)
        if start < 0:
            break
        with contextlib.suppress(ValueError, RecursionError):
            return tasks.DECODER.raw_decode(text, start)[0]
    return None


def format_reason(text: str, schema: Json | None, finish: str = "stop") -> str:
    """Why the whole answer breaks the format; "" when it keeps it."""
    if not text.strip():
        return "empty answer"
    if schema is None:
        return "cut off at the token limit" if finish == "length" else ""
    value = strict_json(text)
    if value is not None:
        return schema_reason(value, schema)
    if tolerant_json(text) is not None:
        return "text around the JSON object"
    return "not one JSON object"


def schema_reason(value: Json, schema: Json) -> str:
    """Where and how a value breaks the JSON Schema ("" when it fits)."""
    from jsonschema.exceptions import best_match

    error = best_match(tasks.validator_of(store.canonical(schema)).iter_errors(value))
    if error is None:
        return ""
    path = ".".join(map(str, error.absolute_path)) or "object"
    return f"{path}: {error.message}"[:200]


# --- of texts, by name ----------------------------------------------------------------------------


def scorer(spec: str, mark: str = "") -> Scorer:
    """The scorer that task.yaml names; `mark` stands before decimals (columns.decimal)."""
    name, _, value = spec.partition(":")
    if name not in SCORERS:
        return _custom(spec)
    try:
        number = float(value) if value else None
    except ValueError:
        raise WorkbookError(f"task.yaml: scorer {spec!r}: {value!r} is not a number") from None
    most = 1e9 if name == "numeric" else 1.0
    if number is not None and (name in NO_NUMBER or not 0 <= number <= most):
        raise WorkbookError(f"task.yaml: scorer {spec!r}: {name} takes no such number")
    if name == "numeric":
        return partial(numeric, number=number, mark=mark)
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
        score = function(example, answer)
        with contextlib.suppress(TypeError, ValueError):
            if 0 <= float(score) <= 1:
                return float(score)
        raise WorkbookError(f"scorer {spec} gave {score} for {example.id}; a score is from 0 to 1")

    return checked


def exact(example: TrainingExample, answer: str, number: float | None) -> float:
    """Equal after normalising case, white space and Unicode; JSON is equal by its values."""
    return float(equality.same_text(example.answer, answer))


def contains(example: TrainingExample, answer: str, number: float | None) -> float:
    """The gold answer stands somewhere in the answer, as whole words or numbers."""
    return float(quantities.holds(answer, example.answer))


def numeric(example: TrainingExample, answer: str, number: float | None, mark: str = "") -> float:
    """The last number is the gold answer's last, within a relative tolerance.

    Unless one is said, whole numbers are the same exactly, others within 1e-6. Of a gold answer
    without a number the text is compared.
    """
    return float(quantities.same_number(example.answer, answer, number, mark))


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


SCORERS = {  # (example, answer, the number after the colon)
    "exact": exact,
    "contains": contains,
    "numeric": numeric,
    "chrf": chrf,
    "semantic": semantic,
    "tool_calls": tool_calls,
}
NO_NUMBER = ("exact", "contains", "tool_calls")  # those that would ignore it
