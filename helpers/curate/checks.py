"""What every row must pass: small named checks, example -> issues, whose evidence holds no value.

All checks run on every row; a row's first issue is the one that the funnel counts it under.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from helpers import models, show, store, tasks
from helpers.curate.codes import personal_data_finder
from helpers.curate.config import DataCollectionConfig
from helpers.curate.personal import MAX_SCAN, masked_example
from helpers.curate.provider_file import SPECIAL_TOKENS
from helpers.curate.searching import Search, search_here
from helpers.curate.stages import NO_ANSWER, Say, Stage
from helpers.records import Issue, Message, TrainingExample, with_calls
from helpers.redaction import Span, without_surrogates
from helpers.tasks import Task

# No tokenizer packs ordinary text tighter; beyond it a row is too long, uncounted.
CHARACTERS_PER_TOKEN = 20
SPECIAL = 8  # tokens that a tokenizer may put around a text
COUNTED = 1_000  # texts tokenised at a time: an encoding is far larger than its text
MAX_FINDINGS = 5  # findings reported per row and code


def validate_examples(
    examples: Sequence[TrainingExample],
    task: Task,
    config: DataCollectionConfig,
    accepted: Mapping[str, str] | None = None,
    search: Search = search_here,
    say: Say = show.say,
) -> Stage:
    """Run every check on every example; one issue is enough to leave it out.

    An id that is `accepted` (with a reason) stays unless its format is broken. Where the task masks
    personal data, it is replaced instead.
    """
    reasons = accepted or {}
    most = config.longest  # asked once: it may open a tokenizer
    longest = most * CHARACTERS_PER_TOKEN
    told = show.told(examples, len(examples), "search", say)
    texts = (text_of(turn) for example in told for turn in example.turns)
    findings_of = search(filter(lambda text: len(text) <= longest, texts))
    personal_data_in, notes = personal_data_finder(examples, findings_of, task, say)
    special = special_tokens(config.base_model)
    validator = tasks.validator_of(store.canonical(task.schema)) if task.schema else None
    stage = Stage.of(examples, notes)
    for example, count in show.told(_counted(examples, config), len(examples), "checks", say):
        if task.personal == "mask" and example.id not in reasons and count is not None:
            example = masked_example(example, personal_data_in)
        scanned = _shortened(example) if count is None else example
        issues = [
            *check_format(example),
            *check_special_tokens(example, special),
            *check_answer(example, validator),
            *check_length(count, config.min_tokens, most),
            *check_findings(scanned, "contains_pii", personal_data_in),
            *check_findings(scanned, "contains_secret", lambda text: findings_of(text).secrets),
        ]
        if example.id in reasons:
            issues = [issue for issue in issues if issue.code == "invalid_format"]
            meta = example.meta | {"accepted": reasons[example.id]}
            example = example.model_copy(update={"meta": meta})
        if issues:
            stage.reject(example, issues, "check")
        else:
            stage.kept.append(example)
    return stage


def _counted(
    examples: Sequence[TrainingExample], config: DataCollectionConfig
) -> Iterator[tuple[TrainingExample, int | None]]:
    """Every example with its tokens."""
    for start in range(0, len(examples), COUNTED):
        some = examples[start : start + COUNTED]
        yield from zip(some, count_tokens(some, config), strict=True)


def _shortened(example: TrainingExample) -> TrainingExample:
    """An endless row, cut to what is worth scanning."""
    messages = [Message(role=turn.role, content=text_of(turn)[:MAX_SCAN]) for turn in example.turns]
    return example.model_copy(update={"messages": messages, "preference": None})


def check_format(example: TrainingExample) -> list[Issue]:
    """A chat to learn from: roles in order, nothing empty, the answer last, writable as JSON."""
    problems = [*_role_problems(example.messages), *_message_problems(example.messages)]
    try:
        store.dumps(example).encode("utf-8")
    except (ValueError, RecursionError):  # lone surrogates, NaN: no JSON reader would take the file
        problems.append(
            "the row holds characters or numbers that cannot be written as JSON in UTF-8"
        )
    return [_format_issue(problem) for problem in problems]


def _format_issue(evidence: str) -> Issue:
    return Issue(code="invalid_format", evidence=evidence)


def _role_problems(messages: Sequence[Message]) -> Iterator[str]:
    roles = [message.role for message in messages]
    turns = [role for role in roles if role not in tasks.SYSTEM]
    if any(role in tasks.SYSTEM for role in roles[1:]):
        yield "a system message stands behind another message"
    if not turns or turns[0] != "user":
        yield "the first turn is not the user's"
    if not turns or turns[-1] != "assistant":
        yield NO_ANSWER


def _message_problems(messages: Sequence[Message]) -> Iterator[str]:
    may_answer = False  # whether the last turn that is no tool's called a tool
    for number, message in enumerate(messages, 1):
        if not (message.content or "").strip() and not message.tool_calls:
            yield f"message {number} ({message.role}) is empty"
        if "\0" in (message.content or ""):
            yield f"message {number} ({message.role}) holds the character NUL, a broken export's"
        if message.role != "tool":
            may_answer = bool(message.tool_calls)
        elif not may_answer:
            yield f"message {number} (tool) answers no tool call"


def special_tokens(base_model: str) -> list[str]:
    """The texts that steer a chat instead of being read: the base model's own and OpenAI's."""
    is_openai = models.is_openai(base_model)
    own = {} if is_openai else models.control_tokens(models.tokenizer_of(base_model))
    return sorted({*own.values(), *SPECIAL_TOKENS})


def check_special_tokens(example: TrainingExample, special: Iterable[str]) -> list[Issue]:
    """No special token in user or assistant text: it would end a turn there, or begin one."""
    return [
        _format_issue(f"message {number} ({message.role}) holds the special token {token}")
        for number, message in enumerate(example.messages, 1)
        if message.role in ("user", "assistant")
        for token in special
        if token in (message.content or "")
    ]


def check_answer(example: TrainingExample, validator: Any) -> list[Issue]:
    """The answer is one JSON value that the task's schema accepts (None: any text)."""
    if validator is None or example.calls or not example.answer.strip():
        return []
    try:
        value = tasks.DECODER.decode(example.answer.strip())
        error = next(iter(validator.iter_errors(value)), None)
    except (ValueError, RecursionError) as reason:
        is_double = "stands twice" in str(reason)  # which names the key, the row's own text
        fault = "holds a key twice" if is_double else "is not one JSON value"
        return [_format_issue(f"the answer {fault}")]
    if error is None:
        return []
    known = validator.schema.get("properties") or {}  # other keys are the row's own text
    steps = [str(step) for step in error.absolute_path if isinstance(step, int) or step in known]
    field = ".".join(["answer", *steps]) if steps else "the answer"
    return [_format_issue(f"{field} breaks the output schema's rule `{error.validator}`")]


