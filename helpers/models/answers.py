"""What an answer is, and what answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Protocol

from helpers.records import Message, Record


class Answer(Record):
    """One answer and what it took."""

    text: str  # what it says, then what it calls
    thoughts: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0  # of the prompt, not computed again: shared prefix, provider's cache
    latency_ms: float = 0.0  # of a batched local answer: from the start of its batch
    confidence: float | None = None  # the probability of all its tokens together; None: not told
    finish: Literal["stop", "length", "error"]
    error: str | None = None


def failed(reason: str, latency_ms: float = 0.0) -> Answer:
    """What stands for an answer that did not come."""
    return Answer(text="", finish="error", error=reason, latency_ms=latency_ms)


def probability(logarithm: float) -> float | None:
    """Of the tokens of an answer together; None where nobody told one."""
    return math.exp(logarithm) if logarithm <= 0 else None


class Model(Protocol):
    """Anything that answers a chat."""

    name: str
    spec: str  # what an Asking calls it: what loads it again, or the id of a tuned version
    provider: Literal["embedded", "local", "api"]
    is_loopback: bool
    fingerprint: str  # sha256 of all that decides its answers

    def answer(self, chats: Sequence[list[Message]], max_new_tokens: int) -> list[Answer]:
        """Greedy answers in the order of `chats`."""

    def count_tokens(self, chat: list[Message]) -> int:
        """Tokens of the rendered prompt, generation prompt included."""
