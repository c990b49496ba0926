"""What every row must pass: small named checks, example -> list of issues with evidence that holds no value.

All checks run on every row; a row's first issue is the one that the funnel counts it under.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from helpers import store
from helpers.curate.personal import MAX_SCAN, Span, clean, excerpt
from helpers.curate.provider_file import SPECIAL_TOKENS
from helpers.curate.searching import search_ahead
from helpers.models import tokens
from helpers.records import Issue, Message, RejectedExample, TrainingExample
from helpers.tasks import Task

RULE_VERSION = "curate-2"
FINAL = ("invalid_format", "potential_leakage")  # what no accept.csv takes back
CHARACTERS_PER_TOKEN = (
    20  # no tokenizer packs ordinary text tighter; beyond it a row is too long, uncounted
)
COUNTED = 1_000  # texts tokenised at a time: an encoding is far larger than its text
MAX_FINDINGS = 5  # findings reported per row and code


class Sieved(NamedTuple):
    """What a stage let through, what it held back (evidence), and (source, first code) -> rows held back."""

    kept: list[TrainingExample]
    rejected: list[RejectedExample]
    counts: Counter[tuple[str, str]]


def reject(example: TrainingExample, issues: list[Issue], stage: str) -> RejectedExample:
    """The log entry of a row left out: enough to find the original and to judge the decision, nothing to leak."""
    where = {key: example.meta.get(key) for key in ("file", "line", "sha256")}
    summary = {
        "id": clean(example.id),
        "source": example.source,
        **where,
        "excerpt": excerpt(example.user_text),
    }
    return RejectedExample(example=summary, issues=issues, stage=stage, rule_version=RULE_VERSION)


def validate_examples(
    examples: Sequence[TrainingExample],
    task: Task,
    base_model: str,
    min_tokens: int,
    max_tokens: int,
    accepted: Mapping[str, str] | None = None,
) -> Sieved:
    """Run every check on every example; one issue is enough to leave it out, unless its id is `accepted` (with a reason)."""
    from jsonschema import Draft202012Validator

    kept, rejected, counts = [], [], Counter()
    validator = Draft202012Validator(task.schema) if task.schema else None
    longest = max_tokens * CHARACTERS_PER_TOKEN
    findings = search_ahead(
        text for e in examples for m in e.messages if len(text := text_of(m)) <= longest
    )
    special = special_tokens(base_model)
    for example, length in zip(
        examples, count_tokens(examples, base_model, max_tokens), strict=True
    ):
        scanned = example
        if length is None:  # an endless row is cut to what is worth scanning
            cut = [
                m.model_copy(update={"content": (m.content or "")[:MAX_SCAN]})
                for m in example.messages
            ]
            scanned = example.model_copy(update={"messages": cut})
        issues = [
            *check_format(example),
            *check_special_tokens(example, special),
            *check_answer(example, validator),
            *check_length(length, min_tokens, max_tokens),
            *check_findings(scanned, "contains_pii", lambda text: findings(text)[0]),
            *check_findings(scanned, "contains_secret", lambda text: findings(text)[1]),
        ]
        if accepted and example.id in accepted:
            issues = [issue for issue in issues if issue.code in FINAL]
            example = example.model_copy(
                update={"meta": example.meta | {"accepted": accepted[example.id]}}
            )
        if issues:
            rejected.append(reject(example, issues, "check"))
            counts[example.source, issues[0].code] += 1
        else:
            kept.append(example)
    return Sieved(kept, rejected, counts)


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
    called = False  # whether the last turn that is no tool's called a tool
    for number, message in enumerate(example.messages, 1):
        if not (message.content or "").strip() and not message.tool_calls:
            said.append(f"message {number} ({message.role}) is empty")
        if message.role == "tool" and not called:
            said.append(f"message {number} (tool) answers no tool call")
        called = bool(message.tool_calls) if message.role != "tool" else called
    try:
        store.dumps(example).encode("utf-8")
    except (ValueError, RecursionError):  # lone surrogates, NaN: no JSON reader would take the file
        said.append("the row holds characters or numbers that cannot be written as JSON in UTF-8")
    return [Issue(code="invalid_format", evidence=text) for text in said]


def special_tokens(base_model: str) -> list[str]:
    """The texts that steer a chat instead of being read: those of the base model's tokenizer and OpenAI's."""
    own = (
        ()
        if tokens.is_openai(base_model)
        else tokens.control_tokens(tokens.tokenizer_of(base_model)).values()
    )
    return sorted({*own, *SPECIAL_TOKENS})


def check_special_tokens(example: TrainingExample, special: Iterable[str]) -> list[Issue]:
    """No user or assistant text holds a special token: it would end a turn, or begin one, in the middle of a text."""
    return [
        Issue(
            code="invalid_format",
            evidence=f"message {number} ({m.role}) holds the special token {token}",
        )
        for number, m in enumerate(example.messages, 1)
        for token in special
        if m.role in ("user", "assistant") and token in (m.content or "")
    ]


def check_answer(example: TrainingExample, validator: Any) -> list[Issue]:
    """The answer is exactly one JSON value that the task's output schema accepts (`validator`; None for a text task)."""
    if validator is None or not example.answer.strip():
        return []
    try:
        store.dumps(value := json.loads(example.answer))  # fails on NaN
        error = next(iter(validator.iter_errors(value)), None)
    except (ValueError, RecursionError):
        return [Issue(code="invalid_format", evidence="the answer is not one JSON value")]
    if error is None:
        return []
    known = set(validator.schema.get("properties") or {})  # other keys are the row's own text
    path = ".".join(str(p) for p in error.absolute_path if isinstance(p, int) or p in known)
    field = f"answer.{path}" if path else "the answer"
    return [
        Issue(
            code="invalid_format",
            evidence=f"{field} breaks the output schema's rule `{error.validator}`",
        )
    ]


