"""What serves a task: which version, since when, and which one served before it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import NamedTuple

from helpers import evaluate, registry, store
from helpers.monitor.windows import Days, LiveLog
from helpers.records import Alarm, AnswerRow, Evaluation, FineTunedModelVersion, Route
from helpers.registry import FineTuneLifecycleManager
from helpers.tasks import Task


class Service(NamedTuple):
    """The version in production, its route and alarms, and what rows call the others."""

    version: FineTunedModelVersion | None
    route: Route
    previous: set[str]  # names of what served before it
    expected: set[str]  # what the log may say: none, or one of all that were not given up
    alarms: Sequence[Alarm]  # of the version, or of a task that nothing serves

    @property
    def since(self) -> date | None:
        """The day of promotion."""
        return datetime.fromisoformat(self.route.since).date() if self.version else None

    @property
    def names(self) -> set[str]:
        """What rows call the version."""
        return names_of(self.version) if self.version else set()

    @property
    def run(self) -> store.Run:
        """The run that made the version in production."""
        return store.Run(self.version.run_id if self.version else "")

    def test_answers(self) -> list[AnswerRow]:
        """What the version in production answered to its test part, in 04."""
        if self.version and not self.run.folder.is_dir():
            registry.fetch(self.version.id)
        return evaluate.read_answers(self.run, self.run.load(Evaluation).rung("fine_tuned"))

    def days_of(self, log: LiveLog) -> Days:
        """The version's own days; of rows that name no version those since its promotion.

        A day before it was trained is a clock that is wrong: with it, all days would stand after
        years without a request.
        """
        if self.since is None or log.simulated:
            return log.of(log.days)
        first = min(self.since, self.version.trained_at.date())
        days = {"own": log.of(self.names, first), "": log.of([""], self.since)}
        return LiveLog(days=days).of(days)


def names_of(version: FineTunedModelVersion) -> set[str]:
    """What rows call a version."""
    return {version.id, version.model_id}


def service_of(task: Task) -> Service:
    """What the registry says."""
    manager = FineTuneLifecycleManager(task.registry_name)
    version = manager.get_production_version()
    route = manager.route()
    previous = set()
    expected = {""}
    for each in manager.list_versions():
        if each.status != "deprecated":
            expected |= names_of(each)
        if each.id == route.previous:
            previous = names_of(each)
    alarms = registry.list_alarms(task.registry_name, version.id if version else "")
    return Service(version, route, previous, expected, alarms)
