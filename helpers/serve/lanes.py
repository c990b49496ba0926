"""The versions that serve one task: the one in production, one that is tried, and how they change.

A new version is loaded beside the old one, put in its place in one step, and the old one leaves
when its last request is answered. What cannot be loaded changes nothing: the old one serves on.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

from helpers import registry, store
from helpers.records import Arm, FineTunedModelVersion, Trial, WorkbookError
from helpers.registry import Serving
from helpers.serve.engines import Loaded
from helpers.serve.served import Served

AGAIN = 30.0  # seconds before a version that could not be loaded is tried again
NOTICE = 3600.0  # seconds between the word that days of a log are too old, and their end
DAY = 86_400.0  # seconds until they are looked for again
_log = logging.getLogger(__name__)


class Passing(WorkbookError):
    """Nothing that a loader says of a version: too little memory, too many open files."""


@dataclass
class Ready:
    """A loaded version and the number of requests that it still owes an answer."""

    served: Served
    loaded: Loaded
    checked_by: str  # the engine that it was last compared through; "" where nobody did
    users: int = 0


class Place(NamedTuple):
    """Who answers a request, in which role, under which generation of the route."""

    ready: Ready
    arm: Arm
    generation: int


class Lane:
    """One task."""

    def __init__(
        self, task: str, load: Callable[[FineTunedModelVersion], Ready], most_waiting: int
    ) -> None:
        self.task = task
        # of its own: an engine that hangs takes no other task's threads
        self.threads = ThreadPoolExecutor(most_waiting, "serve-answer")
        self.waiting = 0  # requests without an answer
        self.generation = 0  # of the route that is followed
        self.current: Ready | None = None
        self.trial: Trial | None = None
        self.judged_at = -math.inf  # when the trial was last looked at
        self.swept_from = time.monotonic() + NOTICE  # when old days of its log may be deleted
        self.problem = ""  # why the route cannot be followed at present
        self._ready: dict[str, Ready] = {}  # by the version's id
        self._by_hand = ""  # the version that was last asked for by its id
        self._make_ready = load
        self._turn = asyncio.Lock()
        # when the route of a generation, or the version of a trial, last failed
        self._failed_at: dict[int | str, float] = {}

    async def follow(self, serving: Serving) -> None:
        """Go where the registry's route and trial point, unless a change is under way."""
        if self._turn.locked():
            return
        async with self._turn:
            # the version too: a registry that was restored counts again from an older generation
            if (serving.route.generation, serving.route.version) != (self.generation, self.serves):
                await self._switch(serving)
            else:
                self.problem = ""
            await self._follow_trial(serving.trial, serving.route.version)
            await self._retire()

    async def _switch(self, serving: Serving) -> None:
        generation = serving.route.generation
        if self._has_just_failed(generation):
            return
        try:
            ready = await self._load(serving.version) if serving.version else None
        except WorkbookError as error:  # the old one serves on
            self._failed_at[generation] = time.monotonic()
            await self._complain(serving, error)
            return
        self.current = ready
        self.generation = generation
        self.problem = ""
        _log.info("%s: %s serves (generation %d)", self.task, serving.route.version, generation)

    def _has_just_failed(self, what: int | str) -> bool:
        return time.monotonic() < self._failed_at.get(what, -math.inf) + AGAIN

    async def _complain(self, serving: Serving, error: WorkbookError) -> None:
        """Say on /readyz, and to the team once, that the route cannot be followed."""
        still = self.serves or "nothing"
        self.problem = store.without_secrets(
            f"{self.task}: {serving.route.version} cannot be served ({error}); {still} serves on"
        )
        _log.error("%s", self.problem)
        event = f"serve {self.task} {serving.route.generation}"  # told once
        try:
            await asyncio.to_thread(registry.notify, self.problem, event)
        except WorkbookError as trouble:
            _log.error("the team could not be told: %s", trouble)

    async def _follow_trial(self, trial: Trial | None, routed: str | None) -> None:
        if trial is not None and trial.against != routed:
            self.trial = None
            await asyncio.to_thread(registry.end_trial, trial, f"{trial.against} serves no more")
            return
        if trial == self.trial:
            return
        self.trial = None
        if trial is None or self._has_just_failed(trial.version):
            return
        try:
            await self._load(await asyncio.to_thread(registry.version_of, trial.version))
        except Passing as error:
            self._failed_at[trial.version] = time.monotonic()
            _log.error("%s: %s cannot be tried yet: %s", self.task, trial.version, error)
            return
        except WorkbookError as error:
            await asyncio.to_thread(registry.end_trial, trial, f"it cannot be loaded: {error}")
            return
        self.trial = trial

    @property
    def serves(self) -> str | None:
        """The version in production, as far as it is loaded."""
        return self.current.served.id if self.current else None

    def state(self) -> dict[str, Any]:
        """What /readyz shows."""
        return {
            "version": self.serves,
            "generation": self.generation,
            "checked_by": self.current.checked_by if self.current else None,
            "trial": self.trial.version if self.trial else None,
            "problem": self.problem or None,
            "waiting": self.waiting,
        }

    async def by_id(self, version: FineTunedModelVersion) -> Place:
        """A version that was asked for by its id, whatever serves."""
        if self.current is not None and self.serves == version.id:
            return Place(self.current, "production", self.generation)
        async with self._turn:
            self._by_hand = version.id
            ready = await self._load(version)
            await self._retire()
        return Place(ready, "trial", self.generation)

    def place(self, conversation: str) -> Place | None:
        """Who answers a conversation: production, or the canary for its share of them, for good."""
        trial = self.trial
        if trial is not None and trial.kind == "canary" and drawn(trial, conversation):
            return Place(self._ready[trial.version], "canary", self.generation)
        if self.current is None:
            return None
        return Place(self.current, "production", self.generation)

    def shadow(self, conversation: str) -> Ready | None:
        """Who answers a second time, unseen."""
        trial = self.trial
        if trial is None or trial.kind != "shadow" or not drawn(trial, conversation):
            return None
        return self._ready[trial.version]

    async def _load(self, version: FineTunedModelVersion) -> Ready:
        if version.id not in self._ready:
            try:
                self._ready[version.id] = await asyncio.to_thread(self._make_ready, version)
            except WorkbookError:
                raise
            except Exception as error:  # whatever a loader throws; its words may quote anything
                raise Passing(f"{type(error).__name__} while it was loaded") from error
        return self._ready[version.id]

    async def _retire(self) -> None:
        """Close what nobody needs, once its last request is answered."""
        needed = {self._by_hand, self.serves}
        if self.trial is not None:
            needed.add(self.trial.version)
        for version_id, ready in list(self._ready.items()):
            if version_id not in needed and not ready.users:
                del self._ready[version_id]
                await asyncio.to_thread(ready.loaded.close)

    async def close(self) -> None:
        """Close all."""
        for ready in self._ready.values():
            await asyncio.to_thread(ready.loaded.close)


def drawn(trial: Trial, conversation: str) -> bool:
    """Whether a conversation belongs to the share of a trial; the same each time it is asked."""
    digest = hashlib.sha256(f"{trial.version} {conversation}".encode(errors="replace")).digest()
    return int.from_bytes(digest[:8]) < trial.share * 2**64
