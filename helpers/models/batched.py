"""One model that many threads ask at once: whatever waits when it is free is answered together."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import NamedTuple

from helpers.models.answers import Answer, Model
from helpers.records import Message

MOST_ROWS = 16  # of one batch: what decoding takes at once


class Waiting(NamedTuple):
    """A chat that waits for its answer."""

    chat: list[Message]
    limit: int
    answer: Future[Answer]


class Batched:
    """A model behind one thread."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._waiting: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="batched-answers", daemon=True)
        self._thread.start()

    def submit(self, chat: list[Message], limit: int) -> Future[Answer]:
        """Where the answer will be, in the batch of those that wait at the same time."""
        request = Waiting(chat, limit, Future())
        self._waiting.put(request)
        return request.answer

    def close(self) -> None:
        """Answer what waits, then end."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        is_open = True
        while is_open:
            taken = [self._waiting.get()]
            while len(taken) < MOST_ROWS and not self._waiting.empty():
                taken.append(self._waiting.get())
            is_open = None not in taken
            requests = [request for request in taken if request is not None]
            for limit in {request.limit for request in requests}:
                self._answer_together([each for each in requests if each.limit == limit])

    def _answer_together(self, batch: Sequence[Waiting]) -> None:
        """One batch; where it fails each is asked alone, so that one bad chat harms no other."""
        try:
            answers = self._model.answer([request.chat for request in batch], batch[0].limit)
        except Exception as error:  # whatever a model throws belongs to the requests that met it
            if len(batch) == 1:
                batch[0].answer.set_exception(error)
                return
            for request in batch:
                self._answer_together([request])
            return
        for request, answer in zip(batch, answers, strict=True):
            request.answer.set_result(answer)
