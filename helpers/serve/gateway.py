"""The gateway: an OpenAI-compatible API over the versions that the registry has in production."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import logging
import re
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from helpers import models, registry, store, tasks
from helpers.models import Answer
from helpers.records import (
    REPLAY_USER,
    FineTunedModelVersion,
    LateFeedback,
    LiveRow,
    Message,
    WorkbookError,
)
from helpers.serve import wire
from helpers.serve.engines import Engine, Hosted, Logprobs
from helpers.serve.guards import Guard
from helpers.serve.lanes import DAY, NOTICE, Lane, Place, Ready
from helpers.serve.livelog import LiveLog, new_id, short_hash
from helpers.serve.metrics import Metrics
from helpers.serve.served import open_version
from helpers.serve.settings import Keys, Settings
from helpers.serve.trials import judge
from helpers.serve.wire import ApiError, Stamp

PAGE = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
SCRIPT = PAGE.partition("<script>")[2].partition("</script>")[0]
STYLE = PAGE.partition("<style>")[2].partition("</style>")[0]
BODY_SECONDS = 30.0
LONGEST_ID = 200  # characters of a conversation's id; of a longer one its hash is taken
# words of an engine's error -> status, code and message for the caller
FAILURES: tuple[tuple[str, int, str, str], ...] = (
    ("max_new_tokens exceed|exceeds the", 400, "context_length_exceeded", "The chat is too long."),
    ("^held back", 422, "held_back", "The chat was not sent on ({})."),  # it may not leave
    ("max_cost_usd", 429, "insufficient_quota", "This month's spending limit is reached."),
    ("^429", 429, "overloaded", "The engine is overloaded; try again soon."),
    ("^no answer within", 504, "timeout", "{}"),
    ("", 502, "engine_failed", "The engine gave no answer ({})."),
)
NOTHING_SERVES = (
    "no task is in production: /v1/… answers 404;"
    " promote one with `workbook registry promote ID --to production`"
)
_log = logging.getLogger(__name__)


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


POLICY = (
    f"default-src 'none'; connect-src 'self'; script-src 'sha256-{_sha256(SCRIPT)}';"
    f" style-src 'sha256-{_sha256(STYLE)}'; form-action 'none'; frame-ancestors 'none'"
)


def registered_folders(names: Sequence[str]) -> dict[str, str]:
    """registered name -> folder of the tasks that the command line names."""
    folders = {}
    for name in names:
        task = tasks.load_task(name.removeprefix("demo/"))
        folders[task.registry_name] = str(task.folder) if not task.shipped else task.name
    return folders


class Gateway:
    """All that lives as long as the server does."""

    def __init__(self, settings: Settings, keys: Keys, engine: Engine) -> None:
        self.settings = settings
        self.keys = keys
        self.engine = engine
        self.folders = registered_folders(settings.tasks)
        self.lanes: dict[str, Lane] = {}
        self.problem = "starting"  # why the registry cannot be followed at present
        self.metrics = Metrics()
        self.log = LiveLog(settings.text_of, settings.keep_days)
        self._running: set[asyncio.Task[None]] = set()

    # following the registry

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Follow the registry from the first request to the last; end tidily."""
        await self.look()
        await asyncio.gather(*self._running, return_exceptions=True)
        if not any(lane.current or lane.problem for lane in self.lanes.values()):
            _log.info(self.problem or NOTHING_SERVES)
        await asyncio.to_thread(self.log.warm_up, list(self.lanes))
        following = asyncio.create_task(self.follow())
        try:
            yield
        finally:
            following.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)
            await asyncio.to_thread(self.log.close)
            for lane in self.lanes.values():
                await lane.close()

    async def follow(self) -> None:
        """Look at the registry for ever; one that is away for a while changes nothing."""
        while True:
            await asyncio.sleep(self.settings.follow_every)
            await self.look()

    async def look(self) -> None:
        """See what serves now, and have each task go there on its own."""
        try:
            states = await asyncio.to_thread(registry.serving, tuple(self.folders))
            for task, state in states.items():
                if task not in self.lanes:
                    self.lanes[task] = Lane(task, self.load, self.settings.most_waiting)
                    self._announce(task)
                self.go(self._move(self.lanes[task], state))
            self.problem = ""
        except Exception as error:  # whatever a driver throws: what serves goes on, and says so
            self.problem = store.without_secrets(f"the registry cannot be followed: {error}")

    async def _move(self, lane: Lane, state: registry.Serving) -> None:
        await lane.follow(state)
        is_due = time.monotonic() >= lane.judged_at + self.settings.judge_every
        if lane.trial is not None and lane.current is not None and is_due:
            lane.judged_at = time.monotonic()
            await asyncio.to_thread(judge, lane.trial)
        if self.settings.keeps_log and time.monotonic() >= lane.swept_from:
            lane.swept_from = time.monotonic() + DAY
            await asyncio.to_thread(self.log.sweep, lane.task)

    def _announce(self, task: str) -> None:
        """Say which days of a log are too old (imported ones may be) before they are deleted."""
        old = self.log.old_days(task)
        if old and self.settings.keeps_log:
            _log.warning(
                f"{task}: {len(old)} days of the live log are before what --keep-days"
                f" {self.settings.keep_days} keeps; they are deleted in {NOTICE / 60:g} minutes"
            )

    def go(self, work: Any) -> None:
        """Do something beside the requests."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("beside the requests: %s", store.without_secrets(repr(task.exception())))

    def load(self, version: FineTunedModelVersion) -> Ready:
        """A version whose bytes are the registered ones, at its provider or by the engine.

        WorkbookError when it cannot serve; one that was checked through another engine is named.
        """
        served = open_version(version, self.folders)
        if served.model.provider == "api":
            return Ready(served, Hosted(served, self.settings.max_cost_usd), Hosted.engine)
        loaded = self.engine(served)
        if served.checked_by != loaded.engine:
            _log.warning(
                f"{served.id} answers through {loaded.engine} and was checked through"
                f" {served.checked_by or 'none'}: workbook serve --check {served.id}"
                f" --engine {loaded.engine}"
            )
        return Ready(served, loaded, served.checked_by)

    # answering

    async def _chat(self, request: Request) -> Response:
        started = time.perf_counter()
        came_at = store.now()
        asked = wire.parse(wire.ChatRequest, await body_of(request))
        turns = [turn.as_message() for turn in asked.messages]
        if len(turns) > self.settings.most_turns:
            raise ApiError(400, "The chat has too many turns.", "too_many_turns", "messages")
        conversation = conversation_of(asked, turns, request.headers)
        lane, place = await self.place(asked.model, conversation)
        served = place.ready.served
        served.check_options(asked)
        chat = served.chat(turns)
        most = served.asking.max_new_tokens
        limit = min(asked.max_completion_tokens or most, asked.max_tokens or most, most)
        row = LiveRow(
            request_id=new_id(came_at),
            created_at=came_at,
            conversation_id=conversation,
            version=served.id,
            generation=place.generation,
            arm="trial" if asked.user == REPLAY_USER else place.arm,
            messages=models.as_dicts(turns),
            caller=request.state.caller,
        )
        stamp = Stamp(row, lane.task, asked.ignored, bool(served.tools))
        answer = await self.answer(lane, place.ready, chat, limit, asked.logprobs_wanted)
        if asked.logprobs and wire.logprobs_of(answer) is None:
            stamp.ignored.append("logprobs")
        self.note(lane, place.ready, row, answer, time.perf_counter() - started)
        is_shadowed = row.arm == "production" and lane.shadow(conversation) is not None
        if is_shadowed and lane.waiting < self.settings.most_waiting // 2:
            self.go(self.answer_unseen(lane, row, answer.text))
        if answer.finish == "error":
            raise self.failure(answer, stamp)
        if asked.stream:
            with_usage = asked.stream_options is not None and asked.stream_options.include_usage
            pieces = stamp.pieces(answer, with_usage)
            return StreamingResponse(pieces, media_type="text/event-stream", headers=stamp.headers)
        return JSONResponse(stamp.completion(answer), headers=stamp.headers)

    async def place(self, model: str, conversation: str) -> tuple[Lane, Place]:
        """Who answers: `model` is a task's name, or the id of a version that may be tried."""
        lane = self.lanes.get(model) or self.lanes.get(f"demo/{model}")
        if lane is not None:
            place = lane.place(conversation)
            if place is None:
                raise ApiError(404, f"Nothing is in production for {model}.", "model_not_found")
            return lane, place
        with contextlib.suppress(WorkbookError):
            version = await asyncio.to_thread(registry.version_of, model)
            lane = self.lanes.get(version.task)
            if lane is not None and version.status in ("staging", "production"):
                try:
                    return lane, await lane.by_id(version)
                except WorkbookError as error:
                    message = store.without_secrets(str(error))
                    raise ApiError(409, message, "cannot_be_loaded", "model") from None
        known = ", ".join(sorted(self.lanes)) or "none"
        raise ApiError(404, f"No such model. Tasks served: {known}.", "model_not_found", "model")

    async def answer(
        self, lane: Lane, ready: Ready, chat: list[Message], limit: int, logprobs: Logprobs = None
    ) -> Answer:
        """One answer in time; 429 where too many wait already."""
        if lane.waiting >= self.settings.most_waiting:
            self.metrics.refused.labels("too_many_wait").inc()
            raise ApiError(429, "Too many requests wait; try again in a second.", "overloaded")
        lane.waiting += 1
        ready.users += 1
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(lane.threads, ready.loaded.answer, chat, limit, logprobs)

        def ended(_: object) -> None:  # also when nobody waits for it any more
            lane.waiting -= 1
            ready.users -= 1

        future.add_done_callback(ended)
        started = time.perf_counter()
        try:
            return await asyncio.wait_for(asyncio.shield(future), self.settings.timeout)
        except TimeoutError:
            reason = f"no answer within {self.settings.timeout:g} s"
        except WorkbookError as error:  # a prompt that is too long, a limit that is reached
            reason = store.without_secrets(str(error))
        except Exception as error:  # its message may quote the chat
            _log.error("%s failed: %s", ready.served.id, type(error).__name__)
            reason = f"the engine failed ({type(error).__name__})"
        return models.failed(reason, 1000 * (time.perf_counter() - started))

    async def answer_unseen(self, lane: Lane, row: LiveRow, seen: str) -> None:
        """Have the shadow answer what production has answered; the log alone sees it."""
        ready = lane.shadow(row.conversation_id)
        if ready is None:  # the trial has ended meanwhile
            return
        started = time.perf_counter()
        turns = [Message.model_validate(turn) for turn in row.messages]
        changes: dict[str, Any] = {
            "request_id": new_id(row.created_at),
            "version": ready.served.id,
            "arm": "shadow",
            "shadow_of": row.request_id,
        }
        limit = ready.served.asking.max_new_tokens
        with contextlib.suppress(ApiError):
            answer = await self.answer(lane, ready, ready.served.chat(turns), limit)
            changes["agrees"] = ready.served.says_the_same(answer.text, seen)
            shadow = row.model_copy(update=changes)
            self.note(lane, ready, shadow, answer, time.perf_counter() - started)

    def note(self, lane: Lane, ready: Ready, row: LiveRow, answer: Answer, seconds: float) -> None:
        """Log and count one request that was answered, or failed."""
        failed = answer.finish == "error"
        changes = {
            "answer": answer.text,
            "well_formed": ready.served.is_well_formed(answer),
            "status": "error" if failed else "ok",
            "error": (answer.error or "")[:200],
            "latency_ms": round(1000 * seconds, 2),
            "tokens_in": answer.tokens_in,
            "tokens_out": answer.tokens_out,
            "confidence": answer.confidence,
        }
        if self.settings.keeps_log:
            self.log.write(lane.task, row.model_copy(update=changes))
        self.metrics.count((lane.task, row.version, row.arm), answer, seconds)

    def failure(self, answer: Answer, stamp: Stamp) -> ApiError:
        """What a caller is told of an answer that failed."""
        reason = answer.error or "it said nothing"
        _, status, code, message = next(each for each in FAILURES if re.search(each[0], reason))
        error = ApiError(status, message.format(reason), code)
        error.headers |= stamp.headers
        return error

    # everything else

    async def _feedback(self, request: Request) -> Response:
        said = wire.parse(wire.FeedbackRequest, await body_of(request))
        found = await asyncio.to_thread(self.log.find, said.request_id, list(self.lanes))
        if found is None:
            raise ApiError(404, "No such request was answered here.", "unknown_request")
        task, version = found
        late = LateFeedback(
            request_id=said.request_id,
            at=store.now(),
            feedback_score=said.score,
            thumb=said.thumb,
            correction=said.correction,
            comment=said.comment,
            caller=request.state.caller,
        )
        self.log.write(task, late)
        kind = said.thumb or ("score" if said.score is not None else "text")
        self.metrics.feedback.labels(task, version, kind).inc()
        return JSONResponse({"request_id": said.request_id, "version": version, "kept": True})

    async def _models(self, request: Request) -> Response:
        models_here: dict[str, Any] = {}
        for task, lane in sorted(self.lanes.items()):
            if lane.current is not None:
                version = lane.current.served.version
                facts = {"version": version.id, "generation": lane.generation}
                row = {"object": "model", "owned_by": task, "workbook": facts}
                row["created"] = int(version.trained_at.timestamp())
                models_here |= {name: row | {"id": name} for name in (task, version.id)}
        wanted = request.path_params.get("name")
        if wanted is None:
            return JSONResponse({"object": "list", "data": [*models_here.values()]})
        if wanted not in models_here:
            raise ApiError(404, "No such model answers here.", "model_not_found", "model")
        return JSONResponse(models_here[wanted])

    async def _readiness(self, request: Request) -> Response:
        lanes = {task: lane.state() for task, lane in sorted(self.lanes.items())}
        problems = [*(lane.problem for lane in self.lanes.values()), self.problem, self.log.problem]
        problems = [problem for problem in problems if problem]
        if not lanes and not problems:
            problems.append("no task is in production")
        content: dict[str, Any] = {"ready": not problems}
        if request.state.caller or not self.keys:  # paths and names are not for strangers
            content |= {"problems": problems, "tasks": lanes}
        return JSONResponse(content, 503 if problems else 200)

    async def _numbers(self, request: Request) -> Response:
        self.metrics.log_problem.set(bool(self.log.problem))
        for task, lane in self.lanes.items():
            self.metrics.waiting.labels(task).set(lane.waiting)
            self.metrics.generation.labels(task).set(lane.generation)
        return Response(self.metrics.page(), media_type="text/plain; version=0.0.4")

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/feedback", self._feedback, methods=["POST"]),
            Route("/v1/models", self._models),
            Route("/v1/models/{name:path}", self._models),
            Route("/healthz", JSONResponse({"ok": True}), methods=["GET"]),
            Route("/readyz", self._readiness),
            Route("/metrics", self._numbers),
            Route("/openapi.json", JSONResponse(wire.document()), methods=["GET"]),
            Route(
                "/",
                HTMLResponse(PAGE, headers={"content-security-policy": POLICY}),
                methods=["GET"],
            ),
        ]
        return Starlette(
            routes=routes,
            middleware=[
                Middleware(TrustedHostMiddleware, allowed_hosts=self.settings.allowed_hosts),
                Middleware(Guard, settings=self.settings, keys=self.keys),
            ],
            exception_handlers={ApiError: refuse, 404: no_such_path, 405: no_such_path},
            lifespan=self.lifespan,
        )


