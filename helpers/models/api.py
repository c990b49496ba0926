"""Chat models behind any OpenAI-compatible endpoint: vLLM, llama.cpp, a provider, practice."""

from __future__ import annotations

import copy
import ipaddress
import os
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError

from helpers import store
from helpers.models.answers import Answer, probability
from helpers.models.chats import split_thoughts
from helpers.models.connection import Connection, Refused
from helpers.models.leaving import HELD_BACK, Permission, key_for
from helpers.models.practice import PRACTICE, resolve_base_url
from helpers.models.tokens import as_dicts, tools_of
from helpers.records import Asking, Message, WorkbookError, with_calls

if TYPE_CHECKING:
    import openai

MAX_CONCURRENCY = 8
TIMEOUT_SECONDS = 120.0
LOCAL_KEY = "sk-local"  # the SDK insists on some key; a server on this machine needs none
OPTIONS = ("temperature", "max_tokens", "response_format", "logprobs")  # what it may refuse
AT = " at "  # between a model's name and its base_url


def is_address(base_url: str) -> bool:
    """Whether a text can be a base_url: a web address, or `practice`."""
    parts = urlsplit(base_url)
    return base_url == PRACTICE or (parts.scheme in ("http", "https") and bool(parts.hostname))


def is_loopback(base_url: str) -> bool:
    """Whether the endpoint is this machine (by its literal address; names are not looked up)."""
    if base_url == PRACTICE:
        return True
    try:
        host = urlsplit(base_url).hostname or ""
    except ValueError:  # http://[::1
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def openai_client(base_url: str, timeout: float = TIMEOUT_SECONDS) -> openai.OpenAI:
    """An SDK client with the key that was given for this host; `timeout` in seconds.

    No redirect is followed: it could carry text and key to another host. A loopback endpoint is
    spoken to directly, round the proxies of the environment.
    """
    import openai

    is_here = is_loopback(base_url)
    key = api_key(base_url) or LOCAL_KEY
    client = openai.DefaultHttpx2Client(trust_env=not is_here, follow_redirects=False)
    address = resolve_base_url(base_url)
    return openai.OpenAI(base_url=address, api_key=key, timeout=timeout, http_client=client)


def api_key(base_url: str) -> str:
    """The key for an endpoint; a loopback one gets WORKBOOK_API_KEY or none ("")."""
    if base_url == PRACTICE:
        return ""
    if is_loopback(base_url):
        return os.environ.get("WORKBOOK_API_KEY", "")
    return key_for(base_url)


class ReplyMessage(BaseModel):
    """Of a reply: the answer's text, what it calls, and what it thought."""

    content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None  # the same, as newer servers call it


class ReplyChoice(BaseModel):
    """Of a reply: one answer, and why it ended."""

    message: ReplyMessage
    finish_reason: str | None = None
    logprobs: Any = None


class PromptDetails(BaseModel):
    """Of a reply's usage: what the endpoint did not compute again."""

    cached_tokens: int | None = None


class ReplyUsage(BaseModel):
    """Of a reply: its tokens, by the endpoint's own count."""

    prompt_tokens: int = Field(0, ge=0)
    completion_tokens: int = Field(0, ge=0)
    prompt_tokens_details: PromptDetails | None = None


