"""The rows of a batch shared out over processes, one for each core (docs/kernels.md).

In bf16 a product takes so little time that to share it out would cost more than it takes. And
Python lets one thread at a time call torch, whose calls are many and short. So each core has a
process that computes the loss of some rows, and its gradients, from beginning to end.
"""

from __future__ import annotations

import ctypes
import gc
import math
import mmap
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import psutil
import torch

from helpers.processes import limits
from helpers.train.kernels.loss import (
    Gradients,
    Known,
    add,
    gradients_of,
    labelled_lengths,
    supervised_loss,
    trainable,
)

PR_SET_PDEATHSIG = 1  # of Linux
TERMINATION = {signal.SIGTERM}
ROOM = 2**30  # bytes of this machine's memory for each process, at least


def processes_for(causal: Any, rows: int, before: int = 0) -> int:
    """How many processes a batch of so many rows is worth; as many as `before` a resume.

    One in fp32, where the threads share each product out instead, and where there is no prctl.
    """
    weight = causal.get_input_embeddings().weight
    if sys.platform != "linux" or weight.dtype != torch.bfloat16 or weight.device.type != "cpu":
        return 1
    if before:
        return min(before, rows)
    threads = torch.get_num_threads()
    quota, period = limits("cpu.max") or (threads, 1)
    memory = min([psutil.virtual_memory().total, *limits("memory.max")])
    return max(1, min(threads, math.ceil(quota / period), memory // ROOM, rows))


class Beside:
    """Other processes, forked from this one, that compute some rows of every batch.

    All read the weights at the same place: the frozen ones have to be laid out by then, those that
    learn move to memory that is shared. So are their gradients; the rest goes through pipes.
    """

    here: Beside  # in another process

    def __init__(self, causal: Any, others: int, most_tokens: int) -> None:
        """OSError where the system refuses one of them; then none is left."""
        self.causal = causal
        self.most_tokens = most_tokens
        self.weights = trainable(causal)
        self.shared = shared_like(self.weights)
        self._share()
        self.gradients = [shared_like(self.weights) for _ in range(others)]
        fork = multiprocessing.get_context("fork")
        self._pool = ProcessPoolExecutor(others, fork, initializer=self._begin)
        signal.pthread_sigmask(signal.SIG_BLOCK, TERMINATION)  # one that comes early waits
        try:
            self._pool.submit(os.getpid)  # the first one forks them all
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINATION)
            self.processes = list(self._pool._processes.values())
            if len(self.processes) < others:
                for process in self.processes:
                    process.kill()

    def _share(self) -> None:
        """Move weights to where all read them; once, unless they are put elsewhere later."""
        for shared, weight in zip(self.shared, self.weights, strict=True):
            if weight.data_ptr() != shared.data_ptr():
                weight.data = shared.copy_(weight.data)

    def loss(self, input_ids: torch.Tensor, labels: torch.Tensor, prefix: bool) -> torch.Tensor:
        """The `supervised_loss` of all rows; the same seed gives the same bytes."""
        learning, training = torch.is_grad_enabled(), self.causal.training
        self._share()
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
            self.close()
            codes = {process.exitcode for process in self.processes}
            kind = MemoryError if -signal.SIGKILL in codes else RuntimeError
            raise kind(f"processes that computed beside this one ended by {codes}") from error
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
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # by which the pool ends it
        signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINATION)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # it ends with its parent
        if os.getppid() != multiprocessing.parent_process().pid:  # which ended before that
            os._exit(1)
        gc.freeze()  # what is known now is not looked through again, and so not copied
        torch.set_num_threads(1)

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
    memory = [mmap.mmap(-1, 4 * weight.numel()) for weight in weights]
    flat = [torch.frombuffer(part, dtype=torch.float32) for part in memory]
    return [part.view(weight.shape) for part, weight in zip(flat, weights, strict=True)]
