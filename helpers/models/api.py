"""Chat models behind any OpenAI-compatible endpoint: vLLM, llama.cpp, a provider, practice."""

from __future__ import annotations

import copy
import ipaddress
import logging
import os
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from pydantic import AliasPath, BaseModel, BeforeValidator, Field, ValidationError

from helpers import store
from helpers.models.answers import Answer, failed, probability
from helpers.models.chats import split_thoughts
from helpers.models.connection import Connection, Refused
from helpers.models.leaving import HELD_BACK, Permission, key_for
from helpers.models.practice import PRACTICE, resolve_base_url
from helpers.models.providers import host_of
from helpers.models.tokens import as_dicts, tools_of
from helpers.records import Asking, Message, WorkbookError, problem_of, with_calls

if TYPE_CHECKING:
    import openai

TIMEOUT_SECONDS = 120.0
AT_ONCE = 8  # requests of one `answer`
LOCAL_KEY = "sk-local"  # the SDK insists on some key; a server on this machine needs none
OPTIONS = ("temperature", "max_tokens", "response_format", "logprobs")  # what it may refuse
FINAL = (0, 401, 402, 403, 404)  # the next fails too: nobody there, no key, no money, no such model
CUT = ("length", "max_tokens", "model_length")  # why an answer ended early, in any provider's words
NO_ANSWER = ("no choices", "content_filter", "error", "function_call_filter")  # beginnings of it
AT = " at "  # between a model's name and its base_url
Count = Annotated[int, BeforeValidator(lambda count: count or 0), Field(ge=0)]
_log = logging.getLogger(__name__)


def is_address(base_url: str) -> bool:
    """Whether a text can be a base_url: a web address, or `practice`."""
    return base_url == PRACTICE or bool(host_of(base_url))


def is_loopback(base_url: str) -> bool:
    """Whether the endpoint is this machine (by its literal address; names are not looked up)."""
    host = host_of(base_url)
    try:
        return base_url == PRACTICE or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def openai_client(base_url: str, timeout: float = TIMEOUT_SECONDS) -> openai.OpenAI:
    """An SDK client with the key that was given for this host; `timeout` in seconds.

    No redirect is followed: it could carry text and key to another host. A loopback endpoint is
    spoken to directly, round the proxies of the environment.
    """
    import openai

    return openai.OpenAI(
        base_url=resolve_base_url(base_url),
        api_key=api_key(base_url) or LOCAL_KEY,
        timeout=timeout,
        http_client=openai.DefaultHttpx2Client(
            trust_env=not is_loopback(base_url), follow_redirects=False
        ),
    )


def api_key(base_url: str) -> str:
    """The key for an endpoint; a loopback one gets WORKBOOK_API_KEY or none ("")."""
    if base_url == PRACTICE:
        return ""
    if is_loopback(base_url):
        return os.environ.get("WORKBOOK_API_KEY", "")
    return key_for(base_url)


def _at(*path: str | int, default: int | None = None) -> Any:
    """A field that stands further inside; `default` where it is missing."""
    return Field(default, validation_alias=AliasPath(*path))


class Reply(BaseModel):
    """What is used of an endpoint's JSON; anything else in it is not looked at."""

    choice: Any = _at("choices", 0)
    message: Any = _at("choices", 0, "message")
    finish_reason: str | None = _at("choices", 0, "finish_reason")
    logprobs: Any = _at("choices", 0, "logprobs")
    # Mistral's models that think send parts; a refusal stands in place of a content
    content: str | list[dict[str, Any]] | None = _at("choices", 0, "message", "content")
    refusal: str | None = _at("choices", 0, "message", "refusal")
    tool_calls: list[dict[str, Any]] | None = _at("choices", 0, "message", "tool_calls")
    reasoning_content: str | None = _at("choices", 0, "message", "reasoning_content")
    reasoning: str | None = _at("choices", 0, "message", "reasoning")  # as newer servers call it
    error: Any = None  # some answer 200 and say here what failed,
    choice_error: Any = _at("choices", 0, "error")  # or here, of a provider behind them
    tokens_in: Count = _at("usage", "prompt_tokens", default=0)
    tokens_out: Count = _at("usage", "completion_tokens", default=0)
    tokens_total: Count = _at("usage", "total_tokens", default=0)
    tokens_cached: Count = _at("usage", "prompt_tokens_details", "cached_tokens", default=0)


