"""Is the model in production still good? Checks of all that was served, and one verdict.

Only quality that has surely fallen asks for a retrain. Everything else, age included, asks a person
to look: without a loss of quality there is no reason to train.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, timedelta

from helpers import registry, store
from helpers.monitor.causes import explain, find_causes, rows_of_window
from helpers.monitor.checks import (
    Served,
    age_check,
    change_checks,
    promise_checks,
    topic_check,
    volume_check,
)
from helpers.monitor.confidence import accuracy_check
from helpers.monitor.evidence import REFERENCE_DAYS
from helpers.monitor.replay import replay_checks
from helpers.monitor.service import Service, service_of
from helpers.monitor.watched import WATCHED, reading_of
from helpers.monitor.windows import LiveLog, keep, read_log
from helpers.records import (
    Alarm,
    EvalResults,
    Evaluation,
    Finding,
    Health,
    HealthVerdict,
    Window,
    WorkbookError,
)
from helpers.tasks import Task

JUDGED_DAYS = 91  # a change that began earlier was told earlier
FORMAT = WATCHED[0]


def read_live(task: Task, live_path: str = "") -> LiveLog:
    """What the live log says of the days that are judged: around the promotion, and lately."""
    service = service_of(task)
    lately = store.now().date() - timedelta(days=JUDGED_DAYS)

    def is_judged(day: date | None) -> bool:
        since = service.since
        if since is None or day is None:
            return True
        return day >= lately or abs((day - since).days) < REFERENCE_DAYS

    dataset_version = service.version and service.version.dataset_version
    return read_log(task, live_path, reading_of(task, dataset_version), is_judged)


def check_health(
    task: Task,
    run: store.Run,
    window_days: int = 7,
    max_age_days: int = 90,
    live_path: str = "",
    log: LiveLog | None = None,
) -> Health:
    """Judge what was served since the promotion by the version's own first weeks.

    In its first weeks the version is held against its evaluation and its predecessor.
    """
    if window_days < 1:
        raise WorkbookError(f"window_days is {window_days}; give at least 1")
    service = service_of(task)
    log = log or read_live(task, live_path)
    end = (log.simulated and log.newest) or store.now()  # a simulation stands still
    served = _served(service, log, end.astimezone(UTC).date(), window_days)
    rows = rows_of_window(log, service, served)
    before = log.of(service.previous - service.names)
    margin = task.margins.get(FORMAT.name, FORMAT.matters)
    checks = [
        volume_check(served),
        topic_check(rows, log.reading),
        *change_checks(served),
        *promise_checks(served, before, _measured(service, run), margin),
        accuracy_check(served, service),
        *replay_checks(task, service, served),
        age_check(service.version, max_age_days),
    ]
    causes = find_causes(log, service, served, checks, rows)
    checks = explain(checks, causes)
    verdict, reasons = judge(checks, service.version is not None, service.alarms)
    files = [path.name for path in log.files]
    start = end - timedelta(days=window_days)
    return Health(
        verdict=verdict,
        reasons=reasons,
        checks=checks,
        version=service.version and service.version.id,
        window=Window(start=start, end=end, days=window_days, files=files),
        simulated=log.simulated,
        unreadable=log.faults["unreadable_lines"].total(),
        causes=causes,
        alarms=[alarm.id for alarm in service.alarms if alarm.state != "resolved"],
    )


def _served(service: Service, log: LiveLog, last: date, window_days: int) -> Served:
    """What the version served up to the last day; a row of a later one has a wrong clock."""
    days = {day: numbers for day, numbers in service.days_of(log).items() if day <= last}
    restarts = {}
    for alarm in service.alarms:  # oldest first
        if alarm.state == "resolved":
            restarts[alarm.name] = alarm.changed_at.date() + timedelta(days=1)
    return Served(days, last, window_days, restarts, service.since, log.delay)


def judge(
    checks: Sequence[Finding], serving: bool, alarms: Sequence[Alarm] = ()
) -> tuple[HealthVerdict, list[str]]:
    """A failed critical check asks for a retrain, any other failed one for a look.

    An open alarm counts as long as it is open, also when its check passes now; a critical one that
    was acknowledged asks for no retrain any more. Without a version in production there is nothing
    to retrain, only to watch.
    """
    acknowledged = set()
    severities = {check.name: check.severity for check in checks if check.verdict == "fail"}
    for alarm in alarms:
        if alarm.state == "open":
            severities.setdefault(alarm.name, alarm.severity)
        elif alarm.state == "acknowledged" and alarm.severity == "critical":
            acknowledged.add(alarm.name)
    reasons = list(severities)
    if not serving:
        return "watch", ["no_production_version", *reasons]
    critical = {name for name, severity in severities.items() if severity == "critical"}
    if critical - acknowledged:
        return "retrain", reasons
    return ("watch" if reasons else "ok"), reasons


def _measured(service: Service, run: store.Run) -> EvalResults | None:
    """What was measured on the test part: of the version that serves, else of this run's own."""
    if service.version is not None:
        return service.version.eval_results
    return run.load(Evaluation).fine_tuned_model if run.has(Evaluation) else None


def publish(task: Task, run: store.Run, health: Health, log: LiveLog) -> None:
    """Open and repeat alarms, keep what was counted, write the task's page and health.json.

    What is said of simulated traffic raises no alarm, and is no part of the task's life.
    """
    if not health.simulated:
        failed = [check for check in health.checks if check.verdict == "fail"]
        raised = registry.raise_alarms(task.registry_name, health.version or "", failed)
        health = health.model_copy(update={"alarms": [alarm.id for alarm in raised]})
        keep(task, log)
        from helpers.extras.life import publish_page

        publish_page(task, log)
    run.save(health)
