"""A year of one task in a few minutes, over the product's own functions; its page is the result.

python -m benchmarks.year [--json] [--to DIR] [--requests 30]

Only the clock, the traffic (the messages of simulate_logs; EVERY ROW IS SIMULATED) and the trained
models are made up: versions are registered with the files that a run leaves, and everything else is
what a home does. The gate promotes, 06 looks every night, a shadow is judged by its own rule, a
person reads the alarms a day later.

| when | what is done to it |
|---|---|
| January | v1 is promoted |
| March | customers begin to ask about a new product, which v1 answers as well as the others |
| May | v1's answers get worse: ratings fall; a retrain is asked, v2 is trained and shadowed |
| June, July | v2 surely holds its margins and is promoted |
| September | v3 passes the gate and is bad with real customers: it is rolled back |
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.simulate_logs import FRAGMENTS, Simulator, read_lines
from helpers import monitor, registry, store, tasks
from helpers.records import Budget, LiveRow
from helpers.registry import FineTuneLifecycleManager
from helpers.run.retrain import should_retrain
from helpers.serve.trials import end_by_rule, judge_trial, read_trial, start_trial

SEED = 17
TESTS = ("tests", "tests/registry")  # whose toys are valid records of a run
RATED = 0.3
FIRST, LAST = date(2026, 1, 1), date(2026, 12, 31)
NEW_PRODUCT, FALL, BAD = date(2026, 3, 9), date(2026, 5, 11), date(2026, 9, 14)
QUALITY = {"v1": (0.90, 0.02), "v2": (0.92, 0.015), "v3": (0.55, 0.15)}  # right; broken formats
AFTER_FALL = 0.68  # of v1's answers are right
RIGHT_IN_TEST = {"v1": 40, "v2": 50, "v3": 57}  # of 60 test rows: each looks better than the last
TRAINED_FOR = {"v1": 3.10, "v2": 3.60, "v3": 4.20}  # USD
A_REQUEST = 0.0004  # USD
MOST_SHADOWED = 3000
LOST_DAYS = 30  # a step of the story that comes later than this is lost


class Year:
    """The clock, the traffic and the person; what they see is what the functions return."""

    def __init__(self, requests: int) -> None:
        self.day = FIRST
        self.hour = 9
        store.now = self.now
        self.requests = requests
        self.task = tasks.load_task("support_triage")
        self.name = self.task.registry_name
        self.manager = FineTuneLifecycleManager(self.name)
        self.random = random.Random(SEED)
        self.simulator = Simulator(read_lines(FRAGMENTS), SEED)
        self.story: dict[str, date] = {}
        self.false_alarms: list[str] = []
        self.looked_seconds = 0.0

    def now(self) -> datetime:
        """Nine in the morning, or at night when 06 looks."""
        return datetime(self.day.year, self.day.month, self.day.day, self.hour, tzinfo=UTC)

    def tell(self, key: str, line: str) -> None:
        """A step of the story, once."""
        if key not in self.story:
            self.story[key] = self.day
            print(f"{self.day}  {line}", file=sys.stderr)

    def train(self, version: str) -> None:
        """What 02 to 05 leave of a version, and what it cost; it waits in staging."""
        from registry_toys import make_run, results

        measured = results().model_copy(
            update={"cost_per_request": results().cost_per_request.model_copy(
                update={"value": A_REQUEST, "low": A_REQUEST, "high": A_REQUEST})}
        )  # fmt: skip
        run = make_run(
            version, RIGHT_IN_TEST[version], test_part='{"id": "row0"}', fine_tuned_model=measured
        )
        budget = Budget(run, 10.0)
        budget.settle(budget.reserve(TRAINED_FOR[version], "job"), TRAINED_FOR[version])
        self.manager.register(run)
        promotion = self.manager.promote(version, "staging", because="the gate says so")
        if not promotion.promoted:
            raise SystemExit(f"{version} was held: {promotion.reasons}")

    def promote(self, version: str, because: str) -> None:
        """Into production, through the gate."""
        promotion = self.manager.promote(version, "production", because=because)
        if not promotion.promoted:
            raise SystemExit(f"{version} was held: {promotion.reasons}")
        self.tell(f"promote {version}", f"{version} serves: {because}")

    def serve(self) -> None:
        """A day's requests, answered by what is in production, and by what is tried beside it."""
        state = registry.serving([self.name])[self.name]
        weekend = 0.6 if self.day.weekday() > 4 else 1.16
        rows = []
        self.simulator.seen.clear()
        for number in range(round(self.requests * weekend)):
            at = datetime(self.day.year, self.day.month, self.day.day, 8, tzinfo=UTC)
            at += timedelta(seconds=round(number * 36000 / self.requests))
            row = self.answer(state.route.version, f"{self.day}-{number}", at)
            rows.append(row)
            if state.trial is not None:
                shadow = self.answer(state.trial.version, f"{row.request_id}s", at, row)
                rows.append(shadow)
        path = store.home() / "live" / self.name / f"{self.day}.jsonl"
        store.write_jsonl(path, rows)

    def answer(self, version: str, name: str, at: datetime, of: LiveRow | None = None) -> LiveRow:
        """One line of the log."""
        chance = self.random
        is_new = self.day >= NEW_PRODUCT and chance.random() < 0.34
        text, truth = self.simulator.message("sensor" if is_new else "core")
        right, broken = QUALITY[version]
        if version == "v1" and self.day >= FALL:
            right = AFTER_FALL
        answer, is_right = self.simulator.answer(truth, chance.random(), right, broken)
        score = self.simulator.score(is_right) if chance.random() < RATED else None
        return LiveRow(
            request_id=name,
            created_at=at,
            version=version,
            generation=self.manager.route().generation,
            arm="shadow" if of else "production",
            shadow_of=of.request_id if of else "",
            messages=of.messages if of else [{"role": "user", "content": text}],
            answer=answer,
            well_formed=answer.startswith("{") and answer.endswith("}"),
            latency_ms=chance.uniform(300, 900),
            feedback_score=None if of else score,
        )

    def look(self) -> None:
        """06, as every night."""
        self.hour = 23
        begun = time.process_time()
        log = monitor.read_live(self.task)
        run = store.open_run(f"night-{self.day}")
        health = monitor.check_health(self.task, run, max_age_days=400, log=log)
        monitor.publish(self.task, run, health, log)
        self.looked_seconds += time.process_time() - begun
        for reason in health.reasons:
            self.tell(f"alarm {reason} {health.version}", f"06 says {health.verdict}: {reason}")
        if health.verdict == "retrain" and "asked" not in self.story and self.day >= FALL:
            advice = should_retrain(self.task, run, 400, 10**9, 4.0)
            if advice.retrain:
                self.tell("asked", advice.reason)

    def person(self) -> None:
        """Who reads the alarms on the next morning."""
        self.hour = 9
        serving = self.manager.route().version
        for alarm in registry.list_alarms(self.name, serving, "open"):
            if "predecessor" in alarm.name or "evaluation" in alarm.name:
                self.manager.rollback(because=f"{alarm.name}: {alarm.finding.remedy}")
                self.tell("rollback", f"{serving} is rolled back because of {alarm.name}")
                return
            if alarm.name == "topics":
                registry.close_alarm(alarm.id, "acknowledged", "the new sensor; examples are made")
            elif alarm.severity == "warning":
                self.false_alarms.append(alarm.name)
                registry.close_alarm(alarm.id, "resolved", "looked: nothing is wrong")
        if "asked" in self.story and self.day == self.story["asked"] + timedelta(days=7):
            self.train("v2")
            start_trial("shadow", "v2", self.task, 1.0, MOST_SHADOWED)
            self.tell("shadow", "v2 is trained and answers in the shadow")

    def judge_shadow(self) -> None:
        """As a gateway does: the trial ends by the rule that was written down before."""
        state = registry.serving([self.name])[self.name]
        if state.trial is None:
            return
        rows = read_trial(state.trial)
        asked = sum(row.arm == "shadow" for row in rows)
        end = end_by_rule(state.trial, judge_trial(state.trial, rows), asked)
        if end == "held":
            self.tell("held", f"the shadow surely holds its margins after {asked} requests")
            self.promote("v2", "retrained; its shadow holds its margins")
        elif end:
            raise SystemExit(f"the shadow ended: {end}")

    def live(self) -> None:
        """The whole year."""
        self.train("v1")
        self.promote("v1", "the first one")
        while self.day <= LAST:
            self.hour = 9
            if self.day == BAD:
                self.train("v3")
                self.promote("v3", "better on the test part")
            self.person()
            self.serve()
            self.judge_shadow()
            self.look()
            self.day += timedelta(days=1)
        self.day = LAST


