"""What the practice API answers, endpoint by endpoint: files, jobs, models, chat completions."""

from __future__ import annotations

import json
import random
import re
import secrets
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from helpers.practice import scenarios
from helpers.practice.batches import Batches
from helpers.practice.life import Life
from helpers.practice.storage import ENDED, Clock, Storage, TuningJob
from helpers.practice.training import Answering
from helpers.practice.wire import ApiError, ChatRequest, HttpRequest, JobRequest
from helpers.records import Message

OWN = {"practice-embedded": "embedded", "practice-tiny": "tiny"}
PLAYED = (
    "gpt-4.1-2025-04-14",
    "gpt-4.1-mini-2025-04-14",
    "gpt-4o-2024-08-06",
    "gpt-4o-mini-2024-07-18",
)
ABOUT = (
    "A practice API for learning and testing: OpenAI's wire format, no OpenAI. It trains a small"
    " model on this machine, under whatever model name you ask for; losses and answers are real,"
    " and those of that small model."
)
NOT_JSONL = "Expected file to have JSONL format, where every line is a valid JSON dictionary."
SOME_500S = 2  # how often server_error answers 500 before it shows the job

Route = tuple[str, str, Callable[..., Any]]  # method, pattern of the path, what answers it


class Settings(NamedTuple):
    """How the API behaves; mode is spec or live."""

    mode: str = "spec"
    model: str = "embedded"
    scenario: str = "ok"


