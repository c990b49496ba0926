"""What every row must pass: small named checks, example -> list of issues with evidence that holds no value.

All checks run on every row; a row's first issue is the one that the funnel counts it under.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from helpers import store
from helpers.curate.personal import MAX_SCAN, Span, clean, excerpt, find_personal_data, find_secrets, stars
from helpers.models import tokens
from helpers.records import Issue, RejectedExample, TrainingExample
from helpers.tasks import Task

RULE_VERSION = "curate-1"
CHARACTERS_PER_TOKEN = 20  # no tokenizer packs ordinary text tighter; beyond it a row is too long, uncounted
MAX_FINDINGS = 5  # findings reported per row and code


class Sieved(NamedTuple):
    """What a stage let through, what it held back (evidence), and (source, first code) -> rows held back."""

    kept: list[TrainingExample]
    rejected: list[RejectedExample]
    counts: Counter[tuple[str, str]]


def reject(example: TrainingExample, issues: list[Issue], stage: str) -> RejectedExample:
    """The log entry of a row left out: enough to find the original and to judge the decision, nothing to leak."""
    where = {key: example.meta.get(key) for key in ("file", "line", "sha256")}
    summary = {"id": clean(example.id), "source": example.source, **where, "excerpt": excerpt(example.user_text)}
    return RejectedExample(example=summary, issues=issues, stage=stage, rule_version=RULE_VERSION)


def validate_examples(
    examples: Sequence[TrainingExample], task: Task, base_model: str, min_tokens: int, max_tokens: int
) -> Sieved:
    """Run every check on every example; one issue is enough to leave it out."""
    kept, rejected, counts = [], [], Counter()
    validator = answer_validator(task)
    for example, length in zip(examples, count_lengths(examples, base_model, max_tokens), strict=True):
        scanned = example if length[1] >= 0 else _beginning(example)
        issues = [
            *check_format(example),
            *check_answer(example, validator),
            *check_length(length, min_tokens, max_tokens),
            *check_personal_data(scanned),
            *check_secrets(scanned),
        ]
        if not issues:
            kept.append(example)
            continue
        rejected.append(reject(example, issues, "check"))
        counts[example.source, issues[0].code] += 1
    return Sieved(kept, rejected, counts)


def _beginning(example: TrainingExample) -> TrainingExample:
    """An endless row cut to what is worth scanning."""
    cut = [m.model_copy(update={"content": (m.content or "")[:MAX_SCAN]}) for m in example.messages]
    return example.model_copy(update={"messages": cut})


def check_format(example: TrainingExample) -> list[Issue]:
    """A chat a model can learn from: roles in order, nothing empty, the answer last, and text that can be written."""
    said: list[str] = []
    turns = [m for m in example.messages if m.role not in ("system", "developer")]
    if any(m.role in ("system", "developer") for m in example.messages[1:]):
        said.append("a system message stands behind another message")
    if not turns or turns[0].role != "user":
        said.append("the first turn is not the user's")
    if not turns or turns[-1].role != "assistant":
        said.append("the last message is not the assistant's answer")
    for number, message in enumerate(example.messages, 1):
        if not (message.content or "").strip() and not message.tool_calls:
            said.append(f"message {number} ({message.role}) is empty")
        if message.role == "tool" and not _answers_a_call(example, number - 1):
            said.append(f"message {number} (tool) answers no tool call")
    try:
        store.dumps(example).encode("utf-8")
    except (ValueError, RecursionError):  # lone surrogates, NaN: no JSON reader would take the file
        said.append("the row holds characters or numbers that cannot be written as JSON in UTF-8")
    return [Issue(code="invalid_format", evidence=text) for text in said]


def _answers_a_call(example: TrainingExample, index: int) -> bool:
    """Whether the turns before a tool message are other tool messages back to an assistant's tool call."""
    while index > 0 and example.messages[index].role == "tool":
        index -= 1
    return bool(example.messages[index].tool_calls)


def answer_validator(task: Task) -> Any:
    """The task's output schema as a validator; None for a text task."""
    from jsonschema import Draft202012Validator

    return Draft202012Validator(task.schema) if task.schema else None


def check_answer(example: TrainingExample, validator: Any) -> list[Issue]:
    """The answer is exactly one JSON value that the task's output schema accepts."""
    if validator is None or not example.answer.strip():
        return []
    try:
        value = json.loads(example.answer, parse_constant=_refuse)
        error = next(iter(validator.iter_errors(value)), None)
    except (ValueError, RecursionError):
        return [Issue(code="invalid_format", evidence="the answer is not one JSON value")]
    if error is None:
        return []
    known = set((validator.schema.get("properties") or {}) if isinstance(validator.schema, dict) else {})
    path = ".".join(str(p) for p in error.absolute_path if isinstance(p, int) or p in known)
    field = f"answer.{path}" if path else "the answer"
    return [Issue(code="invalid_format", evidence=f"{field} breaks the output schema's rule `{error.validator}`")]


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def count_lengths(examples: Iterable[TrainingExample], base_model: str, max_tokens: int) -> list[tuple[int, int]]:
    """(characters, tokens) of each example without its system prompt; tokens are -1 where the text is endless."""
    texts = ["\n".join(clean(m.content or "") for m in e.messages if m.role != "system") for e in examples]
    countable = [i for i, text in enumerate(texts) if len(text) <= max_tokens * CHARACTERS_PER_TOKEN]
    counted = dict(zip(countable, tokens.count_text(base_model, [texts[i] for i in countable]), strict=True))
    return [(len(text), counted.get(i, -1)) for i, text in enumerate(texts)]


def check_length(length: tuple[int, int], min_tokens: int, max_tokens: int) -> list[Issue]:
    """Between min_tokens and max_tokens, by the base model's own tokenizer."""
    characters, counted = length
    if counted < 0:
        return [Issue(code="invalid_length", evidence=f"{characters} characters cannot fit max_tokens={max_tokens}")]
    if min_tokens <= counted <= max_tokens:
        return []
    return [Issue(code="invalid_length", evidence=f"{counted} tokens; wanted {min_tokens} to {max_tokens}")]


def check_personal_data(example: TrainingExample) -> list[Issue]:
    """No card, e-mail, IBAN, IP, phone or social security number in any message."""
    return _findings(example, "contains_pii", find_personal_data)


def check_secrets(example: TrainingExample) -> list[Issue]:
    """No key, token or private key in any message; what is merely suspicious goes to review instead."""
    return _findings(example, "contains_secret", find_secrets)


def suspicious(example: TrainingExample) -> str:
    """What a person should look at in a row that no check rejects ("" when there is nothing)."""
    kinds = sorted({s.kind for m in example.messages for s in find_secrets(clean(m.content or "")) if not s.certain})
    return f"possible secret: {', '.join(kinds)}" if kinds else ""


def _findings(example: TrainingExample, code: str, find: Any) -> list[Issue]:
    issues = []
    for number, message in enumerate(example.messages, 1):
        text = clean(message.content or "")
        if message.tool_calls:
            text += clean(json.dumps(message.tool_calls, ensure_ascii=False))
        spans: tuple[Span, ...] = find(text) if text else ()
        for span in spans:
            if span.certain:
                outline = stars(text[span.start : span.end])
                place = f"message {number} ({message.role}), characters {span.start}-{span.end}"
                issues.append(Issue(code=code, evidence=f"{span.kind} in {place}: {outline}"))
    return issues[:MAX_FINDINGS]
