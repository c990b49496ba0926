"""What serves a task: which version, since when, and which one served before it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import NamedTuple

from helpers import evaluate, registry, store
from helpers.monitor.windows import LiveLog, Numbers
from helpers.records import Alarm, AnswerRow, Evaluation, FineTunedModelVersion, Route
from helpers.registry import FineTuneLifecycleManager
from helpers.tasks import Task


class Service(NamedTuple):
    """The version in production, its route and alarms, and everything that was promoted before."""

    version: FineTunedModelVersion | None
    route: Route
    expected: frozenset[str]  # names that the log may say: of all versions that were not given up
    alarms: Sequence[Alarm]  # of the version, or of a task that nothing serves

    @property
    def since(self) -> date | None:
        """The day of promotion."""
        return datetime.fromisoformat(self.route.since).date() if self.version else None

    @property
    def names(self) -> set[str]:
        """What rows call the version."""
        return {self.version.id, self.version.model_id} if self.version else set()

    @property
    def run(self) -> store.Run:
        """The run that made the version in production."""
        return store.Run(self.version.run_id if self.version else "")

    def test_answers(self) -> list[AnswerRow]:
        """What the version in production answered to its test part, in 04."""
        if self.version and not self.run.folder.is_dir():
            registry.fetch(self.version.id)
        return evaluate.read_answers(self.run, self.run.load(Evaluation).rung("fine_tuned"))

    def is_judged(self, day: date, around: int, lately: date) -> bool:
        """Whether a day's log is needed: `around` days around the promotion, or from `lately`."""
        return self.since is None or day >= lately or abs((day - self.since).days) < around

    def days_of(self, log: LiveLog) -> dict[date, Numbers]:
        """The version's own days; of rows that name no version those since its promotion.

        A day before it was trained is a clock that is wrong: with it, all days would stand after
        years without a request.
        """
        if self.version is None or self.since is None or log.simulated:
            return log.of(log.days)
        first = min(self.since, self.version.trained_at.date())
        own = log.of(self.names)
        own = {day: numbers for day, numbers in own.items() if day >= first}
        nameless = {day: numbers for day, numbers in log.of([""]).items() if day >= self.since}
        return LiveLog(days={"own": own, "": nameless}).of(["own", ""])


def service_of(task: Task) -> Service:
    """What the registry says."""
    manager = FineTuneLifecycleManager(task.registry_name)
    version = manager.get_production_version()
    versions = [each for each in manager.list_versions() if each.status != "deprecated"]
    names = {name for each in versions for name in (each.id, each.model_id)}
    alarms = registry.list_alarms(task.registry_name, version.id if version else "")
    return Service(version, manager.route(), frozenset(names), alarms)