def count_tokens(
    examples: Iterable[TrainingExample], config: DataCollectionConfig
) -> list[int | None]:
    """Tokens of each example without its system prompt; None where the text is endless.

    A text that is long enough whatever its tokens are, and whose bytes are no more than the tokens
    that are allowed, is not tokenised: its bytes are given.
    """
    texts = []
    for example in examples:
        turns = [turn for turn in example.messages if turn.role not in tasks.SYSTEM]
        said = "\n".join(with_calls(turn.content, turn.tool_calls) for turn in turns)
        texts.append(without_surrogates(said))
    most = config.longest
    shortest = config.min_tokens * CHARACTERS_PER_TOKEN
    counts = {
        i: len(text)
        for i, text in enumerate(texts)
        if shortest <= len(text) <= most - SPECIAL and text.isascii()
    }
    longest = most * CHARACTERS_PER_TOKEN
    countable = [i for i, text in enumerate(texts) if i not in counts and len(text) <= longest]
    own_counts = models.count_text(config.base_model, [texts[i] for i in countable])
    counts.update(zip(countable, own_counts, strict=True))
    return [counts.get(i) for i in range(len(texts))]


def check_length(count: int | None, min_tokens: int, max_tokens: int) -> list[Issue]:
    """Between min_tokens and max_tokens, by the base model's own tokenizer; None is endless."""
    if count is not None and min_tokens <= count <= max_tokens:
        return []
    endless = f"over {max_tokens * CHARACTERS_PER_TOKEN} characters"
    length = endless if count is None else f"{count} tokens"
    evidence = f"{length}; wanted {min_tokens} to {max_tokens} tokens"
    return [Issue(code="invalid_length", evidence=evidence)]


def text_of(message: Message) -> str:
    """All that a message says: its content, its thoughts, the tool calls it makes and its name."""
    calls = json.dumps(message.tool_calls, ensure_ascii=False) if message.tool_calls else ""
    said = filter(None, (message.content, message.reasoning, calls, message.name))
    return without_surrogates("\n".join(said))


def check_findings(
    example: TrainingExample, code: str, find: Callable[[str], Sequence[Span]]
) -> list[Issue]:
    """No personal data, no secret in any message."""
    findings = (
        f"{span.kind} in message {number} ({message.role}), characters {span.start}-{span.end}"
        for number, message in enumerate(example.turns, 1)
        for span in find(text_of(message))
        if span.certain
    )
    return [Issue(code=code, evidence=evidence) for evidence in islice(findings, MAX_FINDINGS)]