class Reply(BaseModel):
    """What is used of an endpoint's JSON; anything else in it is not looked at."""

    choices: list[ReplyChoice] = Field(default_factory=list)
    usage: ReplyUsage | None = None


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
        self._schema: dict[str, Any] | None = None
        self._told: dict[str, Any] = {}  # options of every request

    def with_schema(self, schema: dict[str, Any] | None) -> ApiModel:
        """The same model, asked for answers of this JSON Schema where the endpoint offers that."""
        other = copy.copy(self)
        other._schema = schema
        other.fingerprint = store.fingerprint([self.fingerprint, schema])
        return other

    def with_asking(self, asking: Asking) -> ApiModel:
        """The same model, told what an Asking says beside the chat."""
        other = self
        if asking.response_format is not None:
            other = self.with_schema(asking.response_format)
        told: dict[str, Any] = {"stop": asking.stop}
        told["chat_template_kwargs"] = asking.template_args  # as vLLM, SGLang and llama.cpp do
        told["logprobs"] = asking.rung_kind == "fine_tuned"  # how sure it was, for 06
        return other.told({name: value for name, value in told.items() if value})

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
        """A cautious estimate: 3 bytes a token, 4 tokens a turn.

        The endpoint's own count comes with each answer.
        """
        total = 3
        for message in chat:
            size = len((message.content or "").encode(errors="replace"))
            for beside in (message.tool_calls, message.tools):
                size += len(store.dumps(beside).encode()) if beside else 0
            total += -(-size // 3) + 4
        return total

    def answer(self, chats: Sequence[list[Message]], max_new_tokens: int) -> list[Answer]:
        """Answers at temperature 0 in the order of `chats`.

        A request that fails becomes an Answer with finish "error". When the first request of all is
        refused or reaches nobody, nothing else is sent: WorkbookError, exit 5. A chat that may not
        leave this machine is not sent: an Answer with its kinds as error.
        """
        if not self.is_loopback and self.permission is None:
            raise WorkbookError(
                f"no task has allowed its text to go to {self.base_url} (check_may_send)"
            )
        if len(chats) == 1:
            return [self._ask(chats[0], max_new_tokens)]
        rest = list(chats)
        answers = []
        if rest and not self._reached:
            answers.append(self._ask(rest.pop(0), max_new_tokens))
        with ThreadPoolExecutor(MAX_CONCURRENCY) as pool:
            return answers + list(pool.map(lambda chat: self._ask(chat, max_new_tokens), rest))

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
            if not self._reached and _is_final(refusal):
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
        kinds = self.permission.held_back(_texts(chat))
        return failed(f"{HELD_BACK}: {kinds}") if kinds else None

    def body_of(
        self, chat: list[Message], max_new_tokens: int, without: Collection[str] = ()
    ) -> dict[str, Any]:
        """What is sent for a chat, without the options that this endpoint has refused."""
        options = self._options(max_new_tokens, self._unsupported.union(without))
        return {"model": self.name, "messages": as_dicts(chat), **options, **_tools(chat)}

    def _create(self, chat: list[Message], max_new_tokens: int) -> bytes:
        """One request; an option that the endpoint refuses is dropped, and not sent to it again."""
        without = set(self._unsupported)
        while True:
            body = self.body_of(chat, max_new_tokens, without)
            try:
                reply = self._connection.post("/chat/completions", body)
            except Refused as refusal:
                about = f"{refusal.param} {refusal.message}"
                refused = {name for name in OPTIONS if name in body and name in about}
                if refusal.status not in (400, 403, 422) or not refused:
                    raise
                without |= refused
            else:
                self._unsupported |= without
                return reply

    def _options(self, max_new_tokens: int, without: set[str]) -> dict[str, Any]:
        # newer OpenAI models know max_tokens only by its other name
        limit = "max_completion_tokens" if "max_tokens" in without else "max_tokens"
        told = {name: value for name, value in self._told.items() if name not in without}
        options: dict[str, Any] = {limit: max_new_tokens, **told}
        if "temperature" not in without:
            options["temperature"] = 0
        if self._schema is not None and "response_format" not in without:
            schema = {"name": "answer", "schema": self._schema, "strict": True}
            options["response_format"] = {"type": "json_schema", "json_schema": schema}
        return options


def _tools(chat: list[Message]) -> dict[str, Any]:
    tools = tools_of(chat)
    return {"tools": tools} if tools else {}


def _is_final(refusal: Refused) -> bool:
    """Whether the next request would fail too: wrong key, no such model, nobody there, no money."""
    return refusal.status in (0, 401, 403, 404) or refusal.code == "insufficient_quota"


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


def _texts(chat: list[Message]) -> list[str]:
    """Every text of a chat, also what tools were called with."""
    return [
        text
        for message in chat
        for text in (message.content or "", store.dumps([message.tool_calls, message.tools]))
    ]


def failed(reason: str, latency_ms: float = 0.0) -> Answer:
    """What stands for an answer that did not come."""
    took = {"tokens_in": 0, "tokens_out": 0, "latency_ms": latency_ms}
    return Answer(text="", finish="error", error=reason, **took)


def _oddity(error: ValidationError) -> str:
    """Where a reply is not what it should be, and how; never what it says."""
    problem = error.errors(include_input=False, include_url=False, include_context=False)[0]
    return f"{'.'.join(map(str, problem['loc'])) or 'the whole'}: {problem['msg'][:100]}"


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
        return failed(f"the endpoint's answer is odd ({_oddity(error)})", latency_ms)
    choice = reply.choices[0] if reply.choices else None
    reason = choice.finish_reason if choice else "no choices"
    usage = reply.usage or ReplyUsage()
    details = usage.prompt_tokens_details or PromptDetails()
    took = {
        "tokens_in": usage.prompt_tokens,
        "tokens_out": usage.completion_tokens,
        "tokens_cached": details.cached_tokens or 0,
        "latency_ms": latency_ms,
    }
    if choice is None or reason == "content_filter":
        error = f"the endpoint gave no answer ({reason})"
        return Answer(text="", finish="error", error=error, **took)
    message = choice.message
    thoughts, said = split_thoughts((message.content or "").strip())
    thoughts = message.reasoning_content or message.reasoning or thoughts
    return Answer(
        text=with_calls(said, message.tool_calls),
        thoughts=thoughts,
        confidence=None if thoughts else _confidence(choice.logprobs),
        finish="length" if reason == "length" else "stop",
        **took,
    )
