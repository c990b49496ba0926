"""How a gateway is started, and what it refuses to start with."""

from __future__ import annotations

import hashlib
import hmac
import os

from pydantic import Field

from helpers.models import is_loopback
from helpers.records import LogText, Record, WorkbookError

KEYS = "WORKBOOK_SERVE_KEYS"  # NAME:KEY of every caller, divided by commas or line breaks
SHORTEST_KEY = 16  # characters: shorter ones can be guessed


class Settings(Record):
    """What the command line says; the defaults are safe ones."""

    tasks: tuple[str, ...] = ()  # registered names, or task folders; none: all that are routed
    host: str = "127.0.0.1"
    port: int = Field(8600, ge=0, lt=2**16)
    engine: str = "auto"  # auto, local, llamacpp or the base_url of a server
    anywhere: bool = False  # may other machines reach it?
    host_names: tuple[str, ...] = ()  # further names by which callers may call it
    log_text: LogText = "masked"
    log_text_of: dict[str, LogText] = Field(default_factory=dict)  # by task
    keeps_log: bool = True  # False: what is asked is no traffic, and 06 does not see it
    keep_days: int = Field(90, ge=0, le=36_500)  # of the live log; 0: for ever
    most_waiting: int = Field(64, ge=1)  # requests of one task at once; the next one gets 429
    most_bytes: int = 2**20  # of a request's body
    most_turns: int = 200
    timeout: float = Field(120.0, gt=0, le=86_400)  # seconds for one answer
    follow_every: float = 0.5  # seconds between two looks at the registry
    judge_every: float = 60.0  # seconds between two looks at a trial
    max_cost_usd: float = Field(0.0, ge=0)  # a month and task, at paid endpoints
    rows: int = Field(40, ge=1)  # of validation, that --check asks

    def text_of(self, task: str) -> LogText:
        """How much of a task's text its log holds; a shipped task may be named without demo/."""
        said = self.log_text_of.get(task.removeprefix("demo/"), self.log_text)
        return self.log_text_of.get(task, said)

    @property
    def allowed_hosts(self) -> list[str]:
        """What a Host header may say, against DNS rebinding; the keys guard what is anywhere."""
        if self.anywhere and not self.host_names:
            return ["*"]
        return ["127.0.0.1", "localhost", "[::1]", self.host, *map(str.lower, self.host_names)]


class Keys:
    """The callers' keys: compared in constant time, and known by their names alone."""

    def __init__(self, text: str) -> None:
        self._digests: list[tuple[str, bytes]] = []  # a caller may have an old key and a new one
        for number, entry in enumerate(text.replace("\n", ",").split(","), 1):
            if not entry.strip():
                continue
            name, colon, key = map(str.strip, entry.partition(":"))
            if not colon:
                name, key = f"key {number}", name
            if len(key) < SHORTEST_KEY:
                raise WorkbookError(
                    f"{KEYS}: the key of {name!r} has fewer than {SHORTEST_KEY} characters; make"
                    " one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
                )
            self._digests.append((name, hashlib.sha256(key.encode()).digest()))

    def __bool__(self) -> bool:
        return bool(self._digests)

    def name_of(self, authorization: str) -> str | None:
        """Whose key a request carries; "" where none is asked for, None for a wrong one."""
        if not self._digests:
            return ""
        scheme, _, key = authorization.partition(" ")
        digest = hashlib.sha256(key.strip().encode(errors="replace")).digest()
        match = None
        for name, known in self._digests:  # all of them: time tells nothing
            if hmac.compare_digest(known, digest) and scheme.lower() == "bearer":
                match = name
        return match


def checked_keys(settings: Settings) -> Keys:
    """The keys of the environment; WorkbookError for a gateway that anybody could ask."""
    keys = Keys(os.environ.get(KEYS, ""))
    if is_loopback(f"http://{bracketed(settings.host)}"):
        return keys
    if not settings.anywhere:
        raise WorkbookError(
            f"{settings.host} can be reached from other machines; add --anywhere if that is meant"
        )
    if not keys:
        raise WorkbookError(
            f"--anywhere needs keys: set {KEYS} to NAME:KEY of every caller, divided by commas"
        )
    return keys


def bracketed(host: str) -> str:
    """A host as it stands in an address: IPv6 in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
