"""Chat models behind any OpenAI-compatible endpoint: vLLM, llama.cpp, a provider, the practice server."""

from __future__ import annotations

import ipaddress
import os
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from helpers import store
from helpers.models.chat import Answer, Progress, Provider, plain
from helpers.records import Message, WorkbookError

if TYPE_CHECKING:
    import openai

MAX_CONCURRENCY = 8
TIMEOUT_SECONDS = 120.0
LOCAL_KEY = "sk-local"  # the SDK insists on some key; a server on this machine needs none


def is_loopback(base_url: str) -> bool:
    """Whether the endpoint is this very machine (by its literal address; names are not looked up)."""
    host = urlsplit(base_url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def openai_client(base_url: str, timeout: float = TIMEOUT_SECONDS, max_retries: int = 2) -> openai.OpenAI:
    """An SDK client for `base_url` with the key of WORKBOOK_API_KEY or OPENAI_API_KEY.

    A loopback endpoint is spoken to directly: neither a proxy of the environment nor a redirect may carry its text
    away, and OPENAI_API_KEY is not shown to it.
    """
    import openai

    key = os.environ.get("WORKBOOK_API_KEY", "")
    if is_loopback(base_url):
        direct = openai.DefaultHttpx2Client(trust_env=False, follow_redirects=False)
        return openai.OpenAI(
            base_url=base_url, api_key=key or LOCAL_KEY, http_client=direct, timeout=timeout, max_retries=max_retries
        )
    key = key or os.environ.get("OPENAI_API_KEY", "")
    if not key:
        raise WorkbookError(f"{base_url} needs a key: set WORKBOOK_API_KEY (or OPENAI_API_KEY) in the environment")
    return openai.OpenAI(base_url=base_url, api_key=key, timeout=timeout, max_retries=max_retries)


class ApiModel:
    """One model name at one endpoint.

    Up to `max_concurrency` requests run side by side. Each answer's latency is the wall time of its own request, retries
    included; a server that works on one request at a time makes the others wait, so compare with `latency_probe`.
    """

    provider: Provider = "api"

    def __init__(self, name: str, base_url: str, max_concurrency: int = MAX_CONCURRENCY) -> None:
        scheme, host = urlsplit(base_url).scheme, urlsplit(base_url).hostname
        if scheme not in ("http", "https") or not host:
            raise WorkbookError(f"base_url {base_url!r} is no web address; it looks like http://127.0.0.1:8000/v1")
        if not name:
            raise WorkbookError(f"base_url {base_url} is given but no model name; set api_model")
        self.name = name
        self.base_url = base_url
        self.is_loopback = is_loopback(base_url)
        self.max_concurrency = max_concurrency
        self._client: openai.OpenAI | None = None
        self._reached = False
        self._unsupported: set[str] = set()  # options that this endpoint refused

    @property
    def fingerprint(self) -> str:
        """sha256 of endpoint and name: all that can be known of a model that is somewhere else."""
        return store.fingerprint({"base_url": self.base_url, "model": self.name})

    def count_tokens(self, chat: list[Message]) -> int:
        """A cautious estimate (3 bytes a token, 4 tokens a turn); the endpoint's own count comes with each answer."""
        return sum(-(-len((m.content or "").encode()) // 3) + 4 for m in chat) + 3

    def answer(
        self,
        chats: Sequence[list[Message]],
        max_new_tokens: int,
        schema: dict[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> list[Answer]:
        """Answers at temperature 0 in the order of `chats`; with `schema` the endpoint is asked to enforce it.

        A request that fails becomes an Answer with finish "error". Only when the first request of all shows that the
        endpoint refuses us or is not there, nothing else is sent and a WorkbookError (exit 5) says so.
        """
        answers: list[Answer] = []
        rest = list(chats)

        def keep(answer: Answer) -> None:
            answers.append(answer)
            if progress:
                progress(len(answers), len(chats))

        if rest and not self._reached:
            keep(self._ask(rest.pop(0), max_new_tokens, schema, first=True))
            self._reached = True
        with ThreadPoolExecutor(self.max_concurrency) as pool:
            for answer in pool.map(lambda chat: self._ask(chat, max_new_tokens, schema), rest):
                keep(answer)
        return answers

    def latency_probe(self, chats: Sequence[list[Message]], max_new_tokens: int) -> list[float]:
        """Milliseconds of each chat asked alone, one after another; failed requests are left out."""
        answers = [self._ask(chat, max_new_tokens, None) for chat in chats]
        return [a.latency_ms for a in answers if a.finish != "error"]

    def _ask(
        self, chat: list[Message], max_new_tokens: int, schema: dict[str, Any] | None, first: bool = False
    ) -> Answer:
        import openai

        if self._client is None:
            self._client = openai_client(self.base_url)
        started = time.perf_counter()
        try:
            reply = self._create(chat, max_new_tokens, schema)
        except openai.OpenAIError as error:
            reason = _reason(error, chat)
            if first and _is_refusal(error):
                raise WorkbookError(
                    f"{self.base_url} did not serve model {self.name}: {reason}; check base_url, api_model and the key",
                    5,
                ) from None
            milliseconds = 1000 * (time.perf_counter() - started)
            return Answer(text="", tokens_in=0, tokens_out=0, latency_ms=milliseconds, finish="error", error=reason)
        return _as_answer(reply, 1000 * (time.perf_counter() - started))

    def _create(self, chat: list[Message], max_new_tokens: int, schema: dict[str, Any] | None) -> Any:
        """One request; an option that the endpoint refuses is dropped, and not sent to it again."""
        import openai

        assert self._client is not None
        dropped: set[str] = set()
        while True:
            options = self._options(max_new_tokens, schema, self._unsupported | dropped)
            try:
                reply = self._client.chat.completions.create(model=self.name, messages=plain(chat), **options)  # type: ignore[arg-type]
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                refused = _refused_option(error, options)
                if not refused:
                    raise
                dropped.add(refused)
            else:
                self._unsupported |= dropped
                return reply

    @staticmethod
    def _options(max_new_tokens: int, schema: dict[str, Any] | None, without: set[str]) -> dict[str, Any]:
        options: dict[str, Any] = {"temperature": 0, "max_tokens": max_new_tokens}
        if schema is not None:
            wanted = {"name": "answer", "schema": schema, "strict": True}
            options["response_format"] = {"type": "json_schema", "json_schema": wanted}
        if "max_tokens" in without:  # newer OpenAI models know it only by this name
            options["max_completion_tokens"] = max_new_tokens
        return {name: value for name, value in options.items() if name not in without}


def _refused_option(error: openai.APIStatusError, options: dict[str, Any]) -> str:
    """Which of our options the endpoint complains about; a vague complaint is put down to response_format."""
    about = f"{error.param or ''} {error.message}"
    for name in ("temperature", "max_tokens"):
        if name in options and name in about:
            return name
    return "response_format" if "response_format" in options else ""


def _is_refusal(error: Exception) -> bool:
    """Whether asking again with other rows would be pointless: key, permission, model name, quota, connection."""
    import openai

    kinds = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError, openai.APIConnectionError)
    return isinstance(error, kinds) or getattr(error, "code", None) == "insufficient_quota"


def _reason(error: Exception, chat: list[Message]) -> str:
    """What went wrong, without keys and without the chat's own words (some servers echo the request)."""
    import openai

    if isinstance(error, openai.APITimeoutError):
        return f"no answer within {TIMEOUT_SECONDS:.0f} s"
    if isinstance(error, openai.APIConnectionError):
        return f"no connection ({type(error.__cause__ or error).__name__})"
    what = " ".join(str(part) for part in (getattr(error, "status_code", ""), getattr(error, "code", "")) if part)
    text = re.sub(r"^Error code: \d+ - ", "", store.redact(getattr(error, "message", str(error))))
    echoes = any(word in text for m in chat for word in (m.content or "").split() if len(word) > 7)
    return f"{what or type(error).__name__}" + ("" if echoes else f": {text[:200]}")


def _as_answer(reply: Any, latency_ms: float) -> Answer:
    choice = reply.choices[0] if reply.choices else None
    usage = reply.usage
    details = getattr(usage, "prompt_tokens_details", None)
    numbers = {
        "tokens_in": usage.prompt_tokens if usage else 0,
        "tokens_out": usage.completion_tokens if usage else 0,
        "tokens_cached": getattr(details, "cached_tokens", None) or 0,
        "latency_ms": latency_ms,
    }
    reason = choice.finish_reason if choice else "no choices"
    if choice is None or reason == "content_filter":
        return Answer(text="", finish="error", error=f"the endpoint gave no answer ({reason})", **numbers)
    text = (choice.message.content or "").strip()
    return Answer(text=text, finish="length" if reason == "length" else "stop", **numbers)
