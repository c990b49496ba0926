"""Texts of rows as they may be shown: personal data and secrets replaced by their kind."""

from __future__ import annotations

from helpers.redaction import find_personal_data, find_secrets, without_surrogates

MAX_SCAN = 20_000  # characters looked at where a row is left out for its length anyway


def masked_text(text: str) -> str:
    """The first MAX_SCAN characters, every finding replaced by its kind in brackets."""
    text = without_surrogates(text)[:MAX_SCAN]
    spans = sorted(
        (*find_personal_data(text), *find_secrets(text)), key=lambda span: (span.start, -span.end)
    )
    masked = ""
    end = 0
    for span in spans:
        if span.start >= end:  # an overlapping finding is swallowed by the one before it
            masked += f"{text[end : span.start]}[{span.kind}]"
        end = max(end, span.end)
    return masked + text[end:]


def excerpt(text: str, length: int = 60) -> str:
    """The masked beginning of a text: at most `length` characters, never over two thirds of it."""
    masked = " ".join(masked_text(text[: 20 * length]).split())
    if not masked:
        return ""
    return masked[: min(length, len(masked) * 2 // 3)] + "…"
