"""Texts of rows as they may be shown: personal data and secrets replaced by their kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from helpers.records import TrainingExample
from helpers.redaction import Span, find_personal_data, find_secrets, without_surrogates
from helpers.tasks import content_id

MAX_SCAN = 20_000  # characters looked at where a row is left out for its length anyway


def masked_text(text: str) -> str:
    """The first MAX_SCAN characters, every finding replaced by its kind in brackets."""
    text = without_surrogates(text)[:MAX_SCAN]
    return without_spans(text, [*find_personal_data(text), *find_secrets(text)])


def without_spans(text: str, spans: Iterable[Span]) -> str:
    """The text with [KIND] for each of its findings."""
    masked = ""
    end = 0
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        if span.start >= end:  # an overlapping finding is swallowed by the one before it
            masked += f"{text[end : span.start]}[{span.kind}]"
        end = max(end, span.end)
    return masked + text[end:]


def masked_example(
    example: TrainingExample, find: Callable[[str], Sequence[Span]], roles: Sequence[str]
) -> TrainingExample:
    """The example with [KIND] for every finding in its turns of these roles.

    It remembers which content it had, as decisions about it are decisions about that.
    """
    kinds = set()
    messages = []
    for message in example.messages:
        spans = find(message.content) if message.content and message.role in roles else ()
        if spans:
            kinds.update(span.kind for span in spans)
            message = message.model_copy(
                update={"content": without_spans(message.content or "", spans)}
            )
        messages.append(message)
    if not kinds:
        return example
    masked = sorted({*kinds, *example.meta.get("masked", ())})
    content = example.meta.get("content") or content_id(example.messages)
    return example.model_copy(
        update={"messages": messages, "meta": example.meta | {"masked": masked, "content": content}}
    )


def excerpt(text: str, length: int = 60) -> str:
    """The masked beginning of a text: at most `length` characters, never over two thirds of it."""
    masked = " ".join(masked_text(text[: 20 * length]).split())
    if not masked:
        return ""
    return masked[: min(length, len(masked) * 2 // 3)] + "…"
