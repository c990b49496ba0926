"""What a chat model is here: chats in, answers out; and the one way in which a chat becomes tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

from helpers.records import Message, Record

Progress = Callable[[int, int], None]
Provider = Literal["embedded", "local", "api"]


class Answer(Record):
    """One answer and what it took. `latency_ms` of a batched local answer runs from the start of its batch."""

    text: str
    tokens_in: int
    tokens_out: int
    tokens_cached: int = 0  # prompt tokens that were not computed again (shared prefix, provider's cache)
    latency_ms: float
    finish: Literal["stop", "length", "error"]
    error: str | None = None


class Model(Protocol):
    """Anything that answers a chat."""

    name: str
    provider: Provider
    is_loopback: bool

    @property
    def fingerprint(self) -> str:
        """sha256 of everything that decides the answers: weights, adapter, template, tokenizer (or endpoint and name)."""
        ...

    def answer(
        self,
        chats: Sequence[list[Message]],
        max_new_tokens: int,
        schema: dict[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> list[Answer]:
        """Greedy answers in the order of `chats`."""
        ...

    def count_tokens(self, chat: list[Message]) -> int:
        """Tokens of the rendered prompt, generation prompt included."""
        ...

    def latency_probe(self, chats: Sequence[list[Message]], max_new_tokens: int) -> list[float]:
        """Milliseconds per chat, each asked alone: what p50 and p95 are computed from."""
        ...


def plain(chat: Sequence[Message]) -> list[dict[str, Any]]:
    """OpenAI message dicts without empty keys."""
    return [m.model_dump(exclude_none=True) | {"content": m.content} for m in chat]


def render_tokens(tokenizer: Any, chat: Sequence[Message], generation_prompt: bool = True) -> list[int]:
    """Token ids of a chat by the tokenizer's own template: the one way that serving, evaluation and training share.

    Templates know no "developer" role and choke on a missing content, so these become "system" and "". A chat without
    a system turn gets the template's default one where it has one (SmolLM2's has).
    """
    turns = [
        turn | {"content": turn["content"] or "", "role": "system" if turn["role"] == "developer" else turn["role"]}
        for turn in plain(chat)
    ]
    return tokenizer.apply_chat_template(turns, add_generation_prompt=generation_prompt, return_dict=False)
