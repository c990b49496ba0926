"""Chat models behind any OpenAI-compatible endpoint: vLLM, llama.cpp, a provider, the practice server."""

from __future__ import annotations

import copy
import ipaddress
import os
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from helpers import store
from helpers.models import Answer, practice
from helpers.models.tokens import plain
from helpers.records import Message, WorkbookError

if TYPE_CHECKING:
    import openai

MAX_CONCURRENCY = 8
TIMEOUT_SECONDS = 120.0
LOCAL_KEY = "sk-local"  # the SDK insists on some key; a server on this machine needs none


def is_loopback(base_url: str) -> bool:
    """Whether the endpoint is this very machine (by its literal address; names are not looked up)."""
    if base_url == practice.PRACTICE:
        return True
    host = urlsplit(base_url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def openai_client(base_url: str, timeout: float = TIMEOUT_SECONDS) -> openai.OpenAI:
    """An SDK client for `base_url` with the key of WORKBOOK_API_KEY or OPENAI_API_KEY; `timeout` in seconds.

    A loopback endpoint is spoken to directly: neither a proxy of the environment nor a redirect may carry its text
    away, and OPENAI_API_KEY is not shown to it.
    """
    import openai

    key, direct = os.environ.get("WORKBOOK_API_KEY", ""), None
    if is_loopback(base_url):
        key = LOCAL_KEY if base_url == practice.PRACTICE else key or LOCAL_KEY
        direct = openai.DefaultHttpx2Client(trust_env=False, follow_redirects=False)
    key = key or os.environ.get("OPENAI_API_KEY", "")
    if not key:
        raise WorkbookError(
            f"{base_url} needs a key: set WORKBOOK_API_KEY (or OPENAI_API_KEY) in the environment"
        )
    return openai.OpenAI(
        base_url=practice.resolve(base_url), api_key=key, timeout=timeout, http_client=direct
    )


class ApiModel:
    """One model name at one endpoint. An answer's latency is the wall time of its own request, retries included."""

    provider = "api"

    def __init__(self, name: str, base_url: str) -> None:
        where = urlsplit(base_url)
        if base_url != practice.PRACTICE and (
            where.scheme not in ("http", "https") or not where.hostname
        ):
            raise WorkbookError(
                f"base_url {base_url!r} is no web address; it looks like http://127.0.0.1:8000/v1"
            )
        if not name:
            raise WorkbookError(f"base_url {base_url} is given but no model name; set api_model")
        self.name, self.base_url, self.is_loopback = name, base_url, is_loopback(base_url)
        self.fingerprint = store.fingerprint(
            {"base_url": base_url, "model": name}
        )  # all that can be known from here
        self._reached = False
        self._unsupported: set[str] = set()  # options that this endpoint refused
        self._schema: dict[str, Any] | None = None

    def with_schema(self, schema: dict[str, Any] | None) -> ApiModel:
        """The same model, asked for answers of this JSON Schema (`response_format`) where the endpoint offers that."""
        other = copy.copy(self)
        other._schema, other.fingerprint = schema, store.fingerprint([self.fingerprint, schema])
        return other

    @cached_property
    def _client(self) -> openai.OpenAI:
        return openai_client(self.base_url)

    def count_tokens(self, chat: list[Message]) -> int:
        """A cautious estimate (3 bytes a token, 4 tokens a turn); the endpoint's own count comes with each answer."""
        return sum(-(-len((m.content or "").encode(errors="replace")) // 3) + 4 for m in chat) + 3

    def answer(self, chats: Sequence[list[Message]], max_new_tokens: int) -> list[Answer]:
        """Answers at temperature 0 in the order of `chats`; a request that fails becomes an Answer with finish "error".

        When the first request of all is refused or reaches nobody, nothing else is sent: WorkbookError, exit 5.
        """
        rest, answers = list(chats), []
        if rest and not self._reached:
            answers.append(self._ask(rest.pop(0), max_new_tokens))
            self._reached = True
        with ThreadPoolExecutor(MAX_CONCURRENCY) as pool:
            return answers + list(pool.map(lambda chat: self._ask(chat, max_new_tokens), rest))

    def _ask(self, chat: list[Message], max_new_tokens: int) -> Answer:
        import openai

        gone = (
            openai.AuthenticationError,
            openai.PermissionDeniedError,
            openai.NotFoundError,
            openai.APIConnectionError,
        )
        started = time.perf_counter()
        try:
            reply = self._create(chat, max_new_tokens)
            return _as_answer(reply, 1000 * (time.perf_counter() - started))
        except openai.OpenAIError as error:
            reason, took = _reason(error, chat), 1000 * (time.perf_counter() - started)
            if not self._reached and (
                isinstance(error, gone) or getattr(error, "code", "") == "insufficient_quota"
            ):
                problem = f"{self.base_url} did not serve model {self.name}: {reason}"
                raise WorkbookError(
                    f"{problem}; check base_url, api_model and the key", 5
                ) from None
            return Answer(
                text="", tokens_in=0, tokens_out=0, latency_ms=took, finish="error", error=reason
            )

    def _create(self, chat: list[Message], max_new_tokens: int) -> Any:
        """One request; an option that the endpoint refuses is dropped, and not sent to it again."""
        import openai

        without = set(self._unsupported)
        while True:
            # newer OpenAI models know max_tokens only by its other name
            limit = "max_completion_tokens" if "max_tokens" in without else "max_tokens"
            options: dict[str, Any] = {limit: max_new_tokens} | (
                {} if "temperature" in without else {"temperature": 0}
            )
            if self._schema is not None and "response_format" not in without:
                named = {"name": "answer", "schema": self._schema, "strict": True}
                options["response_format"] = {"type": "json_schema", "json_schema": named}
            try:
                reply = self._client.chat.completions.create(
                    model=self.name, messages=plain(chat), **options
                )  # type: ignore[arg-type]
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                about = f"{error.param or ''} {error.message}"
                refused = {
                    name
                    for name in ("temperature", "max_tokens", "response_format")
                    if name in options and name in about
                }
                if not refused:
                    raise
                without |= refused
            else:
                self._unsupported |= without
                return reply


def _reason(error: Exception, chat: list[Message]) -> str:
    """What went wrong, without keys and without the chat's own words (some servers echo the request)."""
    import openai

    if isinstance(error, openai.APIConnectionError):  # also when no answer came in time
        return f"no connection ({type(error.__cause__ or error).__name__})"
    what = " ".join(
        str(part)
        for part in (getattr(error, "status_code", ""), getattr(error, "code", ""))
        if part
    )
    text = re.sub(r"^Error code: \d+ - ", "", store.redact(getattr(error, "message", str(error))))
    echoes = any(word in text for m in chat for word in (m.content or "").split() if len(word) > 7)
    return f"{what or type(error).__name__}" + ("" if echoes else f": {text[:200]}")


def _as_answer(reply: Any, latency_ms: float) -> Answer:
    choice, usage = (reply.choices[0] if reply.choices else None), reply.usage
    reason = choice.finish_reason if choice else "no choices"
    failed = choice is None or reason == "content_filter"
    return Answer(
        text="" if failed else (choice.message.content or "").strip(),
        tokens_in=usage.prompt_tokens if usage else 0,
        tokens_out=usage.completion_tokens if usage else 0,
        tokens_cached=getattr(getattr(usage, "prompt_tokens_details", None), "cached_tokens", None)
        or 0,
        latency_ms=latency_ms,
        finish="error" if failed else "length" if reason == "length" else "stop",
        error=f"the endpoint gave no answer ({reason})" if failed else None,
    )
