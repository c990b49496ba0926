"""What the practice API answers, endpoint by endpoint: files, jobs, models, chat completions."""

from __future__ import annotations

import json
import random
import re
import secrets
from collections.abc import Callable
from email import message_from_bytes
from typing import Any, NamedTuple

from helpers.practice import scenarios
from helpers.practice.life import Life
from helpers.practice.scenarios import ApiError
from helpers.practice.state import ENDED, Clock, Entry, State
from helpers.practice.training import Answering
from helpers.records import Message

OWN = {"practice-embedded": "embedded", "practice-tiny": "tiny"}
PLAYED = (
    "gpt-4.1-2025-04-14",
    "gpt-4.1-mini-2025-04-14",
    "gpt-4o-2024-08-06",
    "gpt-4o-mini-2024-07-18",
)
TUNABLE = ("n_epochs", "batch_size", "learning_rate_multiplier")
ABOUT = (
    "A practice API for learning and testing: OpenAI's wire format, no OpenAI. It trains a small model on this machine,"
    " under whatever model name you ask for; losses and answers are real, and those of that small model."
)
SLOW = 90.0  # seconds until slow_create answers
SOME_500S = 2  # how often server_error answers 500 before it shows the job


class Settings(NamedTuple):
    """How the API behaves; mode is spec or live."""

    mode: str = "spec"
    model: str = "embedded"
    scenario: str = "ok"


class Request(NamedTuple):
    """What came besides the path."""

    query: dict[str, str]
    body: bytes
    content_type: str

    def json(self) -> dict[str, Any]:
        """The body as a JSON object."""
        try:
            value = json.loads(self.body)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise ApiError(400, "We could not parse the JSON body of your request.")
        return value


def pick(items: list[dict[str, Any]], query: dict[str, str], default: int) -> dict[str, Any]:
    """One page of a list: `limit` items behind the one called `after`."""
    ids = [item["id"] for item in items]
    if (after := query.get("after")) and after not in ids:
        raise ApiError(400, f"No such cursor: {after}", param="after")
    start = ids.index(after) + 1 if after else 0
    limit = int(query.get("limit") or default)
    page = items[start : start + limit]
    ends = {
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
    }
    return {"object": "list", "data": page, "has_more": start + limit < len(items), **ends}


