"""Chats in a provider's batches: cheaper than one by one, and answered within a day.

A batch carries a token of ours and is on disk before each step (runs/<id>/batches/<token>.json). So
whatever is killed, it is found again and never made twice; its money is set aside under its token.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers import store
from helpers.models.answers import Answer, failed
from helpers.models.api import ApiModel, answer_of, openai_client, reason_of
from helpers.models.connection import read_refusal
from helpers.models.prices import batch_prices, is_paid, real_cost, worst_cost
from helpers.records import Budget, Message, Record, WorkbookError

if TYPE_CHECKING:
    from helpers.tasks import Task

TOKEN = "workbook_token"  # the metadata key that finds a batch again
ENDPOINT = "/v1/chat/completions"
MOST_ROWS = 5_000  # of one batch: with 40 KB a row it is as large as OpenAI takes it
MOST_LISTED = 10_000
PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)  # seconds between two looks; the last one from then on
OVERDUE = 3600.0  # seconds after the end that the provider named
ENDED = ("completed", "failed", "expired", "cancelled")
ODD = (LookupError, TypeError, ValueError, AttributeError)  # from JSON of another form


class SentBatch(Record):
    """One batch; `status`: planned, sending (whether it is there is not known), waiting, done."""

    token: str
    rows: list[str]  # custom_ids
    most_usd: float
    status: str = "planned"
    batch_id: str = ""
    until: float = 0.0  # when it ends at the latest, as the provider says


@dataclass
class Batches:
    """The batches of one asking: planned and paid for when this is made, sent by `answers`."""

    chats: dict[str, list[Message]]  # by what is to name them
    model: ApiModel
    task: Task
    budget: Budget
    who: str  # pays
    most: int  # new tokens
    folder: Path  # where batches are remembered
    say: Callable[[str], Any]

    def __post_init__(self) -> None:
        self._client = openai_client(self.model.base_url)
        self._prices = batch_prices(self.task)
        self._is_paid = is_paid(self.task, self.model)
        refusals = {key: self.model.hold_back(chat) for key, chat in self.chats.items()}
        self._held_back = {key: answer for key, answer in refusals.items() if answer is not None}
        self._batches = self._planned()
        for batch in self._batches if self._is_paid else ():
            self.budget.reserve(batch.most_usd, self.who, key=f"batch:{batch.token}")

    def _planned(self) -> list[SentBatch]:
        """Those of an earlier attempt that hold some of these chats; new ones for the others."""
        batches = []
        new = self.chats.keys() - self._held_back.keys()
        for path in sorted(self.folder.glob("*.json")):
            batch = SentBatch(**store.read_json(path))
            if batch.status != "done" and not new.isdisjoint(batch.rows):
                batches.append(batch)
                new -= set(batch.rows)
        rows = iter(sorted(new))
        while part := list(islice(rows, MOST_ROWS)):
            usd = 0.0
            for key in part if self._is_paid else ():
                usd += worst_cost(self._prices, self.model, self.chats[key], self.most)
            batch = SentBatch(token=uuid.uuid4().hex, rows=part, most_usd=usd)
            batches.append(self._save(batch))
        return batches

    def _save(self, batch: SentBatch, **changes: Any) -> SentBatch:
        batch = batch.model_copy(update=changes)
        store.write_json(self.folder / f"{batch.token}.json", batch)
        return batch

    def answers(self) -> Iterator[dict[str, Answer]]:
        """An answer to each chat, batch by batch as they end; a row without one has its error.

        WorkbookError 5 where the provider refuses a batch, 124 where one is overdue.
        """
        import openai

        yield self._held_back
        try:
            waiting = [self._send(batch) for batch in self._batches]
            looks = 0
            while waiting:
                time.sleep(PAUSES[min(looks, len(PAUSES) - 1)])
                looks += 1
                for batch in list(waiting):
                    state = self._look(batch)
                    if state is not None and state.status in ENDED:
                        yield self._collect(batch, state)
                        self._save(batch, status="done")  # its answers have been kept
                        waiting.remove(batch)
        except (openai.OpenAIError, *ODD) as error:
            reason = store.redact(str(getattr(error, "message", "") or type(error).__name__))[:200]
            raise WorkbookError(
                f"{self.model.base_url} did not take a batch, or gave an odd answer: {reason}; set"
                " offline_batches: false where it has none, else run again with the same run_id",
                5,
            ) from None

    def _send(self, batch: SentBatch) -> SentBatch:
        """The batch with its id: uploaded and created once, or found again."""
        import openai

        if batch.status == "sending":  # whoever did so died, or got no answer
            batch = self._found(batch)
        if batch.batch_id:
            return batch
        batch = self._save(batch, status="sending")
        rows = b"".join(self._row(key) for key in batch.rows if key in self.chats)
        file = self._client.files.create(file=(f"{batch.token}.jsonl", rows), purpose="batch")
        once = self._client.with_options(max_retries=0).batches
        try:
            state = once.create(
                input_file_id=file.id,
                endpoint=ENDPOINT,
                completion_window="24h",
                metadata={TOKEN: batch.token},
            )
        except (openai.APIConnectionError, openai.InternalServerError) as error:
            batch = self._found(batch)
            if batch.batch_id:
                return batch
            raise WorkbookError(
                f"{self.model.base_url} did not answer whether it created the batch"
                f" ({type(error).__name__}); run again with the same run_id: it looks for it first",
                5,
            ) from None
        return self._sent(batch, state)

    def _row(self, key: str) -> bytes:
        """A line of the input file."""
        body = self.model.body_of(self.chats[key], self.most)
        row = {"custom_id": key, "method": "POST", "url": ENDPOINT, "body": body}
        return f"{store.dumps(row)}\n".encode(errors="backslashreplace")

    def _found(self, batch: SentBatch) -> SentBatch:
        """The batch with its id, where the provider lists it, be it a little late."""
        for pause in (0.0, *PAUSES[:3]):
            time.sleep(pause)
            for state in islice(self._client.batches.list(limit=100), MOST_LISTED):
                if (state.metadata or {}).get(TOKEN) == batch.token:
                    return self._sent(batch, state)
        return batch

    def _sent(self, batch: SentBatch, state: Any) -> SentBatch:
        until = state.expires_at or time.time() + 86_400
        usd = f", at most {batch.most_usd:.4f} USD" if batch.most_usd else ""
        self.say(
            f"{self.who}: {len(batch.rows)} rows are in batch {state.id[:40]}{usd}; answers come by"
            f" {datetime.fromtimestamp(until, UTC):%Y-%m-%d %H:%M} UTC\n"
            "this run may be ended meanwhile; with the same run_id it waits on for the same batch"
        )
        return self._save(batch, status="waiting", batch_id=state.id, until=until)

    def _look(self, batch: SentBatch) -> Any:
        """How it is; None where the provider does not say now."""
        import openai

        if time.time() > batch.until + OVERDUE:
            raise WorkbookError(
                f"batch {batch.batch_id} has not ended though its time is over: cancel it at the"
                f" provider, delete {self.folder / batch.token}.json, and run again",
                124,
            )
        with contextlib.suppress(
            openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError
        ):
            return self._client.batches.retrieve(batch.batch_id)

    def _collect(self, batch: SentBatch, state: Any) -> dict[str, Answer]:
        """The answers of a batch that has ended; its money is settled."""
        missing = failed(f"no line of it in the provider's batch, which is {state.status}")
        answers = dict.fromkeys(batch.rows, missing)
        for file_id in filter(None, (state.output_file_id, state.error_file_id)):
            for line in self._client.files.content(file_id).read().splitlines():
                with contextlib.suppress(*ODD):
                    row = json.loads(line)
                    answers[row["custom_id"]] = self._answer(row)
        answers = {key: answers[key] for key in batch.rows}
        if self._is_paid:
            each = batch.most_usd / len(batch.rows)
            prices = self._prices
            usd = sum(real_cost(prices, self.model, answer, each) for answer in answers.values())
            self.budget.settle(f"batch:{batch.token}", usd)
        if state.status == "failed":
            self._save(batch, status="done")
            problems = state.errors.data if state.errors else None
            reason = "; ".join(f"{each.message} ({each.code})" for each in (problems or [])[:3])
            raise WorkbookError(
                f"batch {state.id} was refused by the provider: {store.redact(reason)[:300]}; with"
                " the same run_id its rows are sent in a new one",
                5,
            )
        return answers

    def _answer(self, row: dict[str, Any]) -> Answer:
        """What a line of a file of answers, or of failures, says."""
        response = row.get("response")
        if not response:
            return failed(f"{(row.get('error') or {}).get('code')} in the provider's batch")
        body = store.dumps(response.get("body"))
        if response["status_code"] == 200:
            return answer_of(body, 0.0)
        refusal = read_refusal(response["status_code"], body.encode(errors="replace"))
        return failed(reason_of(refusal, self.chats.get(row["custom_id"], [])))
