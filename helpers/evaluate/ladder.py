"""The whole ladder: what runs today, every technique on each model, the search for prompts.

How many rows is a rung asked about? As few as decide; all looks together share one error: a bound
that is looked at again and again is wrong more often than it says. So each look may be wrong in its
own small share of the cases, by Lan and DeMets' spending function (Biometrika 1983, 70:659-663) in
Pocock's form, TAIL·ln(1 + (e - 1)·n/most): however often a rung is asked about more rows, it is
called good enough by mistake in at most 2.5% of the cases (union bound).
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from helpers import models, store
from helpers.evaluate import statistics
from helpers.evaluate.classical import CLASSICAL
from helpers.evaluate.compare import check_rung, compare_results, rows_wanted
from helpers.evaluate.limits import room_for_thoughts
from helpers.evaluate.rungs import LADDER, available, effort
from helpers.evaluate.running import ask_rung, read_answers
from helpers.evaluate.scorers import Examples
from helpers.evaluate.session import LOG, Session
from helpers.models import Model
from helpers.records import Asking, MetricComparison, RungResult
from helpers.tasks import Task

Rungs = Sequence[RungResult]
Ways = Sequence[Asking]
Change = tuple[str, dict[str, Any]]  # of a rung: what to change
MANY = 100_000  # rows that a tie would take: as many as there are
STEP = 1.5  # a look has at least this many times the rows of the one before
NEARLY_ALL = 0.7  # of the rows: then all of them, since a look less is worth more


def ways_to_ask(
    names: Sequence[str], basis: Asking, task: Task, model: Model, rung_models: Sequence[str] = ()
) -> list[Asking]:
    """What runs today, every rung with the given model, then with each of `rung_models`.

    A rung model is a local folder or hub id, or `NAME at BASE_URL`; its rungs are named rung@model.
    What task.yaml calls the incumbent is always asked.
    """
    asked = {
        "response_format": task.schema,
        "tools": task.tools,
        "max_new_tokens": basis.max_new_tokens + room_for_thoughts(task),
        "compute": models.resolve_compute(basis.compute),
    }
    basis = basis.model_copy(update=asked)
    own = [name for name in dict.fromkeys(names) if name not in ("incumbent", CLASSICAL)]
    ways = []
    if "incumbent" in names or task.incumbent:
        ways.append(way_of_today(task, basis, model.spec))
    if CLASSICAL in names:
        ways.append(basis.for_rung(CLASSICAL, CLASSICAL))
    ways += [basis.for_rung(name, model.spec) for name in own]
    specs = list(dict.fromkeys(rung_models))
    labels = [label(spec) for spec in specs]
    for spec in specs:
        called = label(spec, whole=labels.count(label(spec)) > 1)  # org/llama and other/llama
        ways += [basis.for_rung(f"{name}@{called}", spec) for name in own]
    told = []
    for way in ways:
        template_args = models.template_args(task, way.model)
        told.append(way.model_copy(update={"template_args": template_args}))
    return told


def way_of_today(task: Task, basis: Asking, base: str) -> Asking:
    """What runs today, as task.yaml says: its log, its own model, or its prompt with the base."""
    today = task.incumbent
    spec = today.get("model") or base
    if today.get("answers"):
        spec = f"{LOG}{today['answers']}"
    elif today.get("model") and today.get("base_url"):
        spec = f"{spec} at {today['base_url']}"
    asking = basis.for_rung("incumbent", spec)
    return asking.model_copy(update={"wording": str(today.get("instructions", ""))})


def label(spec: str, whole: bool = False) -> str:
    """How a rung model is called in names of rungs and files; in `whole` if that names two."""
    name = spec.partition(" at ")[0].rstrip("/").rpartition("/")[2]
    return re.sub(r"[^\w.-]+", "-", store.without_secrets(spec) if whole else name)


def ask_ladder(ways: Ways, rows: Examples, session: Session) -> list[RungResult]:
    """`ask_rung` for each way that can be asked here; the others are named and left out."""
    reasons = available([way.rung for way in ways], session.task, session.train)
    for rung, reason in reasons.items():
        if reason:
            session.say(f"{rung}: left out, {reason}")
    return [ask_rung(way, rows, session) for way in ways if not reasons[way.rung]]


def search_prompts(ways: Ways, rows: Examples, session: Session, budget: int) -> list[Asking]:
    """The ways as they score best on validation, asked about all `rows` at most `budget` times.

    One change at a time, kept for all rungs when it is more accurate, or as accurate and better
    formed. Scores of what was chosen are optimistic for having been chosen; 04 measures it again on
    the test part.
    """
    session = replace(session, latency_rows=0)
    own = _searchable(ways, session) if rows and budget else {}
    changes = list(_changes(session.task, own))
    most = min(budget, len(changes) + len({rung for rung, _ in changes}))
    scores = {}  # of an Asking by its fingerprint
    if most > 0:
        session.say(f"searching prompts on validation: at most {most} times {len(rows)} rows")

    def score(asking: Asking) -> tuple[float, float]:
        key = store.fingerprint(asking)
        if key not in scores:
            started = time.monotonic()
            results = ask_rung(asking, rows, session).results
            if not scores:
                minutes = (time.monotonic() - started) * (most - 1) / 60
                session.say(f"the rest of the search takes about {minutes:.0f} min at most")
            scores[key] = (results.accuracy.value, results.format_compliance.value)
        return scores[key]

    best = {}
    for rung, change in changes:
        before = own[rung].model_copy(update=best)
        after = before.model_copy(update=change)
        asked = scores.keys() | {store.fingerprint(before), store.fingerprint(after)}
        if len(asked) <= budget and score(after) > score(before):
            best |= change
    # what runs today stays as it is
    return [w if w.rung_kind == "incumbent" else w.model_copy(update=best) for w in ways]


def _searchable(ways: Ways, session: Session) -> dict[str, Asking]:
    """The rungs whose prompts can be searched, by name; none where nobody has rated an answer."""
    if session.task.accuracy_from in ("judge", "human"):
        session.say("prompts are not searched: nobody has rated what they would be told apart by")
        return {}
    reasons = available([way.rung for way in ways], session.task, session.train)
    return {way.rung: way for way in ways if way.rung in LADDER and not reasons[way.rung]}


def _changes(task: Task, ways: dict[str, Asking]) -> Iterator[Change]:
    """(rung, what to change): wordings of task.yaml first, then examples, then retrieval."""
    if "prompt" in ways:
        for wording in task.wordings:
            yield "prompt", {"wording": wording}
    if "few_shot" in ways:
        if ways["few_shot"].few_shot_pick == "fixed":
            yield "few_shot", {"few_shot_pick": "nearest"}
        yield "few_shot", {"few_shot_k": ways["few_shot"].few_shot_k + 2}
        yield "few_shot", {"few_shot_k": 1}
    if "rag" in ways:
        yield "rag", {"rag_shots": 3}
        yield "rag", {"rag_k": ways["rag"].rag_k + 1}
        yield "rag", {"rag_dense": 0.5}


# --- how many rows are asked ----------------------------------------------------------------------


class Look(NamedTuple):
    """The rungs that are asked next, about how many rows in all, and why."""

    rungs: list[str]
    n: int
    reason: str


def ask_more(measured: Rungs, rows: Examples, session: Session, most: int) -> list[RungResult]:
    """Rungs that are undecided, asked again about as many of `rows` as would decide them.

    Cheapest first, until one surely meets the targets; no rung is asked about more than `most`.
    Where people or a judge decide, rows cost more than answers: there is one look.
    """
    task = session.task
    if task.accuracy_from in ("judge", "human"):
        return list(measured)
    most = min(most, len(rows))
    results = {result.name: at_look(task, result, most) for result in measured}
    while look := next_look(task, session.run, results, most):
        session.say(f"{look.reason}, so {look.n} rows are asked")
        for name in look.rungs:
            before = results[name]
            result = ask_rung(before.asking, rows[: look.n], session)
            results[name] = at_look(task, result, most, before)
    return list(results.values())


def at_look(
    task: Task, result: RungResult, most: int, before: RungResult | None = None
) -> RungResult:
    """The rung with what this look may be wrong in: what those before it have left of the error.

    A look in which even n right of n would not do cannot be wrong, and leaves its share to others.
    """
    alpha = _spent(result.n, most)
    if before is not None and before.alpha:
        alpha -= _spent(before.n, most)
    elif result.n < most and not _could_pass(task, result, alpha):
        alpha = 0.0
    return result.model_copy(update={"alpha": alpha})


def _spent(n: int, most: int) -> float:
    """What the looks at up to n of `most` rows may be wrong in, together."""
    share = min(1.0, n / most) if most else 1.0
    return statistics.TAIL * math.log(1 + (math.e - 1) * share)


def _could_pass(task: Task, result: RungResult, alpha: float) -> bool:
    """Whether n right answers out of n would show every target."""
    by_construction = {"format_compliance"} if result.name == CLASSICAL else set()
    by_rows = (task.targets.keys() & statistics.AT_LEAST) - by_construction
    needed = [statistics.rows_to_decide(task.targets[metric], alpha) for metric in by_rows]
    return max(needed, default=0) <= result.n


def next_look(
    task: Task, run: store.Run, results: Mapping[str, RungResult], most: int
) -> Look | None:
    """What to ask next; None where something is good enough, or where no more rows would help."""
    by_effort = sorted(results.values(), key=lambda result: effort(result.name))
    for result in by_effort:
        n = rows_to_ask(task, result, most)
        if n > result.n:
            return Look([result.name], n, f"{result.name}: undecided at n = {result.n}")
        verdicts = {finding.verdict for finding in check_rung(task, result).values()}
        if verdicts == {"pass"}:
            return None
    return _look_at_retrieval(task, run, by_effort, most)


def rows_to_ask(task: Task, result: RungResult, most: int) -> int:
    """Rows that would decide every target of a rung; 0 where it surely misses one, or none helps.

    Half as many again as the estimate says, since the share will not stay quite as it is.
    """
    targets = check_rung(task, result)
    missed = any(finding.verdict == "fail" for finding in targets.values())
    if missed or result.n >= most:
        return 0
    wanted = [rows or MANY for rows in rows_wanted(targets).values()]
    if not wanted:
        return 0
    n = math.ceil(STEP * max(*wanted, result.n))
    return most if n > NEARLY_ALL * most else n


def _look_at_retrieval(task: Task, run: store.Run, rungs: Rungs, most: int) -> Look | None:
    """Where no rung is enough, whether rag gains decides what to build: that is worth all rows."""
    rag, other, gain = _retrieval(task, run, rungs)
    if gain is None or gain.verdict != "inconclusive" or gain.difference.value <= 0:
        return None
    names = [rung.name for rung in (rag, other) if rung.n < most]
    reason = f"rag: whether it gains over {other.name} is undecided"
    return Look(names, most, reason) if names else None


def rag_gains(task: Task, run: store.Run, rungs: Rungs) -> bool:
    """Whether retrieval is surely more accurate than the best other rung of the same model."""
    gain = _retrieval(task, run, rungs)[2]
    return gain is not None and gain.verdict == "pass"


def _retrieval(task: Task, run: store.Run, rungs: Rungs) -> tuple[Any, Any, Any]:
    """(rag, the best other rung of the same model, rag's gain in accuracy or None).

    What a stronger model adds is no work of retrieval, so other models are left out.
    """
    rag = [rung for rung in rungs if rung.name == "rag"]
    others = [rung for rung in rungs if rung.name in LADDER and rung.name != "rag"]
    if not rag or not others:
        return None, None, None
    other = best_rung(others)
    return rag[0], other, compare_rungs(task, run, rag[0], other).get("accuracy")


def best_rung(rungs: Rungs) -> RungResult:
    """The one to beat: the most accurate; of equals the better formed, then the earlier."""
    return max(rungs, key=lambda r: (r.results.accuracy.value, r.results.format_compliance.value))


def compare_rungs(
    task: Task, run: store.Run, rung: RungResult, against: RungResult
) -> dict[str, MetricComparison]:
    """Is one rung better than another at all? Margins and gains belong to the gate, not here."""
    without_margins = task.model_copy(update={"margins": {}, "replace": "better"})
    ours = read_answers(run, rung)
    theirs = read_answers(run, against)
    if rung.n != against.n:  # one was asked about more rows, to decide its targets
        common = {row.id for row in ours} & {row.id for row in theirs}
        ours = [row for row in ours if row.id in common]
        theirs = [row for row in theirs if row.id in common]
    alpha = min(rung.alpha, against.alpha)
    return compare_results(ours, theirs, without_margins, alpha=alpha)
