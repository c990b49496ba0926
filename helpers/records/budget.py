"""One ledger of the money that a run may spend: what is reserved, what was spent, and by whom.

budget.jsonl is only ever appended to, a line per event and each in one write, so that a kill -9
loses no cent: what was reserved by a process that died before it knew the price counts with its
reservation.
"""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections import defaultdict
from pathlib import Path
from typing import Protocol

from helpers.records.base import Record, WorkbookError

FILE = "budget.jsonl"


class RunFolder(Protocol):
    """Whatever knows where a run keeps its files."""

    id: str

    def path(self, name: str) -> Path:
        """Where the file `name` is, or will be."""
        ...


class Expense(Record):
    """One thing that costs money, in USD; `spent` is None until its price is known."""

    key: str
    who: str  # rungs, judge, synthetic rows, job
    reserved: float
    spent: float | None = None

    @property
    def committed(self) -> float:
        """What counts against the limit: the price, or what was reserved for it."""
        return self.reserved if self.spent is None else self.spent


class Budget:
    """The ledger of one run, held to a limit in USD; 0 means that nothing may be spent."""

    def __init__(self, run: RunFolder, limit_usd: float = 0.0) -> None:
        self.limit_usd = limit_usd
        self.run_id = run.id
        self._path = run.path(FILE)
        self._expenses: dict[str, Expense] = {}
        self._committed = 0.0  # of all of them
        self._read = 0  # bytes of the file that _expenses knows
        self._turn = threading.Lock()  # the home's lock keeps other processes out

    def reserve(self, usd: float, who: str, key: str = "") -> str:
        """Put money aside before it is spent; the key settles it.

        A `key` of one's own names a thing that is paid once: reserving it again (after a kill)
        replaces an open reservation, and changes nothing once it was settled. WorkbookError when
        the limit would be passed: nothing was reserved then.
        """
        with self._turn:
            self._catch_up()
            key = key or uuid.uuid4().hex
            known = self._expenses.get(key)
            if known is not None and known.spent is not None:
                return key
            others = self._committed - (known.committed if known else 0.0)
            if not others + usd <= self.limit_usd + 1e-9:  # NaN is no price
                raise WorkbookError(
                    f"{who} may cost {usd:.4f} USD; run {self.run_id} has spent or reserved"
                    f" {others:.4f} of max_cost_usd={self.limit_usd:g}; raise it to"
                    f" {others + usd:.4f} or more, or ask for less"
                )
            self._append({"key": key, "who": who, "reserved": usd})
            return key

    def settle(self, key: str, usd: float) -> None:
        """Write down what a reserved thing cost (0: it never happened); the last word counts."""
        with self._turn:
            self._catch_up()
            self._append({"key": key, "spent": usd})

    @property
    def spent(self) -> float:
        """USD whose price is known."""
        return sum(e.spent for e in self._all() if e.spent is not None)

    @property
    def reserved(self) -> float:
        """USD put aside for what is not settled: it runs, or its process died."""
        return sum(e.reserved for e in self._all() if e.spent is None)

    def by_whom(self) -> dict[str, float]:
        """USD spent or reserved, by who spends it."""
        total: dict[str, float] = defaultdict(float)
        for expense in self._all():
            total[expense.who] += expense.committed
        return dict(total)

    def _all(self) -> list[Expense]:
        with self._turn:
            self._catch_up()
            return list(self._expenses.values())

    def _append(self, line: dict[str, object]) -> None:
        # The empty line before it ends whatever a kill has torn.
        text = f"\n{json.dumps(line)}\n".encode()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, text)
        finally:
            os.close(descriptor)
        self._catch_up()

    def _catch_up(self) -> None:
        """Take in what was appended since, also by others."""
        if not self._path.exists() or self._path.stat().st_size == self._read:
            return
        with open(self._path, "rb") as file:
            file.seek(self._read)
            data = file.read()
        self._read += len(data)
        for line in data.splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue  # an empty line, or one that a kill has torn
            # what was never reserved (a job of an older workbook) counts all the same
            new = Expense(key=event["key"], who="unknown", reserved=0.0)
            known = self._expenses.get(new.key, new)
            expense = Expense(**event) if "reserved" in event else known.model_copy(update=event)
            self._committed += expense.committed - known.committed
            self._expenses[new.key] = expense