class Practice:
    """All endpoints over one state."""

    def __init__(self, state: State, clock: Clock, settings: Settings) -> None:
        self.state, self.clock, self.settings = state, clock, settings
        self.live = settings.mode == "live"
        self.life, self._answering = Life(state, clock, self.live), Answering()
        self.bases = OWN | dict.fromkeys(PLAYED, settings.model)
        for entry in state.jobs.values():
            if entry.job["status"] not in (*ENDED, "paused"):
                if entry.job["status"] != "validating_files":
                    entry.save(status="queued")
                    entry.say(
                        clock.now(),
                        "The practice API was restarted; the training begins again",
                        level="warn",
                    )
                self.life.begin(entry)

    def about(self) -> dict[str, Any]:
        """What this is."""
        said = {"about": ABOUT, "mode": self.settings.mode, "scenario": self.settings.scenario}
        told = {name: scenario["does"] for name, scenario in scenarios.SCENARIOS.items()}
        return said | {"models": self.bases, "scenarios": told, "base_url": "/v1"}

    # files

    def create_file(self, request: Request) -> dict[str, Any]:
        """POST /files, multipart; the content is judged when a job uses it, as OpenAI does."""
        parts = message_from_bytes(
            f"Content-Type: {request.content_type}\r\n\r\n".encode() + request.body
        ).get_payload()
        if not isinstance(parts, list):
            raise ApiError(400, "The body is no multipart/form-data.")
        named: dict[Any, Any] = {
            part.get_param("name", header="content-disposition"): part for part in parts
        }
        if not {"file", "purpose"} <= set(named):
            raise ApiError(400, "Both 'file' and 'purpose' are required.", param="file")
        data, purpose = named["file"].get_payload(decode=True), named["purpose"].get_payload()
        for number, line in enumerate(data.splitlines() if purpose == "fine-tune" else [], 1):
            try:
                assert isinstance(json.loads(line), dict)
            except (ValueError, AssertionError):
                said = "Expected file to have JSONL format, where every line is a valid JSON dictionary."
                raise ApiError(
                    400, f"{said} Line {number} is not a dictionary.", "invalid_jsonl", "file"
                ) from None
        return self.state.add_file(
            named["file"].get_filename() or "file", purpose, data, self.clock.now()
        )

    def _file(self, file_id: str) -> dict[str, Any]:
        if file_id not in self.state.files:
            raise ApiError(404, f"No such File object: {file_id}", param="id")
        return self.state.files[file_id]

    def list_files(self, request: Request) -> dict[str, Any]:
        """GET /files, newest first."""
        chosen = [
            f
            for f in self.state.files.values()
            if request.query.get("purpose") in (None, f["purpose"])
        ]
        return pick(sorted(chosen, key=lambda f: -f["created_at"]), request.query, 10000)

    def file(self, request: Request, file_id: str) -> dict[str, Any]:
        """GET /files/{id}"""
        return self._file(file_id)

    def content(self, request: Request, file_id: str) -> bytes:
        """GET /files/{id}/content"""
        return self.state.content(self._file(file_id)["id"]) or b""

    def delete_file(self, request: Request, file_id: str) -> dict[str, Any]:
        """DELETE /files/{id}"""
        self.state.delete_file(self._file(file_id)["id"])
        return {"id": file_id, "object": "file", "deleted": True}

    # jobs

    def create_job(self, request: Request) -> dict[str, Any]:
        """POST /fine_tuning/jobs"""
        body = request.json()
        metadata, suffix = body.get("metadata") or {}, body.get("suffix")
        named = (metadata.get("scenario"), suffix, self.settings.scenario)
        scenario = next(name for name in named if name in scenarios.SCENARIOS)
        model = self._named(str(body.get("model")), self.bases)
        if (refused := scenarios.refusal(scenario, model)) is not None:
            raise refused
        method = body.get("method") or {"type": "supervised"}
        if method.get("type") != "supervised":
            raise ApiError(
                400, "The practice API trains with method 'supervised' only.", param="method"
            )
        for name in ("training_file", "validation_file"):
            if body.get(name) or name == "training_file":
                self._file(str(body.get(name)))
        asked = (
            (method.get("supervised") or {}).get("hyperparameters")
            or body.get("hyperparameters")
            or {}
        )
        hyperparameters = {name: asked.get(name) or "auto" for name in TUNABLE}
        seed = body["seed"] if body.get("seed") is not None else random.randrange(2**31)
        job = {
            "object": "fine_tuning.job",
            "id": f"ftjob-{secrets.token_hex(12)}",
            "model": model,
            "organization_id": "org-practice",
        }
        job |= {
            "created_at": int(self.clock.now()),
            "finished_at": None,
            "fine_tuned_model": None,
            "status": "validating_files",
        }
        job |= {
            "training_file": body["training_file"],
            "validation_file": body.get("validation_file"),
            "result_files": [],
        }
        job |= {
            "hyperparameters": hyperparameters,
            "trained_tokens": None,
            "error": None,
            "seed": seed,
            "integrations": [],
        }
        job |= {
            "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
            "estimated_finish": None,
        }
        job |= {
            "metadata": metadata or None,
            "user_provided_suffix": re.sub(r"[^a-z0-9-]+", "-", suffix.lower()) if suffix else None,
        }
        entry = self.state.add_job(job, scenario, self.bases[model])
        entry.say(self.clock.now(), f"Created fine-tuning job: {entry.id}")
        entry.say(
            self.clock.now(),
            f"This is a practice API: {model} stands for the {entry.base} model here",
        )
        entry.say(self.clock.now(), f"Validating training file: {job['training_file']}")
        self.life.begin(entry)
        if scenario == "slow_create":
            self.clock.sleep(SLOW)
        return entry.shown(self.live)

    def _entry(self, job_id: str) -> Entry:
        if job_id not in self.state.jobs:
            raise ApiError(
                404, f"Could not find fine tune: {job_id}", "fine_tune_not_found", "fine_tune_id"
            )
        return self.state.jobs[job_id]

    def list_jobs(self, request: Request) -> dict[str, Any]:
        """GET /fine_tuning/jobs, newest first, `metadata[key]=value` narrows it."""
        wanted = {
            key[9:-1]: value for key, value in request.query.items() if key.startswith("metadata[")
        }
        jobs = [entry.shown(self.live) for entry in reversed(self.state.jobs.values())]
        fits = [job for job in jobs if wanted.items() <= (job["metadata"] or {}).items()]
        return pick(fits, request.query, 20)

    def job(self, request: Request, job_id: str) -> dict[str, Any]:
        """GET /fine_tuning/jobs/{id}"""
        entry = self._entry(job_id)
        if entry.scenario == "server_error" and entry.failures < SOME_500S:
            entry.failures += 1
            raise ApiError(
                500, "The server had an error while processing your request.", kind="server_error"
            )
        return entry.shown(self.live)

    def cancel(self, request: Request, job_id: str) -> dict[str, Any]:
        """POST /fine_tuning/jobs/{id}/cancel"""
        entry = self._open_entry(job_id)
        self.life.finish(entry, "cancelled")
        return entry.shown(self.live)

    def pause(self, request: Request, job_id: str) -> dict[str, Any]:
        """POST /fine_tuning/jobs/{id}/pause: the training ends, and begins again when it is resumed."""
        entry = self._open_entry(job_id)
        if entry.job["status"] != "paused":
            entry.save(status="paused")
            entry.say(
                self.clock.now(),
                "Fine-tuning job paused; its training will begin again when it is resumed",
            )
        return entry.shown(self.live)

    def resume(self, request: Request, job_id: str) -> dict[str, Any]:
        """POST /fine_tuning/jobs/{id}/resume"""
        entry = self._open_entry(job_id)
        if entry.job["status"] != "paused":
            raise ApiError(400, f"Job {job_id} is not paused.")
        validated = entry.job["hyperparameters"]["n_epochs"] != "auto" and len(entry.events) > 3
        entry.save(status="queued" if validated else "validating_files")
        entry.say(self.clock.now(), "Fine-tuning job resumed")
        self.life.begin(entry)
        return entry.shown(self.live)

    def _open_entry(self, job_id: str) -> Entry:
        entry = self._entry(job_id)
        if entry.job["status"] in ENDED:
            raise ApiError(
                400, f"Job has already {entry.job['status']}: {job_id}", "invalid_job_state"
            )
        return entry

    def events(self, request: Request, job_id: str) -> dict[str, Any]:
        """GET /fine_tuning/jobs/{id}/events, newest first."""
        return pick(self._entry(job_id).shown_events(self.live), request.query, 20)

    def checkpoints(self, request: Request, job_id: str) -> dict[str, Any]:
        """GET /fine_tuning/jobs/{id}/checkpoints, newest first; the first is the final model."""
        return pick(self._entry(job_id).checkpoints, request.query, 10)

    # models and chat

    def _models(self) -> dict[str, dict[str, Any]]:
        """Base models and what was tuned here, with the day they are shut down."""
        date = scenarios.shutdown_date(self.settings.scenario, self.clock.now())
        common = {
            "object": "model",
            "created": int(self.clock.now()),
            "owned_by": "practice",
            "shutdown_date": date,
        }
        names = [*self.bases]
        for entry in self.state.jobs.values():
            if entry.ready_at <= self.clock.now():
                names += [
                    checkpoint["fine_tuned_model_checkpoint"] for checkpoint in entry.checkpoints
                ]
        return {name: {"id": name, **common} for name in names}

    def list_models(self, request: Request) -> dict[str, Any]:
        """GET /models"""
        return {"object": "list", "data": list(self._models().values())}

    def _named(self, name: str, known: Any) -> str:
        """The name in full: `gpt-4.1-mini` means its snapshot, as at OpenAI."""
        found = next(
            (each for each in known if each == name or each.startswith(f"{name}-20")), None
        )
        if found is None and known is self.bases:
            raise scenarios.refusal("expired_model", name) or KeyError(name)
        if found is None:
            raise ApiError(
                404,
                f"The model `{name}` does not exist or you do not have access to it.",
                "model_not_found",
                "model",
            )
        return str(found)

    def model(self, request: Request, name: str) -> dict[str, Any]:
        """GET /models/{name}"""
        known = self._models()
        return known[self._named(name, known)]

    def delete_model(self, request: Request, name: str) -> dict[str, Any]:
        """DELETE /models/{name}: tuned ones only."""
        made = self.state.made_by(self._named(name, self._models()))
        if made is None:
            raise ApiError(403, f"{name} is a base model and cannot be deleted.")
        entry, _ = made
        entry.checkpoints = [
            c for c in entry.checkpoints if c["fine_tuned_model_checkpoint"] != name
        ]
        entry.save()
        return {"id": name, "object": "model", "deleted": True}

    def chat(self, request: Request) -> dict[str, Any]:
        """POST /chat/completions: greedy, whatever the temperature."""
        body = request.json()
        name = self._named(str(body.get("model")), self._models())
        if body.get("stream") or (body.get("n") or 1) != 1:
            raise ApiError(
                400, "The practice API answers whole, and once: no stream, n = 1.", param="stream"
            )
        try:
            chat = [
                Message(role=m["role"], content=m.get("content") or "") for m in body["messages"]
            ]
        except (KeyError, TypeError, ValueError):
            raise ApiError(
                400, "messages: a list of {role, content}, with text as content.", param="messages"
            ) from None
        made = self.state.made_by(name)
        base, adapter = (made[0].base, made[1]) if made else (self.bases[name], None)
        most = body.get("max_completion_tokens") or body.get("max_tokens") or 256
        answer = self._answering.answer(base, adapter, chat, int(most))
        message = {"role": "assistant", "content": answer.text, "refusal": None, "annotations": []}
        usage: dict[str, Any] = {
            "prompt_tokens": answer.tokens_in,
            "completion_tokens": answer.tokens_out,
        }
        usage |= {
            "total_tokens": answer.tokens_in + answer.tokens_out,
            "prompt_tokens_details": {"cached_tokens": 0},
        }
        choice = {"index": 0, "message": message, "finish_reason": answer.finish, "logprobs": None}
        head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "object": "chat.completion",
            "created": int(self.clock.now()),
        }
        return head | {"model": name, "choices": [choice], "usage": usage}


def routes(practice: Practice) -> list[tuple[str, str, Callable[..., Any]]]:
    """(method, pattern of the path, what answers it): the first line of an endpoint's docstring is its route."""
    found = []
    for name, endpoint in vars(Practice).items():
        route = re.match(
            r"(GET|POST|DELETE) (/[a-z_/{}]+)", getattr(endpoint, "__doc__", None) or ""
        )
        if route:
            found.append((route[1], re.sub(r"{\w+}", "([^/]+)", route[2]), getattr(practice, name)))
    return found
