"""Batches: a file of chat requests that is answered later, with a file of answers and of failures.

As OpenAI's: a broken line fails the whole batch, a refused request only itself, what was not
reached in time is in the file of failures, and answers come in another order than the requests.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pydantic import ValidationError

from helpers import store
from helpers.practice import scenarios
from helpers.practice.storage import Clock, Storage
from helpers.practice.wire import ApiError, BatchRequest, BatchRow, HttpRequest, refusal_of

ENDED = ("completed", "failed", "expired")
PHASE = 2.0  # seconds of validation
WINDOW = 86_400  # seconds in which a batch is answered, as the provider says
MOST_ROWS = 50_000
AT_ONCE = 8
MOMENTS = (*ENDED, "in_progress", "finalizing", "cancelling", "cancelled")
EXPIRED = "This request could not be executed before the completion window expired."
Chat = Callable[[HttpRequest], dict[str, Any]]
Line = dict[str, Any]  # of any of the three files


class Batches:
    """All batches of one storage, each in a thread of its own; a restart begins it again."""

    def __init__(self, storage: Storage, clock: Clock, scenario: str, chat: Chat) -> None:
        self._storage = storage
        self._clock = clock
        self._scenario = scenario
        self._chat = chat
        self._batches: dict[str, dict[str, Any]] = {}
        saved = [store.read_json(path) for path in storage.folder.glob("batches/*.json")]
        for batch in sorted(saved, key=lambda batch: batch["created_at"]):
            self._begin(batch)

    def create(self, request: HttpRequest) -> dict[str, Any]:
        """Begin a batch over an uploaded file."""
        wish = request.read(BatchRequest)
        file = self._storage.files.get(wish.input_file_id)
        if file is None or file["purpose"] != "batch":
            raise ApiError(400, "No such batch file.", param="input_file_id")
        if self._scenario == "quota":
            scenarios.refuse("quota", "")
        now = int(self._clock.now())
        batch = {
            "id": f"batch_{secrets.token_hex(12)}",
            "object": "batch",
            **wish.model_dump(),
            "errors": None,
            "output_file_id": None,
            "error_file_id": None,
            "created_at": now,
            "expires_at": now + WINDOW,
            **dict.fromkeys(f"{moment}_at" for moment in MOMENTS),
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
        }
        self._save(batch, status="validating")
        created = dict(batch)  # the reply: as it was made, however fast it goes on
        self._begin(batch)
        if self._scenario == "slow_create":
            self._clock.sleep(scenarios.SLOW)
        return created

    def list(self, request: HttpRequest) -> dict[str, Any]:
        """Newest first."""
        return request.page(list(reversed(self._batches.values())), 20)

    def batch(self, request: HttpRequest, batch_id: str) -> dict[str, Any]:
        """How a batch is."""
        if batch_id not in self._batches:
            raise ApiError(404, f"No batch found with id '{batch_id}'.", param="batch_id")
        return self._batches[batch_id]

    def _save(self, batch: dict[str, Any], status: str, **changes: Any) -> None:
        if status in MOMENTS:
            changes[f"{status}_at"] = int(self._clock.now())
        whole = batch | changes | {"status": status}
        store.write_json(self._storage.folder / "batches" / f"{batch['id']}.json", whole)
        batch |= whole

    def _begin(self, batch: dict[str, Any]) -> None:
        self._batches[batch["id"]] = batch
        if batch["status"] not in ENDED:
            threading.Thread(target=self._go, args=(batch,), daemon=True).start()

    def _go(self, batch: dict[str, Any]) -> None:
        self._clock.sleep(PHASE)
        data = self._storage.content(batch["input_file_id"]) or b""
        rows, errors = read_rows(data, batch["endpoint"])
        if self._scenario == "batch_refused":
            errors.append(_problem("token_limit_exceeded", "Enqueued token limit reached."))
        if errors:
            self._save(batch, "failed", errors={"object": "list", "data": errors})
            return
        self._save(batch, "in_progress")
        if self._scenario != "batch_stuck":
            self._answer(batch, rows)

    def _answer(self, batch: dict[str, Any], rows: list[Line]) -> None:
        reached = len(rows) // 2 if self._scenario == "batch_expired" else len(rows)
        files: dict[str, list[Line]] = {"output": [], "error": []}
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for row, response in zip(rows, pool.map(self._response, rows[:reached]), strict=False):
                kind = "output" if response["status_code"] == 200 else "error"
                files[kind].append(_line(row, response=response))
        expired = {"code": "batch_expired", "message": EXPIRED}
        files["error"] += [_line(row, error=expired) for row in rows[reached:]]
        counts = {"completed": len(files["output"]), "failed": len(files["error"])}
        changes: dict[str, Any] = {"request_counts": {"total": len(rows)} | counts}
        for kind, lines in files.items():
            text = "".join(store.dumps(line) + "\n" for line in reversed(lines))
            if text:
                data = text.encode(errors="backslashreplace")
                name = f"{kind}.jsonl"
                file = self._storage.add_file(name, "batch_output", data, self._clock.now())
                changes[f"{kind}_file_id"] = file["id"]
        self._save(batch, "completed" if reached == len(rows) else "expired", **changes)

    def _response(self, row: Line) -> dict[str, Any]:
        request = HttpRequest({}, json.dumps(row["body"]).encode(), "application/json")
        status = 200
        try:
            if self._scenario == "batch_rows_fail" and row["number"] % 3 == 0:
                raise ApiError(500, "The server had an error.", kind="server_error")
            body = self._chat(request)
        except Exception as error:  # it is this request's alone
            refusal = refusal_of(error)
            status, body = refusal.status, {"error": refusal.body}
        return {"status_code": status, "request_id": f"req_{secrets.token_hex(8)}", "body": body}


def _line(row: Line, response: Any = None, error: Any = None) -> Line:
    name = f"batch_req_{secrets.token_hex(12)}"
    return {"id": name, "custom_id": row["custom_id"], "response": response, "error": error}


def read_rows(data: bytes, endpoint: str) -> tuple[list[Line], list[Line]]:
    """(the requests of an input file, numbered, and what is wrong with its lines)."""
    rows: dict[str, Line] = {}
    errors = []
    for number, line in enumerate(data.splitlines(), 1):
        try:
            row = BatchRow.model_validate_json(line)
        except ValidationError:
            errors.append(_problem("invalid_json_line", "This line is no request.", number))
            continue
        if row.url != endpoint or row.custom_id in rows:
            code = "mismatched_url" if row.url != endpoint else "duplicate_custom_id"
            errors.append(_problem(code, f"A custom_id comes once, for {endpoint}.", number))
        rows[row.custom_id] = {"number": number, **row.model_dump()}
    if not 0 < len(rows) <= MOST_ROWS:
        errors.append(_problem("invalid_size", f"A batch has 1 to {MOST_ROWS} requests."))
    return list(rows.values()), errors


def _problem(code: str, message: str, line: int | None = None) -> Line:
    return {"code": code, "message": message, "line": line, "param": None}
