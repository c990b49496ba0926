"""Texts of rows as they may be shown: personal data and secrets replaced by their kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from helpers.records import TrainingExample
from helpers.redaction import Span, find_personal_data, find_secrets, masked, without_surrogates
from helpers.tasks import content_id

KIND = "[{0.kind}]".format  # of a finding, in its place
MAX_SCAN = 20_000  # characters looked at where a row is left out for its length anyway


def masked_text(text: str) -> str:
    """The first MAX_SCAN characters, every finding replaced by its kind in brackets."""
    text = without_surrogates(text)[:MAX_SCAN]
    return masked(text, [*find_personal_data(text), *find_secrets(text)], KIND)


def masked_example(
    example: TrainingExample, find: Callable[[str], Sequence[Span] | None]
) -> TrainingExample:
    """The example with [KIND] for every finding in what its turns say and think.

    It remembers which content it had, as decisions about it are decisions about that.
    """
    kinds = set()
    turns = []
    for message in example.turns:
        changes = {}
        for field in ("content", "reasoning"):
            text = getattr(message, field)
            spans = (text and find(text)) or ()
            kinds.update(span.kind for span in spans)
            if spans:
                changes[field] = masked(text, spans, KIND)
        turns.append(message.model_copy(update=changes))
    if not kinds:
        return example
    n = len(example.messages)
    preference = example.preference
    if len(turns) > n:
        preference = preference.model_copy(update={"rejected": turns[n:]})
    kinds.update(example.meta.get("masked", ()))
    content = example.meta.get("content") or content_id(example.messages)
    meta = example.meta | {"masked": sorted(kinds), "content": content}
    changes = {"messages": turns[:n], "preference": preference, "meta": meta}
    return example.model_copy(update=changes)


def excerpt(text: str, length: int = 60) -> str:
    """The masked beginning of a text: at most `length` characters, never over two thirds of it."""
    shown = " ".join(masked_text(text[: 20 * length]).split())
    end = min(length, len(shown) * 2 // 3)
    return shown[:end] + "…" if shown else ""