async def refuse(request: Request, error: Any) -> Response:
    """An ApiError as OpenAI spells it."""
    return JSONResponse(error.body, error.status, headers=error.headers)


async def no_such_path(request: Request, error: Any) -> Response:
    """No such path, or another method of it."""
    body = ApiError(error.status_code, "No such path or method.", "unknown_url").body
    return JSONResponse(body, error.status_code, headers=error.headers)


async def body_of(request: Request) -> bytes:
    """A body that comes in time: who sends it by the drop holds nothing for long."""
    try:
        return await asyncio.wait_for(request.body(), BODY_SECONDS)
    except TimeoutError:
        raise ApiError(408, "The body did not come in time.", "timeout") from None
    except ClientDisconnect:  # nobody hears this
        raise ApiError(400, "The body did not come whole.", "invalid_json") from None


def conversation_of(asked: wire.ChatRequest, turns: Sequence[Message], headers: Any) -> str:
    """What a request belongs to: as the caller says, else the user, else its first question."""
    named = (asked.metadata or {}).get("conversation_id") or headers.get("x-conversation-id")
    if named and len(named) <= LONGEST_ID:
        return str(named)
    first = next((turn.content or "" for turn in turns if turn.role == "user"), "")
    return short_hash(named or f"{asked.user or ''} {first}")