class ApiModel:
    """One model name at one endpoint.

    An answer's latency is the wall time of its own request, retries included.
    """

    provider = "api"

    def __init__(self, name: str, base_url: str) -> None:
        if not is_address(base_url):
            raise WorkbookError(
                f"base_url {base_url!r} is no web address; it looks like http://127.0.0.1:8000/v1"
            )
        if "@" in urlsplit(base_url).netloc or "?" in base_url:
            raise WorkbookError(
                f"the base_url at {host_of(base_url)} holds a login or what follows a `?`; give the"
                " address alone, such as https://HOST/v1, and the key in the environment"
            )
        if not name:
            raise WorkbookError(f"base_url {base_url} is given but no model name; set api_model")
        self.name = name
        self.base_url = base_url
        self.spec = f"{name}{AT}{base_url}"
        self.is_loopback = is_loopback(base_url)
        # all that can be known from here
        self.fingerprint = store.fingerprint({"base_url": base_url, "model": name})
        self._reached = False
        self.permission: Permission | None = None  # see check_may_send
        self._unsupported: set[str] = set()  # options that this endpoint refused
        self._told: dict[str, Any] = {"temperature": 0}  # options of every request

    def with_asking(self, asking: Asking) -> ApiModel:
        """The same model, told what an Asking says beside the chat."""
        told: dict[str, Any] = {"stop": asking.stop}
        told["chat_template_kwargs"] = asking.template_args  # as vLLM, SGLang and llama.cpp do
        told["logprobs"] = asking.rung_kind == "fine_tuned"  # how sure it was, for 06
        if asking.response_format is not None:
            schema = {"name": "answer", "schema": asking.response_format, "strict": True}
            told["response_format"] = {"type": "json_schema", "json_schema": schema}
        return self.told({name: value for name, value in told.items() if value})

    def told(self, options: dict[str, Any]) -> ApiModel:
        """The same model, with these options in every request."""
        other = copy.copy(self)
        other._told = self._told | options
        return other

    @cached_property
    def _connection(self) -> Connection:
        key = api_key(self.base_url) or LOCAL_KEY
        address = resolve_base_url(self.base_url)
        return Connection(address, key, TIMEOUT_SECONDS, use_proxy=not self.is_loopback)

    def count_tokens(self, chat: list[Message]) -> int:
        """A cautious estimate: 3 bytes of JSON a token.

        The endpoint's own count comes with each answer.
        """
        return len(store.dumps([as_dicts(chat), tools_of(chat)]).encode(errors="replace")) // 3

    def answer(self, chats: Sequence[list[Message]], max_new_tokens: int) -> list[Answer]:
        """Answers at temperature 0; the first is asked alone, the others AT_ONCE.

        A request that fails becomes an Answer with finish "error". When the first request of all is
        refused or reaches nobody, nothing else is sent: WorkbookError, exit 5. A chat that may not
        leave this machine is not sent: an Answer with its kinds as error.
        """
        if not self.is_loopback and self.permission is None:
            raise WorkbookError(
                f"no task has allowed its text to go to {self.base_url} (check_may_send)"
            )
        answers = [self._ask(chat, max_new_tokens) for chat in chats[:1]]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            answers += pool.map(lambda chat: self._ask(chat, max_new_tokens), chats[1:])
        return answers

    def _ask(self, chat: list[Message], max_new_tokens: int) -> Answer:
        held_back = self.hold_back(chat)
        if held_back is not None:
            return held_back
        started = time.perf_counter()
        try:
            reply = self._create(chat, max_new_tokens)
            self._reached = True
            return answer_of(reply, 1000 * (time.perf_counter() - started))
        except Refused as refusal:
            milliseconds = 1000 * (time.perf_counter() - started)
            reason = reason_of(refusal, chat)
            is_final = refusal.status in FINAL or refusal.code == "insufficient_quota"
            if is_final and not self._reached:
                raise WorkbookError(
                    f"{self.base_url} did not serve model {self.name}: {reason};"
                    " check base_url, api_model and the key",
                    5,
                ) from None
            return failed(reason, milliseconds)

    def hold_back(self, chat: list[Message]) -> Answer | None:
        """What answers a chat that may not leave this machine; None where it may."""
        if self.permission is None or self.is_loopback:
            return None
        texts = [message.content or "" for message in chat]
        beside = {"tool_calls", "tools", "name", "reasoning"}
        texts += [store.dumps(message.model_dump(include=beside)) for message in chat]
        kinds = self.permission.held_back(texts)
        return failed(f"{HELD_BACK}: {kinds}") if kinds else None

    def body_of(
        self, chat: list[Message], max_new_tokens: int, without: Collection[str] = ()
    ) -> dict[str, Any]:
        """What is sent for a chat, without the options that this endpoint has refused."""
        without = self._unsupported.union(without)
        # newer OpenAI models know max_tokens only by its other name
        limit = "max_completion_tokens" if "max_tokens" in without else "max_tokens"
        body = {"model": self.name, "messages": as_dicts(chat), limit: max_new_tokens}
        for name, value in (self._told | {"tools": tools_of(chat) or None}).items():
            if value is not None and name not in without:
                body[name] = value
        return body

    def _create(self, chat: list[Message], max_new_tokens: int) -> bytes:
        """One request; an option that the endpoint refuses is dropped, and not sent to it again."""
        without = set(self._unsupported)
        while True:
            body = self.body_of(chat, max_new_tokens, without)
            try:
                reply = self._connection.post("/chat/completions", body)
            except Refused as refusal:
                about = f"{refusal.param} {refusal.message}".replace(" ", "_")
                refused = {name for name in OPTIONS if name in body and name in about}
                if refusal.status not in (400, 403, 422) or not refused:
                    raise
                without |= refused
            else:
                for name in without - self._unsupported - {"max_tokens"}:
                    _log.warning("%s does not take %s: it is asked without", self.name, name)
                self._unsupported |= without
                return reply