class Practice:
    """All endpoints over one storage."""

    def __init__(self, storage: Storage, clock: Clock, settings: Settings) -> None:
        self.storage = storage
        self.clock = clock
        self.settings = settings
        self.live = settings.mode == "live"
        self.life = Life(storage, clock, self.live)
        self.bases = OWN | dict.fromkeys(PLAYED, settings.model)
        self._answering = Answering()
        self.batches = Batches(storage, clock, settings.scenario, self.chat)
        for tuning in storage.jobs.values():
            if tuning.status not in (*ENDED, "paused", "validating_files"):
                tuning.save(status="queued")
                message = "The practice API was restarted; the training begins again"
                tuning.say(self.clock.now(), message, level="warn")
            if tuning.status not in (*ENDED, "paused"):
                self.life.begin(tuning)

    def routes(self) -> list[Route]:
        """Who answers what; openapi.yaml says it in words."""
        job = r"/fine_tuning/jobs/([^/]+)"
        return [
            ("POST", "/files", self._create_file),
            ("GET", "/files", self._list_files),
            ("GET", "/files/([^/]+)", self._file),
            ("GET", "/files/([^/]+)/content", self._content),
            ("DELETE", "/files/([^/]+)", self._delete_file),
            ("POST", "/fine_tuning/jobs", self._create_job),
            ("GET", "/fine_tuning/jobs", self._list_jobs),
            ("GET", job, self._job),
            ("POST", f"{job}/cancel", self._changing(self._cancel)),
            ("POST", f"{job}/pause", self._changing(self._pause)),
            ("POST", f"{job}/resume", self._changing(self._resume)),
            ("GET", f"{job}/events", self._events),
            ("GET", f"{job}/checkpoints", self._checkpoints),
            ("POST", "/batches", self.batches.create),
            ("GET", "/batches", self.batches.list),
            ("GET", "/batches/([^/]+)", self.batches.batch),
            ("GET", "/models", self._list_models),
            ("GET", "/models/([^/]+)", self._model),
            ("POST", "/chat/completions", self.chat),
        ]

    def about(self) -> dict[str, Any]:
        """What this is."""
        return {
            "about": ABOUT,
            "mode": self.settings.mode,
            "scenario": self.settings.scenario,
            "models": self.bases,
            "scenarios": {name: s["does"] for name, s in scenarios.SCENARIOS.items()},
            "base_url": "/v1",
        }

    # files

    def _create_file(self, request: HttpRequest) -> dict[str, Any]:
        form = request.form()
        if not {"file", "purpose"} <= set(form):
            raise ApiError(400, "Both 'file' and 'purpose' are required.", param="file")
        data = form["file"].get_payload(decode=True)
        purpose = str(form["purpose"].get_payload())
        if purpose == "fine-tune":
            for number, line in enumerate(data.splitlines(), 1):
                if not _is_json_object(line):
                    message = f"{NOT_JSONL} Line {number} is not a dictionary."
                    raise ApiError(400, message, "invalid_jsonl", "file")
        name = form["file"].get_filename() or "file"
        return self.storage.add_file(name, purpose, data, self.clock.now())

    def _list_files(self, request: HttpRequest) -> dict[str, Any]:
        files = sorted(self.storage.files.values(), key=lambda file: -file["created_at"])
        purpose = request.query.get("purpose")
        if purpose is not None:
            files = [file for file in files if file["purpose"] == purpose]
        return request.page(files, 10000)

    def _file(self, request: HttpRequest, file_id: str) -> dict[str, Any]:
        if file_id not in self.storage.files:
            raise ApiError(404, f"No such File object: {file_id}", param="id")
        return self.storage.files[file_id]

    def _content(self, request: HttpRequest, file_id: str) -> bytes:
        return self.storage.content(self._file(request, file_id)["id"]) or b""

    def _delete_file(self, request: HttpRequest, file_id: str) -> dict[str, Any]:
        self.storage.delete_file(self._file(request, file_id)["id"])
        return {"id": file_id, "object": "file", "deleted": True}

    # jobs

    def _create_job(self, request: HttpRequest) -> dict[str, Any]:
        wish = request.read(JobRequest)
        metadata = wish.metadata or {}
        candidates = (metadata.get("scenario"), wish.suffix, self.settings.scenario)
        scenario = next(name for name in candidates if name in scenarios.SCENARIOS)
        model = self._full_name(wish.model, self.bases)
        scenarios.refuse(scenario, model)
        hyperparameters = wish.chosen
        for file_id in filter(None, (wish.training_file, wish.validation_file)):
            self._file(request, file_id)
        job = {
            "object": "fine_tuning.job",
            "id": f"ftjob-{secrets.token_hex(12)}",
            "model": model,
            "organization_id": "org-practice",
            "created_at": int(self.clock.now()),
            "finished_at": None,
            "fine_tuned_model": None,
            "status": "validating_files",
            "training_file": wish.training_file,
            "validation_file": wish.validation_file,
            "result_files": [],
            "hyperparameters": hyperparameters,
            "trained_tokens": None,
            "error": None,
            "seed": random.randrange(2**31) if wish.seed is None else wish.seed,
            "integrations": [],
            "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
            "estimated_finish": None,
            "metadata": metadata or None,
            "user_provided_suffix": re.sub("[^a-z0-9-]+", "-", (wish.suffix or "").lower()) or None,
        }
        tuning = self.storage.add_job(job, scenario, self.bases[model])
        now = self.clock.now()
        tuning.say(now, f"Created fine-tuning job: {tuning.id}")
        tuning.say(now, f"This is a practice API: {model} stands for the {tuning.base} model here")
        tuning.say(now, f"Validating training file: {job['training_file']}")
        created = tuning.shown(self.live)  # the reply: as it was made, however fast it goes on
        self.life.begin(tuning)
        if scenario == "slow_create":
            self.clock.sleep(scenarios.SLOW)
        return created

    def _tuning(self, job_id: str) -> TuningJob:
        if job_id not in self.storage.jobs:
            message = f"Could not find fine tune: {job_id}"
            raise ApiError(404, message, "fine_tune_not_found", "fine_tune_id")
        return self.storage.jobs[job_id]

    def _changing(self, change: Callable[[TuningJob], None]) -> Callable[..., Any]:
        """What answers a wish to change a job that goes on; nothing else moves it meanwhile."""

        def answer(request: HttpRequest, job_id: str) -> dict[str, Any]:
            tuning = self._tuning(job_id)
            with tuning.lock:
                if tuning.status in ENDED:
                    message = f"Job has already {tuning.status}: {job_id}"
                    raise ApiError(400, message, "invalid_job_state")
                change(tuning)
                return tuning.shown(self.live)

        return answer

    def _list_jobs(self, request: HttpRequest) -> dict[str, Any]:
        wanted = {k[9:-1]: v for k, v in request.query.items() if k.startswith("metadata[")}
        newest = reversed([*self.storage.jobs.values()])  # others may be created meanwhile
        jobs = [tuning.shown(self.live) for tuning in newest]
        matching = [job for job in jobs if wanted.items() <= (job["metadata"] or {}).items()]
        return request.page(matching, 20)

    def _job(self, request: HttpRequest, job_id: str) -> dict[str, Any]:
        tuning = self._tuning(job_id)
        if tuning.scenario == "server_error" and tuning.failures < SOME_500S:
            tuning.failures += 1
            message = "The server had an error while processing your request."
            raise ApiError(500, message, kind="server_error")
        return tuning.shown(self.live)

    def _cancel(self, tuning: TuningJob) -> None:
        now = self.clock.now()
        tuning.save(status="cancelled", finished_at=int(now))
        tuning.say(now, "The job was cancelled")

    def _pause(self, tuning: TuningJob) -> None:
        if tuning.status != "paused":
            tuning.save(status="paused")
            message = "Fine-tuning job paused; its training will begin again when it is resumed"
            tuning.say(self.clock.now(), message)

    def _resume(self, tuning: TuningJob) -> None:
        if tuning.status != "paused":
            raise ApiError(400, f"Job {tuning.id} is not paused.")
        validated = tuning.job["hyperparameters"]["n_epochs"] != "auto" and len(tuning.events) > 3
        tuning.save(status="queued" if validated else "validating_files")
        tuning.say(self.clock.now(), "Fine-tuning job resumed")
        self.life.begin(tuning)

    def _events(self, request: HttpRequest, job_id: str) -> dict[str, Any]:
        return request.page(self._tuning(job_id).shown_events(self.live), 20)

    def _checkpoints(self, request: HttpRequest, job_id: str) -> dict[str, Any]:
        return request.page(self._tuning(job_id).checkpoints, 10)

    # models and chat

    def _models(self) -> dict[str, dict[str, Any]]:
        """Base models and what was tuned here, with the day they are shut down."""
        now = self.clock.now()
        names = [*self.bases]
        for tuning in [*self.storage.jobs.values()]:
            if tuning.ready_at <= now:
                names += [point["fine_tuned_model_checkpoint"] for point in tuning.checkpoints]
        common = {
            "object": "model",
            "created": int(now),
            "owned_by": "practice",
            "shutdown_date": scenarios.shutdown_date(self.settings.scenario, now),
        }
        return {name: {"id": name, **common} for name in names}

    def _full_name(self, name: str, known: Iterable[str]) -> str:
        """`gpt-4.1-mini` means its snapshot, as at OpenAI."""
        for full_name in known:
            if full_name == name or full_name.startswith(f"{name}-20"):
                return full_name
        if known is self.bases:
            scenarios.refuse("expired_model", name)
        message = f"The model `{name}` does not exist or you do not have access to it."
        raise ApiError(404, message, "model_not_found", "model")

    def _list_models(self, request: HttpRequest) -> dict[str, Any]:
        return {"object": "list", "data": list(self._models().values())}

    def _model(self, request: HttpRequest, name: str) -> dict[str, Any]:
        known = self._models()
        return known[self._full_name(name, known)]

    def chat(self, request: HttpRequest) -> dict[str, Any]:
        """Answer greedily, whatever the temperature."""
        wish = request.read(ChatRequest)
        name = self._full_name(wish.model, self._models())
        if wish.stream or wish.n not in (None, 1):
            message = "The practice API answers whole, and once: no stream, n = 1."
            raise ApiError(400, message, param="stream")
        base, adapter = self.storage.maker_of(name) or (self.bases.get(name), None)
        most = wish.max_completion_tokens or wish.max_tokens or 256
        chat = [Message(role=turn.role, content=turn.content or "") for turn in wish.messages]
        answer = self._answering.answer(base, adapter, chat, most)
        message = {"role": "assistant", "content": answer.text, "refusal": None, "annotations": []}
        choice = {"index": 0, "message": message, "finish_reason": answer.finish, "logprobs": None}
        return {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "object": "chat.completion",
            "created": int(self.clock.now()),
            "model": name,
            "choices": [choice],
            "usage": {
                "prompt_tokens": answer.tokens_in,
                "completion_tokens": answer.tokens_out,
                "total_tokens": answer.tokens_in + answer.tokens_out,
                "prompt_tokens_details": {"cached_tokens": 0},
            },
        }


def _is_json_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
