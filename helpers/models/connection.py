"""HTTP to one endpoint: kept connections, asked again where that helps, after the wait it names.

The SDK takes 2 ms of the processor for a request, which is the whole of one core at 500 requests a
second; this takes a fifth of that. Jobs and files go through the SDK (`openai_client`).
"""

from __future__ import annotations

import email.utils
import json
import os
import time
import urllib.request
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from helpers.records import WorkbookError

if TYPE_CHECKING:
    import urllib3

TRIES = 3  # of one request, where another try may help
PAUSE = 0.5  # seconds before the second try, doubled each time
MOST_PAUSE = 120.0  # seconds of Retry-After; who wants to be left alone for longer is
MOST_KEPT = 512  # connections
MOST_SECONDS = 600.0  # for one answer to come to its end, once it has begun
MOST_BYTES = 32 * 1024**2  # of one answer
AGAIN = (408, 409, 429)  # and every 5xx


class Refused(Exception):
    """An endpoint's refusal; status 0: it was not reached, or gave no answer in time."""

    def __init__(
        self, status: int, message: str, code: str = "", param: str = "", may_pass: bool = True
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.may_pass = may_pass  # the same request may be answered later,
        self.wait = 0.0  # and not before these seconds are over


class Connection:
    """POSTs JSON to paths under one address, from any number of threads.

    No redirect is followed: it could carry text and key to another host.
    """

    def __init__(self, address: str, key: str, timeout: float, use_proxy: bool) -> None:
        if not (key.isascii() and key.isprintable()):
            raise WorkbookError(
                f"the key for {urlsplit(address).hostname} holds a sign that no key has, such as a"
                " line break; set it again"
            )
        self._address = address.rstrip("/")
        self._headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        self._pool = _pool(self._address, timeout, use_proxy)
        self._not_before = 0.0  # the clock's time until which the endpoint wants nothing

    def post(self, path: str, body: dict[str, Any]) -> bytes:
        """The body of the answer; Refused where there is none after the last try."""
        data = json.dumps(body).encode()
        pause = PAUSE
        for left in reversed(range(TRIES)):
            too_early = self._not_before - time.monotonic()
            if too_early > 0:
                time.sleep(too_early)
            try:
                return self._post(path, data)
            except Refused as refused:
                if not (refused.may_pass and left):
                    raise
                self._not_before = max(self._not_before, time.monotonic() + refused.wait)
                time.sleep(refused.wait or pause)
                pause *= 2
        raise AssertionError("the last try answers or raises")

    def _post(self, path: str, data: bytes) -> bytes:
        import urllib3

        address = self._address + path
        options = {"headers": self._headers, "redirect": False, "retries": False}
        try:
            reply = self._pool.request("POST", address, body=data, preload_content=False, **options)
            text = whole(reply, MOST_SECONDS)
        except urllib3.exceptions.HTTPError as error:
            raise Refused(0, f"no connection ({type(error).__name__})") from None
        if reply.status in range(200, 300):
            return text
        refused = read_refusal(reply.status, text)
        refused.wait = seconds_to_wait(reply.headers)
        is_passing = reply.status in AGAIN or reply.status >= 500
        says = reply.headers.get("x-should-retry", str(is_passing).lower())
        is_over = refused.wait > MOST_PAUSE or refused.code == "insufficient_quota"
        refused.may_pass = says == "true" and not is_over
        raise refused


def whole(reply: urllib3.BaseHTTPResponse, seconds: float) -> bytes:
    """The body; Refused where it does not end, be it fast or drop by drop."""
    until = time.monotonic() + seconds
    text = bytearray()
    while piece := reply.read1(65_536):
        text += piece
        if len(text) > MOST_BYTES or time.monotonic() > until:
            reply.close()
            reason = f"its answer does not end: {len(text):,} bytes so far"
            raise Refused(0, reason, may_pass=False)
    reply.release_conn()
    return bytes(text)


def read_refusal(status: int, body: bytes) -> Refused:
    """What an endpoint's refusal says, in OpenAI's form or any other."""
    text = body.decode("utf-8", "replace")
    try:
        problem = json.loads(text)
    except (ValueError, RecursionError):
        return Refused(status, text)
    if text.lstrip().startswith("[{"):  # Gemini's is a list of one
        problem = problem[0]
    if isinstance(problem, dict):
        problem = problem.get("error", problem)
    if not isinstance(problem, dict):
        return Refused(status, str(problem))
    message, code, param = (problem.get(name) for name in ("message", "code", "param"))
    return Refused(status, str(message or problem), str(code or ""), str(param or ""))


def seconds_to_wait(headers: Any) -> float:
    """Retry-After (seconds or a date) or its form in milliseconds; 0.0 where nothing is said."""
    words = headers.get("retry-after", "")
    with suppress(ValueError):
        return max(0.0, float(headers.get("retry-after-ms", "")) / 1000)
    with suppress(ValueError):
        return max(0.0, float(words))
    with suppress(TypeError, ValueError, OverflowError):
        return max(0.0, email.utils.parsedate_to_datetime(words).timestamp() - time.time())
    return 0.0


def _pool(address: str, timeout: float, use_proxy: bool) -> urllib3.PoolManager:
    """Kept connections, through the environment's proxy where it names one for this host."""
    import certifi
    import urllib3

    parts = urlsplit(address)
    proxies = urllib.request.getproxies() if use_proxy else {}
    options: dict[str, Any] = {
        "maxsize": MOST_KEPT,
        "timeout": urllib3.Timeout(connect=min(timeout, 30.0), read=timeout),
        "ca_certs": os.environ.get("SSL_CERT_FILE") or certifi.where(),
    }
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(parts.hostname or ""):
        return urllib3.PoolManager(**options)
    if not proxy.startswith(("http://", "https://")):
        raise WorkbookError(
            f"the environment's proxy for {parts.hostname} is no http proxy; set one, or name the"
            " host in NO_PROXY"
        )
    login = unquote(urllib3.util.parse_url(proxy).auth or "")
    headers = urllib3.make_headers(proxy_basic_auth=login) if login else None
    return urllib3.ProxyManager(proxy, proxy_headers=headers, **options)