def reason_of(refusal: Refused, chat: list[Message]) -> str:
    """What went wrong, without keys and without the chat's own words (some servers echo it)."""
    if not refusal.status:  # also when no answer came in time
        return refusal.message
    what = f"{refusal.status} {store.redact(refusal.code)}".rstrip()
    text = store.redact(refusal.message)
    for message in chat:
        for word in (message.content or "").split():
            if len(word) > 7 and word in text:
                return what
    return f"{what}: {text[:200]}"


def _confidence(logprobs: Any) -> float | None:
    """How probable the whole answer is, by what is told of its tokens; None: nothing is told."""
    try:
        logarithms = [float(token["logprob"]) for token in logprobs["content"]]
        return probability(sum(logarithms)) if logarithms else None
    except (LookupError, TypeError, ValueError):
        return None


def answer_of(text: bytes | str, latency_ms: float) -> Answer:
    """The answer that an endpoint's JSON spells, or how that is odd."""
    try:
        reply = Reply.model_validate_json(text)
    except ValidationError as error:
        where, reason = problem_of(error)
        reason = f"the endpoint's answer is odd ({where or 'the whole'}: {reason[:100]})"
        return failed(reason, latency_ms)
    took = {
        "tokens_in": reply.tokens_in,
        # some count what was thought in the total alone, and ask money for it
        "tokens_out": max(reply.tokens_out, reply.tokens_total - reply.tokens_in),
        "tokens_cached": min(reply.tokens_cached, reply.tokens_in),
        "latency_ms": latency_ms,
    }
    reason = (reply.finish_reason or "").lower() if reply.choice else "no choices"
    problem = reply.error or reply.choice_error
    if problem or reason.startswith(NO_ANSWER) or not (reply.message or reason in CUT):
        code = problem.get("code") if isinstance(problem, dict) else None
        error = f"{code or 'nothing'} in place of an answer, by the endpoint ({reason})"
        return Answer(text="", finish="error", error=store.redact(error), **took)
    thoughts, said = _said_in(reply)
    return Answer(
        text=with_calls(said, reply.tool_calls),
        thoughts=thoughts,
        confidence=None if thoughts else _confidence(reply.logprobs),
        finish="length" if reason in CUT else "stop",
        **took,
    )


def _said_in(reply: Reply) -> tuple[str, str]:
    """(thoughts, what is said), in whichever way a reply tells them."""
    parts = reply.content
    if not isinstance(parts, list):
        parts = [{"text": parts or reply.refusal}]
    thoughts, said = split_thoughts("".join(str(part.get("text") or "") for part in parts).strip())
    hidden = [part["thinking"] for part in parts if part.get("thinking")]
    if hidden:
        thoughts = store.dumps(hidden)
    return reply.reasoning_content or reply.reasoning or thoughts, said
