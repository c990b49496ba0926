"""What serves is asked some of its own test rows again, every night: quality without any rating.

The version has answered these rows before, in 04, asked in the very same way. So what differs now
is how it is served: the engine, its template, its weights. Each night's rows follow on those of the
night before, until all were asked; artifacts/monitor/<task>.replay.jsonl keeps a line a night.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime

from helpers import evaluate, models, show, store, tasks
from helpers.monitor.checks import Served, judged, p_of
from helpers.monitor.evidence import log_evidence_of_any_start
from helpers.monitor.service import Service, service_of
from helpers.monitor.windows import LiveLog, append, appended, kept_path
from helpers.records import REPLAY_USER, Budget, Finding, Replay, TrainedModel, WorkbookError
from helpers.tasks import Task

BUDGET = 0.01  # its share of a year's false alarms
MARGIN = 0.02  # what accuracy may lose, where task.yaml has no margin of its own
MOST_NAMED = 10
LOCKED = 75  # another run holds the home
KEPT = "replay.jsonl"
MEND = (
    "mend what it names; replay_at is the base_url for clients (http://HOST:PORT/v1) of what serves"
    " the version under its id; without it set replay_rows to 0"
)
REMEDY = (
    "the model is what it was, so how it is served has changed: look at the engine, its template"
    " and its limits (workbook serve --check VERSION), or roll back"
)


def replay(
    task: Task, run: store.Run, log: LiveLog, rows: int, at: str = "", max_cost_usd: float = 0.0
) -> str:
    """Ask what serves `rows` of its test rows, at most once a day, and keep what came; in words.

    `at` is the base_url of the gateway or server that serves it; "": its provider. What has no
    provider is asked where it is served, or not at all: its files on this machine would say
    nothing of that. Nothing is asked about simulated traffic. What fails is kept, for 06 to tell.
    """
    service = service_of(task)
    if rows < 1 or log.simulated:
        reason = "replay_rows is 0" if rows < 1 else "no request was served and logged yet"
        return f"no test rows are asked again: {reason}"
    if service.version is None:
        return "no test rows are asked again: no version is in production"
    if not at and service.version.metadata.get("provider") != "api":
        return (
            "no test rows are asked again: the version has no provider, and where it is served is"
            " not known here; set replay_at to the base_url of its gateway or server"
        )
    nights = read_replays(task, service)
    version = service.version.id
    night = Replay(version=version, at=store.now(), place=store.without_secrets(at))
    if any(each.now and each.at.date() == night.at.date() for each in nights):
        return "today's test rows were asked again already"
    first = sum(len(each.now) for each in nights)
    session = evaluate.Session(task, run, Budget(run, max_cost_usd), latency_rows=0, say=show.say)
    try:
        with store.lock():  # before anything is asked, and paid for
            night = _ask(service, session, night, at, range(first, first + rows))
    except (WorkbookError, ValueError, OSError) as error:  # 06 goes on, and tells it
        if getattr(error, "exit_code", 2) == LOCKED:
            raise
        night = night.model_copy(update={"error": store.without_secrets(str(error))[:300]})
    append(kept_path(task, KEPT), [night])
    return night.error or f"{night.same} of {len(night.now)} answers are word for word those of 04"


def _ask(
    service: Service, session: evaluate.Session, night: Replay, at: str, numbers: range
) -> Replay:
    """The night with its answers; nothing is taken from the memory of answers.

    04's answers are scored once more, by task.yaml as it is: both sides by the same rule.
    """
    source, task = service.run, session.task
    known = {row.id: row for row in service.test_answers() if not row.error}
    rows = evaluate.choose_rows(task, tasks.read_dataset(source).examples, "test")
    test_rows = [example for example in rows if example.id in known]
    if not test_rows:
        raise WorkbookError(f"run {source.id} holds no answered test rows of {night.version}")
    model = source.load(TrainedModel)
    evaluate.check_fingerprints(model, task, model.dataset_version)
    examples = [test_rows[number % len(test_rows)] for number in numbers[: len(test_rows)]]
    if at:
        served = models.ApiModel(night.version, at).told({"user": REPLAY_USER})
    else:
        served = evaluate.load_models(model)[1]
    way = model.asking.model_copy(update={"rung": f"fine_tuned@{night.at:%Y-%m-%dT%H:%M:%S}"})
    session.models[way.model] = served
    result = evaluate.ask_rung(way, examples, session, label="replay")
    by_scorer = task.accuracy_from in ("fields", "scorer")
    metric = "accuracy" if by_scorer else "format_compliance"
    of_row = {example.id: example for example in examples}
    before, now, same = {}, {}, 0
    for new in evaluate.read_answers(session.run, result):
        if not new.error:  # no answer is no wrong answer
            old = known[new.id]
            finish = "length" if old.scores.get("endless") else "stop"
            scores, _ = evaluate.score_answer(task, of_row[new.id], old.answer, finish)
            before[new.id] = scores[metric]
            now[new.id] = new.scores[metric]
            same += new.answer == old.answer
    update = {"metric": metric, "before": before, "now": now, "same": same}
    return night.model_copy(update=update)


def replay_checks(task: Task, service: Service, served: Served) -> list[Finding]:
    """Whether the served version still answers its test rows as it did, by all nights since."""
    nights = read_replays(task, service)
    asked = [night for night in nights if night.now]
    asked = [night for night in asked if night.metric == asked[-1].metric]
    findings = []
    if asked:
        margin = max(MARGIN, task.margins.get(asked[-1].metric, 0.0))
        findings.append(judge_replays(asked, margin))
    if nights and nights[-1].error and nights[-1].at.date() == served.last:
        evidence = f"test rows could not be asked again: {nights[-1].error}"
        findings.append(judged("replay_unasked", evidence, True, remedy=MEND))
    return findings


def judge_replays(nights: Sequence[Replay], margin: float) -> Finding:
    """Bets that the rows asked again lose no more than the margin, over all nights."""
    import numpy

    changes = [[each.now[name] - each.before[name] for name in each.now] for each in nights]
    values = numpy.unique(numpy.concatenate(changes))
    counts = numpy.array([[each.count(value) for value in values] for each in changes])
    capital, start = log_evidence_of_any_start((1 + values) / 2, counts, (1 - margin) / 2)
    has_lost = capital >= math.log(1 / BUDGET)
    if has_lost:
        nights = nights[start:]
    rows = [(name, each.before[name], now) for each in nights for name, now in each.now.items()]
    names, before, now = zip(*rows, strict=True)
    change, _, lost = evaluate.paired_difference(now, before, names)
    worse = list(dict.fromkeys(name for name, old, new in rows if new < old))[-MOST_NAMED:]
    evidence = (
        f"test rows asked again at {nights[-1].place or 'its provider'}, since"
        f" {nights[0].at:%Y-%m-%d}:"
        f" {sum(each.same for each in nights)} of {len(now)} answers word for word as in 04;"
        f" {nights[-1].metric} minus that of 04 {change}; {lost} lost {', '.join(worse)}"
    )
    return judged(
        "replay",
        evidence.strip(),
        has_lost,
        remedy=REMEDY,
        estimate=evaluate.proportion(now, names),
        threshold=sum(before) / len(before),
        p=p_of(capital),
    )


def read_replays(task: Task, service: Service) -> list[Replay]:
    """The nights of what serves, since its promotion and since a person resolved what they showed.

    A night that could not be asked is over when that was resolved; a line that a kill has torn is
    none.
    """
    if service.version is None:
        return []
    since = datetime.fromisoformat(service.route.since)
    starts = {"replay": since, "replay_unasked": since}
    for alarm in service.alarms:  # oldest first
        if alarm.name in starts and alarm.state == "resolved":
            starts[alarm.name] = max(since, alarm.changed_at)
    nights = appended(kept_path(task, KEPT), Replay)
    nights = [night for night in nights if night.version == service.version.id]
    return [n for n in nights if n.at >= starts["replay_unasked" if n.error else "replay"]]
