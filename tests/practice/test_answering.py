from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from helpers.practice.training import Answering
from helpers.records import Message


class Counting:
    """A model that says which chats it was asked together.

    It waits until it is let go, and may fail once.
    """

    def __init__(self) -> None:
        self.batches, self.go, self.fails = [], threading.Event(), False

    def count_tokens(self, chat):
        return 1

    def answer(self, chats, most):
        self.go.wait(10)
        if self.fails:
            self.fails = False
            raise MemoryError
        self.batches.append([chat[0].content for chat in chats])
        return [f"to {chat[0].content}" for chat in chats]


def ask(answering, key, words):
    with ThreadPoolExecutor(len(words)) as pool:
        asked = [
            pool.submit(answering.answer, key, None, [Message(role="user", content=word)], 5)
            for word in words
        ]
        while len(answering._waiting) < len(words) - 1:  # the first one is being answered
            pass
        answering._models[(key, None)].go.set()
        return [one.exception() or one.result() for one in asked]


@pytest.fixture
def answering():
    found = Answering()
    found._models[("toy", None)] = Counting()
    return found


def test_requests_that_wait_together_are_answered_together_and_each_gets_its_own(answering):
    words = [str(n) for n in range(6)]
    assert ask(answering, "toy", words) == [f"to {word}" for word in words]
    batches = answering._models[("toy", None)].batches
    assert len(batches) == 2 and len(batches[0]) == 1 and sorted(map(len, batches)) == [1, 5]


def test_an_error_reaches_one_request_and_the_others_try_again(answering):
    answering._models[("toy", None)].fails = True
    found = ask(answering, "toy", [str(n) for n in range(5)])
    assert (
        sum(isinstance(one, MemoryError) for one in found) == 1
        and sum(isinstance(one, str) for one in found) == 4
    )
    assert not answering._waiting