def figures(year: Year) -> dict[str, dict[str, Any]]:
    """Days from a change to its alarm, and what was told without a reason."""
    delays = {
        "year_days_to_new_topic": (NEW_PRODUCT, "alarm topics v1"),
        "year_days_to_fall": (FALL, "asked"),
        "year_days_to_rollback": (BAD, "rollback"),
    }
    out = {}
    for name, (change, step) in delays.items():
        days = (year.story[step] - change).days if step in year.story else LOST_DAYS * 10
        out[name] = {"kind": "count", "value": days, "n": 1, "unit": "days", "better": "lower"}
    wrong = len(year.false_alarms)
    out["year_false_alarms"] = {
        "kind": "count", "value": wrong, "n": 365, "unit": "alarms", "better": "lower"
    }  # fmt: skip
    out["year_cpu_a_look"] = {
        "kind": "seconds", "value": year.looked_seconds / 365, "n": 365, "unit": "s of CPU",
        "better": "lower",
    }  # fmt: skip
    return out


def main(arguments: list[str] | None = None) -> int:
    """Live the year, print its story, name its page; 1 where the story went otherwise."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    parser.add_argument("--to", type=Path, help="a home to keep (else a temporary one)")
    parser.add_argument("--requests", type=int, default=30, help="a day")
    given = parser.parse_args(arguments)
    sys.path[:0] = [str(store.PROJECT / folder) for folder in TESTS]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["WORKBOOK_HOME"] = str(given.to or folder)
        os.environ.pop("WORKBOOK_NOTIFY_URLS", None)
        year = Year(given.requests)
        year.live()
        page = store.home() / "monitor" / f"{year.name.replace('/', '.')}.html"
        messages = registry.open_registry().rows("outbox")
        print(f"{len(messages)} messages; the page: {page}", file=sys.stderr)
        found = figures(year)
    steps = ("alarm topics v1", "asked", "shadow", "held", "promote v2", "promote v3", "rollback")
    missing = [step for step in steps if step not in year.story]
    in_time = all(one["value"] <= LOST_DAYS for one in found.values())
    if given.json:
        print(json.dumps(found))
    else:
        for name, one in found.items():
            print(f"{name:28} {one['value']:.3g} {one['unit']}")
    if missing or not in_time:
        print(f"the story went otherwise: {missing or found}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
