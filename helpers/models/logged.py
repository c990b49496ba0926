"""Answers that were given before, as a model: what runs today can be scored without asking it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from helpers import store
from helpers.models import Answer
from helpers.records import Message


class LoggedModel:
    """Answers of a log, found by the question; a question that is not in the log is a failed request."""

    provider = "local"
    is_loopback = True

    def __init__(self, answers: Mapping[str, str], name: str = "log") -> None:
        self.answers, self.name = answers, name
        self.fingerprint = store.fingerprint(dict(answers))

    def answer(self, chats: Sequence[list[Message]], max_new_tokens: int) -> list[Answer]:
        """The logged answers in the order of `chats`; tokens and latency are not known from here."""
        found = [self.answers.get(question(chat)) for chat in chats]
        nothing = {"tokens_in": 0, "tokens_out": 0, "latency_ms": 0.0}
        missing = Answer(
            text="", finish="error", error="the log holds no answer to this question", **nothing
        )
        return [
            missing if text is None else Answer(text=text, finish="stop", **nothing)
            for text in found
        ]

    def count_tokens(self, chat: list[Message]) -> int:
        """A log says nothing of tokens."""
        return 0

    def latency_probe(self, chats: Sequence[list[Message]], max_new_tokens: int) -> list[float]:
        """No latency can be measured on a log."""
        return []


def question(chat: Sequence[Message]) -> str:
    """The user's turns, joined: what a logged answer is found by."""
    return "\n".join(m.content or "" for m in chat if m.role == "user")
