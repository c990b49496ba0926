"""Logged answers as a model: what runs today is scored without asking it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from helpers import store
from helpers.models.answers import Answer, failed
from helpers.records import Message


class LoggedModel:
    """Answers of a log, by their question; one that is not in the log is a failed request."""

    provider = "local"
    is_loopback = True

    def __init__(self, answers: Mapping[str, str], name: str = "log") -> None:
        self.answers = answers
        self.name = name
        self.spec = name
        self.fingerprint = store.fingerprint(dict(answers))

    def answer(self, chats: Sequence[list[Message]], max_new_tokens: int) -> list[Answer]:
        """The logged answers in the order of `chats`; tokens and latency are not known here."""
        return [self._answer_of(chat) for chat in chats]

    def _answer_of(self, chat: list[Message]) -> Answer:
        text = self.answers.get(question(chat))
        if text is None:
            return failed("the log holds no answer to this question")
        return Answer(text=text, finish="stop")

    def count_tokens(self, chat: list[Message]) -> int:
        """A log says nothing of tokens."""
        return 0


def question(chat: Sequence[Message]) -> str:
    """What users and tools said, joined: what a logged answer is found by."""
    return "\n".join(m.content or "" for m in chat if m.role in ("user", "tool"))