def count_tokens(
    examples: Iterable[TrainingExample], base_model: str, max_tokens: int
) -> list[int | None]:
    """Tokens of each example without its system prompt; None where the text is endless."""
    texts = [
        "\n".join(clean(m.content or "") for m in e.messages if m.role != "system")
        for e in examples
    ]
    countable = [
        i for i, text in enumerate(texts) if len(text) <= max_tokens * CHARACTERS_PER_TOKEN
    ]
    counted: dict[int, int] = {}
    for chunk in (countable[i : i + COUNTED] for i in range(0, len(countable), COUNTED)):
        counted |= zip(chunk, tokens.count_text(base_model, [texts[i] for i in chunk]), strict=True)
    return [counted.get(i) for i in range(len(texts))]


def check_length(counted: int | None, min_tokens: int, max_tokens: int) -> list[Issue]:
    """Between min_tokens and max_tokens, by the base model's own tokenizer."""
    if counted is not None and min_tokens <= counted <= max_tokens:
        return []
    length = (
        f"over {max_tokens * CHARACTERS_PER_TOKEN} characters"
        if counted is None
        else f"{counted} tokens"
    )
    return [
        Issue(
            code="invalid_length", evidence=f"{length}; wanted {min_tokens} to {max_tokens} tokens"
        )
    ]


def text_of(message: Message) -> str:
    """All that a message says: its content and the tool calls it makes."""
    calls = json.dumps(message.tool_calls, ensure_ascii=False) if message.tool_calls else ""
    return clean((message.content or "") + calls)


def check_findings(
    example: TrainingExample, code: str, find: Callable[[str], Sequence[Span]]
) -> list[Issue]:
    """No personal data, no secret in any message."""
    issues = []
    for number, message in enumerate(example.messages, 1):
        for span in find(text_of(message)):
            if span.certain:
                place = f"message {number} ({message.role}), characters {span.start}-{span.end}"
                issues.append(Issue(code=code, evidence=f"{span.kind} in {place}"))
    return issues[:MAX_FINDINGS]
