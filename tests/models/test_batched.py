"""A model that many threads ask answers whatever waits together, and an error stays where it is."""

from __future__ import annotations

import threading

import pytest

from helpers.models import Batched
from helpers.records import Message


class Counting:
    """A model that says which chats it was asked together.

    It waits until it is let go, and may fail once.
    """

    def __init__(self) -> None:
        self.batches, self.fails = [], False
        self.begun, self.go = threading.Event(), threading.Event()

    def answer(self, chats, most):
        self.begun.set()
        self.go.wait(60)
        if self.fails:
            self.fails = False
            raise MemoryError
        self.batches.append([chat[0].content for chat in chats])
        return [f"to {chat[0].content}" for chat in chats]


def ask(model, words):
    """What each request got; all others wait while the first one is being answered."""
    batched = Batched(model)
    futures = []
    for word in words:
        futures.append(batched.submit([Message(role="user", content=word)], 5))
        assert model.begun.wait(60)
    model.go.set()
    batched.close()
    return [future.exception() or future.result() for future in futures]


@pytest.fixture
def model():
    return Counting()


def test_requests_that_wait_together_are_answered_together_and_each_gets_its_own(model):
    words = [str(n) for n in range(6)]
    assert ask(model, words) == [f"to {word}" for word in words]
    assert model.batches == [["0"], words[1:]]


def test_an_error_reaches_one_request_and_the_others_are_answered(model):
    model.fails = True
    first, *others = ask(model, [str(n) for n in range(5)])
    assert isinstance(first, MemoryError)
    assert others == [f"to {n}" for n in range(1, 5)]
