"""The rows of a batch shared out over processes, one for each core (docs/kernels.md).

In bf16 a product takes so little time that to share it out would cost more than it takes. And
Python lets one thread at a time call torch, whose calls are many and short. So each core has a
process that computes the loss of some rows, and its gradients, from beginning to end.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import multiprocessing
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from helpers.train.kernels.loss import (
    Gradients,
    Known,
    add,
    gradients_of,
    labelled_lengths,
    supervised_loss,
    trainable,
)

PR_SET_PDEATHSIG = 1  # of Linux, which alone tells of native bf16


def processes_for(causal: Any, rows: int) -> int:
    """How many processes a batch of so many rows is worth.

    One in fp32, where the threads share each product out instead.
    """
    weight = causal.get_input_embeddings().weight
    coarse = weight.dtype == torch.bfloat16 and weight.device.type == "cpu"
    return min(torch.get_num_threads(), rows) if coarse else 1


class Beside:
    """Other processes, forked from this one, that compute some rows of every batch.

    All read the frozen weights at the same place, so these have to be laid out by then. Weights
    that learn and their gradients are in memory that is shared, the rest goes through pipes.
    """

    here: Beside  # in another process

    def __init__(self, causal: Any, others: int, most_tokens: int) -> None:
        self.causal = causal
        self.most_tokens = most_tokens
        self.weights = trainable(causal)
        self.shared = shared_like(self.weights)
        self.gradients = [shared_like(self.weights) for _ in range(others)]
        fork = multiprocessing.get_context("fork")
        self._pool = ProcessPoolExecutor(others, fork, initializer=self._begin)

    def loss(self, input_ids: torch.Tensor, labels: torch.Tensor, prefix: bool) -> torch.Tensor:
        """The `supervised_loss` of all rows; the same seed gives the same bytes."""
        learning, training = torch.is_grad_enabled(), self.causal.training
        with torch.no_grad():
            for shared, weight in zip(self.shared, self.weights, strict=True):
                shared.copy_(weight)
        own, *shares = deal(labelled_lengths(labels), 1 + len(self.gradients))
        answers = []
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for number, rows in enumerate(shares):
                seed = int(torch.randint(2**62, ())) if training else 0
                batch = input_ids[rows].numpy(), labels[rows].numpy(), prefix
                answers.append(self._pool.submit(answer, number, batch, learning, training, seed))
            total, gradients = self.compute(input_ids[own], labels[own], prefix)
            for future, more in zip(answers, self.gradients, strict=True):
                total = total + future.result()
                gradients = add(gradients, more[: len(gradients)])
        except BrokenProcessPool as error:
            raise MemoryError("a process that computed beside this one was killed") from error
        finally:
            torch.set_num_threads(threads)
        return Known.apply(total, gradients, *self.weights) if learning else total

    def compute(
        self, input_ids: torch.Tensor, labels: torch.Tensor, prefix: bool
    ) -> tuple[torch.Tensor, Gradients]:
        """The loss of these rows and, where asked for, its gradients by the weights."""
        loss = supervised_loss(self.causal, input_ids, labels, prefix, self.most_tokens)
        if not torch.is_grad_enabled():
            return loss, []
        return loss.detach(), gradients_of(loss, self.weights)

    def _begin(self) -> None:
        """What another process does first."""
        Beside.here = self
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # it ends with its parent
        gc.freeze()  # what is known now is not looked through again, and so not copied
        torch.set_num_threads(1)
        for shared, weight in zip(self.shared, self.weights, strict=True):
            weight.data = shared

    def close(self) -> None:
        """End the other processes."""
        self._pool.shutdown(cancel_futures=True)


def answer(number: int, batch: Any, learning: bool, training: bool, seed: int) -> float:
    """The loss of some rows, computed in another process; the gradients it leaves in Beside's."""
    beside = Beside.here
    beside.causal.train(training)
    torch.manual_seed(seed)
    ids, labels, prefix = batch
    with torch.set_grad_enabled(learning):
        batch = torch.from_numpy(ids), torch.from_numpy(labels), prefix
        loss, gradients = beside.compute(*batch)
    for shared, gradient in zip(beside.gradients[number], gradients, strict=False):
        shared.copy_(gradient)
    return float(loss)


def deal(lengths: Sequence[int], count: int) -> list[list[int]]:
    """Row numbers in shares of about as many tokens; rows of length 0 are in none."""
    rows = [row for row, length in enumerate(lengths) if length]
    rows.sort(key=lambda row: -lengths[row])
    back = 2 * count  # there and back again: a long one with a short one
    return [rows[share::back] + rows[back - 1 - share :: back] for share in range(count)]


def shared_like(weights: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Tensors of these shapes, in fp32, in memory that forked processes share."""
    sizes = [weight.numel() for weight in weights]
    whole = torch.frombuffer(mmap.mmap(-1, 4 * sum(sizes)), dtype=torch.float32)
    parts = zip(whole.split(sizes), weights, strict=True)
    return [part.view(weight.shape) for part, weight in parts]
